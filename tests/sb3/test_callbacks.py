"""Modes counted in evaluations."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env

from latentrl import LatentRLError
from latentrl.metrics import behaviour_entropy
from latentrl.sb3 import LatentPPO, ModeCoverage
from tests.sb3.agents_table import Toy

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


@pytest.mark.parametrize(("algorithm", "policy"), [(PPO, "MixturePolicy"), (LatentPPO, "LatentPolicy")])
def test_modes_are_counted_and_learning_does_not_notice(algorithm: Any, policy: str) -> None:
    """No success in 30 episodes of noise as wide as the box: 1e-12. Of LatentPPO, latents are held meanwhile."""
    agents = [algorithm(policy, make_vec_env(Sided, 2, seed=0), **OPTIONS) for _ in range(2)]
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


class Situated(Sided):
    """All in one situation."""

    def step(self, action: Any) -> Any:
        *result, info = super().step(action)
        return *result, {**info, "context": 7}


@pytest.mark.parametrize("kind", [Sided, Situated])
def test_figures_are_those_of_the_counts(kind: type[Sided], monkeypatch: pytest.MonkeyPatch) -> None:
    agent = PPO("MixturePolicy", make_vec_env(Sided, 2, seed=0), **OPTIONS)
    watch = ModeCoverage(make_vec_env(kind, 2, seed=1), 2, n_eval_episodes=40, eval_freq=1, minimum=3, verbose=0)
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
    assert lines.get("eval/conditional_entropy") == (expected.value if kind is Situated else None)


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
