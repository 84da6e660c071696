"""Mixtures: implicit reparameterization against quadrature, finite differences and closed forms; Bayes' rule.

Statistical tests are seeded, and per-draw gradients give their errors: a false alarm of 7e-6 per number (4.5 standard
errors).
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from latentrl.distributions import DiagonalNormal, FullGaussianMixture, FullNormal, GaussianMixture, Mixture
from tests.laws_table import draw, scales, tanh, tril

K = 3
DIAGONAL = (0.5 * draw(K), draw(K, 2, seed=1), scales(K, 2, seed=2))
FULL = (0.5 * draw(K), draw(K, 2, seed=1), tril(K, 2, seed=2))
KINDS: dict[str, tuple[type[Mixture], tuple[Tensor, ...]]] = {
    "diagonal": (GaussianMixture, DIAGONAL),
    "full": (FullGaussianMixture, FULL),
}
both = pytest.mark.parametrize("kind", KINDS)


def matrices(kind: str, scale: Tensor) -> Tensor:
    return scale.tril() if kind == "full" else torch.diag_embed(scale)


def copies(number: int, parameters: tuple[Tensor, ...]) -> list[Tensor]:
    """One leaf per draw, so that a sum's gradient is each draw's own."""
    return [p.expand(number, *p.shape).clone().requires_grad_() for p in parameters]


def fixed(q: Mixture, z: Tensor) -> Mixture:
    """A law that draws a given value."""
    q.sample = lambda sample_shape=(): z  # type: ignore[method-assign]  # noqa: ARG005
    return q


def shifted(parameters: tuple[Tensor, ...], which: int, entry: int, by: float) -> list[Tensor]:
    """The parameters with one of their numbers moved."""
    moved = [p.clone() for p in parameters]
    moved[which].view(-1)[entry] += by
    return moved


def cost(z: Tensor) -> Tensor:
    return torch.sin(2.0 * z[..., 0]) * z[..., 1] + torch.exp(-0.5 * (z - 0.5).square().sum(-1))


def assert_means(estimates: Sequence[Tensor], truths: Sequence[Tensor]) -> None:
    """Estimates per draw have these means, within their own standard errors."""
    for estimate, truth in zip(estimates, truths, strict=True):
        error = estimate.std(0) / len(estimate) ** 0.5
        assert ((estimate.mean(0) - truth).abs() <= 4.5 * error + 1e-9).all()


# --- Implicit reparameterization


@both
def test_gradients_of_an_expectation_are_those_of_quadrature(kind: str) -> None:
    build, parameters = KINDS[kind]
    leaves = [p.clone().requires_grad_() for p in parameters]
    axis = torch.linspace(-14, 14, 281).double()
    points = torch.cartesian_prod(axis, axis)
    expected = (build(*leaves).log_prob(points).exp() * cost(points)).sum() * (axis[1] - axis[0]) ** 2
    exact = torch.autograd.grad(expected, leaves)

    number = 40_000
    each = copies(number, parameters)
    q = build(*each)
    z = q.rsample()
    implicit = torch.autograd.grad(cost(z).sum(), each, retain_graph=True)
    by_score = torch.autograd.grad((cost(z.detach()) * q.log_prob(z.detach())).sum(), each)
    assert_means(implicit, exact)
    assert_means(by_score, exact)
    assert_means([a - b for a, b in zip(implicit, by_score, strict=True)], [torch.zeros_like(p) for p in parameters])


@both
def test_gradients_in_six_dimensions(kind: str) -> None:
    """E[zᵀ A z] of a mixture is closed; the cumulative sums over dimensions need more than two of them."""
    size, number = 6, 20_000
    logits, loc, a = 0.5 * draw(K), draw(K, size, seed=1), draw(size, size, seed=3)
    parameters = (logits, loc, tril(K, size, seed=2) if kind == "full" else scales(K, size, seed=2))
    leaves = [p.clone().requires_grad_() for p in parameters]
    scale_tril = matrices(kind, leaves[2])
    second = leaves[1].unsqueeze(-1) * leaves[1].unsqueeze(-2) + scale_tril @ scale_tril.mT
    expected = (leaves[0].softmax(-1) * (a * second).sum((-2, -1))).sum()
    each = copies(number, parameters)
    z = KINDS[kind][0](*each).rsample()
    estimates = torch.autograd.grad(((z @ a) * z).sum(), each)
    assert_means(estimates, torch.autograd.grad(expected, leaves))


def distribution_functions(weights: Tensor, loc: Tensor, scale_tril: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """F(z₀) and F(z₁ | z₀) of a Gaussian mixture by the textbook's conditional law, with slopes by autograd."""
    covariance = scale_tril @ scale_tril.mT
    first, second = z[..., :1], z[..., 1:]
    normal = torch.distributions.Normal
    marginal = normal(loc[..., 0], covariance[..., 0, 0].sqrt())
    ratio = covariance[..., 1, 0] / covariance[..., 0, 0]
    given = normal(
        loc[..., 1] + ratio * (first - loc[..., 0]),
        (covariance[..., 1, 1] - ratio * covariance[..., 1, 0]).sqrt(),
    )
    posterior = (weights.log() + marginal.log_prob(first)).softmax(-1)
    return (weights * marginal.cdf(first)).sum(-1), (posterior * given.cdf(second)).sum(-1)


