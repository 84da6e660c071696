"""Estimators against closed forms, quadrature and enumeration.

Statistical tests are seeded. Means: Bonferroni-corrected p of 1e-4 per test. Variances: log sample variance within
4.5 standard errors √((κ − 1)/R), κ exact by quadrature: 7e-6 per comparison where that is normal.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from latentrl.checks import LatentRLError
from latentrl.distributions import DiagonalNormal, Mixture, OneHot
from latentrl.estimators import Estimator, LeaveOneOut, Pathwise, RunningMean, ScoreFunction
from latentrl.variance import GradientReport, gradient_variance

MU, S, K = 0.3, 1.5, 1.0
D = MU - K
R = 30_000
ESTIMATORS = [Pathwise(), ScoreFunction(), ScoreFunction(LeaveOneOut())]


def square(z: Tensor) -> Tensor:
    return (z - K).square().sum(-1)


def converged(value: float) -> RunningMean:
    """A running mean that has seen enough to know the expected cost."""
    baseline = RunningMean().eval()
    baseline.average.fill_(value)
    baseline.weight.fill_(1.0)
    return baseline


def measure(
    estimator: Callable,
    f: Callable = square,
    mu: float = MU,
    sigma: float = S,
    samples: int = 1,
    replicates: int = R,
    reference: Tensor | None = None,
) -> GradientReport:
    """Report on (∂μ, ∂σ) of E f(z), z ~ N(μ, σ²)."""

    def objective(p: dict[str, Tensor]) -> Tensor:
        return estimator(DiagonalNormal(p["mu"], p["sigma"]), f, samples).surrogate.mean()

    parameters = {name: torch.full((1,), value).double() for name, value in (("mu", mu), ("sigma", sigma))}
    return gradient_variance(objective, parameters, replicates, reference, chunk_size=R // 4)


def variances(report: GradientReport) -> Tensor:
    return report.mean_se.square() * report.replicates


def moments(gradient: Callable[[Tensor], Tensor]) -> tuple[float, float, float]:
    """Mean, variance and kurtosis of gradient(ε), ε ~ N(0, 1), by the trapezoidal rule (exact to 1e-10 here)."""
    e = torch.linspace(-13, 13, 40_001, dtype=torch.float64)
    weight = torch.exp(-0.5 * e.square())
    weight /= weight.sum()
    g = gradient(e)
    mean = (weight * g).sum()
    variance = (weight * (g - mean) ** 2).sum()
    return float(mean), float(variance), float((weight * (g - mean) ** 4).sum() / variance**2)


def f_of(e: Tensor) -> Tensor:
    return (S * e + D) ** 2


s2, d2 = S**2, D**2
TABLE = {  # name: (estimator, Var ∂μ, Var ∂σ, ∂μ as a function of ε, ∂σ as a function of ε)
    "pathwise": (Pathwise(), 4 * s2, 8 * s2 + 4 * d2, lambda e: 2 * (S * e + D), lambda e: 2 * (S * e + D) * e),
    "score": (
        ScoreFunction(),
        15 * s2 + 14 * d2 + d2**2 / s2,
        74 * s2 + 60 * d2 + 2 * d2**2 / s2,
        lambda e: f_of(e) * e / S,
        lambda e: f_of(e) * (e**2 - 1) / S,
    ),
    "score, baseline E f": (
        ScoreFunction(converged(s2 + d2)),
        10 * s2 + 8 * d2,
        56 * s2 + 40 * d2,
        lambda e: (f_of(e) - s2 - d2) * e / S,
        lambda e: (f_of(e) - s2 - d2) * (e**2 - 1) / S,
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_variance_of_a_square_has_its_closed_form(name: str) -> None:
    estimator, *closed, by_mu, by_sigma = TABLE[name]
    report = measure(estimator, reference=torch.tensor([2 * D, 2 * S]))
    assert report.bias_p > 1e-4
    for found, expected, gradient in zip(variances(report).tolist(), closed, (by_mu, by_sigma), strict=True):
        _, exact, kurtosis = moments(gradient)
        assert exact == pytest.approx(expected, rel=1e-6)  # the table itself, by quadrature; float32 baseline
        assert abs(math.log(found / expected)) < 4.5 * math.sqrt((kurtosis - 1) / R)


@pytest.mark.parametrize(("samples", "kurtosis"), [(2, 167), (5, 72)])  # of ∂σ, the larger, by simulation
def test_leave_one_out_has_the_variance_of_a_sample_covariance(samples: int, kurtosis: float) -> None:
    """Σ_s (f_s − mean of others) ∇log q_s / S is the sample covariance C of f and the score, and Var C is textbook:
    (E[(f − Ef)² score²] − C²)/S + (C² + Var f Var score)/(S (S − 1)); the first bracket is the baseline-E f row."""
    report = measure(ScoreFunction(LeaveOneOut()), samples=samples, reference=torch.tensor([2 * D, 2 * S]))
    assert report.bias_p > 1e-4
    var_f = 2 * s2**2 + 4 * s2 * d2
    rows = ((10 * s2 + 8 * d2, 2 * D, 1 / s2), (56 * s2 + 40 * d2, 2 * S, 2 / s2))
    for found, (single, covariance, var_score) in zip(variances(report).tolist(), rows, strict=True):
        expected = single / samples + (covariance**2 + var_f * var_score) / (samples * (samples - 1))
        assert abs(math.log(found / expected)) < 4.5 * math.sqrt((kurtosis - 1) / R)


INTEGRANDS = {  # f: f, f', Var of score function, Var of pathwise; Gal 2016, three functions, μ = 0, σ = 1
    "x + x²": (lambda x: x + x**2, lambda x: 1 + 2 * x, 17.0, 4.0),
    "sin x": (torch.sin, torch.cos, 0.335, 0.200),
    "sin 10x": (lambda x: torch.sin(10 * x), lambda x: 10 * torch.cos(10 * x), 0.5, 50.0),
}


@pytest.mark.parametrize("name", INTEGRANDS)
def test_which_estimator_wins_depends_on_the_integrand(name: str) -> None:
    f, slope, *anchors = INTEGRANDS[name]
    gradients = (lambda e: f(e) * e, slope)
    for estimator, anchor, gradient in zip((ScoreFunction(), Pathwise()), anchors, gradients, strict=True):
        mean, exact, kurtosis = moments(gradient)
        assert exact == pytest.approx(anchor, rel=2e-3)
        report = measure(estimator, lambda z: f(z).sum(-1), mu=0.0, sigma=1.0)
        assert abs(report.mean[0] - mean) < 4.5 * report.mean_se[0]
        assert abs(math.log(variances(report)[0] / exact)) < 4.5 * math.sqrt((kurtosis - 1) / R)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_more_samples_and_parameters_inside_f(estimator: Estimator) -> None:
    """f = log p(z; k) − log q(z) reads q's own parameters and k: the exact gradient is that of −KL(q‖p)."""
    parameters = {n: torch.tensor([v]).double() for n, v in (("mu", 0.3), ("sigma", 0.8), ("k", -0.5))}

    def exact(p: dict[str, Tensor]) -> Tensor:
        return -(0.5 * (p["sigma"] ** 2 + (p["mu"] - p["k"]) ** 2) - p["sigma"].log()).sum()

    def objective(p: dict[str, Tensor]) -> Tensor:
        q, prior = DiagonalNormal(p["mu"], p["sigma"]), DiagonalNormal(p["k"], torch.ones_like(p["k"]))
        return estimator(q, lambda z: prior.log_prob(z) - q.log_prob(z), 3).surrogate.mean()

    reference = torch.cat(list(torch.func.grad(exact)(parameters).values()))
    assert gradient_variance(objective, parameters, 20_000, reference, chunk_size=10_000).bias_p > 1e-4


