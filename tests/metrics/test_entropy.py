"""Entropy of behaviour against closed forms, scipy and simulation."""

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
    """2000 draws of 200 rollouts: bias below half the plug-in's (9 standard errors away from it or more), 95 % interval
    covers in ≥ 90 % (binomial at 95 % nominal): false alarms < 1e-15."""
    p = weights / weights.sum()
    truth = stats.entropy(p) / np.log(26)
    generator = np.random.default_rng(0)
    draws = generator.multinomial(200, p, size=2000)
    estimates = [metrics.behaviour_entropy(counts) for counts in draws]
    plug_in = np.mean([stats.entropy(counts) / np.log(26) for counts in draws]) - truth
    assert abs(np.mean([e.value for e in estimates]) - truth) < 0.5 * abs(plug_in)
    assert np.mean([e.ci[0] <= truth <= e.ci[1] + 1e-9 for e in estimates]) > 0.90


@pytest.mark.parametrize("rollouts", [1, 3, 200])
def test_one_mode_may_hide_others_that_rollouts_missed(rollouts: int) -> None:
    """The interval ends where all rollouts but the first, which names the mode, miss a share of others, alike, one time
    in twenty."""
    found = metrics.behaviour_entropy(np.array([0, rollouts, 0, 0]))
    others = 1.0 - 0.05 ** (1.0 / (rollouts - 1)) if rollouts > 1 else 1.0
    shares = np.full(4, 0.25) if others > 0.75 else np.array([1.0 - others, *[others / 3.0] * 3])
    assert found.value == found.ci[0] == 0.0
    assert found.ci[1] == pytest.approx(stats.entropy(shares) / np.log(4))


@pytest.mark.parametrize("counts", [np.array([3]), np.array([1, -1]), np.ones((2, 2))])
def test_entropy_refuses(counts: np.ndarray) -> None:
    with pytest.raises(LatentRLError, match="one number ≥ 0 per mode"):
        metrics.behaviour_entropy(counts)


def test_modes_covered() -> None:
    assert metrics.modes_covered(np.array([4, 5, 6, 0])) == 2


def test_conditional_entropy_of_known_counts() -> None:
    """One thing in each context is 0 however many things there are; a context without success counts as 0."""
    assert metrics.conditional_entropy(10 * np.eye(4, dtype=int)).value == 0.0
    assert metrics.behaviour_entropy(10 * np.eye(4, dtype=int).sum(0)).value == 1.0
    even = np.full((3, 2), 500)
    assert metrics.conditional_entropy(even).value == pytest.approx(1.0, abs=1e-9)
    assert metrics.conditional_entropy(np.vstack([even, np.zeros((3, 2), int)])).value == pytest.approx(0.5, abs=2e-3)
    for contexts in (1, 3):
        assert metrics.conditional_entropy(np.zeros((contexts, 2), int)) == metrics.Entropy(0.0, (0.0, 1.0))


def test_conditional_entropy_is_the_mean_over_contexts() -> None:
    """Against scipy's entropy and Student's interval, with Miller and Madow's correction by hand."""
    counts = np.array([[50, 30, 20], [90, 5, 5], [10, 0, 10], [33, 33, 34]])
    by_hand = [(stats.entropy(row / row.sum()) + ((row > 0).sum() - 1) / (2 * row.sum())) / np.log(3) for row in counts]
    found = metrics.conditional_entropy(counts)
    assert found.value == pytest.approx(np.mean(by_hand))
    interval = stats.t.interval(0.95, 3, np.mean(by_hand), stats.sem(by_hand))
    assert found.ci == pytest.approx((interval[0], min(interval[1], 1.0)))
    assert metrics.conditional_entropy(counts[[2, 0, 3, 1]][:, [1, 2, 0]]).value == pytest.approx(found.value)
    assert metrics.conditional_entropy(counts[:1]) == metrics.behaviour_entropy(counts[0])


