"""Scores of forecasts against brute force, scipy and closed forms."""

import numpy as np
import pytest
from scipy import stats

from latentrl import LatentRLError, metrics

GENERATOR = np.random.default_rng(0)
SAMPLES, TRUTHS = GENERATOR.normal(size=(6, 4, 5, 2)), GENERATOR.normal(size=(4, 5, 2))


def test_best_of_k_takes_each_minimum_for_itself() -> None:
    """The first forecast is best on average, the second at the end."""
    truths = np.zeros((1, 4, 2))
    first, second = np.zeros((2, 1, 4, 2))
    first[0, -1] = [3.0, 4.0]
    second[0, :-1] = [0.0, 2.0]
    found = metrics.best_of_k([first, second], truths)
    assert found.ade.tolist() == [5 / 4]
    assert found.fde.tolist() == [0.0]


def test_best_of_k_equals_loops() -> None:
    found = metrics.best_of_k(SAMPLES, TRUTHS)
    for n, truth in enumerate(TRUTHS):
        steps = [[np.hypot(*(x - y)) for x, y in zip(sample[n], truth, strict=True)] for sample in SAMPLES]
        assert found.ade[n] == pytest.approx(min(np.mean(row) for row in steps))
        assert found.fde[n] == pytest.approx(min(row[-1] for row in steps))


def test_energy_score_equals_loops() -> None:
    def norm(x: np.ndarray) -> float:
        return float(np.sqrt((x**2).sum(-1).mean()))

    for n, truth in enumerate(TRUTHS):
        drawn = SAMPLES[:, n]
        miss = np.mean([norm(x - truth) for x in drawn])
        spread = np.mean([norm(drawn[i] - drawn[j]) for i in range(6) for j in range(6) if i != j])
        assert metrics.energy_score(SAMPLES, TRUTHS)[n] == pytest.approx(miss - 0.5 * spread)


@pytest.mark.parametrize("number", [2, 5])
def test_energy_score_is_unbiased(number: int) -> None:
    """On one dimension it is the CRPS, which is known for a Gaussian; 20 000 estimates, within 4 standard errors (false
    alarm 6e-5). With the pairs of a forecast with itself it would be .28 or .11 more."""
    y, loc, scale = 0.7, 0.2, 1.3
    z = (y - loc) / scale
    crps = scale * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    drawn = np.random.default_rng(number).normal(loc, scale, (number, 20_000, 1, 1))
    found = metrics.energy_score(drawn, np.full((20_000, 1, 1), y))
    assert abs(found.mean() - crps) < 4 * stats.sem(found)


def test_kde_nll_equals_scipy() -> None:
    """scipy's kernel estimate is the one the published scores were computed with."""
    expected = [
        -np.mean([stats.gaussian_kde(SAMPLES[:, n, t].T).logpdf(truth[t])[0] for t in range(5)])
        for n, truth in enumerate(TRUTHS)
    ]
    np.testing.assert_allclose(metrics.kde_nll(SAMPLES, TRUTHS, floor=-1e9), expected)


def test_kde_nll_has_a_floor_at_each_time() -> None:
    far = TRUTHS.copy()
    far[:, 0] = 1e3
    beyond = metrics.kde_nll(SAMPLES, far)
    assert (beyond < 20 / 5 + 10).all()
    rest = metrics.kde_nll(SAMPLES[:, :, 1:], far[:, 1:])
    np.testing.assert_allclose(beyond, (20 + 4 * rest) / 5)
    np.testing.assert_allclose(metrics.kde_nll(SAMPLES, far + 1e5), 20.0)


