"""Diagnostics of laws made by hand, whose information and divergences are known."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

from latentrl.diagnostics import Diagnostics, diagnose
from latentrl.distributions import DiagonalNormal, GaussianMixture, OneHot


def look(loc: Tensor, scale: float, p: DiagonalNormal | GaussianMixture) -> Diagnostics:
    q = DiagonalNormal(loc, torch.full_like(loc, scale))
    return diagnose(q, p, q.sample(), torch.arange(float(len(loc))))


def normal(dim: int, loc: float = 0.0, scale: float = 1.0) -> DiagonalNormal:
    return DiagonalNormal(torch.full((dim,), loc), torch.full((dim,), scale))


def test_separated_posteriors_tell_their_datum_apart() -> None:
    seen = look(10.0 * torch.arange(50.0)[:, None].repeat(1, 2), 0.1, normal(2, scale=100.0))
    assert seen.mutual_information == pytest.approx(math.log(50), abs=1e-4)
    assert (seen.active_units, seen.collapsed) == (2, False)
    assert seen.reconstruction == 24.5


def test_equal_posteriors_tell_nothing() -> None:
    blind = look(torch.zeros(50, 3), 1.0, normal(3))
    assert blind.mutual_information == pytest.approx(0.0, abs=1e-5)
    assert blind.kl == pytest.approx(0.0, abs=1e-5)
    assert blind.aggregate_kl == pytest.approx(0.0, abs=1e-5)
    assert (blind.active_units, blind.collapsed) == (0, True)


def test_activity_is_counted_per_dimension() -> None:
    """The variance of a posterior mean counts from .01 on; .0025 and .04 are more than twenty standard errors away."""
    loc = torch.randn(2000, 4) * torch.tensor([0.0, 0.05, 0.2, 3.0])
    assert look(loc, 0.5, normal(4)).active_units == 2


def test_information_and_divergence_against_quadrature() -> None:
    """In one dimension, with 3000 draws: each figure within .08 nats, at least 4 of its standard errors: 2e-4."""
    centers, scale = np.array([-2.0, -0.5, 0.0, 1.0, 3.0]), 0.6
    prior = norm(0.5, 1.5)

    def aggregate(z: float) -> float:
        return float(norm.pdf(z, centers, scale).mean())

    divergence, _ = quad(lambda z: aggregate(z) * (np.log(aggregate(z)) - prior.logpdf(z)), -6, 7, limit=200)
    entropy, _ = quad(lambda z: -aggregate(z) * np.log(aggregate(z)), -6, 7, limit=200)
    information = entropy - norm(0, scale).entropy()
    loc = torch.tensor(centers).float().repeat(600)[:, None]
    seen = look(loc, scale, normal(1, 0.5, 1.5))
    assert seen.mutual_information == pytest.approx(information, abs=0.08)
    assert seen.aggregate_kl == pytest.approx(divergence, abs=0.08)
    assert seen.kl == pytest.approx(information + divergence, abs=0.08)
    assert seen.kl == pytest.approx(seen.mutual_information + seen.aggregate_kl, abs=1e-5)


def test_holes_of_priors() -> None:
    """5 % of draws from the aggregate posterior itself, give or take four standard errors of 2000 draws; 1 of a prior
    elsewhere; of one that is half elsewhere, half and 2.5 %. False alarms: 2e-5."""
    loc = torch.randn(2000, 2)
    fitting = GaussianMixture(torch.zeros(2000), loc, torch.full_like(loc, 0.5))
    assert look(loc, 0.5, fitting).prior_holes == pytest.approx(0.05, abs=0.03)
    assert look(loc, 0.5, normal(2, loc=30.0)).prior_holes == 1.0
    away = torch.cat([loc[:1000], loc[:1000] + 30.0])
    half = GaussianMixture(torch.zeros(2000), away, torch.full_like(loc, 0.5))
    assert look(loc, 0.5, half).prior_holes == pytest.approx(0.525, abs=0.06)
    assert math.isnan(look(loc[:1], 0.5, fitting).prior_holes)


def test_a_narrow_prior_inside_has_no_holes() -> None:
    """A prior that draws only the middle of the aggregate posterior: what it lacks is not a hole."""
    assert look(torch.randn(1000, 2), 1.0, normal(2, scale=0.1)).prior_holes == 0.0


def test_finite_latents() -> None:
    """Each of 4 options chosen by a quarter of the data: log 4 of information, and nothing else in the KL."""
    index = torch.arange(400) % 4
    q = OneHot(50.0 * torch.eye(4)[index])
    seen = diagnose(q, OneHot(torch.zeros(4)), q.sample(), torch.zeros(400))
    assert seen.mutual_information == pytest.approx(math.log(4), abs=1e-4)
    assert seen.aggregate_kl == pytest.approx(0.0, abs=1e-4)
    assert seen.prior_holes == 0.0


def test_priors_of_the_state() -> None:
    """One law for each datum: the KL is to its own."""
    loc = torch.randn(500, 2)
    own = DiagonalNormal(loc, torch.ones_like(loc))
    q = DiagonalNormal(loc, torch.ones_like(loc))
    assert diagnose(q, own, q.sample(), torch.zeros(500)).kl == pytest.approx(0.0, abs=1e-6)


def test_a_policy_without_latent() -> None:
    assert Diagnostics.without_latent(-1.5) == (0, 0.0, 0.0, 0.0, 0.0, -1.5)


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    q = DiagonalNormal(torch.randn(23, 3), torch.ones(23, 3))
    z = q.sample()

    def seen() -> Diagnostics:
        torch.manual_seed(0)
        return diagnose(q, normal(3), z, torch.zeros(23))

    whole = seen()
    monkeypatch.setattr("latentrl.diagnostics.PAIRS", 100)
    assert seen() == pytest.approx(whole)
