"""Actors of TD3 with a latent: against the stock actor, and what is drawn where."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DDPG, TD3
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.td3.policies import Actor
from torch import Tensor

from latentrl import LatentRLError
from latentrl.sb3.td3_policy import LatentTD3Actor, LatentTD3Policy
from tests.sb3.agents_table import BOX, VECTOR, Toy

ONE = spaces.Box(-1, 1, (1,))


def made(actions: spaces.Box = BOX, **options: Any) -> LatentTD3Actor:
    extractor = FlattenExtractor(VECTOR)
    own: dict[str, Any] = {"net_arch": [16, 8], "latent_dim": 2, "latent_spread": 1.0, **options}
    return LatentTD3Actor(VECTOR, actions, features_extractor=extractor, features_dim=extractor.features_dim, **own)


@pytest.mark.parametrize("net_arch", [[16, 8], []])
def test_without_latent_it_is_the_stock_actor(net_arch: list[int]) -> None:
    actor, extractor = made(net_arch=net_arch), FlattenExtractor(VECTOR)
    stock = Actor(VECTOR, BOX, net_arch, extractor, extractor.features_dim)
    stock.load_state_dict({k: v for k, v in actor.state_dict().items() if k in stock.state_dict()})
    obs = torch.randn(5, 3)
    assert not torch.allclose(actor(obs), stock(obs))
    for parameter in actor.latent.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(actor(obs), stock(obs))


def test_latent_enters_as_more_features_would() -> None:
    """One hidden layer: a perceptron over (s, z), and the latent's part of the action, by hand."""
    actor, obs = made(net_arch=[8]), torch.randn(5, 3)
    first, last, z = actor.mu[0], actor.mu[2], actor.fixed_latent
    joint = torch.cat([obs, z.expand(5, -1)], -1) @ torch.cat([first.weight, actor.latent.to_hidden.weight], -1).mT
    wanted = (joint + first.bias).relu() @ last.weight.mT + last.bias + z @ actor.latent.to_actions.weight.mT
    torch.testing.assert_close(actor(obs, deterministic=True), wanted.tanh())


@pytest.mark.parametrize("algorithm", [TD3, DDPG])
def test_latents_are_drawn_but_where_asked_to_be_deterministic(algorithm: type[TD3]) -> None:
    """A range below .1 of 20 draws: 2e-6."""
    agent = algorithm("LatentPolicy", Toy(), device="cpu", seed=0)
    assert isinstance(agent.policy, LatentTD3Policy)
    obs = np.zeros((20, 3), np.float32)
    played = [agent.predict(obs, deterministic=flag)[0] for flag in (True, True, False)]
    np.testing.assert_array_equal(played[0], played[1])
    assert np.ptp(played[0], axis=0).max() < 1e-6
    assert np.ptp(played[2], axis=0).min() > 0.1
    assert torch.equal(agent.actor.fixed_latent, agent.actor_target.fixed_latent)
    next_actions = agent.actor_target(torch.zeros(20, 3))
    assert len(next_actions.unique(dim=0)) == 20


def test_first_actions_differ_by_the_spread() -> None:
    """2000 draws of z in one state. The spread of 400 weights that were drawn is the one asked for up to 3.5 %, of
    which 20 % are more than five: a false alarm in 10⁶."""
    for spread in (0.5, 2.0):
        actor = made(spaces.Box(-1, 1, (50,)), latent_dim=8, latent_spread=spread)
        u = torch.randn(2000, 8) @ actor.latent.to_actions.weight.mT
        assert abs(u.std() / spread - 1) < 0.2


def worth(actions: Tensor) -> Tensor:
    """Two actions are best, ±.6."""
    return (-((actions.abs() - 0.6) / 0.2).square()).exp()


def test_learns_one_of_two_best_actions() -> None:
    actor, obs = made(ONE, net_arch=[16, 16]), torch.zeros(32, 3)
    optimizer = torch.optim.Adam(actor.parameters(), 1e-2)
    assert worth(actor(torch.zeros(2000, 3))).mean() < 0.5
    for _ in range(100):
        loss = -worth(actor(obs)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert worth(actor(torch.zeros(2000, 3))).mean() > 0.8
    assert worth(actor(torch.zeros(1, 3), deterministic=True)).item() > 0.8


def test_what_is_refused() -> None:
    with pytest.raises(LatentRLError, match="finite bounds"):
        LatentTD3Policy(VECTOR, spaces.Box(0, np.inf, (2,)), lambda _: 1e-3)
    with pytest.raises(LatentRLError, match="latent_dim must be"):
        TD3("LatentPolicy", Toy(), policy_kwargs={"latent_dim": 1.5})
