"""KL divergences and entropies against torch.distributions, enumeration and draws.

Statistical tests are seeded: values within 4.5 standard errors (7e-6 per number); a reported error is compared with the
spread of 300 repetitions, itself known to 4 %, so that the 20 % allowed are five of its standard errors.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    OneHotCategorical,
    TransformedDistribution,
    kl_divergence,
)

from latentrl.checks import LatentRLError
from latentrl.distributions import (
    ANALYTIC_KL,
    Bernoullis,
    DiagonalNormal,
    FullNormal,
    GaussianMixture,
    OneHot,
    OneHots,
    StandardNormal,
    TanhNormal,
    monte_carlo_kl,
)
from tests.laws_table import CONTINUOUS, LAWS, SIZES, B, K, draw, law, scales, tanh, tril
from tests.twins import twin

Parameters = tuple[Tensor, ...]
EXAMPLES: dict[type[Distribution], tuple[Callable[..., Distribution], Callable[..., Parameters]]] = {
    DiagonalNormal: (DiagonalNormal, lambda s, *b: (draw(*b, 3, seed=s), scales(*b, 3, seed=s + 1))),
    StandardNormal: (StandardNormal, lambda s, *b: (torch.zeros(*b, 3).double(), torch.ones(*b, 3).double())),  # noqa: ARG005
    FullNormal: (lambda m, s: FullNormal(m, s.tril()), lambda s, *b: (draw(*b, 3, seed=s), tril(*b, 3, seed=s + 1))),
    OneHot: (OneHot, lambda s, *b: (draw(*b, K, seed=s),)),
    OneHots: (lambda w: OneHots(w, SIZES), lambda s, *b: (draw(*b, sum(SIZES), seed=s),)),
    Bernoullis: (Bernoullis, lambda s, *b: (draw(*b, 3, seed=s),)),
    TanhNormal: (tanh, lambda s, *b: (draw(*b, 2, seed=s), scales(*b, 2, seed=s + 1))),
}
pairs = pytest.mark.parametrize("pair", ANALYTIC_KL, ids=lambda pair: " to ".join(kind.__name__ for kind in pair))


def torchs_kl(q: Distribution, p: Distribution) -> Tensor:
    if isinstance(q, OneHots):
        parts = zip(q.logits.split(q.sizes, -1), p.logits.split(p.sizes, -1), strict=True)
        return sum(kl_divergence(*(OneHotCategorical(logits=w) for w in both)) for both in parts)
    first, second = twin(q), twin(p.expand(q.batch_shape))
    if isinstance(q, FullNormal) != isinstance(p, FullNormal):  # torch knows the pair, but takes no batches in it
        first, second = (
            torch.distributions.MultivariateNormal(law.mean, torch.diag_embed(law.variance))
            if isinstance(law, Independent)
            else law
            for law in (first, second)
        )
    if isinstance(first, TransformedDistribution):
        first, second = (law.base_dist for law in (first, second))
    return kl_divergence(first, second)


@pairs
@pytest.mark.parametrize("shapes", [((B,), (B,)), ((B,), ()), ((5, B), (B,)), ((), ())], ids=str)
def test_closed_forms_are_torchs(pair: tuple[type, type], shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    (build_q, make_q), (build_p, make_p) = (EXAMPLES[kind] for kind in pair)
    leaves_q = [p.requires_grad_() for p in make_q(0, *shapes[0])]
    leaves_p = [p.requires_grad_() for p in make_p(5, *shapes[1])]
    q, p = build_q(*leaves_q), build_p(*leaves_p)
    value, expected = ANALYTIC_KL[pair](q, p), torchs_kl(q, p)
    assert value.shape == shapes[0]
    assert torch.allclose(value, expected)
    assert torch.equal(kl_divergence(q, p), value)
    leaves = leaves_q + (leaves_p if pair[1] is not StandardNormal else [])
    gradients = (torch.autograd.grad(v.square().sum(), leaves, retain_graph=True) for v in (value, expected))
    assert all(torch.allclose(own, others) for own, others in zip(*gradients, strict=True))


@pairs
def test_no_divergence_from_itself(pair: tuple[type, type]) -> None:
    build, make = EXAMPLES[pair[1]]
    parameters = make(0, B)
    leaves = [p.clone().requires_grad_() for p in parameters]
    p = build(*parameters)
    if pair[0] is pair[1]:
        q = build(*leaves)
    elif pair[0] is FullNormal:
        q = FullNormal(leaves[0], torch.diag_embed(leaves[1]))  # the same law, written with a matrix
    elif pair[1] is FullNormal:
        leaves = [draw(B, 3).requires_grad_(), scales(B, 3, seed=1).requires_grad_()]
        q, p = DiagonalNormal(*leaves), FullNormal(leaves[0].detach(), torch.diag_embed(leaves[1].detach()))
    else:
        q = DiagonalNormal(*leaves)
    value = ANALYTIC_KL[pair](q, p)
    assert torch.allclose(value, torch.zeros(B).double(), atol=1e-12)
    assert all(g.abs().max() < 1e-12 for g in torch.autograd.grad(value.sum(), leaves))


def test_choices_must_be_the_same() -> None:
    for sizes in ((2, 4), (6,)):
        with pytest.raises(LatentRLError, match="give posterior and prior the same choices"):
            kl_divergence(OneHots(draw(B, 6), (3, 3)), OneHots(draw(B, 6), sizes))


@pairs
def test_monte_carlo_agrees_with_the_closed_form(pair: tuple[type, type]) -> None:
    (build_q, make_q), (build_p, make_p) = (EXAMPLES[kind] for kind in pair)
    q, p = build_q(*make_q(0, B)), build_p(*make_p(5))
    estimate = monte_carlo_kl(q, p, 4000)
    assert estimate.value.shape == estimate.error.shape == (B,)
    assert ((estimate.value - ANALYTIC_KL[pair](q, p)).abs() < 4.5 * estimate.error).all()


@pytest.mark.parametrize("name", ["normal", "mixture", "flow", "one-hot"])
def test_reported_error_is_the_spread_of_repetitions(name: str) -> None:
    build, parameters = LAWS[name]
    q = build(*(p[0] if p.shape[:1] == (B,) else p for p in parameters)).expand((300,))
    p = OneHot(draw(K, seed=7)) if name == "one-hot" else DiagonalNormal(draw(2, seed=7), 2.0 * scales(2, seed=8))
    estimate = monte_carlo_kl(q, p, 300)
    assert abs(float(estimate.value.std() / estimate.error.square().mean().sqrt()) - 1) < 0.2


def test_monte_carlo_has_the_gradient_of_the_divergence() -> None:
    """300 repetitions with leaves of their own give the gradient's error."""
    loc, scale = (p.expand(300, 2).clone().requires_grad_() for p in (draw(2), scales(2, seed=1)))
    p = DiagonalNormal(draw(2, seed=7), scales(2, seed=8))
    estimate = monte_carlo_kl(DiagonalNormal(loc, scale), p, 100)
    assert not estimate.error.requires_grad
    estimates = torch.autograd.grad(estimate.value.sum(), (loc, scale))
    exact = torch.autograd.grad(kl_divergence(DiagonalNormal(loc, scale), p).sum(), (loc, scale))
    for estimate, truth in zip(estimates, exact, strict=True):
        assert ((estimate.mean(0) - truth[0]).abs() < 4.5 * estimate.std(0) / 300**0.5).all()


