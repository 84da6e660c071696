"""What actions are said to tell of the latent, against closed forms."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from latentrl import LatentRLError
from latentrl.sb3 import LatentPPO, LatentUsage
from latentrl.sb3.latent_actor import MixtureActor, SemiImplicitActor
from latentrl.sb3.td3_policy import LatentTD3Actor
from latentrl.sb3.usage import actor_usage, usage
from tests.sb3.agents_table import Toy
from tests.sb3.off_policy_table import off
from tests.sb3.test_gradient_noise import Lines
from tests.sb3.test_on_policy import with_latents

OPTIONS: dict[str, Any] = {"n_steps": 16, "batch_size": 8, "seed": 0, "device": "cpu"}
ONE = spaces.Box(-1, 1, (1,))
LATENT = ("latent SAC", "latent TD3", "latent SAC, categorical", "latent TQC", "latent TQC, categorical")


def agent(actions: spaces.Space, **policy_kwargs: Any) -> LatentPPO:
    return LatentPPO(
        "LatentPolicy", make_vec_env(lambda: Toy(action_space=actions), 2), **OPTIONS, policy_kwargs=policy_kwargs
    )


def test_an_unused_latent_carries_nothing() -> None:
    made = agent(spaces.Box(-1, 1, (2,)), latent_dim=3)
    with torch.no_grad():
        made.policy.mlp_extractor.policy_net[0].weight[:, 3:] = 0.0
        found = usage(made.policy, with_latents(made, torch.randn(100, 3)))
    assert found["information"] == pytest.approx(0.0, abs=1e-5)
    assert found["active_units"] == 0


def test_dimensions_that_act_are_counted() -> None:
    made = agent(spaces.Box(-1, 1, (2,)), latent_dim=3)
    with torch.no_grad():
        made.policy.mlp_extractor.policy_net[0].weight[:, 4:] = 0.0
        made.policy.action_net.weight *= 1000.0
        found = usage(made.policy, with_latents(made, torch.randn(100, 3)))
    assert found["active_units"] == 1
    assert found["information"] > 0.05


@pytest.mark.parametrize("actions", [spaces.Discrete(4), spaces.MultiDiscrete([4, 4])], ids=repr)
def test_a_choice_that_decides_the_action_carries_all_of_it(actions: spaces.Space) -> None:
    """Four latents, each with an action of its own: log 4 nats."""
    made = agent(actions, latent_dim=4, prior="categorical")
    policy = made.policy
    with torch.no_grad():
        policy.mlp_extractor.policy_net = torch.nn.Linear(7, 4, bias=False)
        policy.mlp_extractor.policy_net.weight.copy_(torch.cat([torch.zeros(4, 3), torch.eye(4)], 1))
        policy.action_net = torch.nn.Linear(4, 4 * len(getattr(actions, "nvec", [4])), bias=False)
        policy.action_net.weight.copy_(50.0 * torch.eye(4).repeat(len(policy.action_net.weight) // 4, 1))
        seen = with_latents(made, torch.randn(200, 3))._replace(latent=torch.eye(4).repeat(50, 1))
        found = usage(policy, seen)
    assert found["information"] == pytest.approx(np.log(4), abs=0.01)  # the prior is almost equal at first
    assert found["active_units"] == 1


def test_information_is_of_latents_as_the_prior_draws_them() -> None:
    """Of two latents one acts for sure, the other tosses a coin: H(¾, ¼) − ½ log 2 nats, whichever is held."""
    made = agent(spaces.Discrete(2), latent_dim=2, prior="categorical")
    policy = made.policy
    with torch.no_grad():
        policy.mlp_extractor.policy_net = torch.nn.Linear(5, 2, bias=False)
        policy.mlp_extractor.policy_net.weight.copy_(torch.cat([torch.zeros(2, 3), torch.eye(2)], 1))
        policy.action_net = torch.nn.Linear(2, 2, bias=False)
        policy.action_net.weight.copy_(torch.tensor([[50.0, 0.0], [0.0, 0.0]]))
        for parameter in policy.prior.parameters():
            parameter.zero_()
        seen = with_latents(made, torch.randn(4000, 3))._replace(latent=torch.eye(2)[:1].expand(4000, -1))
        found = usage(policy, seen)
    truth = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) - 0.5 * np.log(2)
    # Five standard errors of the share of coins: a false alarm in 10⁶.
    assert found["information"] == pytest.approx(truth, abs=0.03)


def actor_of(name: str, spread: float, **policy_kwargs: Any) -> Any:
    """An actor of one action that is zero but for the first dimension of its latent, times ``spread``."""
    actor = off(name, Toy(action_space=ONE), policy_kwargs=policy_kwargs).actor
    with torch.no_grad():
        for part, parameter in actor.named_parameters():
            if not part.startswith("prior"):  # which is N(0, I) at first
                parameter.zero_()
        if isinstance(actor, SemiImplicitActor):
            actor.log_std.bias.fill_(math.log(0.5))
        if isinstance(actor, SemiImplicitActor | LatentTD3Actor):
            actor.latent.to_actions.weight[0, 0] = spread
    return actor


@pytest.mark.parametrize(("name", "scale"), [("latent SAC", 0.5), ("latent TD3", 0.1)])
def test_information_of_gaussian_actions_is_known(name: str, scale: float) -> None:
    """½ log(1 + w²/σ²) of a = w z_1 + σ ε: here w = σ. It is a lower bound; 32 draws lose less than a fiftieth nat."""
    actor = actor_of(name, scale, latent_dim=3)
    torch.manual_seed(0)
    with torch.no_grad():
        found = actor_usage(actor, torch.randn(20_000, 3))
    # Five standard errors (of some .7 nats of one state): a false alarm in 10⁶.
    assert found["information"] == pytest.approx(0.5 * math.log(2.0), abs=0.045)
    assert found["active_units"] == 1


@pytest.mark.parametrize("name", ["latent SAC", "latent TD3"])
def test_actions_without_the_latent_tell_nothing_of_it(name: str) -> None:
    with torch.no_grad():
        found = actor_usage(actor_of(name, 0.0), torch.randn(100, 3))
    assert found == {"information": pytest.approx(0.0, abs=1e-5), "active_units": 0}


@pytest.mark.parametrize(("apart", "truth"), [(0.0, 0.0), (50.0, -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))])
def test_components_are_told_apart_as_far_as_they_lie_apart(apart: float, truth: float) -> None:
    """Two far from each other, with weights ¾ and ¼: H(¾, ¼) nats; two that are one: none."""
    actor = actor_of("latent SAC, categorical", 0.0, n_components=2)
    assert isinstance(actor, MixtureActor)
    with torch.no_grad():
        actor.mu.bias.copy_(torch.tensor([0.0, apart]))
        actor.logits.bias.copy_(torch.tensor([math.log(3.0), 0.0]))
        found = actor_usage(actor, torch.randn(100, 3))
    assert found == {"information": pytest.approx(truth, abs=1e-5), "active_units": float(apart > 0)}


@pytest.mark.parametrize("name", LATENT)
def test_replay_buffers_are_looked_at_and_learning_does_not_notice(name: str) -> None:
    """From where learning starts (16 steps), every eighth call."""
    agents = [off(name, VecNormalize(make_vec_env(Toy, 2, seed=0))) for _ in range(2)]
    agents[1].set_logger(Lines())
    for made, callback in zip(agents, (None, LatentUsage(eval_freq=8)), strict=True):
        made.set_random_seed(0)
        made.learn(64, callback=callback)
    lines: Lines = agents[1].logger  # type: ignore[assignment]
    for what in ("information", "active_units"):
        assert len(lines.of(f"latent/{what}")) == 3  # at 32, 48 and 64 steps
    same: list[tuple[Tensor, Tensor]] = list(zip(*(made.policy.state_dict().values() for made in agents), strict=True))
    assert all(torch.equal(*pair) for pair in same)


def test_a_stock_actor_has_no_latent() -> None:
    with pytest.raises(LatentRLError, match="SACPolicy has no latent of its own"):
        off("SAC").learn(16, callback=LatentUsage())
    with pytest.raises(LatentRLError, match="eval_freq must be"):
        LatentUsage(eval_freq=0)


def test_usage_is_logged_and_needs_a_latent() -> None:
    made = agent(spaces.Box(-1, 1, (2,)), latent_dim=2)
    made.set_logger(Lines())
    made.learn(64, callback=LatentUsage())
    assert {name for name, _ in made.logger.seen} >= {"latent/information", "latent/active_units"}
    with pytest.raises(LatentRLError, match="has no latent of its own"):
        PPO("MlpPolicy", make_vec_env(Toy, 1), **OPTIONS).learn(16, callback=LatentUsage())