def test_kernels_are_blurred_by_the_resolution() -> None:
    """Against scipy's mixture of Gaussians; forecasts that agree are one Gaussian of that width."""
    scott, blur = 6 ** (-1 / 6), 0.3
    kernels = np.cov(SAMPLES[:, 0, 0].T) * scott**2 + blur**2 * np.eye(2)
    density = np.mean([stats.multivariate_normal.pdf(TRUTHS[0, 0], point, kernels) for point in SAMPLES[:, 0, 0]])
    assert metrics.kde_nll(SAMPLES[:, :1, :1], TRUTHS[:1, :1], resolution=blur) == pytest.approx(-np.log(density))
    same = np.repeat(SAMPLES[:1], 6, 0)
    expected = -stats.norm.logpdf(TRUTHS, same[0], blur).sum(-1)
    np.testing.assert_allclose(metrics.kde_nll(same, TRUTHS, -1e9, blur), expected.mean(-1))
    with pytest.raises(LatentRLError, match="resolution"):
        metrics.kde_nll(SAMPLES, TRUTHS, resolution=-1.0)


def test_laws_of_order_and_units() -> None:
    """The order of forecasts does not matter; metres in centimetres change scores by 100, densities by D log 100."""
    shuffled = SAMPLES[GENERATOR.permutation(6)]
    for score in (metrics.energy_score, metrics.kde_nll, lambda x, y: metrics.best_of_k(x, y).ade):
        np.testing.assert_allclose(score(shuffled, TRUTHS), score(SAMPLES, TRUTHS))
    centi = metrics.energy_score(100 * SAMPLES, 100 * TRUTHS)
    np.testing.assert_allclose(centi, 100 * metrics.energy_score(SAMPLES, TRUTHS))
    moved = metrics.kde_nll(100 * SAMPLES + 7, 100 * TRUTHS + 7, floor=-1e9)
    np.testing.assert_allclose(moved, metrics.kde_nll(SAMPLES, TRUTHS, floor=-1e9) + 2 * np.log(100))


def test_identical_forecasts() -> None:
    """Their energy score is the distance to the truth; a density they have not."""
    same = np.repeat(SAMPLES[:1], 6, 0)
    assert (metrics.energy_score(same, same[0]) == 0).all()
    np.testing.assert_allclose(metrics.energy_score(same, same[0] + [3.0, 4.0]), 5.0)
    with pytest.raises(LatentRLError, match="forecasts of truth 0 at time 0 have no density in 2 dimensions"):
        metrics.kde_nll(same, TRUTHS)
    with pytest.raises(LatentRLError, match="draw more than 2"):
        metrics.kde_nll(SAMPLES[:2], TRUTHS)


@pytest.mark.parametrize("score", [metrics.energy_score, metrics.kde_nll, metrics.best_of_k])
def test_forecasts_are_refused(score: object) -> None:
    assert callable(score)
    broken = SAMPLES.copy()
    broken[1, 2, 3, 0] = np.nan
    for samples, truths, words in (
        (broken, TRUTHS, r"samples are not finite, first at \(1, 2, 3, 0\)"),
        (SAMPLES[:0], TRUTHS, "at least one of each"),
        (SAMPLES, TRUTHS[:, :3], r"they are \(6, 4, 5, 2\) for \(4, 3, 2\)"),
        (SAMPLES[:, 0], TRUTHS, r"samples must be \(K, N, T, D\)"),
        ([["a"]], TRUTHS, "of numbers"),
    ):
        with pytest.raises(LatentRLError, match=words):
            score(samples, truths)
    if score is not metrics.best_of_k:
        with pytest.raises(LatentRLError, match="K ≥ 2"):
            score(SAMPLES[:1], TRUTHS)


def test_features_may_have_units_of_their_own() -> None:
    """The density in other units is that of the units' product less."""
    generator = np.random.default_rng(0)
    samples, truths, units = generator.normal(size=(20, 1, 1, 2)), generator.normal(size=(1, 1, 2)), np.array([1, 1e-7])
    scaled = metrics.kde_nll(samples * units, truths * units)
    assert scaled == pytest.approx(metrics.kde_nll(samples, truths) + np.log(1e-7))
    with pytest.raises(LatentRLError, match="have no density"):
        metrics.kde_nll(samples * np.array([1, 0]), truths)
