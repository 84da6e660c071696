"""The delta method against closed forms and quadrature; false-alarm rates as in ``tests.test_estimators``."""

import math

import pytest
import torch
from torch import Tensor

from latentrl.checks import LatentRLError
from latentrl.distributions import DiagonalNormal, FullNormal, Mixture, OneHot, TanhNormal
from latentrl.estimators.delta_method import DeltaMethod
from latentrl.variance import gradient_variance
from tests.exact_draws import Parameters, estimated_wave_gradient, wave_gradient
from tests.test_estimators import R, measure, moments, square, variances


def test_delta_method_has_no_variance_for_quadratics() -> None:
    """Not even with products of coordinates, nor with a full covariance: E f = c + gᵀm + ½ mᵀHm + ½ tr HΣ."""
    torch.manual_seed(0)
    h, g = torch.randn(3, 3).double(), torch.randn(3).double()
    h = h + h.T
    p = {"loc": torch.randn(4, 3).double(), "tril": torch.randn(4, 3, 3).double().tril() + 3 * torch.eye(3).double()}

    def quadratic(z: Tensor) -> Tensor:
        return z @ g + 0.5 * ((z @ h) * z).sum(-1)

    def exact(p: Parameters, covariance: Tensor) -> Tensor:
        return (quadratic(p["loc"]) + 0.5 * (h * covariance).sum((-1, -2))).mean()

    laws = {
        FullNormal: (lambda p: FullNormal(p["loc"], p["tril"]), lambda p: p["tril"] @ p["tril"].mT),
        DiagonalNormal: (
            lambda p: DiagonalNormal(p["loc"], p["tril"].diagonal(dim1=-2, dim2=-1)),
            lambda p: torch.diag_embed(p["tril"].diagonal(dim1=-2, dim2=-1) ** 2),
        ),
    }
    for law, covariance in laws.values():
        grads = torch.func.grad(lambda p, c=covariance: exact(p, c(p)))(p)
        reference = torch.cat([grad.flatten() for grad in grads.values()])
        report = gradient_variance(
            lambda p, law=law: DeltaMethod()(law(p), quadratic, 2).surrogate.mean(), p, 50, reference
        )
        assert report.trace < 1e-24
        torch.testing.assert_close(report.mean, reference)


def test_delta_method_is_unbiased_and_what_it_leaves_is_the_rest_of_the_series() -> None:
    torch.testing.assert_close(estimated_wave_gradient(DeltaMethod(), 1), wave_gradient(), rtol=1e-9, atol=1e-9)
    report = measure(DeltaMethod(), lambda z: torch.sin(z).sum(-1), mu=0.0, sigma=1.0)
    # sin at 0 is z up to third order; ∂μ of its expectation is e^(−1/2), ∂σ is 0.
    for found, score, slope in zip(range(2), (lambda e: e, lambda e: e**2 - 1), (1.0, 0.0), strict=True):
        mean, variance, kurtosis = moments(lambda e, s=score, c=slope: (e.sin() - e) * s(e) + c)
        assert abs(report.mean[found] - mean) < 4.5 * report.mean_se[found]
        assert abs(math.log(variances(report)[found] / variance)) < 4.5 * math.sqrt((kurtosis - 1) / R)


def test_a_jump_costs_the_delta_method_no_bias() -> None:
    def step(z: Tensor) -> Tensor:
        return ((z > 0).to(z.dtype) + z**2).sum(-1)

    exact = torch.tensor([1 / math.sqrt(2 * math.pi), 2.0])
    assert measure(DeltaMethod(), step, mu=0.0, sigma=1.0, replicates=8000, reference=exact).bias_p > 1e-4


def test_what_f_is_given() -> None:
    """Z copies of the mean, then the draws from q: an f that keeps its last result keeps that of the draws."""
    q, calls = DiagonalNormal(torch.randn(4, 5, 2, requires_grad=True), torch.ones(2)), []

    def f(z: Tensor) -> Tensor:
        calls.append(z)
        return z.square().sum(-1)

    estimate = DeltaMethod()(q, f, 3)
    assert estimate.value.shape == estimate.surrogate.shape == (4, 5)
    assert not estimate.value.requires_grad
    assert [tuple(z.shape) for z in calls] == [(2, 4, 5, 2), (3, 4, 5, 2)]
    torch.testing.assert_close(calls[1].square().sum(-1).mean(0), estimate.value)


def test_what_cannot_work_is_refused_with_the_nearest_alternative() -> None:
    zeros, ones = torch.zeros(2, 1), torch.ones(2, 1)
    mixture = Mixture(torch.zeros(2), DiagonalNormal(zeros, ones))
    for q in (OneHot(torch.zeros(3)), mixture, TanhNormal(zeros, ones, -ones[0], ones[0])):
        with pytest.raises(LatentRLError, match=f"not for {type(q).__name__}: use ScoreFunction"):
            DeltaMethod()(q, square)
    with pytest.raises(LatentRLError, match=r"returned \(1, 2, 1\)"):
        DeltaMethod()(DiagonalNormal(zeros, ones), lambda z: z, 2)
    with pytest.raises(LatentRLError, match="num_samples"):
        DeltaMethod()(DiagonalNormal(zeros, ones), square, 0)
