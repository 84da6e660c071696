"""The score function with f's tangent at the mean as control variate."""

from typing import ClassVar

import torch
from torch.distributions import Distribution

from latentrl.estimators.base import Estimator, Integrand, evaluate
from latentrl.estimators.finite import draws, finite, value_and_slope
from latentrl.types import Estimate


class MuProp(Estimator):
    """∇E f = E[(f(b) − t(b)) ∇log q(b) + ∇f(b)] + f'(μ)ᵀ ∇μ, t(b) = f(μ) + f'(μ)ᵀ(b − μ), μ = E b (Gu et al. 2016).

    The last term gives back what the tangent takes away, exactly: unbiased for every f, also where it jumps and the
    tangent is of no help. f is evaluated once more than there are draws, off the values of q, and called under
    ``torch.func`` transforms.
    """

    unbiased: ClassVar[bool] = True
    needs_rsample: ClassVar[bool] = False
    needs_differentiable_f: ClassVar[bool] = True
    discrete: ClassVar[bool] = True

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        """:raises LatentRLError: q is not a law of choices or bits, f returns another shape than (S, ..., B), or
        num_samples < 1
        """
        law = finite("MuProp", q)
        mean = law.probs
        b = law.sample((draws(num_samples),))
        with torch.no_grad():
            middle, slope = value_and_slope(lambda z: evaluate(f, z, q), mean.detach().unsqueeze(0))
            tangent = middle + (slope * (b - mean)).sum(-1)
        # Last, for an f that keeps what it computed: what it keeps shall belong to draws from q.
        cost = evaluate(f, b, q)
        constant = cost.detach()
        surrogate = (constant - tangent) * law.log_prob(b) + cost
        return Estimate(constant.mean(0), surrogate.mean(0) + (slope.squeeze(0) * mean).sum(-1))
