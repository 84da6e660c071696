"""Laws at a temperature, draws among peaks, and mixtures whose density is told by the nearest center."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from latentrl import LatentRLError
from latentrl.decoders import BinsDecoder
from latentrl.distributions import DiagonalNormal, FlowLaw, Law, Mixture, NearestComponent, OneHots
from latentrl.nets import Centers
from tests.laws_table import LAWS, B, K, draw, law

GAUSSIAN = ["normal", "normal, shared scales", "standard normal", "full", "full, one location"]
MIXED = ["mixture", "mixture, shared", "full mixture", "mixture of flows"]
TAU = 0.3


@pytest.mark.parametrize("name", GAUSSIAN)
def test_gaussians_shrink_about_their_mean(name: str) -> None:
    """log p_τ(m + τ (z − m)) = log p(z) − D log τ."""
    q = law(name)
    assert isinstance(q, Law)
    z = q.sample((7,))
    shrunk = q.tempered(TAU)
    near = q.mean + TAU * (z - q.mean)
    torch.testing.assert_close(shrunk.log_prob(near), q.log_prob(z) - 2 * math.log(TAU))


@pytest.mark.parametrize("name", ["flow", "inverse flow"])
def test_flows_shrink_before_they_are_bent(name: str) -> None:
    q = law(name)
    assert isinstance(q, FlowLaw)
    cold = q.tempered(TAU)
    z = q.sample((7,))
    u, slope = q.transform.inv.call_and_ladj((z - q.loc) / q.scale)  # type: ignore[attr-defined]
    base = DiagonalNormal(torch.zeros_like(u), TAU * torch.ones_like(u)).log_prob(u)
    torch.testing.assert_close(cold.log_prob(z), base + slope - q.scale.log().sum(-1))
    torch.testing.assert_close(cold.mode, q.mode)
    u, _ = q.transform.inv.call_and_ladj((cold.sample((20_000,)) - q.loc) / q.scale)  # type: ignore[attr-defined]
    assert stats.kstest(u.flatten().numpy(), "norm", (0.0, TAU)).pvalue > 1e-4  # the rate of false alarms
    torch.testing.assert_close(cold.expand((2, B)).log_prob(z[:2]), cold.log_prob(z[:2]))


@pytest.mark.parametrize("name", MIXED)
def test_mixtures_keep_their_weights(name: str) -> None:
    q = law(name)
    assert isinstance(q, Mixture)
    assert isinstance(q.components, Law)
    cold = q.tempered(TAU)
    torch.testing.assert_close(cold.log_weights, q.log_weights)
    z = cold.sample((5,))
    expected = (q.log_weights + q.components.tempered(TAU).log_prob(z.unsqueeze(-2))).logsumexp(-1)
    torch.testing.assert_close(cold.log_prob(z), expected)
    assert type(cold) is type(q)


@pytest.mark.parametrize("name", ["one-hot", "one-hots", "equal one-hots"])
def test_choices_become_surer(name: str) -> None:
    q = law(name)
    assert isinstance(q, OneHots)
    cold = q.tempered(TAU)
    for before, after in zip(q.probs.split(q.sizes, -1), cold.probs.split(q.sizes, -1), strict=True):
        sharpened = before ** (1 / TAU)
        torch.testing.assert_close(after, sharpened / sharpened.sum(-1, keepdim=True))


def test_laws_of_actions_have_no_temperature() -> None:
    q = law("tanh")
    assert isinstance(q, Law)
    with pytest.raises(NotImplementedError, match="TanhNormal has no temperature"):
        q.tempered(0.5)


@pytest.mark.parametrize("name", LAWS)
def test_peaks_are_drawn_as_often_as_they_weigh(name: str) -> None:
    """A chi-square test at 1e-4 for mixtures; any other law has its mode."""
    q = law(name)
    assert isinstance(q, Law)
    if not isinstance(q, Mixture):
        torch.testing.assert_close(q.sample_mode(), q.mode)
        return
    draws = torch.stack([q.sample_mode() for _ in range(2000)])
    peaks = q.components.mode.expand(B, K, -1)
    hit = (draws.unsqueeze(-2) == peaks).all(-1)
    assert bool((hit.sum(-1) == 1).all())
    weights = q.log_weights.exp().expand(B, K)
    for row in range(B):
        assert stats.chisquare(hit[:, row].sum(0).numpy(), 2000 * weights[row].numpy()).pvalue > 1e-4


def nearest(scale: float) -> NearestComponent:
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 50.0]]).double()
    loc = centers + 0.3 * draw(B, 3, 2)
    return NearestComponent(
        draw(B, 3, seed=1), loc, torch.tensor([scale, scale]).double(), centers, torch.ones(2).double()
    )


def test_nearest_component_is_the_mixture_where_centers_lie_apart() -> None:
    q = nearest(0.2)
    z = q.sample((500,))
    mixture = Mixture(q.log_weights, q.components)
    torch.testing.assert_close(q.log_prob(z), mixture.log_prob(z))
    near = nearest(20.0)
    z = near.sample((500,))
    bound = Mixture(near.log_weights, near.components).log_prob(z)
    assert bool((near.log_prob(z) <= bound).all())
    assert float((bound - near.log_prob(z)).mean()) > 0.1


def test_nearest_is_meant_in_units() -> None:
    """At (4, 20) the second center is nearest, but in units of (1, 100) it is the first."""
    centers = torch.tensor([[0.0, 0.0], [4.0, 50.0]]).double()
    logits = torch.tensor([[math.log(0.2), math.log(0.8)]]).double()
    value = torch.tensor([[1.9, 40.0]]).double()
    for unit, weight, center in (([1.0, 1.0], 0.8, 1), ([1.0, 100.0], 0.2, 0)):
        q = NearestComponent(logits, centers[None], torch.ones(2).double(), centers, torch.tensor(unit).double())
        expected = math.log(weight) + stats.norm.logpdf(value[0].numpy() - centers[center].numpy()).sum()
        assert float(q.log_prob(value)) == pytest.approx(expected)


def test_bins_are_k_means_of_the_actions() -> None:
    """Four clusters of unequal size and spread, in units a thousand apart; centers within 3.5 standard errors of the
    smallest. False alarms: 2e-3."""
    generator = np.random.default_rng(0)
    middles = np.array([[0.0, 0.0], [0.0, 3e3], [5.0, 0.0], [5.0, 3e3]])
    rows = np.concatenate(
        [
            middle + generator.normal(size=(n, 2)) * [0.1, 50.0]
            for middle, n in zip(middles, (50, 900, 300, 90), strict=True)
        ]
    )
    actions = torch.as_tensor(rows, dtype=torch.float32)
    found = Centers(4, 2)
    found.fit(actions)
    raw = (found.centers * actions.std(0, correction=0) + actions.mean(0)).numpy()
    order = np.lexsort((raw[:, 1], raw[:, 0].round()))
    np.testing.assert_array_less(np.abs(raw[order] - middles), np.broadcast_to([0.05, 25.0], (4, 2)))
    decoder = BinsDecoder(3, 0, 2, 4, (8,))
    for module in (decoder.raw_units, decoder.bins):
        module.fit(actions)
    with torch.no_grad():
        decoder.head.weight.zero_()
        decoder.head.bias.zero_()
    drawn = decoder(torch.zeros(200, 3), torch.empty(200, 0)).sample_mode()
    assert bool((torch.cdist(drawn, torch.as_tensor(raw)).amin(1) < 1e-2).all())
    assert len(torch.unique(drawn, dim=0)) == 4


def test_bins_need_at_least_one() -> None:
    with pytest.raises(LatentRLError, match="bins"):
        BinsDecoder(3, 0, 2, 0)


def test_fewer_actions_than_centers_have_one_each() -> None:
    """Without a warning: a cluster would be empty."""
    found = Centers(5, 2)
    data = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    found.fit(data)
    scaled = (data - data.mean(0)) / data.std(0, correction=0)
    assert (torch.cdist(scaled, found.centers).min(1).values < 1e-6).all()
    assert len(found.centers.unique(dim=0)) == 2


def test_bins_of_actions_far_from_zero() -> None:
    """In float32 the nearest of 20 centers is found, where a matrix product would cancel."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(20, 2, generator=generator) + 1e4
    value, logits = torch.randn(500, 2, generator=generator) + 1e4, torch.randn(20, generator=generator)
    law = NearestComponent(logits, centers, torch.ones(2), centers, torch.ones(2))
    nearest = torch.cdist(value.double(), centers.double()).argmin(-1)
    expected = (
        law.log_weights[nearest]
        + DiagonalNormal(centers, torch.ones(2)).log_prob(value.unsqueeze(1))[torch.arange(500), nearest]
    )
    torch.testing.assert_close(law.log_prob(value), expected)
    torch.testing.assert_close(law.expand((500,)).log_prob(value), expected)
    assert isinstance(law.tempered(0.5), NearestComponent)
