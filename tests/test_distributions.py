"""Laws that hold for every distribution: against torch's own pieces, quadrature and their own samples.

Statistical tests are seeded: Kolmogorov-Smirnov p-values above 1e-4 per coordinate and row.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.autograd import gradcheck
from torch.distributions import kl_divergence
from torch.func import grad, vmap

from latentrl.distributions import (
    DiagonalNormal,
    FullGaussianMixture,
    FullNormal,
    GaussianMixture,
    Mixture,
    OneHot,
    Remembering,
    TanhNormal,
)
from tests.laws_table import BOXED, CONTINUOUS, FINITE, HIGH, LAWS, LOW, B, draw, law, scales, tanh
from tests.twins import twin, twin_log_prob

QUADRATURE = [pytest.param(n, marks=pytest.mark.slow) if n == "mixture of flows" else n for n in CONTINUOUS]


def box(name: str) -> tuple[Tensor, Tensor]:
    """Where a law's mass lies."""
    wide = torch.full((2,), 12.0 if "flow" in name else 20.0).double()
    return (LOW, HIGH) if name in BOXED else (-wide, wide)


def grid(low: Tensor, high: Tensor, steps: int) -> tuple[Tensor, float]:
    """Middles of steps² cells, (steps, steps, 2), and the area of a cell."""
    axes = [a + (torch.arange(steps) + 0.5) / steps * (b - a) for a, b in zip(low, high, strict=True)]
    return torch.cartesian_prod(*axes).reshape(steps, steps, 2), float((high - low).prod()) / steps**2


@pytest.mark.parametrize("name", LAWS)
def test_shapes(name: str) -> None:
    q = law(name)
    size = q.event_shape[0]
    z = q.sample((5,))
    assert q.batch_shape == (B,)
    assert z.shape == (5, B, size)
    assert not z.requires_grad
    assert q.log_prob(z).shape == (5, B)
    assert q.sample().shape == q.mean.shape == q.mode.shape == (B, size)
    assert q.log_prob(z[:, :1]).shape == (5, B)
    assert bool(q.support.check(z).all())
    assert bool(q.support.check(q.mode).all())
    wide = q.expand((7, B))
    assert type(wide) is type(q)
    assert torch.allclose(wide.log_prob(z[:, None]), q.log_prob(z)[:, None].expand(5, 7, B))
    assert wide.sample((5,)).shape == (5, 7, B, size)
    assert wide.mode.shape == (7, B, size)
    if q.has_rsample:
        assert q.rsample((5,)).shape == z.shape


@pytest.mark.parametrize("name", LAWS)
def test_parameters_get_gradients_of_their_own_shape(name: str) -> None:
    build, parameters = LAWS[name]
    leaves = [p.clone().requires_grad_() for p in parameters]
    q = build(*leaves)
    z = q.rsample((5,)) if q.has_rsample else q.sample((5,))
    assert z.requires_grad == q.has_rsample
    assert not q.sample((5,)).requires_grad
    gradients = torch.autograd.grad(q.log_prob(z.detach()).sum(), leaves, retain_graph=True)
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)
    if q.has_rsample:
        gradients = torch.autograd.grad(z.square().sum(), leaves)
        assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize("name", LAWS)
