"""Rules that combine likelihood-ratio and pathwise gradients of a rollout.

They say how much of either to take; :mod:`latentrl.rollout_gradients` computes both, trajectory by trajectory. Policies
must be Gaussian with a diagonal covariance, tasks differentiable.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latentrl.checks import LatentRLError, at_least


@dataclass(frozen=True)
class InverseVariance:
    """At each step, the two gradients of that step's action in inverse proportion to their variance.

    Actions early in a chaotic rollout take the likelihood ratio, late ones the pathwise gradient. The variances are
    traces over the parameters, of the trajectories that they weigh: a gradient that chaos blew up lowers its own share,
    which is what makes the rule safe, and leaves a bias of O(1/N). Weights from other trajectories would have none, but
    let the worst outliers through. Each step is weighed for itself: errors that last over many steps, such as those of
    one trajectory that blew up, still add up.
    """

    unbiased: ClassVar[bool] = False
    needs_rsample: ClassVar[bool] = True
    needs_differentiable_f: ClassVar[bool] = True
    discrete: ClassVar[bool] = False
    propagates: ClassVar[bool] = False
    """The combined gradient of a step's action, not the pathwise one, is what earlier steps see."""

    def weight(self, lr: Float[Tensor, "N P"], rp: Float[Tensor, "N P"]) -> Float[Tensor, ""]:
        """Share of the likelihood ratio, in [0, 1], from the gradients of one step of each trajectory."""
        first, second = _trace(lr), _trace(rp)
        # Chaos overflows: where the pathwise variance is not finite, nothing is taken of it.
        share = second / (first + second).clamp_min(torch.finfo(first.dtype).tiny)
        return torch.where(second.isfinite(), share, torch.ones_like(share))


class TotalPropagation(InverseVariance):
    """Inverse-variance weights at each step, and the mixed gradient is what flows on to the steps before.

    Total propagation (Parmas et al. 2018, section 4): the pathwise part of early steps no longer passes through all of
    a chaotic future, because at each step the likelihood ratio has taken its share.
    """

    propagates: ClassVar[bool] = True


@dataclass(frozen=True)
class AlphaOrder:
    """α·pathwise + (1 − α)·likelihood ratio, from independent halves of the trajectories (Suh et al. 2022, section 4).

    α is that of least variance as long as the two agree to within γ, and falls to 0 where they do not: pathwise
    gradients that contact or termination make wrong. As in the paper it is read off the gradients that it weighs, which
    leaves a bias of O(1/N).

    :param gamma: γ, norm of the error that is tolerated
    :param failure: δ, probability that the likelihood ratio's confidence radius ε is too small; 0.05 is 95 % confidence
    """

    unbiased: ClassVar[bool] = False
    needs_rsample: ClassVar[bool] = True
    needs_differentiable_f: ClassVar[bool] = True
    discrete: ClassVar[bool] = False

    gamma: float
    failure: float = 0.05

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 0.0, infinite=True)
        if not 0.0 < at_least("failure", self.failure, 0.0) < 1.0:
            raise LatentRLError(
                f"failure is the probability that the radius is too small, between 0 and 1, not {self.failure!r}: "
                "give 0.05 for 95 % confidence"
            )

    def weight(self, lr: Float[Tensor, "N P"], rp: Float[Tensor, "M P"]) -> Float[Tensor, ""]:
        """α, from the gradients of N and M other trajectories."""
        mean = lr.mean(0)
        variance, other = _trace(lr), _trace(rp)
        log_term = math.log((lr.shape[1] + 1) / self.failure)
        furthest = (lr - mean).norm(dim=1).max()
        radius = (2.0 * variance * log_term / len(lr)).sqrt() + 2.0 * furthest * log_term / (3.0 * len(lr))
        best = variance / (variance + other).clamp_min(torch.finfo(mean.dtype).tiny)
        apart = (rp.mean(0) - mean).norm()
        room = self.gamma - radius
        # Where both agree to nothing, the minimum is best; a pathwise gradient that overflowed is never taken.
        alpha = torch.minimum(best, room / apart.clamp_min(torch.finfo(mean.dtype).tiny)).clamp_min(0.0)
        return torch.where(apart.isfinite() & other.isfinite(), alpha, torch.zeros_like(alpha))


Combination = InverseVariance | AlphaOrder


def _trace(gradients: Float[Tensor, "N P"]) -> Float[Tensor, ""]:
    """Trace of the covariance."""
    return gradients.var(0).sum()
