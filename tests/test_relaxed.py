"""Thresholded noise against the published formulas, finite laws and float64.

Statistical tests are seeded, with p-values above 1e-4 per comparison.
"""

from collections.abc import Iterator

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from latentrl.distributions import Bernoullis, OneHot, OneHots
from latentrl.distributions.discrete import Discrete
from latentrl.distributions.relaxed import thresholded
from tests.laws_table import draw

SIZES = (2, 3)
LAWS = {"one choice": OneHot, "choices": lambda logits: OneHots(logits, SIZES), "bits": Bernoullis}
D = 5


def noisy(law: Discrete, samples: int) -> tuple[Tensor, Tensor]:
    """z and b = H(z)."""
    draw = thresholded(law)
    z = draw.logits + draw.noise(samples)
    return z, draw.threshold(z)


def noise_given(law: Discrete, z: Tensor, b: Tensor) -> Tensor:
    """v with z = g(v, b, logits)."""
    if isinstance(law, Bernoullis):
        u, p = (z - law.logits).sigmoid(), law.probs
        return torch.where(b > 0, (u - (1 - p)) / p, 1 - u / (1 - p))
    noise = []
    for log_p, part, chosen in split(law, law.logits, z, b):
        first = (-part).exp().amin(-1, keepdim=True)
        noise.append(torch.where(chosen > 0, -first, -log_p.exp() * ((-part).exp() - first)).exp())
    return torch.cat(noise, -1)


def conditional(law: Discrete, logits: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """z̃ = g(v, b, logits) as in Tucker et al. 2017, appendix."""
    if isinstance(law, Bernoullis):
        p, odds = logits.sigmoid(), v / (1 - v)
        return torch.where(b > 0, (odds / (1 - p) + 1).log(), -(odds / p + 1).log())
    values = []
    for log_p, chosen, noise in split(law, logits, b, v):
        first = -(chosen * noise.log()).sum(-1, keepdim=True)
        values.append(-torch.where(chosen > 0, first, -noise.log() / log_p.exp() + first).log())
    return torch.cat(values, -1)


def split(law: OneHots, *values: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(
        *(v.expand(torch.broadcast_shapes(*(x.shape for x in values))).split(law.sizes, -1) for v in values),
        strict=True,
    )


@pytest.mark.parametrize("name", LAWS)
def test_thresholds_of_noise_are_draws(name: str) -> None:
    law = LAWS[name](draw(D))
    b = noisy(law, 50_000)[1]
    values = law.enumerate_support()
    counts = (b.unsqueeze(1) == values).all(-1).sum(0)
    assert counts.sum() == len(b)
    expected = law.log_prob(values).exp() * len(b)
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", LAWS)
def test_relaxed_draws_lie_inside_and_end_at_the_threshold(name: str) -> None:
    law = LAWS[name](draw(3, D))
    z, b = noisy(law, 200)
    relaxed = thresholded(law).relax(z, 0.7)
    assert relaxed.shape == b.shape == (200, 3, D)
    assert ((relaxed > 0) & (relaxed < 1)).all()
    if isinstance(law, OneHots):
        totals = torch.cat([part.sum(-1) for values in (relaxed, b) for part in values.split(law.sizes, -1)])
        assert torch.allclose(totals, torch.ones_like(totals))
    assert torch.equal(thresholded(law).relax(z, 1e-9), b)
    assert torch.equal(thresholded(law).threshold(relaxed if isinstance(law, OneHots) else relaxed - 0.5), b)


def test_two_gumbels_differ_by_logistic_noise() -> None:
    """A choice between two is a bit: both relaxations are one law."""
    bit, pair = Bernoullis(draw(1)), OneHot(torch.cat([torch.zeros(1).double(), draw(1)]))
    one, other = (thresholded(q).relax(noisy(q, 20_000)[0], 0.4)[:, -1] for q in (bit, pair))
    assert stats.ks_2samp(one.numpy(), other.numpy()).pvalue > 1e-4
    exact = stats.logistic(loc=float(bit.logits), scale=1.0)
    assert stats.kstest(noisy(bit, 20_000)[0][:, 0].numpy(), exact.cdf).pvalue > 1e-4


@pytest.mark.parametrize("name", LAWS)
def test_coupling_is_the_slope_of_the_published_conditional(name: str) -> None:
    logits = draw(D)
    law = LAWS[name](logits)
    z, b = noisy(law, 20_000)
    v = noise_given(law, z, b)
    assert torch.allclose(conditional(law, law.logits, b, v), z, atol=1e-9)

    few, drawn, noise = z[:50], b[:50], v[:50]
    for entry in range(D):  # the diagonal by central differences, the off-diagonal by their absence
        step = 1e-6 * F.one_hot(torch.tensor(entry), D)
        ahead, behind = (conditional(law, law.logits + side, drawn, noise) for side in (step, -step))
        expected = torch.zeros(50, D).double()
        expected[:, entry] = 1.0 - thresholded(law).coupling(few)[:, entry]
        assert torch.allclose((ahead - behind) / 2e-6, expected, atol=1e-7)

    # v is uniform whatever b is: else z̃ would not be independent noise given b.
    for entry in range(D):
        for bit in (0, 1):
            given = v[b[:, entry] == bit, entry]
            assert stats.kstest(given.numpy(), stats.uniform.cdf).pvalue > 1e-4


@pytest.mark.parametrize("name", LAWS)
def test_gradients_by_unnormalised_logits(name: str) -> None:
    logits, gradient = draw(D) + 3.0, draw(7, D, seed=1)
    make = LAWS[name]
    pull_back = torch.func.vjp(lambda x: make(x).logits, logits)[1]
    expected = torch.stack([pull_back(row)[0] for row in gradient])
    assert torch.allclose(thresholded(make(logits)).unnormalised(gradient), expected)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e5])
def test_single_precision_is_finite_and_agrees_with_double(name: str, scale: float) -> None:
    logits = scale * draw(4, D)
    rounded, exact = LAWS[name](logits.float()), LAWS[name](logits.float().double())
    z = noisy(rounded, 1000)[0]
    single, double = thresholded(rounded), thresholded(exact)
    assert torch.equal(single.threshold(z), double.threshold(z.double()))
    for found, wanted in (
        (single.coupling(z), double.coupling(z.double())),
        (single.relax(z, 0.1), double.relax(z.double(), 0.1)),
    ):
        assert ((found >= 0) & (found <= 1)).all()
        assert torch.allclose(found.double(), wanted, atol=1e-4)


@pytest.mark.parametrize("name", LAWS)
def test_noise_is_finite_at_both_ends_of_the_unit_interval(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    law = LAWS[name](draw(D).float())
    for end in (0.0, 1.0 - 2.0**-24):  # what single precision draws at least and at most
        monkeypatch.setattr(torch, "rand", lambda shape, end=end, **options: torch.full(tuple(shape), end, **options))
        assert thresholded(law).noise(2).isfinite().all()