def test_log_prob_is_that_of_torchs_own_pieces(name: str) -> None:
    q = law(name)
    z = q.sample((50,))
    if name in CONTINUOUS:
        low, high = box(name)
        z = torch.cat([z, low + (high - low) * (0.01 + 0.98 * torch.rand(50, B, 2))])
    assert torch.allclose(q.log_prob(z), twin_log_prob(q, z), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", QUADRATURE)
def test_density_integrates_to_one(name: str) -> None:
    q = law(name)
    points, cell = grid(*box(name), 110 if "flow" in name else 240)
    mass = q.log_prob(points.unsqueeze(-2)).exp().sum((0, 1)) * cell
    # The density of splines has kinks, where quadrature converges slowly.
    assert torch.allclose(mass, torch.ones(B).double(), atol=2e-2 if "flow" in name else 1e-6)


@pytest.mark.parametrize("name", QUADRATURE)
def test_samples_follow_the_density(name: str) -> None:
    """The first coordinate's distribution function, and the second's given the first, make them uniform."""
    q = law(name)
    z = q.sample((20_000,))
    low, high = box(name) if name in BOXED else (z.amin((0, 1)) - 0.1, z.amax((0, 1)) + 0.1)
    steps = 110 if "flow" in name else 240
    points, cell = grid(low, high, steps)
    density = q.log_prob(points.unsqueeze(-2)).exp() * cell  # (x, y, B)
    place = ((z - low) / (high - low) * steps).clamp(0, steps - 1e-9)
    for row in range(B):
        x, y = place[:, row].long().T
        beyond = place[:, row] - place[:, row].floor()  # position within the cell
        first = density[..., row].sum(1)
        along, given = first[x], density[x, :, row]
        u = first.cumsum(0)[x] - along * (1 - beyond[:, 0])
        inside = given.gather(1, y[:, None]).squeeze(1)
        v = (given.cumsum(1).gather(1, y[:, None]).squeeze(1) - inside * (1 - beyond[:, 1])) / given.sum(1)
        assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-4
        assert stats.kstest(v.numpy(), "uniform").pvalue > 1e-4
        assert stats.spearmanr(u.numpy(), v.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", FINITE)
def test_samples_follow_the_masses(name: str) -> None:
    """χ² p-values above 1e-4 in each row."""
    q = law(name)
    values = q.enumerate_support()
    expected = q.log_prob(values).exp()  # (N, B)
    assert torch.allclose(expected.sum(0), torch.ones(B).double())
    z = q.sample((40_000,))
    seen = (z.unsqueeze(1) == values).all(-1).sum(0).double()
    for row in range(B):
        assert stats.chisquare(seen[:, row].numpy(), (40_000 * expected[:, row]).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", LAWS)
def test_log_prob_gradients(name: str) -> None:
    build, parameters = LAWS[name]
    z = law(name).sample((2,))
    leaves = tuple(p.clone().requires_grad_() for p in (*parameters, z))
    assert gradcheck(lambda *p: build(*p[:-1]).log_prob(p[-1]), leaves, fast_mode=True)


@pytest.mark.parametrize("name", LAWS)
def test_draws_under_vmap(name: str) -> None:
    build, parameters = LAWS[name]

    def log_density(first: Tensor) -> Tensor:
        q = build(first, *parameters[1:])
        return q.log_prob(q.rsample() if q.has_rsample else q.sample()).sum()

    def gradients(randomness: str) -> Tensor:
        torch.manual_seed(0)
        return vmap(lambda _: grad(log_density)(parameters[0]), randomness=randomness)(torch.zeros(40))

    def samples(randomness: str) -> Tensor:
        torch.manual_seed(0)
        return vmap(lambda _: build(*parameters).sample((2,)), randomness=randomness)(torch.zeros(40))

    assert gradients("different").isfinite().all()
    assert samples("different").unique(dim=0).shape[0] > 1
    assert samples("same").unique(dim=0).shape[0] == 1
    if name in CONTINUOUS:
        assert samples("different").unique(dim=0).shape[0] == 40


@pytest.mark.parametrize("name", CONTINUOUS)
def test_tails_are_finite(name: str) -> None:
    build, parameters = LAWS[name]
    leaves = [p.float().requires_grad_() for p in parameters]
    edges = (LOW.float(), HIGH.float()) if name in BOXED else (torch.full((2,), -1e4), torch.full((2,), 1e4))
    for value in edges:
        log_prob = build(*leaves).log_prob(value.expand(B, 2))
        assert log_prob.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(log_prob.sum(), leaves))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_moments_are_those_of_torchs_own_pieces(name: str) -> None:
    """Only of laws whose moments are closed; the others say that their mode stands for the mean."""
    q = law(name)
    if not isinstance(q, DiagonalNormal | FullNormal | GaussianMixture | FullGaussianMixture):
        assert isinstance(q, Mixture) or torch.equal(q.mean, q.mode)
        return
    other = twin(q)
    assert torch.allclose(q.mean.expand(B, 2), other.mean)
    assert torch.allclose(q.variance, other.variance)
    assert torch.allclose(q.stddev, other.variance.sqrt())


@pytest.mark.parametrize("name", FINITE)
def test_moments_by_enumeration(name: str) -> None:
    q = law(name)
    values = q.enumerate_support()
    mass = q.log_prob(values).exp().unsqueeze(-1)
    mean = (mass * values).sum(0)
    assert np.allclose(q.mean, mean)
    assert torch.allclose(q.variance, (mass * (values - mean).square()).sum(0))
    assert torch.allclose(q.stddev, q.variance.sqrt())
    best = values.gather(0, mass.argmax(0, keepdim=True).expand(1, B, q.event_shape[0]))[0]
    assert torch.equal(q.mode, best)


# --- One by one


def test_reparameterised_draws_carry_their_gradient() -> None:
    loc, scale = draw(B, 2).requires_grad_(), scales(B, 2, seed=1).requires_grad_()
    z = DiagonalNormal(loc, scale).rsample((6,))
    by_loc, by_scale = torch.autograd.grad(z.sum(), (loc, scale))
    assert torch.allclose(by_loc, torch.full_like(loc, 6.0))
    assert torch.allclose(by_scale, ((z - loc) / scale).sum(0))
    torch.manual_seed(0)
    u = DiagonalNormal(loc, scale).rsample((6,))
    torch.manual_seed(0)
    y = tanh(loc, scale).rsample((6,))
    center, half_width = (HIGH + LOW) / 2, (HIGH - LOW) / 2
    assert torch.allclose(y, center + half_width * u.tanh())
    slopes = torch.autograd.grad(y.sum(), loc)[0]
    assert torch.allclose(slopes, (half_width * (1 - u.tanh().square())).sum(0))


def test_tanh_never_leaves_its_box() -> None:
    """In single precision, where center + half-width may lie outside of the corner. An edge that is missed by 100
    draws: 1e-14.
    """
    low = 3.0 * torch.randn(500, 2)
    high = low + torch.rand(500, 2) + 0.1
    q = TanhNormal(torch.zeros(500, 2), torch.full((500, 2), 20.0), low, high)
    z = q.sample((100,))
    assert ((z >= low) & (z <= high)).all()
    assert (z == low).any(0).all()  # where it is most of the time
    assert (z == high).any(0).all()
    assert q.log_prob(z).isfinite().all()
    assert torch.allclose(q.mode, (low + high) / 2)
    assert torch.allclose(q.squash(q.unsquash(z)), z, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in LAWS if law(name).has_rsample])
def test_density_known_from_the_drawing(name: str) -> None:
    """Its value is that of the draw, its derivative the total one: by the parameters, draws included."""
    build, parameters = LAWS[name]
    leaves = [p.clone().requires_grad_() for p in parameters]
    q = build(*leaves)
    torch.manual_seed(0)
    z, known = q.rsample_and_log_prob((5,))
    torch.manual_seed(0)
    assert torch.allclose(z, q.rsample((5,)))
    anew = q.log_prob(z)
    assert torch.allclose(known, anew)
    by_known, by_anew = (
        torch.autograd.grad(v.cos().sum(), leaves, retain_graph=True, materialize_grads=True) for v in (known, anew)
    )
    for leaf, a, b in zip(leaves, by_known, by_anew, strict=True):
        free = leaf != 0  # entries above the diagonal of a Cholesky factor are no parameters
        assert torch.allclose(a * free, b * free, atol=1e-9)


def test_a_scale_of_more_laws_than_the_mean_has_draws_of_their_own() -> None:
    for loc in (torch.zeros(2), torch.zeros(1, 2)):
        q = DiagonalNormal(loc, torch.ones(3, 2))
        assert q.batch_shape == (3,)
        assert len(q.sample()[:, 0].unique()) == 3


def test_remembering() -> None:
    """The last draw with gradients is known; any other value, and draws for a score function, are not."""
    loc = torch.zeros(B, 2).double().requires_grad_()
    q = Remembering(DiagonalNormal(loc, torch.ones(B, 2).double().requires_grad_()))

    def by_loc(z: Tensor) -> Tensor:
        return torch.autograd.grad(q.log_prob(z).sum(), loc, materialize_grads=True)[0]

    first, second = q.rsample((5,)), q.rsample((5,))
    assert by_loc(second).abs().max() == 0.0  # of a Gaussian's own draw the density does not move with the mean
    assert by_loc(second.detach()).abs().min() > 0.0
    assert torch.allclose(q.log_prob(first), q.law.log_prob(first))
    assert torch.allclose(q.log_prob(second), q.law.log_prob(second))
    drawn = q.sample((5,))
    assert by_loc(drawn).abs().min() > 0.0
    assert (q.batch_shape, q.event_shape) == ((B,), (2,))


@pytest.mark.parametrize("loc", [0.0, 6.0, 8.0])
def test_scores_of_draws_at_an_edge_have_mean_zero(loc: float) -> None:
    """Five standard errors of 20 000 draws, which fail once in a million; and the log density is that of u."""
    torch.manual_seed(0)
    mean = torch.full((20_000, 1), loc, requires_grad=True)
    q = TanhNormal(mean, torch.ones(20_000, 1), -torch.ones(1), torch.ones(1))
    drawn = q.sample()
    (score,) = torch.autograd.grad(q.log_prob(drawn).sum(), mean)
    assert abs(float(score.mean())) < 5 / 20_000**0.5
    assert float(score.std()) == pytest.approx(1.0, abs=0.03)
    inside = drawn.abs() < 0.999
    torch.testing.assert_close(
        q.log_prob(drawn)[inside[:, 0]], q.log_prob(drawn.clone())[inside[:, 0]], rtol=1e-3, atol=1e-3
    )
    changed = q.sample()
    changed.mul_(0.0)
    torch.testing.assert_close(q.log_prob(changed), q.log_prob(torch.zeros_like(changed)))
    leaf = q.sample().requires_grad_()
    assert torch.autograd.grad(q.log_prob(leaf).sum(), leaf)[0].abs().max() > 0.0


def test_the_score_of_a_draw_under_vmap() -> None:
    ones = torch.ones(1)

    def scored(loc: Tensor) -> Tensor:
        q = TanhNormal(loc, ones, -ones, ones)
        return q.log_prob(q.sample((50,))).mean()

    assert torch.func.vmap(torch.func.grad(scored), randomness="different")(torch.full((4, 1), 7.0)).isfinite().all()


@pytest.mark.parametrize("loc", [0.0, 7.0, 9.0])
def test_density_of_a_draw_at_the_edge_is_known_from_drawing(loc: float) -> None:
    """By the Gaussian that was drawn; the value alone is 1 to the last bit."""
    q = TanhNormal(torch.full((1,), loc), torch.full((1,), 0.5), -torch.ones(1), torch.ones(1))
    torch.manual_seed(0)
    _, log_q = q.rsample_and_log_prob((20_000,))
    torch.manual_seed(0)
    u = q.base.rsample((20_000,)).double()
    slope = 2.0 * (math.log(2.0) - u - torch.nn.functional.softplus(-2.0 * u))
    expected = torch.distributions.Normal(loc, 0.5).log_prob(u) - slope
    torch.testing.assert_close(log_q.double(), expected.sum(-1), rtol=1e-4, atol=1e-4)


def test_a_choice_that_is_ruled_out() -> None:
    """By a logit of −∞, as for impossible actions: as if it were not there, with gradients that are numbers."""
    logits = torch.tensor([0.3, -0.2, -torch.inf], requires_grad=True)
    q, left = OneHot(logits), OneHot(torch.tensor([0.3, -0.2]))
    p = OneHot(torch.tensor([0.1, 0.2, 0.3]))
    first = torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(q.log_prob(first), left.log_prob(first[:2]))
    torch.testing.assert_close(q.entropy(), left.entropy())
    torch.testing.assert_close(kl_divergence(q, p), (left.probs * (left.logits - p.logits[:2])).sum())
    assert bool(q.log_prob(torch.tensor([0.0, 0.0, 1.0])) < -1e30)
    assert not (q.sample((1000,))[:, 2] > 0).any()
    (q.log_prob(first) + q.entropy() + kl_divergence(q, p)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