@pytest.mark.parametrize("baseline", [None, LeaveOneOut()])
def test_discrete_laws_against_enumeration(baseline: LeaveOneOut | None) -> None:
    reward = torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
    logits = torch.tensor([0.2, -0.3, 0.9, 0.0]).double()
    reference = torch.func.grad(lambda x: (x.softmax(-1) * reward).sum())(logits)

    def objective(p: dict[str, Tensor]) -> Tensor:
        return ScoreFunction(baseline)(OneHot(p["logits"]), lambda z: z @ reward, 4).surrogate

    report = gradient_variance(objective, {"logits": logits}, 20_000, reference, chunk_size=10_000)
    assert report.bias_p > 1e-4
    assert report.cosine > 0.99


def test_value_and_surrogate_average_over_samples_only() -> None:
    torch.manual_seed(0)
    q = DiagonalNormal(torch.randn(4, 5, 2, requires_grad=True), torch.ones(4, 5, 2))
    for estimator in ESTIMATORS:
        estimate = estimator(q, lambda z: z.sum(-1), num_samples=3)
        assert estimate.value.shape == estimate.surrogate.shape == (4, 5)
        assert not estimate.value.requires_grad
    torch.manual_seed(1)
    value = Pathwise()(q, lambda z: z.sum(-1), 3).value
    torch.manual_seed(1)
    assert torch.allclose(value, q.sample((3,)).sum(-1).mean(0))


# --- What must go wrong, does


