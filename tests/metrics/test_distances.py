"""Distances between trajectories against closed forms, scipy and the textbook."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from latentrl import LatentRLError, metrics


def test_distances_and_leave_one_out() -> None:
    line = np.stack([np.linspace(0, 1, 5), np.zeros(5)], -1)
    strokes = np.stack([line + np.array([0, height]) for height in (0, 1, 3, 3.5)])
    table = metrics.distances(strokes, strokes)
    np.testing.assert_allclose(table, np.abs(np.subtract.outer([0, 1, 3, 3.5], [0, 1, 3, 3.5])))
    np.testing.assert_allclose(metrics.leave_one_out(strokes, np.array([0, 0, 1, 1])), [1, 1, 0.5, 0.5])
    with pytest.raises(LatentRLError, match="equal T and D"):
        metrics.distances(strokes, strokes[:, :3])


def slow_dtw(x: np.ndarray, y: np.ndarray) -> float:
    table = np.full((len(x) + 1, len(y) + 1), np.inf)
    table[0, 0] = 0.0
    for i in range(len(x)):
        for j in range(len(y)):
            step = min(table[i, j], table[i, j + 1], table[i + 1, j])
            table[i + 1, j + 1] = np.linalg.norm(x[i] - y[j]) + step
    return table[-1, -1] / max(len(x), len(y))


@pytest.mark.parametrize("lengths", [(7, 7), (5, 9), (9, 4), (1, 3)])
def test_dtw_equals_the_textbook(lengths: tuple[int, int]) -> None:
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(6, lengths[0], 2)), generator.normal(size=(6, lengths[1], 2))
    np.testing.assert_allclose(metrics.dtw(x, y), [slow_dtw(a, b) for a, b in zip(x, y, strict=True)])


def test_dtw_forgives_pace() -> None:
    time = np.linspace(0, 1, 101)
    even, late = np.stack([time, time], -1)[None], np.stack([time**2, time**2], -1)[None]
    assert metrics.dtw(even, late)[0] < 0.1 * metrics.distances(even, late)[0, 0]


def test_energy_distance_in_one_dimension_equals_scipy() -> None:
    """scipy's is the root of the same V-statistic, halved."""
    generator = np.random.default_rng(2)
    x, y = generator.normal(size=50), generator.normal(1.0, 2.0, size=80)
    ours = metrics.energy_distance(x[:, None, None], y[:, None, None])
    assert ours == pytest.approx(stats.energy_distance(x, y) ** 2)
    assert metrics.energy_distance(x[:, None, None], x[:, None, None]) == pytest.approx(0.0, abs=1e-9)


def test_energy_distance_is_independent_of_the_number_of_points() -> None:
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=(9, 1, 2)), generator.normal(size=(8, 1, 2))
    constant = metrics.energy_distance(x.repeat(10, 1), y.repeat(10, 1))
    assert constant == pytest.approx(metrics.energy_distance(x, y))


def test_variety() -> None:
    flat = np.zeros((5, 4, 1))
    flat[:, :, 0] = np.array([0, 2, 10, 10, 99])[:, None]
    assert metrics.variety(flat, np.array([0, 0, 1, 1, 2])) == pytest.approx((2 + 0) / 2)
    assert metrics.variety(flat[:0], np.array([], int)) == 0.0


def test_resample() -> None:
    path = np.stack([np.array([0.0, 1.0, 4.0]), np.array([0.0, 0.0, 2.0])], -1)
    np.testing.assert_allclose(metrics.resample(path, 5), [[0, 0], [0.5, 0], [1, 0], [2.5, 1], [4, 2]])
    with pytest.raises(LatentRLError, match="points"):
        metrics.resample(path, 1)


def test_the_nearest_demonstration_is_found_whatever_the_lengths() -> None:
    """Lines to four corners, drawn at three numbers of points; each is nearest to that of its corner."""
    corners = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    shown = [np.linspace(0, 1, 20 + i)[:, None] * corner for i, corner in enumerate(corners)]
    drawn = [np.linspace(0, 1, 7)[:, None] * (corners[2] + [0.0, 0.1]), np.linspace(0, 1, 300)[:, None] * corners[1]]
    for measure in ("time", "dtw"):
        found = metrics.nearest_demonstration(drawn, shown, measure)
        assert found.which.tolist() == [2, 1]
        assert found.distance[1] == pytest.approx(0.0, abs=1e-12)
    # The distance grows along the line from 0 to .1, so its mean over equal times is half of that.
    assert metrics.nearest_demonstration(drawn, shown).distance[0] == pytest.approx(0.05)


