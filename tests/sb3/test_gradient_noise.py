"""The gradient's noise while an agent learns: the figures, and that learning does not notice."""

from itertools import islice
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from torch import Tensor

from latentrl import Demonstrations, LatentRLError
from latentrl.sb3 import GradientVariance, LatentBC
from tests.sb3.agents_table import VECTOR, Toy

FIGURES = {"gradient/trace", "gradient/snr", "gradient/kurtosis", "gradient/batch_size"}


class Lines(Logger):
    """Keeps what is recorded."""

    def __init__(self) -> None:
        super().__init__(None, [])
        self.seen: list[tuple[str, float]] = []

    def record(self, key: str, value: float, *_: object, **__: object) -> None:
        self.seen.append((key, value))

    def of(self, key: str) -> list[float]:
        return [value for name, value in self.seen if name == key]


def weights(agent: BaseAlgorithm) -> Tensor:
    return torch.cat([p.detach().flatten() for p in agent.policy.parameters()])


def clone(**options: object) -> LatentBC:
    rng = np.random.default_rng(0)
    demonstrations = Demonstrations.from_arrays(
        rng.normal(size=(60, 3)).astype(np.float32),
        rng.normal(size=(60, 2)).clip(-1, 1).astype(np.float32),
        [10] * 6,
        gym.spaces.Box(-9, 9, (3,)),
        gym.spaces.Box(-1, 1, (2,)),
    )
    small = {"latent_dim": 2, "hidden": (8,), "n_components": 2, "context_length": 5}
    return LatentBC(demonstrations=demonstrations, policy_kwargs=small, batch_size=4, seed=0, device="cpu", **options)


def pendulum(algorithm: type[BaseAlgorithm], **options: object) -> BaseAlgorithm:
    return algorithm("MlpPolicy", "Pendulum-v1", seed=0, device="cpu", policy_kwargs={"net_arch": [8]}, **options)


AGENTS = {
    "LatentBC": (clone, 20, 5),
    "PPO": (lambda: pendulum(PPO, n_steps=64, batch_size=16, n_epochs=2), 256, 2),
    "A2C": (lambda: pendulum(A2C, n_steps=32), 128, 2),
    "SAC": (lambda: pendulum(SAC, learning_starts=20, batch_size=8), 60, 10),
    "SAC with gSDE": (lambda: pendulum(SAC, learning_starts=20, batch_size=8, use_sde=True, train_freq=8), 64, 5),
    "TD3": (lambda: pendulum(TD3, learning_starts=20, batch_size=8), 60, 10),
}


@pytest.mark.parametrize("name", AGENTS)
def test_learning_does_not_notice(name: str) -> None:
    make, steps, every = AGENTS[name]
    plain = make().learn(steps)
    measured, lines = make(), Lines()  # now, as it seeds what both draw from
    measured.set_logger(lines)
    measured.learn(steps, callback=GradientVariance(every=every, replicates=4))
    assert torch.equal(weights(plain), weights(measured))
    counts = {key: len(lines.of(key)) for key in FIGURES}
    assert set(counts.values()) == {{"LatentBC": 4, "PPO": 2, "A2C": 2, "SAC": 4, "SAC with gSDE": 5, "TD3": 4}[name]}
    assert all(np.isfinite(lines.of(key)).all() for key in FIGURES)
    assert min(lines.of("gradient/trace")) > 0


def test_short_rollouts_are_measured_less_often() -> None:
    for make, rollouts in ((lambda: pendulum(PPO, n_steps=8, batch_size=4, n_epochs=1), 9), (AGENTS["A2C"][0], 9)):
        agent, lines = make(), Lines()
        agent.set_logger(lines)
        agent.learn(rollouts * agent.n_steps, callback=GradientVariance(replicates=2))
        assert len(lines.of("gradient/trace")) == (3 if isinstance(agent, PPO) else 1)


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("steps", [64, 72])
def test_trace_is_that_of_the_losses_it_names(steps: int) -> None:
    """PPO's policy gradient against one written out with the buffer's own numbers; a last, smaller batch is none."""
    agent = pendulum(PPO, n_steps=steps, batch_size=16)
    found: list[float] = []

    class Check(GradientVariance):
        def _on_rollout_end(self) -> None:
            super()._on_rollout_end()
            np.random.seed(1)  # noqa: NPY002 - what the buffer reads
            rows = []
            for data in islice(agent.rollout_buffer.get(16), 4):
                advantages = (data.advantages - data.advantages.mean()) / (data.advantages.std() + 1e-8)
                law = agent.policy.get_distribution(data.observations)
                loss = -(advantages * law.log_prob(data.actions)).mean()
                named = [p for name, p in agent.policy.named_parameters() if "value" not in name]
                rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, named)]))
            found.append(float(torch.stack(rows).double().var(0).sum()))

        def _measure(self) -> None:
            np.random.seed(1)  # noqa: NPY002
            super()._measure()

    lines = Lines()
    agent.set_logger(lines)
    agent.learn(steps, callback=Check())
    assert lines.of("gradient/trace") == pytest.approx(found, rel=1e-4)
    assert lines.of("gradient/batch_size") == [16]


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_frozen_parameters_have_no_gradient(name: str) -> None:
    make, steps, every = AGENTS[name]
    agent, lines = make(), Lines()
    next(getattr(agent, "actor", agent.policy).parameters()).requires_grad_(False)
    agent.set_logger(lines)
    agent.learn(steps, callback=GradientVariance(every, 2))
    assert min(lines.of("gradient/trace")) > 0