@both
def test_draws_move_so_that_their_distribution_functions_stay(kind: str) -> None:
    """Each draw's derivative by each parameter: Newton's method finds where F stays, at φ + h and φ − h."""
    build, parameters = KINDS[kind]
    each = copies(6, parameters)
    z = build(*each).rsample()
    gradients = [torch.autograd.grad(z[:, d].sum(), each, retain_graph=True) for d in range(2)]

    def functions(moved: list[Tensor], value: Tensor) -> Tensor:
        logits, loc, scale = moved
        return torch.stack(distribution_functions(logits.softmax(-1), loc, matrices(kind, scale), value), -1)

    def place(moved: list[Tensor], start: Tensor, target: Tensor) -> Tensor:
        for _ in range(4):
            start = start.detach().requires_grad_()
            value = functions(moved, start)
            rows = [torch.autograd.grad(value[:, d].sum(), start, retain_graph=True)[0] for d in range(2)]
            step = torch.linalg.solve(torch.stack(rows, -2), (value - target).unsqueeze(-1))
            start = start - step.squeeze(-1)
        return start.detach()

    start = z.detach()
    target = functions(list(parameters), start).detach()
    for which, parameter in enumerate(parameters):
        for entry in range(parameter.numel()):
            ends = [place(shifted(parameters, which, entry, h), start, target) for h in (1e-5, -1e-5)]
            slope = (ends[0] - ends[1]) / 2e-5
            for d in range(2):
                assert torch.allclose(gradients[d][which].flatten(1)[:, entry], slope[:, d], rtol=1e-5, atol=1e-7)


@both
def test_in_one_dimension_a_draw_moves_by_the_slope_of_its_distribution_function(kind: str) -> None:
    logits, loc, scale = draw(K), 2.0 * draw(K, 1, seed=1), scales(K, 1, seed=2)
    parameters = (logits, loc, scale.unsqueeze(-1) if kind == "full" else scale)
    each = copies(20, parameters)
    z = KINDS[kind][0](*each).rsample()
    gradients = torch.autograd.grad(z.sum(), each)
    values = z.detach()

    def function(*moved: Tensor) -> Tensor:
        logits, loc, scale = moved[0], moved[1][:, 0], moved[2].flatten()
        return (logits.softmax(-1) * torch.special.ndtr((values - loc) / scale)).sum(-1)

    density = KINDS[kind][0](*parameters).log_prob(values).exp()
    for which in range(3):
        for entry in range(K):
            up, down = (function(*shifted(parameters, which, entry, h)) for h in (1e-5, -1e-5))
            slope = (down - up) / 2e-5 / density
            assert torch.allclose(gradients[which].flatten(1)[:, entry], slope, rtol=1e-6, atol=1e-8)


@both
@pytest.mark.parametrize("shape", [(), (7,), (2, 3)])
def test_rsample_is_sample_with_a_gradient(kind: str, shape: tuple[int, ...]) -> None:
    build, parameters = KINDS[kind]
    leaves = [p.float().requires_grad_() for p in parameters]
    q = build(*leaves).expand((4,))
    torch.manual_seed(3)
    drawn = q.sample(shape)
    torch.manual_seed(3)
    moved = q.rsample(shape)
    assert moved.requires_grad
    assert not drawn.requires_grad
    assert torch.equal(drawn, moved.detach())


