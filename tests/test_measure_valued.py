"""Measure-valued derivatives against closed forms and quadrature; false-alarm rates as in ``tests.test_estimators``."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from latentrl.checks import LatentRLError
from latentrl.distributions import DiagonalNormal, FullNormal, Mixture, OneHot
from latentrl.estimators.measure_valued import MeasureValued
from latentrl.variance import gradient_variance
from tests.test_estimators import D, R, S, d2, measure, s2, square, variances

EXACT = torch.tensor([2 * D, 2 * S])
BOTH = pytest.mark.parametrize("coupled", [True, False])


def normal(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def expect(weight: Tensor, g: Tensor) -> tuple[float, float, float]:
    """Mean, variance and kurtosis of values with these weights."""
    weight = weight / weight.sum()
    mean = (weight * g).sum()
    variance = (weight * (g - mean) ** 2).sum()
    return float(mean), float(variance), float((weight * (g - mean) ** 4).sum() / variance**2)


def by_quadrature(coupled: bool) -> list[tuple[float, float, float]]:
    """Mean, variance and kurtosis of ∂μ and ∂σ of E (z − k)², by the midpoint rule on two independent variables.

    Coupled: Rayleigh W; Maxwell M and a uniform. Otherwise two W; M and a normal.
    """
    line = (torch.arange(2400).double() + 0.5) / 100 - 12
    w = line[line > 0]
    rayleigh = w * normal(w)
    constant = 1 / (S * math.sqrt(2 * math.pi))
    maxwell = line**2 * normal(line)
    if coupled:
        u = (torch.arange(400).double() + 0.5) / 400
        return [
            expect(rayleigh, constant * ((D + S * w) ** 2 - (D - S * w) ** 2)),
            expect(
                maxwell[:, None].expand(-1, 400), ((D + S * line[:, None]) ** 2 - (D + S * line[:, None] * u) ** 2) / S
            ),
        ]
    return [
        expect(rayleigh[:, None] * rayleigh, constant * ((D + S * w[:, None]) ** 2 - (D - S * w) ** 2)),
        expect(maxwell[:, None] * normal(line), ((D + S * line[:, None]) ** 2 - (D + S * line) ** 2) / S),
    ]


CLOSED = {
    True: (4 * d2 * (4 / math.pi - 1), 4 * s2 + 4 * d2),
    # Two independent halves: Var (d ± sW)² = 4s²d²(2 − π/2) ± 2 · 2ds³ Cov(W, W²) + 4s⁴; the middle terms cancel.
    False: (
        (8 * s2 * d2 * (2 - math.pi / 2) + 8 * s2**2) / (2 * math.pi * s2),
        (12 * s2 * d2 + 6 * s2**2 + 4 * s2 * d2 + 2 * s2**2) / s2,
    ),
}


@BOTH
def test_variance_of_a_square_has_its_closed_form(coupled: bool) -> None:
    report = measure(MeasureValued(coupled), reference=EXACT)
    assert report.bias_p > 1e-4
    for found, closed, exact, mean in zip(
        variances(report).tolist(), CLOSED[coupled], by_quadrature(coupled), EXACT.tolist(), strict=True
    ):
        assert exact[0] == pytest.approx(mean, rel=1e-4)
        assert exact[1] == pytest.approx(closed, rel=1e-4)
        assert abs(math.log(found / closed)) < 4.5 * math.sqrt((exact[2] - 1) / R)


@BOTH
@pytest.mark.parametrize("threshold", [-0.5, 0.8])
def test_a_black_box_with_a_jump(coupled: bool, threshold: float) -> None:
    """E 1{z > t} = Φ((μ − t)/σ): for all t these are the whole laws of the perturbed draws."""

    def step(z: Tensor) -> Tensor:
        return ((z > threshold).to(z.dtype) + 0 * z).sum(-1)

    mu, sigma = 0.3, 0.7
    away = (mu - threshold) / sigma
    density = stats.norm.pdf(away) / sigma
    exact = torch.tensor([density, -away * density])
    assert measure(MeasureValued(coupled), step, mu, sigma, 1, 8000, exact).bias_p > 1e-4


@BOTH
def test_several_dimensions_batches_samples_and_parameters_of_f(coupled: bool) -> None:
    """f = c Π_d z_d² with E f = c Π (μ_d² + σ_d²); the scale is shared by the batch. f also reads q's parameters."""
    torch.manual_seed(0)
    p = {"loc": torch.randn(4, 3).double(), "scale": 0.5 + torch.rand(3).double(), "c": torch.tensor(0.7).double()}

    def exact(p: dict[str, Tensor]) -> Tensor:
        return (p["c"] * (p["loc"] ** 2 + p["scale"] ** 2).prod(-1) + p["scale"].log().sum()).mean()

    def objective(p: dict[str, Tensor]) -> Tensor:
        q = DiagonalNormal(p["loc"], p["scale"])
        estimate = MeasureValued(coupled)(q, lambda z: p["c"] * z.square().prod(-1) - q.log_prob(z), 2)
        assert estimate.value.shape == estimate.surrogate.shape == (4,)
        return estimate.surrogate.mean()

    reference = torch.cat([g.flatten() for g in torch.func.grad(exact)(p).values()])
    assert gradient_variance(objective, p, 4000, reference, chunk_size=1000).bias_p > 1e-4


