"""Avoiding against a referee that sees whole paths, and the lengths of its 24 routes by dynamic programming."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from latentrl_envs import Avoiding

POSTS = np.array([(0, 2), (-0.5, 4.5), (0.5, 4.5), (-1, 7), (0, 7), (1, 7)], dtype=float)
ROWS = {2.0: [0.0], 4.5: [-0.5, 0.5], 7.0: [-1.0, 0.0, 1.0]}
REACH = 0.2  # of a post's centre for the point's


class ShortCourse(Avoiding):
    """The finish line runs through the last posts, so that one step can both hit and cross."""

    finish = 7.05


def state_at(x: float, y: float, gaps: tuple[float, ...] = (-1, -1, -1), outcome: float = 0.0) -> torch.Tensor:
    return torch.tensor([x, y, *gaps, outcome], dtype=torch.float64)


def drive(task: Avoiding, state: torch.Tensor, *moves: tuple[float, float, int]) -> torch.Tensor:
    """Take ``count`` steps of (dx, dy), in the task's units, for each (dx, dy, count)."""
    for dx, dy, count in moves:
        action = torch.tensor([dx, dy], dtype=torch.float64) / task.max_step
        for _ in range(count):
            state = task.transition(state, action)
    return state


def told(task: Avoiding, state: torch.Tensor) -> tuple[int, bool, bool]:
    info = task.state_info(state)
    return int(info["mode"]), bool(info["success"]), bool(task.terminal(state))