@both
def test_one_component_moves_as_a_gaussian_does(kind: str) -> None:
    _, parameters = KINDS[kind]
    _, loc, scale = (p[:1] for p in parameters)
    each = copies(50, (torch.zeros(1).double(), loc, scale))
    z = KINDS[kind][0](*each).rsample()
    gradients = torch.autograd.grad(cost(z).sum(), each)
    noise = torch.linalg.solve_triangular(matrices(kind, scale), (z.detach() - loc).unsqueeze(-1), upper=False)
    again = copies(50, (loc[0], scale[0]))
    drawn = again[0] + (matrices(kind, again[1]) @ noise).squeeze(-1)
    assert torch.allclose(drawn, z)
    by_loc, by_scale = torch.autograd.grad(cost(drawn).sum(), again)
    assert torch.allclose(gradients[0], torch.zeros(50, 1).double(), atol=1e-12)
    assert torch.allclose(gradients[1].squeeze(1), by_loc)
    assert torch.allclose(gradients[2].squeeze(1), by_scale.tril() if kind == "full" else by_scale)


TAILS = {  # log weights and means of two components, and draws: which component, how many of its scales out
    "tails": ([0.0, 0.5], [[0.0, 0.0], [1.0, 1.0]], [(0, -5.5, 0.3), (1, 5.5, 1.5), (0, 0.2, -6.0), (1, 0.1, 6.0)]),
    "far apart": ([0.0, 0.5], [[0.0, 0.0], [0.0, 1e5]], [(1, 0.7, 0.5), (0, 0.3, -2.5), (1, 2.5, 4.0)]),
    "a gap between": ([0.0, 0.0], [[0.0, 0.0], [20.0, 0.0]], [(0, 5.4, 0.1), (1, -5.0, -0.2), (1, 5.0, 1.0)]),
    "light": ([0.0, -13.8], [[0.0, 0.0], [5.0, 5.0]], [(1, 0.0, 0.1), (1, 1.5, -2.0), (0, 0.0, 0.5), (0, -5.0, 0.0)]),
}


@both
@pytest.mark.parametrize("case", TAILS)
def test_single_precision_in_the_tails(kind: str, case: str) -> None:
    logits, means, draws = TAILS[case]
    loc, scale = torch.tensor(means), torch.tensor([[0.5, 1.0], [2.0, 0.3]])
    if kind == "full":
        scale = torch.diag_embed(scale) + torch.tensor([[[0.0, 0.0], [0.4, 0.0]], [[0.0, 0.0], [-0.7, 0.0]]])
    values = torch.stack([loc[k] + matrices(kind, scale)[k] @ torch.tensor(noise) for k, *noise in draws])

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        z = values.to(dtype)
        each = copies(len(z), tuple(p.to(dtype) for p in (torch.tensor(logits), loc, scale)))
        moved = fixed(KINDS[kind][0](*each), z).rsample()
        assert torch.equal(moved.detach(), z)
        rows = [torch.autograd.grad(moved[:, d].sum(), each, retain_graph=True) for d in range(2)]
        return [torch.stack(pair, 1).flatten(1).double() for pair in zip(*rows, strict=True)]

    for rounded, exact in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        assert rounded.isfinite().all()
        assert ((rounded - exact).norm(dim=-1) <= 1e-4 * exact.norm(dim=-1)).all()


@both
def test_per_draw_gradients_under_vmap(kind: str) -> None:
    build, parameters = KINDS[kind]

    def loss(*moved: Tensor) -> tuple[Tensor, Tensor]:
        z = build(*moved).rsample((5,))
        return cost(z).sum(), z

    each = [p.expand(4, *p.shape) for p in parameters]
    gradients, z = vmap(grad(loss, argnums=(0, 1, 2), has_aux=True), randomness="different")(*each)
    assert len(z.unique(dim=0)) == 4
    for row in range(4):
        leaves = [p.clone().requires_grad_() for p in parameters]
        alone = torch.autograd.grad(cost(fixed(build(*leaves), z[row]).rsample((5,))).sum(), leaves)
        for a, b in zip(gradients, alone, strict=True):
            assert torch.allclose(a[row], b)


# --- Bayes' rule, moments, picks


