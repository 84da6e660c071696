"""The score function with f's tangent at the mean as control variate."""

from typing import ClassVar

import torch
from torch import nn
from torch.distributions import Distribution

from latentrl.checks import LatentRLError
from latentrl.estimators.base import Estimator, Integrand, draw_count, evaluate
from latentrl.estimators.baselines import LearnedBaseline, checked_baseline, score_term
from latentrl.estimators.finite import finite, value_and_slope
from latentrl.types import Estimate


class MuProp(Estimator):
    """∇E f = E[(f(b) − t(b)) ∇log q(b) + ∇f(b)] + f'(μ)ᵀ ∇μ, t(b) = f(μ) + f'(μ)ᵀ(b − μ), μ = E b (Gu et al. 2016).

    The last term gives back what the tangent takes away, exactly: unbiased for every f, also where it jumps and the
    tangent is of no help. f is evaluated once more than there are draws, off the values of q, and called under
    ``torch.func`` transforms.

    Where f draws latents of its own, further up, the paper's tangent is that of another function, which puts their
    means in their place: give f that function as its attribute ``mean_field``.

    :param baseline: of what the tangent leaves, f(b) − t(b), whose mean is not 0 where f bends (section 3.1 there)
    :raises LatentRLError: a baseline that is no module, or a learned one
    """

    unbiased: ClassVar[bool] = True
    needs_rsample: ClassVar[bool] = False
    needs_differentiable_f: ClassVar[bool] = True
    discrete: ClassVar[bool] = True

    def __init__(self, baseline: nn.Module | None = None) -> None:
        super().__init__()
        self.baseline: nn.Module | None = checked_baseline(baseline)
        if isinstance(baseline, LearnedBaseline):
            raise LatentRLError(
                "a LearnedBaseline learns what f is, but MuProp has its tangent for that, and what is left is not "
                "told: take RunningMean() or, with two draws or more, LeaveOneOut()"
            )

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        """:raises LatentRLError: q is not a law of choices or bits, f returns another shape than (S, ..., B), or
        num_samples < 1, or the baseline refuses them
        """
        law = finite("MuProp", q)
        mean = law.probs
        b = law.sample((draw_count(num_samples),))
        with torch.no_grad():
            smooth = getattr(f, "mean_field", f)
            middle, slope = value_and_slope(lambda z: evaluate(smooth, z, q), mean.detach().unsqueeze(0))
            tangent = middle + (slope * (b - mean)).sum(-1)
        # Last, for an f that keeps what it computed: what it keeps shall belong to draws from q.
        cost = evaluate(f, b, q)
        constant = cost.detach()
        surrogate = score_term(self.baseline, law, b, constant - tangent) + cost
        return Estimate(constant.mean(0), surrogate.mean(0) + (slope.squeeze(0) * mean).sum(-1))
