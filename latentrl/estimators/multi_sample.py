"""Gradients of the importance-weighted bound, whose K draws share one logarithm."""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, one_of
from latentrl.distributions.law import Law
from latentrl.estimators.base import Estimator, Integrand, draw_count, evaluate, sum_of_others
from latentrl.types import Estimate


class MultiSample(Estimator):
    """A rule for the gradient of L_K = E log (1/K) Σ_k w_k, w_k = p(x, z_k) / q(z_k|x) (Burda et al. 2016).

    ``estimator(q, f, num_samples=K) -> Estimate(value, surrogate)``, where f is the *log joint* log p(x, z), without
    log q; value is the bound, (..., B). L_1 is the ELBO; L_K grows with K towards log p(x).

    Below, w̃_k = w_k / Σ_j w_j. f's own parameters get Σ_k w̃_k ∇f(z_k) from all members, at no bias.
    """

    multi_sample: ClassVar[bool] = True


class ImportanceWeighted(MultiSample):
    """The draws are reparameterized, and the bound differentiated as it stands (Burda et al. 2016).

    The more draws, the more the gradient for q's parameters drowns in noise: its signal-to-noise ratio falls as 1/√K
    (Rainforth et al. 2018). :class:`DReG` has the same mean and does not.
    """

    unbiased: ClassVar[bool] = True
    needs_rsample: ClassVar[bool] = True
    needs_differentiable_f: ClassVar[bool] = True
    discrete: ClassVar[bool] = False

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        """:raises LatentRLError: q has no ``rsample``, f returns another shape than (K, ..., B), or num_samples < 1."""
        z, log_q = _reparameterized(self, q, num_samples)
        bound = _bound(evaluate(f, z, q) - log_q)
        return Estimate(bound.detach(), bound)


class StickingTheLanding(MultiSample):
    """Path derivatives only, Σ_k w̃_k ∂log w_k/∂z_k ∂z_k/∂φ for q's parameters φ (Roeder et al. 2017).

    Drops the score −Σ_k w̃_k ∂log q(z_k)/∂φ. For K = 1 its mean is 0, and without it the gradient is exactly 0 where q
    is the true posterior. For K > 1 the weights correlate with it: the gradient is *biased* for q's parameters, though
    not for f's own. Hence ``unbiased`` is False; :class:`DReG` repairs it.
    """

    unbiased: ClassVar[bool] = False
    needs_rsample: ClassVar[bool] = True
    needs_differentiable_f: ClassVar[bool] = True
    discrete: ClassVar[bool] = False

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        """:raises LatentRLError: q has no ``rsample``, f returns another shape than (K, ..., B), or num_samples < 1."""
        z, log_q = _reparameterized(self, q, num_samples)
        bound = _bound(evaluate(f, z, q) - _path_only(q, z, log_q))
        return Estimate(bound.detach(), bound)


class DReG(MultiSample):
    """Doubly reparameterized, Σ_k w̃_k² ∂log w_k/∂z_k ∂z_k/∂φ for q's parameters φ (Tucker et al. 2019).

    The score that :class:`StickingTheLanding` drops is reparameterized a second time. The same as that for K = 1. For
    q's parameters the signal-to-noise ratio grows as √K once K is large beside the spread of the weights. f is called
    twice: without gradient for the weights, then with.
    """

    unbiased: ClassVar[bool] = True
    needs_rsample: ClassVar[bool] = True
    needs_differentiable_f: ClassVar[bool] = True
    discrete: ClassVar[bool] = False

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        """:raises LatentRLError: q has no ``rsample``, f returns another shape than (K, ..., B), or num_samples < 1."""
        z, log_q = _reparameterized(self, q, num_samples)
        drawn = z.detach()
        with torch.no_grad():
            log_weights = evaluate(f, drawn, q) - log_q.detach()
        weights = log_weights.softmax(0)
        # f's own parameters get w̃ from the factor before f, the path through z gets another w̃ on its way.
        slowed = drawn + weights.reshape(*weights.shape, *[1] * len(q.event_shape)) * (z - drawn)
        surrogate = weights * evaluate(f, slowed, q) - weights.square() * _path_only(q, z, log_q)
        return Estimate(_bound(log_weights), surrogate.sum(0))


