"""Laws against scipy, torch.distributions, quadrature and their own samples.

Statistical tests are seeded: Kolmogorov-Smirnov p-values above 1e-4 per coordinate, moments within 4.5 standard
errors (7e-6 per number).
"""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.autograd import gradcheck
from torch.distributions import (
    AffineTransform,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    OneHotCategorical,
    TanhTransform,
    TransformedDistribution,
    kl_divergence,
)
from torch.func import grad, vmap

from latentrl.distributions import DiagonalNormal, GaussianMixture, OneHot, TanhNormal

B, K = 3, 4


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOW, HIGH = torch.tensor([-2.0, 1.0]).double(), torch.tensor([1.0, 1.5]).double()
LAWS: dict[
    str, tuple[Callable[..., Distribution], tuple[Tensor, ...]]
] = {  # batch_shape (B,), event_shape (2,) or (K,)
    "normal": (DiagonalNormal, (draw(B, 2), draw(B, 2, seed=1).exp())),
    "normal, one scale": (DiagonalNormal, (draw(B, 2), torch.tensor(0.7).double())),
    "tanh": (lambda m, s: TanhNormal(m, s, LOW, HIGH), (0.3 * draw(B, 2), 0.4 * torch.ones(B, 2).double())),
    "mixture": (GaussianMixture, (draw(B, K), 2 * draw(B, K, 2, seed=1), draw(B, K, 2, seed=2).exp())),
    "mixture, shared": (GaussianMixture, (draw(B, K), 2 * draw(K, 2, seed=1), draw(K, 2, seed=2).exp())),
    "mixture, one scale": (GaussianMixture, (draw(K), 2 * draw(B, K, 2, seed=1), torch.tensor(0.5).double())),
    "one-hot": (OneHot, (draw(B, K),)),
}
CONTINUOUS = [name for name in LAWS if name != "one-hot"]


def law(name: str) -> Distribution:
    build, parameters = LAWS[name]
    return build(*parameters)


def twin(name: str) -> Distribution:
    """The same law put together from torch's own pieces."""
    q = law(name)
    if isinstance(q, DiagonalNormal):
        return Independent(Normal(q.loc, q.stddev), 1)
    if isinstance(q, TanhNormal):
        moves = [TanhTransform(), AffineTransform(q.center, q.half_width, event_dim=1)]
        return TransformedDistribution(Independent(Normal(q.base.loc, q.base.stddev), 1), moves)
    if isinstance(q, GaussianMixture):
        loc, scale = q.loc.expand(B, K, 2), q.scale.expand(B, K, 2)
        weights = Categorical(logits=q.log_weights.expand(B, K))
        return MixtureSameFamily(weights, Independent(Normal(loc, scale), 1))
    return OneHotCategorical(logits=q.logits)


def cdf(q: Distribution, coordinate: int) -> Callable:
    """Distribution function of one coordinate of the first row, by scipy."""
    if isinstance(q, TanhNormal):
        low, high = float(q.low[coordinate]), float(q.high[coordinate])
        base = cdf(q.base, coordinate)
        return lambda x: base(torch.atanh(torch.as_tensor((2 * x - low - high) / (high - low))).numpy())
    if isinstance(q, GaussianMixture):
        loc, scale = (v.expand(B, K, 2)[0, :, coordinate] for v in (q.loc, q.scale))
        weights = q.log_weights.expand(B, K)[0].exp()
        return lambda x: sum(w * stats.norm.cdf(x, m, s) for w, m, s in zip(*map(Tensor.tolist, (weights, loc, scale))))  # noqa: B905
    return stats.norm(float(q.loc[0, coordinate]), float(q.stddev[0, coordinate])).cdf


# --- Laws that hold for every member


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
    assert torch.allclose(q.expand((7, B)).log_prob(z[:, None]), q.log_prob(z)[:, None].expand(5, 7, B))
    assert q.expand((7, B)).sample((5,)).shape == (5, 7, B, size)
    if q.has_rsample:
        assert q.rsample((5,)).shape == z.shape


@pytest.mark.parametrize("name", LAWS)
def test_log_prob_is_that_of_torchs_own_pieces(name: str) -> None:
    q, other = law(name), twin(name)
    z = other.sample((50,))
    assert torch.allclose(q.log_prob(z), other.log_prob(z), rtol=1e-9, atol=1e-9)
    if not isinstance(q, TanhNormal):
        assert torch.allclose(q.mean, other.mean)
        assert isinstance(q, OneHot) or torch.allclose(q.variance, other.variance)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_density_integrates_to_one(name: str) -> None:
    q = law(name)
    low, high = (LOW, HIGH) if isinstance(q, TanhNormal) else (torch.full((2,), -30.0), torch.full((2,), 30.0))
    steps = 600
    axes = [torch.linspace(float(a), float(b), steps + 1).double() for a, b in zip(low, high, strict=True)]
    x, y = ((axis[1:] + axis[:-1]) / 2 for axis in axes)
    cell = float((high - low).prod()) / steps**2
    for chunk in x.split(150):
        grid = torch.cartesian_prod(chunk, y)[:, None]
        mass = q.log_prob(grid).exp().sum(0) * cell
        total = mass if chunk[0] == x[0] else total + mass
    assert torch.allclose(total, torch.ones(B).double(), atol=1e-6)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_samples_follow_the_law(name: str) -> None:
    torch.manual_seed(0)
    q = law(name)
    z = q.sample((20_000,))[:, 0]
    for coordinate in range(2):
        assert stats.kstest(z[:, coordinate].numpy(), cdf(q, coordinate)).pvalue > 1e-4
    # Dependence between coordinates, which marginals cannot show: the mean log-density is minus the entropy.
    torch.manual_seed(1)
    others, own = twin(name).sample((20_000,)), q.sample((20_000,))
    difference, spread = q.log_prob(own).mean(0) - q.log_prob(others).mean(0), q.log_prob(own).std(0)
    assert (difference.abs() < 4.5 * spread * math.sqrt(2 / 20_000)).all()


