"""Laws over finite sets, one by one: enumeration, chi-square, and the logistic law's own distribution function.

Statistical tests are seeded, with p-values above 1e-4.
"""

import itertools

import pytest
import torch
from scipy import stats
from torch import Tensor

from latentrl.distributions import Bernoullis, DiscretizedLogistic, OneHot, OneHots, choices
from tests.laws_table import HIGH, LOW, SIZES, B, K, draw, scales


def logistic(bins: int = 12, loc: Tensor | None = None, scale: Tensor | None = None) -> DiscretizedLogistic:
    loc = draw(B, 2) if loc is None else loc
    scale = 0.3 * scales(B, 2, seed=1) if scale is None else scale
    return DiscretizedLogistic(loc, scale, LOW.to(loc.dtype), HIGH.to(loc.dtype), bins)


def middles(q: DiscretizedLogistic) -> Tensor:
    """Middle of every interval, (bins, D)."""
    return q.low + (torch.arange(q.bins).unsqueeze(-1) + 0.5) * (q.high - q.low) / q.bins


def each_dimension(q: DiscretizedLogistic, value: Tensor) -> Tensor:
    """Log mass of one dimension's intervals, (..., D), through laws of one dimension."""
    parts = [
        DiscretizedLogistic(q.loc[..., d : d + 1], q.scale[..., d : d + 1], q.low[d : d + 1], q.high[d : d + 1], q.bins)
        for d in range(q.event_shape[0])
    ]
    width = (q.high - q.low) / q.bins
    return torch.stack([p.log_prob(value[..., d : d + 1]) + width[d].log() for d, p in enumerate(parts)], -1)


# --- One-hot vectors and bits


@pytest.mark.parametrize("sizes", [(K,), (3, 3), SIZES])
def test_one_hots_are_listed_once_each(sizes: tuple[int, ...]) -> None:
    q = choices(draw(B, sum(sizes)), sizes)
    values = q.enumerate_support()
    rows = [
        [float(i == j) for size, j in zip(sizes, index, strict=True) for i in range(size)]
        for index in itertools.product(*map(range, sizes))
    ]
    assert torch.equal(values, torch.tensor(rows).double().unsqueeze(1).expand(-1, B, -1))
    assert torch.equal(q.enumerate_support(expand=False), torch.tensor(rows).double().unsqueeze(1))
    assert isinstance(q, OneHot) == (len(sizes) == 1)


