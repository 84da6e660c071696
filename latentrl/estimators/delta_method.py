"""The score function with a Taylor expansion of the cost as control variate."""

from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution
from torch.func import grad

from latentrl.checks import LatentRLError
from latentrl.distributions.gaussian import FullNormal, Gaussian
from latentrl.estimators.base import Estimator, Integrand, draw_count, evaluate
from latentrl.nets import twice_differentiable
from latentrl.types import Estimate


class DeltaMethod(Estimator):
    """∇E_q f = E_q[(f − h) ∇log q] + ∇E_q h, h the second-order Taylor expansion of f at the mean of a Gaussian q.

    h's expectation is in closed form (Paisley et al. 2012; pathwise: Miller et al. 2017). Without variance for
    quadratic f, of little use where f bends within a standard deviation of q. Every call differentiates f twice at Z
    copies of the mean, to get its whole Hessian.

    f must be differentiable for autograd, and f(z)_b must depend on z_b alone. A jump in f costs variance but no bias:
    h is then just a worse control variate.
    """

    unbiased: ClassVar[bool] = True
    needs_rsample: ClassVar[bool] = False
    needs_differentiable_f: ClassVar[bool] = True
    discrete: ClassVar[bool] = False

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        """:raises LatentRLError: q is no Gaussian, f returns another shape than (S, ..., B), or num_samples < 1."""
        if not isinstance(q, Gaussian):
            raise LatentRLError(
                "DeltaMethod needs E_q of a quadratic in closed form, which it has for DiagonalNormal and FullNormal, "
                f"not for {type(q).__name__}: use ScoreFunction, with LeaveOneOut as baseline"
            )
        draws = draw_count(num_samples)
        with twice_differentiable():
            taylor = _expand(f, q)
        z = q.sample((draws,))
        cost = evaluate(f, z, q)  # after the expansion: an f that keeps its last result keeps that of draws from q
        constant = cost.detach()
        surrogate = (constant - taylor.at(z - q.loc.detach())) * q.log_prob(z) + cost
        return Estimate(constant.mean(0), surrogate.mean(0) + taylor.expectation(q))


class _Taylor(NamedTuple):
    """h(z), as numbers without gradient."""

    value: Float[Tensor, "*batch"]
    slope: Float[Tensor, "*batch Z"]
    hessian: Float[Tensor, "*batch Z Z"]

    def at(self, away: Float[Tensor, "S *batch Z"]) -> Float[Tensor, "S *batch"]:
        """h at a distance from the mean."""
        bend = torch.einsum("...i,...ij,...j->...", away, self.hessian, away)
        return self.value + (self.slope * away).sum(-1) + 0.5 * bend

    def expectation(self, q: Gaussian) -> Float[Tensor, "*batch"]:
        """A tensor with the gradient of E_q h by q's parameters; its value lacks that of h at the mean."""
        if isinstance(q, FullNormal):
            spread = (self.hessian * q.covariance_matrix).sum((-1, -2))
        else:
            spread = (self.hessian.diagonal(dim1=-2, dim2=-1) * q.variance).sum(-1)
        return (self.slope * q.loc).sum(-1) + 0.5 * spread


def _expand(f: Integrand, q: Gaussian) -> _Taylor:
    """Expand f at q's mean: one call of f with Z copies of it, one for each row of the Hessian."""
    loc = q.loc.detach()
    size = loc.shape[-1]
    directions = torch.eye(size, dtype=loc.dtype, device=loc.device).reshape(size, *[1] * (loc.dim() - 1), size)

    def total(z: Tensor) -> tuple[Tensor, Tensor]:
        cost = evaluate(f, z, q)
        return cost.sum(), cost

    def slope_along(z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        slope, cost = grad(total, has_aux=True)(z)
        return (slope * directions).sum(), (cost, slope)

    # no_grad keeps f's own parameters from recording a graph; grad() is not affected by it.
    with torch.no_grad():
        rows, (cost, slope) = grad(slope_along, has_aux=True)(loc.expand(size, *loc.shape))
    return _Taylor(cost[0].detach(), slope[0].detach(), rows.movedim(0, -2).detach())
