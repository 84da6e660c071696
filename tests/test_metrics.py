"""Metrics against closed forms, scipy and simulation."""

import numpy as np
import pytest
from scipy import stats

from latentrl import LatentRLError, metrics


def test_entropy_of_known_counts() -> None:
    assert metrics.behaviour_entropy(np.array([10, 0, 0])).value == 0.0
    even = metrics.behaviour_entropy(np.full(26, 20))
    assert even.value == 1.0
    assert even.ci[0] > 0.98
    assert metrics.behaviour_entropy(np.zeros(4, int)).value == 0.0
    counts = np.array([50, 30, 20])
    plug_in = stats.entropy(counts / 100) / np.log(3)
    assert metrics.behaviour_entropy(counts).value == pytest.approx(plug_in + 2 / 200 / np.log(3))


@pytest.mark.parametrize("weights", [np.full(26, 1.0), np.arange(1.0, 27.0), 0.8 ** np.arange(26.0)])
def test_entropy_is_less_biased_than_plug_in_and_its_interval_covers(weights: np.ndarray) -> None:
    """2000 draws of 200 rollouts: bias below half the plug-in's, 95 % interval covers in ≥ 90 % (binomial at 95 %
    nominal: false alarm < 1e-15)."""
    p = weights / weights.sum()
    truth = stats.entropy(p) / np.log(26)
    generator = np.random.default_rng(0)
    draws = generator.multinomial(200, p, size=2000)
    estimates = [metrics.behaviour_entropy(counts) for counts in draws]
    plug_in = np.mean([stats.entropy(counts) / np.log(26) for counts in draws]) - truth
    assert abs(np.mean([e.value for e in estimates]) - truth) < 0.5 * abs(plug_in)
    assert np.mean([e.ci[0] <= truth <= e.ci[1] + 1e-9 for e in estimates]) > 0.90


@pytest.mark.parametrize("counts", [np.array([3]), np.array([1, -1]), np.ones((2, 2))])
def test_entropy_refuses(counts: np.ndarray) -> None:
    with pytest.raises(LatentRLError, match="one number ≥ 0 per mode"):
        metrics.behaviour_entropy(counts)


def test_modes_covered() -> None:
    assert metrics.modes_covered(np.array([4, 5, 6, 0])) == 2


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