class Vimco(MultiSample):
    """Score function with a baseline for each draw made from the others (Mnih & Rezende 2016).

    Σ_k (L̂ − L̂₋ₖ) ∇log q(z_k) + Σ_k w̃_k ∇log w_k, where in L̂₋ₖ a mean of the other weights stands in for w_k. For any
    q, discrete ones too; f may be a black box.

    :param mean: of the other weights; "geometric", of heavy-tailed ones the more robust, or "arithmetic"
    :raises LatentRLError: unknown mean
    """

    unbiased: ClassVar[bool] = True
    needs_rsample: ClassVar[bool] = False
    needs_differentiable_f: ClassVar[bool] = False
    discrete: ClassVar[bool] = True

    def __init__(self, mean: Literal["geometric", "arithmetic"] = "geometric") -> None:
        super().__init__()
        self.mean: str = one_of("mean", mean, ("geometric", "arithmetic"))

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 2) -> Estimate:
        """:raises LatentRLError: f returns another shape than (K, ..., B), or num_samples < 2."""
        draws = draw_count(num_samples)
        if draws < 2:
            raise LatentRLError(
                "Vimco needs num_samples of at least 2, but 1 was given: the baseline of a draw is made from the "
                "others; for the ELBO use ScoreFunction, with f(z) = log p(x, z) - log q(z|x)"
            )
        z = q.sample((draws,))
        log_q = q.log_prob(z)
        log_weights = evaluate(f, z, q) - log_q
        bound = _bound(log_weights)
        signal = bound.detach() - self._without_each(log_weights.detach())
        return Estimate(bound.detach(), (signal * log_q).sum(0) + bound)

    def _without_each(self, log_weights: Float[Tensor, "K *batch"]) -> Float[Tensor, "K *batch"]:
        """L̂₋ₖ for every k; 0 where all others are impossible, as −∞ would make the gradient infinite."""
        draws = len(log_weights)
        others = _log_sum_of_others(log_weights)
        if self.mean == "arithmetic":
            without = others - math.log(draws - 1)
        else:
            stand_in = sum_of_others(log_weights) / (draws - 1)
            without = torch.logaddexp(others, stand_in) - math.log(draws)
        return without.where(without.isfinite(), torch.zeros_like(without))


def _reparameterized(
    estimator: MultiSample, q: Distribution, num_samples: int | None
) -> tuple[Tensor, Float[Tensor, "K *batch"]]:
    """K draws that carry the gradient, and log q of them with its total derivative: by the draw and by q's parameters.

    :raises LatentRLError: q has no ``rsample``, or num_samples < 1
    """
    draws = (draw_count(num_samples),)
    if not q.has_rsample:
        raise LatentRLError(
            f"{type(estimator).__name__} needs a law with rsample, and {type(q).__name__} has none: "
            "use Vimco, which only needs log_prob"
        )
    if isinstance(q, Law):
        return q.rsample_and_log_prob(draws)
    z = q.rsample(draws)
    return z, q.log_prob(z)


def _bound(log_weights: Float[Tensor, "K *batch"]) -> Float[Tensor, "*batch"]:
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def _path_only(q: Distribution, z: Tensor, log_q: Float[Tensor, "K *batch"]) -> Float[Tensor, "K *batch"]:
    """log q(z) with the derivative by the draw alone: of the total one, that by q's parameters is taken away."""
    by_parameters = q.log_prob(z.detach())
    return log_q - (by_parameters - by_parameters.detach())


def _log_sum_of_others(log_weights: Float[Tensor, "K *batch"]) -> Float[Tensor, "K *batch"]:
    """log Σ_{j≠k} w_j. Taking w_k from the sum would leave rounding errors where w_k is by far the largest."""
    nothing = torch.full_like(log_weights[:1], -math.inf)
    before = torch.cat([nothing, log_weights.logcumsumexp(0)[:-1]])
    after = torch.cat([log_weights.flip(0).logcumsumexp(0)[:-1].flip(0), nothing])
    return torch.logaddexp(before, after)