def test_the_batch_mean_as_baseline_shrinks_the_gradient() -> None:
    """The published mistake: the mean over all n samples; the z-test of this file must see 1 − 1/n. The bias is 29
    errors and more; the mean within 5: 6e-7 each.
    """

    class BatchMean(torch.nn.Module):
        def forward(self, cost: Tensor) -> Tensor:
            return cost.mean(0)

    reference = torch.tensor([2 * D, 2 * S])
    report = measure(ScoreFunction(BatchMean()), samples=4, reference=reference)
    assert report.bias_p < 1e-6
    assert torch.allclose(report.mean.float(), reference * (1 - 1 / 4), atol=5 * float(report.mean_se.max()))


def test_a_running_mean_is_read_before_it_is_updated() -> None:
    """Both orders, decay ½, one draw at a time; updating first shrinks the gradient by the decay."""

    class UpdatedFirst(RunningMean):
        def forward(self, cost: Tensor) -> Tensor:
            self._update(cost.mean())
            return self.average / self.weight

    def mean_gradient(baseline: RunningMean) -> tuple[float, float]:
        torch.manual_seed(0)
        estimator, mu = ScoreFunction(baseline), torch.full((1,), 2.0, requires_grad=True)
        draws = []
        for _ in range(3000):
            surrogate = estimator(DiagonalNormal(mu, torch.ones(1)), lambda z: z.square().sum(-1)).surrogate
            draws.append(torch.autograd.grad(surrogate, mu)[0])
        gradients = torch.cat(draws)
        return float(gradients.mean()), float(gradients.std()) / math.sqrt(len(draws))

    mean, error = mean_gradient(RunningMean(0.5))  # gradients are uncorrelated: the baseline only holds past draws
    assert abs(mean - 4.0) < 4 * error  # 6e-5, as below
    mean, error = mean_gradient(UpdatedFirst(0.5))
    assert mean < 4.0 - 4 * error
    assert abs(mean - 2.0) < 4 * error


def test_pathwise_does_not_see_a_step() -> None:
    def step(z: Tensor) -> Tensor:
        return ((z > 0).to(z.dtype) + 0 * z).sum(-1)

    torch.manual_seed(0)
    mu = torch.zeros(1, requires_grad=True)
    q = DiagonalNormal(mu, torch.ones(1))
    assert torch.autograd.grad(Pathwise()(q, step, 100).surrogate, mu)[0] == 0
    exact = torch.tensor([1 / math.sqrt(2 * math.pi), 0.0])
    assert measure(ScoreFunction(), step, mu=0.0, sigma=1.0, replicates=20_000, reference=exact).bias_p > 1e-4


# --- Baselines as modules


def test_running_mean_converges_saves_and_freezes() -> None:
    torch.manual_seed(0)
    baseline = RunningMean(0.9)
    assert baseline(torch.full((2, 3), 7.0)) == 0.0
    assert baseline(torch.zeros(2, 3)) == pytest.approx(7.0)  # bias-corrected: not 0.7
    for _ in range(300):
        baseline(5.0 + torch.randn(1, 64))
    assert abs(baseline(torch.zeros(1, 1)) - 5.0) < 4.5 * math.sqrt(0.1 / 1.9 / 64)  # 7e-6

    restored = ScoreFunction(RunningMean())
    restored.load_state_dict(ScoreFunction(baseline).state_dict())
    restored.eval()
    before = restored.baseline.average.clone()
    assert restored.baseline(torch.ones(1, 1)) == restored.baseline(torch.full((1, 1), 1e6))
    assert restored.baseline.average == before == baseline.average


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    cost = torch.tensor([[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]])
    assert torch.allclose(LeaveOneOut()(cost), torch.tensor([[4.0, 1.5], [3.5, 1.5], [1.5, 0.0]]))


def test_baselines_refuse_what_would_bias_or_break_them() -> None:
    q = DiagonalNormal(torch.zeros(2, 1), torch.ones(2, 1))
    with pytest.raises(LatentRLError, match="num_samples of at least 2"):
        ScoreFunction(LeaveOneOut())(q, square)
    with pytest.raises(LatentRLError, match=r"eval\(\)"):
        measure(ScoreFunction(RunningMean()), replicates=4)
    with pytest.raises(LatentRLError, match="decay"):
        RunningMean(1.0)


def test_pathwise_names_the_alternative() -> None:
    mixture = Mixture(torch.zeros(2), DiagonalNormal(torch.zeros(2, 1), torch.ones(2, 1)))
    for q in (OneHot(torch.zeros(3)), mixture):
        with pytest.raises(LatentRLError, match=f"{type(q).__name__} has none: use ScoreFunction"):
            Pathwise()(q, square)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_f_of_the_wrong_shape_is_refused(estimator: Estimator) -> None:
    q = DiagonalNormal(torch.zeros(5, 2), torch.ones(5, 2))
    with pytest.raises(LatentRLError, match=r"\(2, 5, 2\) to \(2, 5\).*returned \(2, 5, 2\)"):
        estimator(q, lambda z: z, 2)
    with pytest.raises(LatentRLError, match="num_samples"):
        estimator(q, square, 0)
