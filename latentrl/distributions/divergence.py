"""KL divergences: in closed form where there is one, and by Monte Carlo, with its error, where not."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, register_kl

from latentrl.checks import LatentRLError, dimension, instance
from latentrl.distributions.discrete import Bernoullis, OneHot, OneHots
from latentrl.distributions.gaussian import DiagonalNormal, FullNormal, StandardNormal, solve
from latentrl.distributions.squashed import TanhNormal


def _kl_diagonal_normal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    precision = p.scale.reciprocal()
    ratio = (q.scale * precision).square()
    shift = ((q.loc - p.loc) * precision).square()
    return 0.5 * (ratio + shift - 1.0 - ratio.log()).sum(-1)


def _kl_standard_normal(q: DiagonalNormal, p: StandardNormal) -> Tensor:  # noqa: ARG001
    return (0.5 * (q.scale.square() + q.loc.square() - 1.0) - q.scale.log()).sum(-1)


def _kl_full_standard_normal(q: FullNormal, p: StandardNormal) -> Tensor:  # noqa: ARG001
    squares = q.scale_tril.square().sum((-2, -1)) + q.loc.square().sum(-1)
    return 0.5 * (squares - q.event_shape[0]) - q.log_scale().sum(-1)


def _kl_full_diagonal(q: FullNormal, p: DiagonalNormal) -> Tensor:
    shift = ((q.loc - p.loc) / p.scale).square().sum(-1)
    squares = (q.scale_tril / p.scale.unsqueeze(-1)).square().sum((-2, -1)) + shift
    return 0.5 * (squares - q.event_shape[0]) + (p.scale.log().sum(-1) - q.log_scale().sum(-1))


def _kl_to_full(q: FullNormal | DiagonalNormal, p: FullNormal) -> Tensor:
    if isinstance(q, FullNormal):
        scale_tril, log_scale = q.scale_tril, q.log_scale()
    else:
        scale_tril, log_scale = torch.diag_embed(q.scale), q.scale.log()
    ratio = torch.linalg.solve_triangular(p.scale_tril, scale_tril, upper=False)
    squares = ratio.square().sum((-2, -1)) + solve(p.scale_tril, q.loc - p.loc).square().sum(-1)
    return 0.5 * (squares - q.event_shape[0]) + (p.log_scale() - log_scale).sum(-1)


def _kl_one_hot(q: OneHots, p: OneHots) -> Tensor:
    if q.sizes != p.sizes:
        raise LatentRLError(
            f"q chooses among {q.sizes} options and p among {p.sizes}: give posterior and prior the same choices"
        )
    return (q.probs * (q.logits - p.logits)).sum(-1)


def _kl_bernoullis(q: Bernoullis, p: Bernoullis) -> Tensor:
    # softplus(p) − softplus(q) is the ratio of the probabilities of zero; log odds carry the rest.
    rest = torch.nn.functional.softplus(p.logits) - torch.nn.functional.softplus(q.logits)
    return (q.probs * (q.logits - p.logits) + rest).sum(-1)


def _kl_tanh_normal(q: TanhNormal, p: TanhNormal) -> Tensor:
    """Squashing into the same box leaves the KL as it is; boxes are not compared, which would wait for a GPU."""
    return _kl_diagonal_normal(q.base, p.base)


ANALYTIC_KL: dict[tuple[type[Distribution], type[Distribution]], Callable[..., Tensor]] = {
    (DiagonalNormal, DiagonalNormal): _kl_diagonal_normal,
    (DiagonalNormal, StandardNormal): _kl_standard_normal,
    (DiagonalNormal, FullNormal): _kl_to_full,
    (FullNormal, StandardNormal): _kl_full_standard_normal,
    (FullNormal, DiagonalNormal): _kl_full_diagonal,
    (FullNormal, FullNormal): _kl_to_full,
    (OneHot, OneHot): _kl_one_hot,
    (OneHots, OneHots): _kl_one_hot,
    (Bernoullis, Bernoullis): _kl_bernoullis,
    (TanhNormal, TanhNormal): _kl_tanh_normal,
}
"""KL(q ‖ p) for exact types of q and p; ``torch.distributions.kl_divergence`` knows them too."""
for (_q, _p), _kl in ANALYTIC_KL.items():
    register_kl(_q, _p)(_kl)


class MonteCarlo(NamedTuple):
    """An estimate and its standard error."""

    value: Tensor
    error: Tensor


def monte_carlo_kl(q: Distribution, p: Distribution, num_samples: int = 1000) -> MonteCarlo:
    """KL(q ‖ p) = E_q[log q(z) − log p(z)] from draws, for pairs without a closed form, in nats.

    The value is differentiable where q has ``rsample``; otherwise its gradient is that of the integrand alone.

    :param num_samples: at least 2, or there is no error
    """
    for name, law in (("q", q), ("p", p)):
        instance(name, law, Distribution)
    shape = torch.Size((dimension("num_samples", num_samples, 2),))
    z = q.rsample(shape) if q.has_rsample else q.sample(shape)
    difference = q.log_prob(z) - p.log_prob(z)
    return MonteCarlo(difference.mean(0), difference.detach().std(0) / num_samples**0.5)