def test_what_f_is_given() -> None:
    """Two calls: 3Z draws without gradient, each one coordinate away from a draw from q; and those draws, last."""
    q, calls = DiagonalNormal(torch.randn(4, 5, 2, requires_grad=True), torch.ones(2)), []

    def f(z: Tensor) -> Tensor:
        calls.append((z, torch.is_grad_enabled()))
        return torch.from_numpy(z.numpy().sum(-1))

    estimate = MeasureValued()(q, f, 3)
    (perturbed, first), (z, second) = calls
    assert (first, second) == (False, True)
    assert (perturbed.shape, z.shape) == ((18, 4, 5, 2), (3, 4, 5, 2))
    moved = perturbed.reshape(3, 2, 3, 4, 5, 2) != z
    assert (moved == torch.eye(2, dtype=torch.bool).reshape(2, 1, 1, 1, 2)).all()
    assert not estimate.value.requires_grad
    torch.testing.assert_close(estimate.value, z.sum(-1).mean(0))


def test_both_halves_share_their_noise_only_if_coupled() -> None:
    """The negative half of ∂σ is the draw from q itself: of the same sign as M, and nearer to the mean. Five
    Kolmogorov-Smirnov tests at 1e-4: 5e-4.
    """
    q, seen = DiagonalNormal(torch.zeros(1), torch.ones(1)), []
    for coupled in (True, False):
        MeasureValued(coupled)(q, lambda z: seen.append(z) or z.sum(-1), 2000)
        above, below, wide, z = *seen[0].unflatten(0, (3, -1)), seen[1]
        assert torch.equal(above, -below) is coupled
        ratio = z / wide
        assert bool(((ratio > 0) & (ratio < 1)).all()) is coupled
        if coupled:
            assert stats.kstest(ratio.flatten().numpy(), "uniform").pvalue > 1e-4
        assert stats.kstest(wide.abs().flatten().numpy(), "maxwell").pvalue > 1e-4
        assert stats.kstest(above.flatten().numpy(), "rayleigh").pvalue > 1e-4
        seen.clear()


def test_what_cannot_work_is_refused_with_the_nearest_alternative() -> None:
    zeros, ones = torch.zeros(2, 1), torch.ones(2, 1)
    full = FullNormal(zeros, torch.eye(1))
    for q, nearest in ((full, "Pathwise"), (OneHot(torch.zeros(3)), "ScoreFunction")):
        with pytest.raises(LatentRLError, match=f"not those of {type(q).__name__}: use {nearest}"):
            MeasureValued()(q, square)
    with pytest.raises(LatentRLError, match="use ScoreFunction"):
        MeasureValued()(Mixture(torch.zeros(2), DiagonalNormal(zeros, ones)), square)
    with pytest.raises(LatentRLError, match=r"returned \(6, 2, 1\)"):
        MeasureValued()(DiagonalNormal(zeros, ones), lambda z: z, 2)
    with pytest.raises(LatentRLError, match="num_samples"):
        MeasureValued()(DiagonalNormal(zeros, ones), square, 0)
