"""Baselines that look at q.

Means are exact where draws can be enumerated or integrated (``tests.exact_draws``). Statistical tests are seeded, with
the false-alarm rates of ``tests.test_estimators``: 1e-4 per mean, 7e-6 per variance.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from latentrl.checks import LatentRLError
from latentrl.distributions import Bernoullis, DiagonalNormal, Mixture, OneHot, OneHots, TanhNormal
from latentrl.estimators.baselines import LearnedBaseline, LeaveOneOut
from latentrl.estimators.optimal_baseline import OptimalBaseline
from latentrl.estimators.score_function import ScoreFunction
from latentrl.types import Estimate
from latentrl.variance import gradient_variance
from tests.exact_draws import (
    AllBits,
    AllChoices,
    Parameters,
    estimated_wave_gradient,
    expected_gradient,
    wave_gradient,
)
from tests.test_estimators import MU, D, K, R, S, d2, f_of, measure, moments, s2, square, variances

EXACT = torch.tensor([2 * D, 2 * S])
BEST = {"mu": 3 * s2 + d2, "sigma": 5 * s2 + d2}
SCORES = {"mu": lambda e: e / S, "sigma": lambda e: (e**2 - 1) / S}


# --- OptimalBaseline


def test_optimal_baseline_finds_the_constants_of_least_variance() -> None:
    """b* = 3s² + d² for μ and 5s² + d² for σ; the standard error of a ratio is its delta method's."""
    e = torch.randn(400_000).double()
    cost = f_of(e)
    for name, score in SCORES.items():
        squares = score(e) ** 2
        found = OptimalBaseline()(cost, squares.unsqueeze(-1)).squeeze(-1)
        error = (squares * (cost - BEST[name])).std() / squares.mean() / math.sqrt(len(e))
        assert error < 0.1  # the two constants are 4.5 apart
        assert (found - BEST[name]).abs().max() < 4.5 * error + 0.02  # the one left out moves it a little


def test_optimal_baseline_has_its_closed_form_variance() -> None:
    """With S samples: V*/S for the best constant, and (E s² E u² + (E s u)²)/(S (S − 1)) as it is estimated
    from the others, u = s² (f − b*) / E s² its linearised error. The latter is 5 % here, the rest below 1 %."""
    samples, replicates = 1000, 4000
    report = measure(ScoreFunction(OptimalBaseline()), samples=samples, replicates=replicates, reference=EXACT)
    assert report.bias_p > 1e-4
    closed = (6 * s2 + 8 * d2, 24 * s2 + 40 * d2)
    for found, row, name in zip(variances(report).tolist(), closed, SCORES, strict=True):
        best, kurtosis, estimated = _parts(SCORES[name], BEST[name])
        assert best == pytest.approx(row, rel=1e-6)
        assert all(_parts(SCORES[name], factor * BEST[name])[0] > best for factor in (0.95, 1.05))
        expected = best / samples + estimated / (samples * (samples - 1))
        error = math.sqrt((2 + (kurtosis - 3) / samples) / replicates)
        assert abs(math.log(found / expected)) < 4.5 * error + 0.01


def _parts(score: Callable[[Tensor], Tensor], b: float) -> tuple[float, float, float]:
    """Variance and kurtosis of (f − b) s, and E s² E u² + (E s u)²."""

    def u(e: Tensor) -> Tensor:
        return score(e) ** 2 * (f_of(e) - b) / fisher

    _, fisher, _ = moments(score)
    _, variance, kurtosis = moments(lambda e: (f_of(e) - b) * score(e))
    covariance, _, _ = moments(lambda e: score(e) * u(e))
    return variance, kurtosis, fisher * moments(u)[1] + covariance**2


