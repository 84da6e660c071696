"""Pendulum against Gymnasium's own."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from scipy import stats

from latentrl_envs import Pendulum


@pytest.mark.parametrize("g", [10.0, 9.81])
def test_one_step_equals_gymnasium(g: float) -> None:
    rng = np.random.default_rng(0)
    states = rng.uniform((-10, -8), (10, 8), (10_000, 2))  # angles beyond one turn
    actions = rng.uniform(-4, 4, (10_000, 1))  # half of them beyond the clip
    theirs, seen, rewards = PendulumEnv(g=g), [], []
    for state, action in zip(states, actions, strict=True):
        theirs.state = state
        _, reward, *_ = theirs.step(action)
        seen.append(theirs.state)
        rewards.append(reward)
    seen = np.array(seen)

    task, state, action = Pendulum(g=g), torch.from_numpy(states), torch.from_numpy(actions)
    following = task.transition(state, action)
    np.testing.assert_allclose(following.numpy(), seen, rtol=0, atol=1e-9)
    np.testing.assert_allclose(task.reward(state, action, following).numpy(), rewards, rtol=0, atol=1e-9)
    expected = np.stack((np.cos(seen[:, 0]), np.sin(seen[:, 0]), seen[:, 1]), 1)
    np.testing.assert_allclose(task.observation(following).numpy(), expected, rtol=0, atol=1e-9)
    assert (np.abs(seen[:, 1]) == 8).mean() > 0.01  # the velocity clip was met


def test_spaces_are_gymnasiums() -> None:
    theirs, ours = PendulumEnv(), Pendulum()
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)


def test_starts_are_uniform() -> None:
    """False alarms: 2e-4 per seed (two Kolmogorov-Smirnov tests at 1e-4)."""
    noise = torch.rand(5000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    angle, velocity = Pendulum().initial(noise).numpy().T
    assert stats.kstest(angle, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-4
    assert stats.kstest(velocity, stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_gradient_is_zero_beyond_the_clips() -> None:
    task = Pendulum()

    def speed(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return task.transition(state, action)[1]

    slow, fast = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 7.99])
    by_action = torch.func.grad(speed, argnums=1)
    assert by_action(slow, torch.tensor([1.0])) == pytest.approx(0.15)
    assert by_action(slow, torch.tensor([2.5])) == 0
    assert by_action(fast, torch.tensor([1.0])) == 0


def test_same_seed_as_gymnasium_gives_the_same_episode() -> None:
    ours, theirs = gym.make("latentrl_envs:latentrl/Pendulum-v1"), gym.make("Pendulum-v1")
    np.testing.assert_allclose(ours.reset(seed=5)[0], theirs.reset(seed=5)[0], atol=1e-7)
    theirs.action_space.seed(0)
    for _ in range(200):
        action = theirs.action_space.sample()
        mine, reference = ours.step(action), theirs.step(action)
        # Gymnasium multiplies a float32 action in float32, and the difference grows along the episode.
        np.testing.assert_allclose(mine[0], reference[0], atol=1e-4)
        assert mine[1] == pytest.approx(reference[1], abs=1e-4)
        assert mine[2:] == reference[2:]
    assert mine[3]


def test_picture_is_gymnasiums(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    ours = gym.make("latentrl_envs:latentrl/Pendulum-v1", render_mode="rgb_array")
    theirs = gym.make("Pendulum-v1", render_mode="rgb_array")
    for env in (ours, theirs):
        env.reset(seed=1)
    start = ours.render()
    np.testing.assert_array_equal(start, theirs.render())
    for env in (ours, theirs):
        env.step(np.array([1.5], dtype=np.float32))
    np.testing.assert_array_equal(ours.render(), theirs.render())  # with the arrow of the torque
    assert not np.array_equal(start, ours.render())
    for env in (ours, ours, theirs):
        env.close()


def test_bad_gravity() -> None:
    with pytest.raises(ValueError, match="g must be finite"):
        Pendulum(g=float("nan"))