def test_nearest_by_time_equals_distances_where_lengths_agree() -> None:
    generator = np.random.default_rng(4)
    x, y = generator.normal(size=(5, 30, 3)), generator.normal(size=(8, 30, 3))
    found = metrics.nearest_demonstration(list(x), list(y), points=30)
    table = metrics.distances(x, y)
    np.testing.assert_allclose(found.distance, table.min(1))
    assert (found.which == table.argmin(1)).all()
    warped = metrics.nearest_demonstration(list(x), list(y), "dtw", points=30)
    slow = np.array([[slow_dtw(a, b) for b in y] for a in x])
    np.testing.assert_allclose(warped.distance, slow.min(1))


def test_pace_counts_in_time_and_not_in_dtw() -> None:
    time = np.linspace(0, 1, 101)
    even, late = np.stack([time, time], -1), np.stack([time**2, time**2], -1)
    by_time, warped = (metrics.nearest_demonstration([late], [even], m).distance[0] for m in ("time", "dtw"))
    assert warped < 0.1 * by_time


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (([], [np.zeros((3, 2))]), "there are no rollouts"),
        (([np.zeros((3, 2))], []), "there are no demonstrations"),
        (([np.zeros((1, 2))], [np.zeros((3, 2))]), "at least two points"),
        (([np.zeros(3)], [np.zeros((3, 2))]), r"must be \(T, D\)"),
        (([np.full((3, 2), np.nan)], [np.zeros((3, 2))]), r"rollouts\[0\] are not finite, first at \(0, 0\)"),
        (([np.zeros((3, 2)), np.zeros((3, 1))], [np.zeros((3, 2))]), "with one D"),
        (([np.zeros((3, 1))], [np.zeros((3, 2))]), "equal T and D"),
        (([np.zeros((3, 2))], [np.zeros((3, 2))], "space"), "choose one of 'dtw', 'time'"),
        (([np.zeros((3, 2))], [np.zeros((3, 2))], "time", 1), "points must be"),
    ],
)
def test_nearest_refuses(given: tuple, words: str) -> None:
    with pytest.raises(LatentRLError, match=words):
        metrics.nearest_demonstration(*given)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.int32])
def test_paths_of_any_kind_of_number_are_as_far_apart(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (3, 20, 2)) for _ in range(2))
    for measure in (metrics.distances, metrics.dtw, metrics.energy_distance):
        expected = measure(first.astype(float), second.astype(float))
        np.testing.assert_allclose(measure(first.astype(dtype), second.astype(dtype)), expected, rtol=1e-12)


def test_energy_distance_does_not_depend_on_the_origin() -> None:
    """As far from it as Europe is from the equator, in metres."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(20, 10, 2)), rng.normal(size=(20, 10, 2)) + 0.1
    near = metrics.energy_distance(first, second)
    assert metrics.energy_distance(first + 4e6, second + 4e6) == pytest.approx(near, rel=1e-4)
    assert metrics.energy_distance(first + 4e6, first + 4e6) < 1e-7


def test_what_shows_none_of_the_modes_does_not_count() -> None:
    places = np.zeros((6, 4, 1))
    places[:, :, 0] = np.array([0.0, 1.0, 2.0, 100.0, 500.0, 900.0])[:, None]
    assert metrics.variety(places, np.array([0, 0, 0, -1, -1, -1])) == pytest.approx(4 / 3)
    apart = metrics.leave_one_out(places, np.array([0, 0, 0, -1, -1, 1]))
    assert apart == pytest.approx([1, 1, 1, np.inf, np.inf, np.inf])


def test_variety_does_not_depend_on_the_origin() -> None:
    paths = np.random.default_rng(0).normal(scale=0.01, size=(20, 10, 2))
    modes = np.zeros(20, int)
    assert metrics.variety(paths + 4e6, modes) == pytest.approx(metrics.variety(paths, modes), rel=1e-4)
