"""Modes counted in evaluations, and how much of the latent actions use."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env

from latentrl import LatentRLError
from latentrl.metrics import behaviour_entropy
from latentrl.sb3 import LatentPPO, LatentUsage, ModeCoverage
from latentrl.sb3.callbacks import usage
from tests.sb3.agents_table import Toy
from tests.sb3.test_gradient_noise import Lines
from tests.sb3.test_on_policy import with_latents

OPTIONS: dict[str, Any] = {"n_steps": 16, "batch_size": 8, "seed": 0, "device": "cpu"}


class Sided(Toy):
    """Which side the sum of all first actions lies on is the mode; it succeeds where that is far from the middle."""

    def reset(self, **kwargs: Any) -> Any:
        self.total = 0.0
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        self.total += float(action[0])
        info = {"mode": int(self.total > 0), "success": abs(self.total) > 1}
        return observation, reward, terminated, truncated, info


class Chosen(Toy):
    """The last of two actions is the mode."""

    def __init__(self) -> None:
        super().__init__(action_space=spaces.Discrete(2))

    def step(self, action: Any) -> Any:
        *found, _ = super().step(action)
        return *found, {"mode": int(action)}


def test_modes_are_counted_and_learning_does_not_notice() -> None:
    agents = [PPO("MixturePolicy", make_vec_env(Sided, 2, seed=0), **OPTIONS) for _ in range(2)]
    watch = ModeCoverage(make_vec_env(Sided, 2, seed=1), 2, n_eval_episodes=30, eval_freq=16, verbose=0)
    for agent, callback in zip(agents, (None, watch), strict=True):
        agent.set_random_seed(0)
        agent.learn(96, callback=callback)
    assert torch.equal(agents[0].policy.action_net.weight, agents[1].policy.action_net.weight)
    assert 0 < watch.counts.sum() <= 30
    assert np.isfinite(watch.last_mean_reward)


def test_random_actions_of_dqn_are_not_noticed_either() -> None:
    found = []
    for watch in (None, ModeCoverage(make_vec_env(Chosen, 1, seed=1), 2, n_eval_episodes=4, eval_freq=8, verbose=0)):
        agent = DQN("MlpPolicy", make_vec_env(Chosen, 1, seed=0), learning_starts=0, seed=0, device="cpu")
        agent.learn(40, callback=watch)
        found.append(agent.replay_buffer.actions[:40].copy())
    np.testing.assert_array_equal(*found)


def test_figures_are_those_of_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = PPO("MixturePolicy", make_vec_env(Sided, 2, seed=0), **OPTIONS)
    watch = ModeCoverage(make_vec_env(Sided, 2, seed=1), 2, n_eval_episodes=40, eval_freq=1, minimum=3, verbose=0)
    watch.init_callback(agent)
    agent._setup_learn(10)
    lines: dict[str, float] = {}
    monkeypatch.setattr(agent.logger, "record", lambda key, value, **_: lines.update({key: value}))
    monkeypatch.setattr(agent.logger, "dump", lambda *_: None)
    watch.on_step()
    expected = behaviour_entropy(watch.counts)
    assert lines["eval/behaviour_entropy"] == expected.value
    assert (lines["eval/behaviour_entropy_low"], lines["eval/behaviour_entropy_high"]) == expected.ci
    assert lines["eval/modes"] == (watch.counts >= 3).sum()


class Failing(Sided):
    """Shows its modes, and never succeeds."""

    def step(self, action: Any) -> Any:
        *result, info = super().step(action)
        return *result, {**info, "success": False}


def test_failures_cover_no_mode() -> None:
    made = PPO("MixturePolicy", make_vec_env(Failing, 2, seed=0), **OPTIONS)
    watch = ModeCoverage(make_vec_env(Failing, 2, seed=1), 2, n_eval_episodes=10, eval_freq=16, verbose=0)
    made.learn(32, callback=watch)
    assert np.isfinite(watch.last_mean_reward)
    assert (watch.counts == 0).all()


def test_modes_must_be_named() -> None:
    agent = PPO("MlpPolicy", make_vec_env(Toy, 1, seed=0), **OPTIONS)
    with pytest.raises(LatentRLError, match="must name one of 0 … 2"):
        agent.learn(16, callback=ModeCoverage(make_vec_env(Toy, 1), 3, n_eval_episodes=2, eval_freq=8))
    with pytest.raises(LatentRLError, match="n_modes must be"):
        ModeCoverage(make_vec_env(Toy, 1), 1)


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


def test_usage_is_logged_and_needs_a_latent() -> None:
    made = agent(spaces.Box(-1, 1, (2,)), latent_dim=2)
    made.set_logger(Lines())
    made.learn(64, callback=LatentUsage())
    assert {name for name, _ in made.logger.seen} >= {"latent/information", "latent/active_units"}
    with pytest.raises(LatentRLError, match="has no latent of its own"):
        PPO("MlpPolicy", make_vec_env(Toy, 1), **OPTIONS).learn(16, callback=LatentUsage())