@pytest.mark.parametrize("algorithm", [SAC, TD3])
def test_nothing_is_measured_before_the_first_transition(algorithm: type[BaseAlgorithm]) -> None:
    agent, lines = pendulum(algorithm, learning_starts=0, batch_size=8), Lines()
    agent.set_logger(lines)
    agent.learn(5, callback=GradientVariance(1, 2))
    assert len(lines.of("gradient/trace")) == 5


def test_a_buffer_of_whole_episodes_is_asked_when_it_has_one() -> None:
    """Every other step of two episodes of 20; what learns with HER cannot sample before the first is over."""
    goal = spaces.Dict(observation=VECTOR, achieved_goal=VECTOR, desired_goal=VECTOR)

    class Reach(Toy):
        def compute_reward(self, achieved: Any, *_: Any) -> Any:
            return np.zeros(len(achieved), np.float32)

    options = {"learning_starts": 0, "batch_size": 8, "train_freq": (1, "episode"), "policy_kwargs": {"net_arch": [8]}}
    made = SAC("MultiInputPolicy", Reach(goal, steps=20), replay_buffer_class=HerReplayBuffer, device="cpu", **options)
    lines = Lines()
    made.set_logger(lines)
    made.learn(40, callback=GradientVariance(2, 2))
    assert len(lines.of("gradient/trace")) == 2


def test_option_of_behaviour_cloning() -> None:
    agent = clone(gradient_variance_every=10)
    lines = Lines()
    agent.set_logger(lines)
    agent.learn(30)
    assert len(lines.of("gradient/snr")) == 3


def test_refusals() -> None:
    with pytest.raises(LatentRLError, match="not of DQN"):
        DQN("MlpPolicy", "CartPole-v1").learn(10, callback=GradientVariance())
    with pytest.raises(LatentRLError, match=r"its 16 steps make one of 16: take a batch_size of half or less"):
        pendulum(PPO, n_steps=16, batch_size=16).learn(10, callback=GradientVariance())
    with pytest.raises(LatentRLError, match="replicates must be"):
        GradientVariance(replicates=1)
    with pytest.raises(LatentRLError, match="every must be"):
        clone(gradient_variance_every=0).learn(1)


@pytest.mark.parametrize("algorithm", [SAC, TD3])
def test_moments_are_those_of_the_actors_loss(algorithm: type[BaseAlgorithm]) -> None:
    """Its loss as stable-baselines3 writes it, on the same batches and noise; the kurtosis by its definition."""
    agent: Any = pendulum(algorithm, learning_starts=20, batch_size=8).learn(40)
    lines, watch = Lines(), GradientVariance(replicates=4)
    agent.set_logger(lines)
    watch.init_callback(agent)
    watch.locals = {}

    def seed() -> None:
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002

    seed()
    watch._measure()
    seed()
    rows = []
    for _ in range(4):
        seen = agent.replay_buffer.sample(8).observations
        if algorithm is TD3:
            loss = -agent.critic.q1_forward(seen, agent.actor(seen)).mean()
        else:
            actions, log_prob = agent.actor.action_log_prob(seen)
            worth = torch.min(*agent.critic(seen, actions))
            loss = (agent.log_ent_coef.exp().detach() * log_prob.reshape(-1, 1) - worth).mean()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(agent.actor.parameters()))]))
    gradients = torch.stack(rows).double()
    trace = float(gradients.var(0).sum())
    assert lines.of("gradient/trace") == [pytest.approx(trace, rel=1e-4)]
    signal = float(gradients.mean(0).square().sum()) - trace / 4
    assert lines.of("gradient/snr") == [pytest.approx(max(signal / trace, 0.0) ** 0.5, rel=1e-3)]