def test_conditional_entropy_is_less_biased_than_plug_in_and_its_interval_covers() -> None:
    """500 draws of 20 contexts with 12 rollouts each over 4 modes, one context in five without success; each has shares
    of its own. Bias below half the plug-in's (6 standard errors away from it: false alarm < 1e-8), 95 % interval covers
    in ≥ 90 % (binomial: < 1e-5)."""
    generator = np.random.default_rng(0)
    law = np.full(4, 3.0)
    truth = 0.8 * stats.entropy(generator.dirichlet(law, 200_000), axis=1).mean() / np.log(4)
    estimates, plug_in = [], []
    for _ in range(500):
        counts = generator.multinomial(12, generator.dirichlet(law, 20))
        counts[generator.random(20) < 0.2] = 0
        estimates.append(metrics.conditional_entropy(counts))
        plug_in.append(stats.entropy(counts[counts.any(1)], axis=1).sum() / 20 / np.log(4))
    bias = np.mean([e.value for e in estimates]) - truth
    assert abs(bias) < 0.5 * abs(np.mean(plug_in) - truth)
    assert np.mean([e.ci[0] <= truth <= e.ci[1] for e in estimates]) > 0.90


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (np.array([3, 4]), r"the shape is \(2,\)"),
        (np.zeros((0, 3), int), r"the shape is \(0, 3\)"),
        (np.ones((3, 1), int), "two modes"),
        (np.array([[3, -1]]), "some are negative"),
    ],
)
def test_conditional_entropy_refuses(counts: np.ndarray, words: str) -> None:
    with pytest.raises(LatentRLError, match=words):
        metrics.conditional_entropy(counts)


def test_mean_and_share_against_scipy() -> None:
    numbers = np.array([1.0, 4.0, 2.0, 8.0])
    found = metrics.mean(numbers)
    assert (found.value, found.error) == pytest.approx((3.75, stats.sem(numbers)))
    assert found.ci == pytest.approx(stats.t.interval(0.95, 3, 3.75, stats.sem(numbers)))
    assert metrics.mean([2.0]).error == np.inf
    part = metrics.share(3, 10)
    assert part.value == 0.3
    # Wilson's interval solves (p − p̂)² = z² p (1 − p) / n.
    for end in part.ci:
        assert (end - 0.3) ** 2 == pytest.approx(stats.norm.ppf(0.975) ** 2 * end * (1 - end) / 10)
    for nothing in (lambda: metrics.mean([]), lambda: metrics.share(0, 0)):
        with pytest.raises(LatentRLError, match="at least one"):
            nothing()


@pytest.mark.parametrize("counts", [[0.97, 0.01, 0.01, 0.01], [0.5, 0.5], [1.0, np.inf], [1.0, np.nan]])
def test_shares_are_no_counts(counts: list[float]) -> None:
    for entropy, given in ((metrics.behaviour_entropy, counts), (metrics.conditional_entropy, [counts, counts])):
        with pytest.raises(LatentRLError):
            entropy(np.array(given))
    assert metrics.behaviour_entropy(np.array([3.0, 3.0])).value == metrics.behaviour_entropy(np.array([3, 3])).value


def test_intervals_of_other_confidence() -> None:
    counts = np.array([80, 15, 5])
    widths = [np.subtract(*metrics.behaviour_entropy(counts, confidence).ci[::-1]) for confidence in (0.5, 0.9)]
    assert widths[0] / widths[1] == pytest.approx(stats.norm.ppf(0.75) / stats.norm.ppf(0.95))


def test_contexts_that_came_out_alike_leave_an_interval() -> None:
    """A spread of 0 over few contexts is no knowledge: the interval is never narrower than what rollouts leave open."""
    assert metrics.conditional_entropy(np.array([[2, 0], [2, 0]])).ci == metrics.behaviour_entropy(np.array([2, 0])).ci
    alike = metrics.conditional_entropy(np.array([[3, 2]] * 3))
    alone = metrics.behaviour_entropy(np.array([3, 2]))
    assert alike.value == alone.value
    assert alike.ci[0] < alike.value - 0.05
    assert metrics.conditional_entropy(np.zeros((2, 3), int)).ci == (0.0, 1.0)  # no success tells nothing


