"""Pendulum against Gymnasium's own."""

import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from scipy import stats

from latentrl_envs import Pendulum
from tests.envs.parity import assert_same_episode, assert_same_pictures, assert_same_steps


@pytest.mark.parametrize("g", [10.0, 9.81])
def test_one_step_equals_gymnasium(g: float) -> None:
    rng = np.random.default_rng(0)
    states = rng.uniform((-10, -8), (10, 8), (10_000, 2))  # angles beyond one turn
    actions = rng.uniform(-4, 4, (10_000, 1))  # half of them beyond the clip
    task = Pendulum(g=g)
    following, _ = assert_same_steps(task, PendulumEnv(g=g), states, actions)
    angle, velocity = following.T
    expected = np.stack((np.cos(angle), np.sin(angle), velocity), 1)
    np.testing.assert_allclose(task.observation(torch.from_numpy(following)), expected, rtol=0, atol=1e-9)
    assert (np.abs(velocity) == 8).mean() > 0.01  # the velocity clip was met


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
    """Gymnasium multiplies a float32 action in float32, and the difference grows along the episode."""
    rng = np.random.default_rng(0)

    def noise(_: np.ndarray) -> np.ndarray:
        return rng.uniform(-2, 2, 1).astype(np.float32)

    assert assert_same_episode("Pendulum-v1", noise, seed=5, atol=1e-4) == (200, False, True)


def test_picture_is_gymnasiums(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the arrow of the torque."""
    assert_same_pictures("Pendulum-v1", np.array([1.5], dtype=np.float32), monkeypatch)


def test_bad_gravity() -> None:
    with pytest.raises(ValueError, match="g must be finite"):
        Pendulum(g=float("nan"))