@pytest.mark.parametrize("samples", [2, 3])
def test_optimal_baseline_is_unbiased_for_all_laws_it_knows(samples: int) -> None:
    estimator, reward = ScoreFunction(OptimalBaseline()), torch.tensor([1.0, -2.0, 0.5]).double()
    torch.testing.assert_close(estimated_wave_gradient(estimator, samples), wave_gradient(), rtol=1e-9, atol=1e-9)

    logits = {"logits": torch.tensor([0.2, -1.3, 0.9]).double()}
    for law, one in ((AllChoices, OneHot), (AllBits, Bernoullis)):

        def finite(p: Parameters, law: type = law) -> tuple[AllChoices | AllBits, Estimate]:
            q = law(p["logits"], samples)
            return q, estimator(q, lambda z: (z @ reward).exp(), samples)

        def enumerated(p: Parameters, one: type = one) -> Tensor:
            q = one(p["logits"])
            z = q.enumerate_support()
            return (q.log_prob(z).exp() * (z @ reward).exp()).sum()

        reference = torch.func.grad(enumerated)(logits)["logits"]
        torch.testing.assert_close(expected_gradient(finite, logits), reference)


def test_choices_side_by_side_have_baselines_of_their_own() -> None:
    """Two choices; the cost of one is noise to the other. A choice's baseline is the scalar E[f ‖s‖²]/E[‖s‖²]."""
    logits = torch.tensor([0.3, -0.4, 0.1, 1.0, -1.0]).double().requires_grad_()
    q, samples = OneHots(logits, (2, 3)), 5
    torch.manual_seed(0)
    z = q.sample((samples,))
    torch.manual_seed(0)
    surrogate = ScoreFunction(OptimalBaseline())(q, _number, samples).surrogate
    expected, cost = torch.zeros(5).double(), _number(z)
    for part in (slice(0, 2), slice(2, 5)):
        score = (z - q.probs)[:, part].detach()
        length = score.square().sum(-1)
        for s in range(samples):
            others = [r for r in range(samples) if r != s]
            b = (cost * length)[others].sum() / length[others].sum()
            expected[part] += (cost[s] - b) * score[s] / samples
    torch.testing.assert_close(torch.autograd.grad(surrogate, logits)[0], expected)


def _number(z: Tensor) -> Tensor:
    return z @ torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]).double()


def test_with_two_samples_the_optimal_baseline_is_the_other_cost() -> None:
    p = {name: torch.tensor([value]).double() for name, value in (("mu", MU), ("sigma", S))}
    found = [
        gradient_variance(
            lambda p, b=b: ScoreFunction(b)(DiagonalNormal(p["mu"], p["sigma"]), square, 2).surrogate.mean(), p, 100
        ).mean
        for b in (OptimalBaseline(), LeaveOneOut())
    ]
    torch.testing.assert_close(*found)


def test_optimal_baseline_keeps_its_digits() -> None:
    """One score is 10⁴ times the other; taken from a sum of squares in float32, the smaller would be lost."""
    cost, squares = torch.tensor([3.0, 7.0]), torch.tensor([[1e-8], [4.0]])
    torch.testing.assert_close(OptimalBaseline()(cost, squares), torch.tensor([[7.0], [3.0]]))
    assert OptimalBaseline()(cost, torch.zeros(2, 1)).tolist() == [[0.0], [0.0]]


# --- LearnedBaseline


def test_learned_baseline_learns_the_expected_cost_of_each_element() -> None:
    torch.manual_seed(0)
    baseline = LearnedBaseline(nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1)))
    optimizer = torch.optim.Adam(baseline.parameters(), 1e-2)
    loc = torch.linspace(-2, 2, 64).unsqueeze(-1).requires_grad_()
    q = DiagonalNormal(loc, 0.2 + 0.1 * loc.detach() ** 2)
    for step in range(600):
        estimate = ScoreFunction(baseline)(q, square, 16)
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 600)
        optimizer.zero_grad()
        baseline.loss(q, estimate.value).backward()
        optimizer.step()
    expected = (q.variance + (q.loc - K) ** 2).sum(-1).detach()
    error = (baseline(q) - expected).square().mean().sqrt()
    assert error < 0.05 * expected.std()
    assert loc.grad is None  # the loss is the network's alone


