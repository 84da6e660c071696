"""MountainCarContinuous against Gymnasium's own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import Continuous_MountainCarEnv, continuous_mountain_car

from latentrl_envs import MountainCarContinuous
from tests.envs.parity import assert_same_episode, assert_same_pictures, assert_same_steps


def rock(seen: np.ndarray) -> np.ndarray:
    """Push the way that the car rolls: reaches the goal."""
    return np.sign(seen[1:]) + np.float32(0.1)  # at rest, to the right; at times beyond the clip


@pytest.mark.parametrize("goal_velocity", [0, 0.03])
def test_one_step_equals_gymnasium(goal_velocity: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    states = rng.uniform((-1.2, -0.07), (0.6, 0.07), (20_000, 2))
    states[:1000, 0] = -1.2  # at the wall
    actions = rng.uniform(-2, 2, (20_000, 1))
    theirs = Continuous_MountainCarEnv(goal_velocity=goal_velocity)
    # Gymnasium rounds the next state to float32; here its own code must not.
    monkeypatch.setattr(continuous_mountain_car, "np", SimpleNamespace(array=np.array, float32=np.float64))
    task = MountainCarContinuous(goal_velocity=goal_velocity)
    following, ends = assert_same_steps(task, theirs, states, actions)
    position, velocity = following.T
    stopped, left_wall = (position == -1.2) & (velocity == 0), (states[:, 0] == -1.2) & (position > -1.2)
    too_slow = (position >= 0.45) & (velocity < goal_velocity)
    fast = [velocity == 0.07, velocity == -0.07]
    for met in (stopped, left_wall, position == 0.6, *fast, actions > 1, actions < -1, too_slow & ~ends, ends):
        assert met.sum() > 50


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("goal_velocity", [0, 0.03])
def test_same_seed_gives_the_same_episode_to_the_goal(seed: int, goal_velocity: float) -> None:
    """Gymnasium computes in float32, and the difference grows along the episode. Of 1200 starts the longest took 112
    steps.
    """
    steps, terminated, truncated = assert_same_episode(
        "MountainCarContinuous-v0", rock, seed, atol=1e-4, goal_velocity=goal_velocity
    )
    assert (terminated, truncated) == (True, False)
    assert steps < 300


@pytest.mark.parametrize("seed", range(2))
def test_same_seed_gives_the_same_episode_to_the_limit(seed: int) -> None:
    """Random pushes reach the goal before it with 3 % of seeds."""
    rng = np.random.default_rng(seed)

    def noise(_: np.ndarray) -> np.ndarray:
        return rng.uniform(-1.5, 1.5, 1).astype(np.float32)

    assert assert_same_episode("MountainCarContinuous-v0", noise, seed, atol=1e-3) == (999, False, True)


def test_spaces_are_gymnasiums() -> None:
    theirs, ours = Continuous_MountainCarEnv(), MountainCarContinuous()
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)


def test_gradient_is_zero_where_the_class_says_so() -> None:
    task = MountainCarContinuous()
    by_state, by_action = torch.func.jacrev(task.transition, argnums=(0, 1))(
        torch.tensor([[-0.5, 0.0], [-0.5, 0.0], [-1.0, 0.0699], [-1.19, -0.05]], dtype=torch.float64),
        torch.tensor([[0.5], [1.5], [1.0], [0.5]], dtype=torch.float64),
    )
    by_state, by_action = by_state.diagonal(dim1=0, dim2=2), by_action.diagonal(dim1=0, dim2=2)
    assert by_action[..., 0] == pytest.approx(0.0015)  # inside
    assert by_action[..., 1].abs().max() == 0  # beyond the clip
    assert by_action[..., 2].abs().max() == 0  # a velocity that is cut
    assert by_state[..., 3].abs().max() == 0  # at the wall

    def reward(action: torch.Tensor) -> torch.Tensor:
        state = torch.tensor([0.44, 0.05])
        return task.reward(state, action, task.transition(state, action))

    assert torch.func.grad(reward)(torch.tensor([2.0])).item() == pytest.approx(-0.4)  # the 100 is not seen


def test_picture_is_gymnasiums(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_pictures("MountainCarContinuous-v0", np.ones(1, dtype=np.float32), monkeypatch)


def test_bad_goal_velocity() -> None:
    with pytest.raises(ValueError, match="goal_velocity must be finite"):
        MountainCarContinuous(goal_velocity=float("inf"))