def test_responsibilities_are_bayes_rule() -> None:
    laws: list[Callable[[], Mixture]] = [lambda: GaussianMixture(*DIAGONAL), lambda: FullGaussianMixture(*FULL)]
    for build in [*laws, lambda: Mixture(DIAGONAL[0], tanh(*DIAGONAL[1:]))]:
        q = build()
        z = q.sample((30,))
        given = torch.stack([q.components.log_prob(z.unsqueeze(1))[:, k].exp() for k in range(K)], -1)
        joint = DIAGONAL[0].softmax(-1) * given
        assert torch.allclose(q.responsibilities(z), joint / joint.sum(-1, keepdim=True))
        assert torch.allclose(q.component_log_prob(z).exp(), given)
        assert torch.allclose(q.log_prob(z).exp(), joint.sum(-1))


def test_draws_come_from_the_component_that_was_picked() -> None:
    """Components far apart: the frequencies of each are the weights, and each keeps its own mean and spread."""
    logits = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]])
    loc = torch.tensor([[-100.0, 0.0], [0.0, 100.0], [100.0, -100.0]])
    scale = torch.tensor([[1.0, 2.0], [3.0, 0.5], [0.1, 1.0]])
    full = torch.diag_embed(scale)
    plain = Mixture(logits, DiagonalNormal(loc, scale))
    for q in (GaussianMixture(logits, loc, scale), FullGaussianMixture(logits, loc, full), plain):
        z = q.sample((20_000,))
        nearest = (z.unsqueeze(-2) - loc).square().sum(-1).argmin(-1)
        for row in range(2):
            for k in range(3):
                own = z[nearest[:, row] == k, row]
                weight = float(logits[row].softmax(-1)[k])
                assert abs(len(own) / 20_000 - weight) < 4.5 * (weight * (1 - weight) / 20_000) ** 0.5
                assert ((own.mean(0) - loc[k]).abs() < 4.5 * scale[k] / len(own) ** 0.5).all()
                assert ((own.std(0) / scale[k] - 1).abs() < 4.5 / (2 * len(own)) ** 0.5).all()
        assert torch.equal(q.mode, loc[logits.argmax(-1)])


def test_moments_of_any_mixture() -> None:
    """Full covariances against draws; and far from the origin, where a difference of squares would lose all digits."""
    q = FullGaussianMixture(*FULL)
    z = q.sample((100_000,))
    error = z.std(0) / 100_000**0.5
    assert ((z.mean(0) - q.mean).abs() < 4.5 * error).all()
    spread = (z - q.mean).square()
    assert ((spread.mean(0) - q.variance).abs() < 4.5 * spread.std(0) / 100_000**0.5).all()
    logits, loc, scale = DIAGONAL
    far = GaussianMixture(logits.float(), loc.float() + 1024.0, scale.float())
    near = GaussianMixture(logits, loc.float().double() + 1024.0, scale)
    assert torch.allclose(far.variance.double(), near.variance, rtol=1e-3)


def test_mixture_far_from_the_origin_keeps_its_precision() -> None:
    """In float32, 2000 scales away from 0, against float64."""
    loc, scale, z = 1000.0 + draw(K, 2), 0.5 * torch.ones(K, 2).double(), 1000.0 + draw(20, 2, seed=1)
    exact = GaussianMixture(torch.zeros(K).double(), loc, scale).log_prob(z)
    rounded = GaussianMixture(torch.zeros(K), loc.float(), scale.float()).log_prob(z.float())
    assert torch.allclose(rounded.double(), exact, atol=5e-3)


def test_mixtures_without_a_batch() -> None:
    logits, loc, scale = DIAGONAL
    for q in (
        GaussianMixture(*DIAGONAL),
        FullGaussianMixture(*FULL),
        Mixture(logits, FullNormal(loc, FULL[2])),
        Mixture(logits, tanh(loc, scale)),
    ):
        assert q.batch_shape == ()
        assert q.sample().shape == q.mode.shape == q.mean.shape == (2,)
        assert q.sample((4, 5)).shape == (4, 5, 2)
        assert q.log_prob(q.sample((4, 5))).shape == (4, 5)
        assert q.expand((6,)).sample().shape == (6, 2)
        assert len(q.expand((6,)).sample().unique(dim=0)) == 6