class ExpectedSquare(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        mean, stddev = features.chunk(2, -1)
        return ((mean - K) ** 2 + stddev**2).sum(-1, keepdim=True)


def test_learned_baseline_leaves_the_gradient_unbiased() -> None:
    """A network that knows E f has the variance of a baseline E f; any other one is unbiased too."""
    report = measure(ScoreFunction(LearnedBaseline(ExpectedSquare())), reference=EXACT)
    assert report.bias_p > 1e-4
    rows = (10 * s2 + 8 * d2, 56 * s2 + 40 * d2)
    for found, expected, score in zip(variances(report).tolist(), rows, SCORES.values(), strict=True):
        _, exact, kurtosis = moments(lambda e, s=score: (f_of(e) - s2 - d2) * s(e))
        assert exact == pytest.approx(expected, rel=1e-6)
        assert abs(math.log(found / expected)) < 4.5 * math.sqrt((kurtosis - 1) / R)
    torch.manual_seed(0)
    other = ScoreFunction(LearnedBaseline(nn.Linear(2, 1).double()))
    assert measure(other, replicates=8000, reference=EXACT).bias_p > 1e-4


def test_the_surrogate_does_not_train_the_network_and_the_loss_nothing_else() -> None:
    torch.manual_seed(0)
    baseline, k = LearnedBaseline(nn.Linear(3, 1)), torch.zeros(1, requires_grad=True)
    logits = torch.zeros(5, 3, requires_grad=True)
    q = OneHot(logits)
    costs = (q.sample((4,)) * k.exp()).sum(-1)
    weights = [*baseline.network.parameters()]
    per_draw, mean = (torch.autograd.grad(baseline.loss(q, c), weights) for c in (costs, costs.mean(0)))
    torch.testing.assert_close(per_draw, mean)
    baseline.loss(q, costs).backward()
    assert logits.grad is None
    assert k.grad is None
    baseline.zero_grad()
    ScoreFunction(baseline)(q, lambda z: (z * k.exp()).sum(-1), 4).surrogate.sum().backward()
    assert logits.grad is not None
    assert all(w.grad is None for w in weights)


# --- Shapes and refusals

ESTIMATORS = [ScoreFunction(OptimalBaseline()), ScoreFunction(LearnedBaseline(nn.Linear(4, 1)))]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=["optimal", "learned"])
def test_shapes(estimator: nn.Module) -> None:
    q = DiagonalNormal(torch.randn(4, 5, 2, requires_grad=True), torch.ones(2))
    estimate = estimator(q, lambda z: z.sum(-1), 3)
    assert estimate.value.shape == estimate.surrogate.shape == (4, 5)
    assert not estimate.value.requires_grad
    with pytest.raises(LatentRLError, match=r"returned \(3, 4, 5, 2\)"):
        estimator(q, lambda z: z, 3)
    with pytest.raises(LatentRLError, match="num_samples"):
        estimator(q, square, 0)


def test_what_cannot_work_is_refused_with_the_nearest_alternative() -> None:
    zeros, ones = torch.zeros(2, 1), torch.ones(2, 1)
    mixture = Mixture(torch.zeros(2), DiagonalNormal(zeros, ones))
    tanh = TanhNormal(zeros, ones, -torch.ones(1), torch.ones(1))
    with pytest.raises(LatentRLError, match="not of Mixture: use LeaveOneOut"):
        ScoreFunction(OptimalBaseline())(mixture, square, 2)
    with pytest.raises(LatentRLError, match=r"at least 2, but 1 .* RunningMean or LearnedBaseline"):
        ScoreFunction(OptimalBaseline())(DiagonalNormal(zeros, ones), square)
    with pytest.raises(LatentRLError, match="TanhNormal has none in closed form: use LeaveOneOut"):
        LearnedBaseline(nn.Linear(2, 1))(tanh)
    with pytest.raises(LatentRLError, match=r"must map \(2, 2\) to \(2, 1\), but returned \(2, 3\)"):
        LearnedBaseline(nn.Linear(2, 3))(DiagonalNormal(zeros, ones))
