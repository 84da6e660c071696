"""MultiGoal against the published environment's rules, written once more with a loop over the goals."""

import numpy as np
import pytest
import torch
from scipy import stats

from latentrl_envs import MultiGoal

GOALS = np.array([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0], [0.0, -5.0]])


def published_step(
    position: np.ndarray, action: np.ndarray, goal_reward: float, action_cost: float, distance_cost: float, near: float
) -> tuple[np.ndarray, float, bool, int]:
    """Return the new position, the reward, whether a goal is reached and the nearest one."""
    velocity = np.clip(action, -1, 1)
    position = np.clip(position + velocity, -7, 7)
    distances = [np.linalg.norm(position - goal) for goal in GOALS]
    reached = min(distances) < near
    reward = -action_cost * np.dot(velocity, velocity) - distance_cost * min(distances) ** 2 + goal_reward * reached
    return position, reward, reached, int(np.argmin(distances))


@pytest.mark.parametrize("constants", [(10.0, 30.0, 1.0, 1.0), (0.1, 0.5, 2.0, 2.5)])
def test_a_step_follows_the_published_rules(constants: tuple[float, float, float, float]) -> None:
    rng = np.random.default_rng(0)
    positions, actions = rng.uniform(-7, 7, (4000, 2)), rng.uniform(-1.5, 1.5, (4000, 2))
    expected = [published_step(p, a, *constants) for p, a in zip(positions, actions, strict=True)]
    goal_reward, action_cost, distance_cost, near = constants
    task = MultiGoal(goal_reward, action_cost, distance_cost, goal_threshold=near)
    state, action = torch.from_numpy(positions), torch.from_numpy(actions)
    following = task.transition(state, action)
    info = task.state_info(following)
    np.testing.assert_allclose(following, [row[0] for row in expected], atol=1e-12)
    np.testing.assert_allclose(task.reward(state, action, following), [row[1] for row in expected], rtol=0, atol=1e-10)
    np.testing.assert_array_equal(task.terminal(following), [row[2] for row in expected])
    np.testing.assert_array_equal(info["success"], [row[2] for row in expected])
    np.testing.assert_array_equal(info["mode"], [row[3] for row in expected])
    assert 0.03 < np.mean([row[2] for row in expected]) < 0.6
    assert (following.abs() == 7).any()


def test_the_defaults_are_the_published_constants() -> None:
    task = MultiGoal()
    assert task.goals == tuple(map(tuple, GOALS))
    assert (task.goal_reward, task.actuation_cost_coeff, task.distance_cost_coeff) == (10, 30, 1)
    assert (task.init_sigma, task.goal_threshold, task.max_step, task.edge) == (0.1, 1.0, 1.0, 7.0)


def test_the_goals_are_equal() -> None:
    """A quarter turn of positions and actions changes no reward and turns the modes."""
    generator = torch.Generator().manual_seed(0)
    state, action = 7 * torch.rand(2, 1000, 2, dtype=torch.float64, generator=generator)
    state, action = state - 3.5, action / 7 - 0.5
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)  # rows: (1, 0) becomes (0, 1)
    task = MultiGoal()
    following, turned = task.transition(state, action), task.transition(state @ turn, action @ turn)
    torch.testing.assert_close(turned, following @ turn)
    torch.testing.assert_close(task.reward(state @ turn, action @ turn, turned), task.reward(state, action, following))
    next_goal = torch.tensor([2, 3, 1, 0])  # right to up, left to down, up to left, down to right
    assert torch.equal(task.state_info(turned)["mode"], next_goal[task.state_info(following)["mode"]])


def test_starts_are_normal_and_independent() -> None:
    """False alarms: 3e-4 per seed (two Kolmogorov-Smirnov tests and one of correlation at 1e-4)."""
    noise = torch.rand(20_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, y = MultiGoal(init_sigma=0.3).initial(noise).numpy().T
    assert stats.kstest(x, stats.norm(0, 0.3).cdf).pvalue > 1e-4
    assert stats.kstest(y, stats.norm(0, 0.3).cdf).pvalue > 1e-4
    assert stats.pearsonr(x * x, y * y).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_rarest_starts_are_finite_and_inside(dtype: torch.dtype) -> None:
    last = torch.nextafter(torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype)).item()
    corners = torch.tensor([[0, 0], [last, 0], [last, last], [0, last]], dtype=dtype)
    assert MultiGoal().initial(corners).abs().max() < 0.9  # e.g. 8.6 standard deviations in float64
    assert MultiGoal(init_sigma=100.0).initial(corners).abs().max() == 7


def test_the_gradient_through_an_episode_vanishes_at_the_optimum() -> None:
    """Towards one goal the costs are quadratic: with L the running sum, (30 I + L'L) a = L' 5 is the best pace a."""
    steps, task = 12, MultiGoal()
    running_sum = np.tril(np.ones((steps, steps)))
    best = np.linalg.solve(30 * np.eye(steps) + running_sum.T @ running_sum, running_sum.T @ np.full(steps, 5.0))
    assert best.max() < 1  # not clipped

    def episode_return(actions: torch.Tensor) -> torch.Tensor:
        state, total = torch.zeros(2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for action in actions:
            following = task.transition(state, action)
            total, state = total + task.reward(state, action, following), following
        return total

    pace = torch.from_numpy(np.stack((best, np.zeros(steps)), 1))
    gradient = torch.func.grad(episode_return)
    assert gradient(pace).abs().max() < 1e-9
    assert gradient(0.9 * pace).abs().max() > 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"goal_reward": float("nan")},
        {"actuation_cost_coeff": -1.0},
        {"distance_cost_coeff": "1"},
        {"init_sigma": -0.1},
        {"goal_threshold": -1.0},
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        MultiGoal(**arguments)