@pytest.mark.parametrize("name", LAWS)
def test_log_prob_gradients(name: str) -> None:
    build, parameters = LAWS[name]
    z = law(name).sample((2,))
    leaves = tuple(p.clone().requires_grad_() for p in (*parameters, z))
    assert gradcheck(lambda *p: build(*p[:-1]).log_prob(p[-1]), leaves)


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
    edges = (LOW.float(), HIGH.float()) if name == "tanh" else (torch.full((2,), -1e4), torch.full((2,), 1e4))
    for value in edges:
        q = TanhNormal(*leaves, *edges) if name == "tanh" else build(*leaves)
        log_prob = q.log_prob(value.expand(B, 2))
        assert log_prob.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(log_prob.sum(), leaves))


# --- One by one


def test_reparameterised_draws_carry_their_gradient() -> None:
    torch.manual_seed(0)
    loc, scale = draw(B, 2).requires_grad_(), draw(B, 2, seed=1).exp().requires_grad_()
    q = DiagonalNormal(loc, scale)
    z = q.rsample((6,))
    by_loc, by_scale = torch.autograd.grad(z.sum(), (loc, scale))
    assert torch.allclose(by_loc, torch.full_like(loc, 6.0))
    assert torch.allclose(by_scale, ((z - loc) / scale).sum(0))
    y = TanhNormal(loc, scale, LOW, HIGH).rsample((6,))
    assert torch.autograd.grad(y.sum(), loc)[0].abs().min() > 0


def test_kl_and_entropy_are_torchs() -> None:
    normals = [DiagonalNormal(draw(B, 2, seed=i), draw(B, 2, seed=9 + i).exp()) for i in range(2)]
    others = [Independent(Normal(q.loc, q.scale), 1) for q in normals]
    assert torch.allclose(kl_divergence(*normals), kl_divergence(*others))
    assert torch.allclose(normals[0].entropy(), others[0].entropy())
    standard = DiagonalNormal(torch.zeros(2).double(), torch.ones(2).double())  # a prior without batch
    assert kl_divergence(normals[0], standard).shape == (B,)
    assert torch.allclose(kl_divergence(normals[0], normals[0]), torch.zeros(B).double())

    hots = [OneHot(draw(B, K, seed=i)) for i in range(2)]
    others = [OneHotCategorical(logits=q.logits) for q in hots]
    assert torch.allclose(kl_divergence(*hots), kl_divergence(*others))
    assert torch.allclose(hots[0].entropy(), others[0].entropy())


def test_one_hot_samples_and_support() -> None:
    torch.manual_seed(0)
    q = OneHot(torch.tensor([0.0, 1.0, 2.0, -20.0]))
    counts = q.sample((40_000,)).sum(0)[:3]
    assert stats.chisquare(counts.numpy(), (q.probs[:3] / q.probs[:3].sum() * counts.sum()).numpy()).pvalue > 1e-4
    batch = OneHot(draw(B, K))
    assert batch.enumerate_support().shape == (K, B, K)
    assert batch.enumerate_support(expand=False).shape == (K, 1, K)
    assert torch.allclose(batch.log_prob(batch.enumerate_support()).exp().sum(0), torch.ones(B).double())
    assert torch.equal(batch.mode.argmax(-1), batch.probs.argmax(-1))


def test_mixture_far_from_the_origin_keeps_its_precision() -> None:
    """The expanded square in float32, 1000 scales away from 0, against float64."""
    loc, scale, z = 1000.0 + draw(K, 2), 0.5 * torch.ones(K, 2).double(), 1000.0 + draw(20, 2, seed=1)
    exact = GaussianMixture(torch.zeros(K).double(), loc, scale).log_prob(z)
    rounded = GaussianMixture(torch.zeros(K), loc.float(), scale.float()).log_prob(z.float())
    assert torch.allclose(rounded.double(), exact, atol=5e-3)


def test_mode_of_a_mixture_is_its_heaviest_mean() -> None:
    q = law("mixture, shared")
    assert torch.equal(q.mode, q.loc[q.log_weights.argmax(-1)])


def test_tanh_box() -> None:
    q = law("tanh")
    assert torch.allclose(q.mode, q.center + q.half_width * q.base.loc.tanh())
    wide = TanhNormal(torch.zeros(1, 2).double(), torch.full((1, 2), 50.0).double(), LOW, HIGH)
    z = wide.sample((500,))
    assert (z >= LOW).all()
    assert (z <= HIGH).all()
    assert wide.log_prob(z).isfinite().all()