@pytest.mark.parametrize(("modes", "each", "contexts"), [(2, 1, 60), (10, 1, 60), (2, 6, 20), (8, 24, 20)])
def test_intervals_of_even_behaviour_cover(modes: int, each: int, contexts: int) -> None:
    """At least .9 of 400 intervals hold the truth, 1, where .95 would give a false alarm in 1e-5; of one success in
    each context all do, as it only names a mode."""
    generator = np.random.default_rng(0)
    draws = generator.multinomial(each, np.full(modes, 1.0 / modes), size=(400, contexts))
    assert np.mean([metrics.conditional_entropy(counts).ci[1] > 1.0 - 1e-9 for counts in draws]) >= 0.9


def test_intervals_of_even_behaviour_cover_with_unequal_numbers() -> None:
    """One and two throws of a coin by turns, in 60 contexts; and a hundred with one each but for one with two."""
    generator = np.random.default_rng(0)
    draws = [np.stack([generator.multinomial(1 + c % 2, (0.5, 0.5)) for c in range(60)]) for _ in range(400)]
    assert np.mean([metrics.conditional_entropy(counts).ci[1] > 1.0 - 1e-9 for counts in draws]) >= 0.9
    counts = np.zeros((100, 2), int)
    counts[:, 0], counts[0, 1] = 1, 1
    assert metrics.conditional_entropy(counts).ci[1] == 1.0


def test_one_context_with_many_successes_says_nothing_of_the_others() -> None:
    """Nine in which a coin was thrown once, and one that always ends alike: .9 may be the truth."""
    counts = np.zeros((10, 2), int)
    counts[0, 0], counts[1:, 0] = 1000, 1
    found = metrics.conditional_entropy(counts)
    assert found.value == found.ci[0] == 0.0
    assert 0.9 <= found.ci[1] < 0.95


@pytest.mark.parametrize("rollouts", [4, 12])
def test_intervals_of_few_modes_cover(rollouts: int) -> None:
    """Of four modes alike, as above."""
    draws = np.random.default_rng(0).multinomial(rollouts, np.full(4, 0.25), size=400)
    assert np.mean([metrics.behaviour_entropy(counts).ci[1] == 1.0 for counts in draws]) >= 0.9


def test_intervals_of_rare_deviations_cover() -> None:
    """Four rollouts in each of five contexts, one in twenty of which does something else: at least .9 of 400 intervals
    hold the truth, where .95 would give a false alarm in 1e-5."""
    generator = np.random.default_rng(0)
    truth = -(0.95 * np.log(0.95) + 0.05 * np.log(0.05)) / np.log(2)
    draws = [generator.multinomial(4, (0.95, 0.05), size=5) for _ in range(400)]
    intervals = [metrics.conditional_entropy(counts).ci for counts in draws]
    assert np.mean([low <= truth <= high for low, high in intervals]) >= 0.9


def test_means_of_what_is_not_finite_are_known_by_nobody() -> None:
    assert metrics.mean([1.0, np.inf]) == metrics.Mean(np.inf, np.inf, (-np.inf, np.inf))
    assert metrics.mean([0.0, -np.inf]).value == -np.inf


@pytest.mark.parametrize("rollouts", [10, 20, 26, 50])
def test_intervals_of_few_rollouts_cover(rollouts: int) -> None:
    """Of 26 modes with weights 1 … 26: at least .9 of 400 intervals hold the truth, where .95 would give a false alarm
    in 1e-5; without what may not have been seen, .08 to .85 of them do."""
    generator, weights = np.random.default_rng(0), np.arange(1.0, 27.0) / 351.0
    truth = stats.entropy(weights, base=26)
    intervals = [metrics.behaviour_entropy(generator.multinomial(rollouts, weights)).ci for _ in range(400)]
    assert np.mean([low <= truth <= high for low, high in intervals]) >= 0.9