def segments_hit(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return which segments (N, 2) enter the open disc of REACH around any of the posts: roots of a quadratic."""
    hit = np.zeros(len(start), dtype=bool)
    for post in POSTS:
        away, way = start - post, end - start
        a, b, c = (way**2).sum(1), 2 * (away * way).sum(1), (away**2).sum(1) - REACH**2
        root = np.sqrt(np.maximum(b * b - 4 * a * c, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            enters, leaves = (-b - root) / (2 * a), (-b + root) / (2 * a)
        hit |= (c < 0) | ((b * b - 4 * a * c > 0) & (enters < 1) & (leaves > 0) & (a > 0))
    return hit


def test_posts_stand_where_they_are_said_to() -> None:
    task = Avoiding()
    np.testing.assert_array_equal(task.posts, POSTS)
    assert task.post_radius + task.point_radius == REACH
    # Only the nearest post of the nearest row is looked at, and a step's end tells the gap.
    assert np.hypot(task.max_step, task.max_step) + REACH < min(task.post_spacing, task.row_spacing) / 2
    assert task.max_step < REACH


def test_the_24_routes_exist_and_are_about_equally_long() -> None:
    """Shortest paths of a point with the clearance of its radius, over positions 0.02 apart on lines 0.25 apart.

    Gaps are prescribed on the rows' lines. The grid makes paths longer by less than 1 %.
    """
    xs, ys = np.linspace(-1.8, 1.8, 181), np.arange(0, 8.5 + 1e-9, 0.25)
    grid = np.stack(np.broadcast_arrays(xs[:, None], xs), -1).reshape(-1, 2)
    steps = []
    for low, high in itertools.pairwise(ys):
        start, end = (np.stack((grid[:, i], np.full(len(grid), y)), 1) for i, y in ((0, low), (1, high)))
        length = np.hypot(*(end - start).T)
        length[segments_hit(start, end)] = np.inf
        steps.append(length.reshape(len(xs), len(xs)))
    lengths = {}
    for route in itertools.product(range(2), range(3), range(4)):
        gap_at = dict(zip(ROWS, route, strict=True))
        cost = np.where(np.abs(xs) < 1e-9, 0.0, np.inf)
        for y, length in zip(ys[1:], steps, strict=True):
            cost = (cost[:, None] + length).min(0)
            if y in gap_at:
                cost[np.searchsorted(ROWS[y], xs) != gap_at[y]] = np.inf
        lengths[route] = cost.min()
    assert len(lengths) == 24
    ratio = max(lengths.values()) / min(lengths.values())
    assert 1.09 < ratio < 1.11  # the docstring says 10 %
    assert min(lengths.values()) == pytest.approx(8.5, rel=0.02)


def test_no_post_is_jumped_over() -> None:
    """Random steps near posts; many cut a post's edge between two ends that lie outside."""
    rng = np.random.default_rng(0)
    start = POSTS[rng.integers(6, size=100_000)] + rng.uniform(-0.35, 0.35, (100_000, 2))
    action = rng.uniform(-1.5, 1.5, start.shape)
    end = start + 0.1 * action.clip(-1, 1)
    gaps = torch.full((len(start), 3), -1.0, dtype=torch.float64)
    outcome = torch.zeros(len(start), 1, dtype=torch.float64)
    state = torch.cat((torch.from_numpy(start), gaps, outcome), 1)
    following = Avoiding().transition(state, torch.from_numpy(action))
    hit = segments_hit(start, end)
    np.testing.assert_array_equal(following[:, 5] == -1, hit)

    def outside(points: np.ndarray) -> np.ndarray:
        return (np.linalg.norm(points[:, None] - POSTS, axis=-1) >= REACH).all(1)

    assert (hit & outside(start) & outside(end)).sum() > 100
    assert 0.2 < hit.mean() < 0.9


def referee(path: np.ndarray) -> tuple[int, bool, int]:
    """Return mode, success and length of the episode whose centre would follow the path (T, 2) if nothing stopped it.

    The gap of a row is found where the path cuts the row's line, by interpolation, at the last crossing forwards.
    """
    hit = segments_hit(path[:-1], path[1:])
    out = (np.abs(path[1:, 0]) > 1.8) | (path[1:, 1] < -0.5)
    crossed = path[1:, 1] >= 8.5
    over = np.flatnonzero(hit | out | crossed)
    steps = over[0] + 1 if len(over) else len(path) - 1
    success = bool(len(over)) and not (hit | out)[over[0]]
    path = path[: steps + 1]
    route = []
    for line, posts in ROWS.items():
        crossings = np.flatnonzero((path[:-1, 1] < line) & (path[1:, 1] >= line))
        if path[-1, 1] < line or not len(crossings):
            return -1, success, steps
        (x, y), (next_x, next_y) = path[crossings[-1]], path[crossings[-1] + 1]
        route.append(np.searchsorted(posts, x + (line - y) / (next_y - y) * (next_x - x)))
    return int(12 * route[0] + 4 * route[1] + route[2]), success, steps


def test_wandering_episodes_end_as_a_referee_says() -> None:
    """Smooth random walks that drift forward, with stretches backward; on a collision the crossing gap is moot."""
    rng = np.random.default_rng(0)
    n, steps = 3000, 300
    phases, tempo = rng.uniform(0, 2 * np.pi, (2, 4, n)), rng.uniform(0.02, 0.25, (2, 4, n))
    waves = np.sin(phases + tempo * np.arange(steps)[:, None, None, None]).sum(2)  # (steps, 2, n)
    actions = np.stack((0.35 * waves[:, 0], 0.45 + 0.5 * waves[:, 1]), -1)
    task = Avoiding()
    state = task.initial(torch.from_numpy(rng.random((n, 2))))
    path = np.concatenate((state[None, :, :2].numpy(), state[:, :2].numpy() + np.cumsum(0.1 * actions.clip(-1, 1), 0)))
    earned, lasted = torch.zeros(n, dtype=torch.float64), torch.zeros(n)
    for action in torch.from_numpy(actions):
        following = task.transition(state, action)
        earned, lasted = earned + task.reward(state, action, following), lasted + ~task.terminal(state)
        state = following
    info = task.state_info(state)
    verdicts = [referee(path[:, i]) for i in range(n)]
    modes, successes, lengths = (np.array(column) for column in zip(*verdicts, strict=True))
    np.testing.assert_array_equal(info["success"], successes)
    np.testing.assert_array_equal(lasted, lengths)
    np.testing.assert_array_equal(earned, successes)
    np.testing.assert_array_equal(info["mode"][info["success"]], modes[successes])
    running = ~task.terminal(state).numpy()
    np.testing.assert_array_equal(info["mode"][running], modes[running])
    assert len(np.unique(modes[successes])) >= 15
    backward = np.array([(np.diff(path[: k + 1, i, 1] > 2.0).sum()) for i, k in enumerate(lengths)])
    assert (backward[successes] > 1).sum() >= 5  # went back over the first line and succeeded
    assert successes.sum() > 100
    assert (~successes & ~running).sum() > 100


def test_the_last_way_through_a_row_counts_and_going_back_forgets() -> None:
    task = Avoiding()
    right_of_row_1 = drive(task, state_at(0.5, 1.95), (0, 0.1, 1))
    assert right_of_row_1[2:5].tolist() == [1, -1, -1]
    back = drive(task, right_of_row_1, (0, -0.1, 1))
    assert back[2:5].tolist() == [-1, -1, -1]
    left_of_row_1 = drive(task, back, (0, -0.1, 4), (-0.1, 0, 10), (0, 0.1, 5))
    assert left_of_row_1[2:5].tolist() == [0, -1, -1]
    past_row_3 = state_at(0.5, 6.95, gaps=(0, 2, -1))
    assert told(task, past_row_3) == (-1, False, False)
    past_row_3 = drive(task, past_row_3, (0, 0.1, 1))
    assert told(task, past_row_3) == (0 * 12 + 2 * 4 + 2, False, False)
    assert told(task, drive(task, past_row_3, (0, -0.1, 1))) == (-1, False, False)
    assert told(task, drive(task, past_row_3, (0, 0.1, 15))) == (10, True, True)


def test_exactly_on_the_line_is_past_it() -> None:
    task = Avoiding()
    on_the_line = drive(task, state_at(0.5, 1.9375), (0, 0.0625, 1))
    assert on_the_line[:5].tolist() == [0.5, 2.0, 1, -1, -1]
    assert drive(task, on_the_line, (0, 0.0625, 1))[2] == 1
    assert drive(task, on_the_line, (0, -0.0625, 1))[2] == -1


def test_a_collision_in_the_step_over_the_line_is_no_success() -> None:
    task = ShortCourse()
    before, action = state_at(-0.25, 7.0, gaps=(0, 1, 1)), torch.ones(2, dtype=torch.float64)
    after = task.transition(before, action)
    assert after[1] > task.finish
    assert told(task, after) == (0 * 12 + 1 * 4 + 1, False, True)
    assert task.reward(before, action, after) == 0
    assert told(task, drive(task, state_at(-0.5, 7.0, gaps=(0, 1, 1)), (0, 0.1, 1))) == (5, True, True)


@pytest.mark.parametrize(
    ("start", "move"),
    [
        ((1.75, 3.0), (0.1, 0.0)),
        ((-1.75, 3.0), (-0.1, 0.0)),
        ((1.0, -0.45), (0.0, -0.1)),
        ((-1.75, 8.45), (-0.1, 0.1)),  # over the line and over the side at once
        ((1.75, 6.95), (0.1, 0.1)),  # around the outside of the last row
    ],
)
def test_leaving_the_table_ends_without_success(start: tuple[float, float], move: tuple[float, float]) -> None:
    task = Avoiding()
    state = state_at(*start, gaps=(0, 0, 0) if start[1] > 7 else (-1, -1, -1))
    after = drive(task, state, (*move, 1))
    assert told(task, after)[1:] == (False, True)
    assert told(task, drive(task, state, (-move[0] / 4, -move[1] / 4, 1)))[1:] == (False, False)


@pytest.mark.parametrize(("outcome", "success"), [(1.0, True), (-1.0, False)])
def test_after_its_end_nothing_happens(outcome: float, success: bool) -> None:
    task = Avoiding()
    state = state_at(0.0, 8.45, gaps=(1, 2, 3), outcome=outcome)
    action = torch.ones(2, dtype=torch.float64)
    after = task.transition(state, action)
    assert torch.equal(after, state)
    assert task.reward(state, action, after) == 0
    assert told(task, after) == (23, success, True)


def test_gradients_are_those_of_the_position_and_finite_everywhere() -> None:
    task = Avoiding()

    def score(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        following = task.transition(state, action)
        return following.sum() + task.reward(state, action, following)

    for state in (state_at(0, 2), state_at(0.5, 1.95), state_at(0.2, 2.0), state_at(1.8, 8.5)):
        by_state, by_action = torch.func.grad(score, argnums=(0, 1))(state, torch.zeros(2, dtype=torch.float64))
        assert by_state[:2].tolist() == [1, 1]
        assert by_action.tolist() == pytest.approx([0.1, 0.1])
        assert by_state.isfinite().all()


def test_starts_are_uniform_in_their_square() -> None:
    """False alarms: 2e-4 per seed (two Kolmogorov-Smirnov tests at 1e-4)."""
    noise = torch.rand(5000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    state = Avoiding(start_jitter=0.3).initial(noise)
    for position in state[:, :2].T.numpy():
        assert stats.kstest(position, stats.uniform(-0.3, 0.6).cdf).pvalue > 1e-4
    assert (state[:, 2:] == torch.tensor([-1, -1, -1, 0])).all()
    assert (Avoiding(start_jitter=0).initial(noise)[:, :2] == 0).all()


@pytest.mark.parametrize("start_jitter", [-0.1, 0.5, float("nan"), None])
def test_bad_jitter(start_jitter: float) -> None:
    with pytest.raises(ValueError, match="start_jitter must be"):
        Avoiding(start_jitter=start_jitter)