def test_monte_carlo_of_a_pair_without_a_closed_form() -> None:
    """A mixture to a Gaussian, against quadrature."""
    q = GaussianMixture(draw(3), 2.0 * draw(3, 1, seed=1), scales(3, 1, seed=2))
    p = DiagonalNormal(torch.zeros(1).double(), torch.full((1,), 2.0).double())
    x = torch.linspace(-25, 25, 5001).double().unsqueeze(-1)
    exact = (q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x))).sum() * 0.01
    estimate = monte_carlo_kl(q, p, 20_000)
    assert abs(estimate.value - exact) < 4.5 * estimate.error
    assert 0 < estimate.error < 0.02


@pytest.mark.parametrize("number", [1, 0, 2.5, True])
def test_an_error_needs_two_draws(number: float) -> None:
    q = law("normal")
    with pytest.raises(LatentRLError, match="num_samples must be a whole number of at least 2"):
        monte_carlo_kl(q, q, number)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in LAWS if type(law(name)) in EXAMPLES and "tanh" not in name])
def test_entropies_are_torchs(name: str) -> None:
    build, parameters = LAWS[name]
    leaves = [p.clone().requires_grad_() for p in parameters]
    q = build(*leaves)
    entropy = q.entropy()
    assert entropy.shape == (B,)
    if isinstance(q, OneHots):
        expected = sum(OneHotCategorical(logits=w).entropy() for w in q.logits.split(q.sizes, -1))
    else:
        expected = twin(q).entropy()
    assert torch.allclose(entropy, expected)
    reached = [leaf for i, leaf in enumerate(leaves) if name not in CONTINUOUS or i == 1]
    gradients = (torch.autograd.grad(v.sum(), reached, retain_graph=True) for v in (entropy, expected))
    assert all(torch.allclose(a, b) for a, b in zip(*gradients, strict=True))
    z = q.sample((4000,))
    log_prob = q.log_prob(z)
    assert ((log_prob.mean(0) + entropy).abs() < 4.5 * log_prob.std(0) / 4000**0.5).all()