def test_bits_are_listed_once_each() -> None:
    values = Bernoullis(draw(B, 3)).enumerate_support()
    assert values.shape == (8, B, 3)
    assert len(values[:, 0].unique(dim=0)) == 8
    assert set(values.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("sizes", [(6,), (3, 3), (2, 4), SIZES])
def test_probabilities_are_softmaxes_and_sigmoids(sizes: tuple[int, ...]) -> None:
    logits = draw(B, sum(sizes))
    expected = torch.cat([part.softmax(-1) for part in logits.split(sizes, -1)], -1)
    assert torch.allclose(OneHots(logits, sizes).probs, expected)
    assert torch.allclose(Bernoullis(logits).probs, 1 / (1 + (-logits).exp()))


@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_sure_choices_stay_finite(scale: float) -> None:
    """Logits of any size, in single precision: entropies go to zero and nothing overflows."""
    logits = (scale * draw(B, 6)).float().requires_grad_()
    for q in (OneHots(logits, (3, 3)), Bernoullis(logits)):
        values = [q.entropy(), q.log_prob(q.mode), q.log_prob(q.sample()), q.log_prob(1.0 - q.mode)]
        assert all(v.isfinite().all() for v in values)
        assert torch.autograd.grad(sum(v.sum() for v in values), logits)[0].isfinite().all()
        assert (q.entropy() >= 0).all()
        assert torch.allclose(values[1], torch.zeros(B), atol=0.01)
        assert torch.equal(q.sample((50,)), q.mode.expand(50, B, 6))


def test_rare_choices_are_drawn_as_often_as_they_should_be() -> None:
    q = OneHot(torch.tensor([0.0, -3.0, -6.0, -9.0, -60.0]))
    counts = q.sample((400_000,)).sum(0)
    assert counts[-1] == 0
    expected = (q.probs * 400_000)[:4]
    assert stats.chisquare(counts[:4].numpy(), (expected / expected.sum() * counts.sum()).numpy()).pvalue > 1e-4


# --- Logistic law over intervals


@pytest.mark.parametrize("bins", [2, 3, 12])
def test_masses_of_intervals_are_differences_of_the_distribution_function(bins: int) -> None:
    q = logistic(bins)
    mass = each_dimension(q, middles(q).unsqueeze(1)).exp()  # (bins, B, D)
    assert torch.allclose(mass.sum(0), torch.ones(B, 2).double())
    edges = q.low + torch.arange(1, bins).unsqueeze(-1) * (q.high - q.low) / bins
    cdf = torch.as_tensor(stats.logistic.cdf(edges.unsqueeze(1).numpy(), q.loc.numpy(), q.scale.numpy()))
    expected = torch.cat([cdf[:1], cdf.diff(dim=0), 1 - cdf[-1:]])
    assert torch.allclose(mass, expected, atol=1e-12)


def test_edges_of_intervals() -> None:
    """An interval holds its left edge; what lies outside of the box counts to the outermost interval."""
    low, high = torch.zeros(1), torch.full((1,), 256.0)
    q = DiscretizedLogistic(torch.full((1,), 100.0), torch.full((1,), 20.0), low, high, 256)
    pixels = torch.arange(256.0).unsqueeze(-1)
    assert torch.equal(q.index(pixels), pixels)
    assert torch.equal(q.log_prob(pixels), q.log_prob(pixels + 0.999))
    assert torch.allclose(q.log_prob(pixels).exp().sum(), torch.tensor(1.0))  # intervals of one unit: masses
    assert torch.equal(q.log_prob(torch.tensor([[-5.0], [0.0]])), q.log_prob(torch.tensor([[0.5], [0.5]])))
    assert torch.equal(q.log_prob(torch.tensor([[256.0], [300.0]])), q.log_prob(torch.tensor([[255.5], [255.5]])))


@pytest.mark.parametrize("narrow", [1e-4, 1e-2, 1e5])
@pytest.mark.parametrize("away", [-100.0, 0.01, 0.37, 100.0])
def test_narrow_wide_and_distant_laws_stay_finite(narrow: float, away: float) -> None:
    """Scales and locations in units of the box, in single precision against double, with gradients."""

    def values(dtype: torch.dtype) -> tuple[DiscretizedLogistic, Tensor, tuple[Tensor, ...]]:
        width = (HIGH - LOW).to(dtype)
        loc = (LOW.to(dtype) + (0.5 + away) * width).requires_grad_()
        scale = (narrow * width).requires_grad_()
        q = DiscretizedLogistic(loc, scale, LOW.to(dtype), HIGH.to(dtype), 64)
        log_prob = q.log_prob(middles(q).to(dtype))
        return q, log_prob, torch.autograd.grad(log_prob.sum(), (loc, scale))

    (q, rounded, slopes), (_, exact, steep) = values(torch.float32), values(torch.float64)
    assert rounded.isfinite().all()
    assert all(g.isfinite().all() for g in slopes)
    assert torch.allclose(rounded.double(), exact, rtol=2e-3, atol=2e-3)
    for a, b in zip(slopes, steep, strict=True):
        assert torch.allclose(a.double(), b, rtol=2e-3, atol=2e-3 * float(b.abs().max()) + 1e-3)
    assert q.support.check(q.sample((100,))).all()
    assert q.log_prob(q.sample((100,))).isfinite().all()


def test_mode_is_the_likeliest_interval() -> None:
    loc = torch.linspace(-3, 3, 61).double().unsqueeze(-1) * torch.ones(2).double()
    for scale in (0.01, 0.1, 0.5, 3.0):
        q = logistic(12, loc, torch.full_like(loc, scale))
        mass = each_dimension(q, middles(q).unsqueeze(1))
        best = middles(q).gather(0, mass.argmax(0))
        assert torch.allclose(each_dimension(q, q.mode), each_dimension(q, best))  # two may be equally likely
        assert torch.allclose((q.mode - q.low) / q.width % 1.0, torch.tensor(0.5).double())
        assert torch.equal(q.mean, q.mode)


def test_draws_hit_intervals_as_often_as_they_should() -> None:
    """Chi-square over intervals; inside one the draws are uniform."""
    q = logistic()
    z = q.sample((30_000,))
    index = q.index(z)
    mass = each_dimension(q, middles(q).unsqueeze(1)).exp()
    for row, d in itertools.product(range(B), range(2)):
        expected = 30_000 * mass[:, row, d]
        counts = torch.bincount(index[:, row, d].long(), minlength=q.bins)
        often = expected > 5
        seen, should = (torch.cat([v[often], v[~often].sum(0, keepdim=True)]) for v in (counts.double(), expected))
        keep = should > 0.5
        seen, should = seen[keep], should[keep] * (seen[keep].sum() / should[keep].sum())
        assert stats.chisquare(seen.numpy(), should.numpy()).pvalue > 1e-4
        place = (z[:, row, d] - q.low[d]) / q.width[d] - index[:, row, d]
        assert stats.kstest(place.numpy(), "uniform").pvalue > 1e-4


def test_draws_never_leave_the_box() -> None:
    """In single precision, where low + bins · width may lie outside of the corner."""
    low = 3.0 * torch.randn(200, 1)
    high = low + torch.rand(200, 1) + 0.1
    for q in (
        DiscretizedLogistic(corner.clone(), torch.full_like(low, 0.01), low, high, 256) for corner in (low, high)
    ):
        z = q.sample((20_000,))
        assert ((z >= low) & (z <= high)).all()


def test_many_intervals_make_the_logistic_law() -> None:
    """Inside of the box the density goes to that of the logistic law: the difference falls with the width squared."""
    loc, scale = torch.tensor([-0.3, 1.2]).double(), torch.tensor([0.2, 0.05]).double()
    z = torch.stack([torch.linspace(-1.5, 0.7, 41), torch.linspace(1.05, 1.45, 41)], -1).double()
    exact = torch.as_tensor(stats.logistic.logpdf(z.numpy(), loc.numpy(), scale.numpy())).sum(-1)
    errors = []
    for bins in (200, 2000, 20_000):
        q = logistic(bins, loc, scale)
        inside = q.low + (q.index(z) + 0.5) * q.width
        there = torch.as_tensor(stats.logistic.logpdf(inside.numpy(), loc.numpy(), scale.numpy())).sum(-1)
        errors.append(float((q.log_prob(z) - there).abs().max()))
        assert (q.log_prob(z) - exact).abs().max() < 50 / bins
    assert errors[0] < 1e-3
    assert errors[1] < errors[0] / 50
