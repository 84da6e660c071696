"""Antithetic pairs of bits."""

from typing import ClassVar

import torch
from torch.distributions import Distribution

from latentrl.checks import LatentRLError
from latentrl.distributions.discrete import Bernoullis
from latentrl.distributions.relaxed import thresholded
from latentrl.estimators.base import Estimator, Integrand, draw_count, evaluate
from latentrl.types import Estimate


class DisArm(Estimator):
    """Two draws from opposite noise, and the exact mean over all noise that gives them (Dong et al. 2020; U2G, Yin et
    al. 2020).

    With b = [u > 1 − p] and b' = [u < p] the gradient by the logits is ½ (f(b) − f(b')) (b − b') σ(|logits|), bit by
    bit; ∇f is averaged over both. f may be a black box.

    ``num_samples`` counts pairs: f is evaluated at 2·num_samples draws. At as many evaluations its variance is,
    as a rule, below that of ``ScoreFunction(LeaveOneOut())``.
    """

    unbiased: ClassVar[bool] = True
    needs_rsample: ClassVar[bool] = False
    needs_differentiable_f: ClassVar[bool] = False
    discrete: ClassVar[bool] = True

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        """:raises LatentRLError: q is not Bernoullis, f returns another shape than (2S, ..., B), or num_samples < 1."""
        if not isinstance(q, Bernoullis):
            raise LatentRLError(
                f"DisArm pairs bits with opposite ones and needs Bernoullis, but {type(q).__name__} was given: "
                "use Rebar() for one-hot vectors, ScoreFunction(LeaveOneOut()) for any law"
            )
        with torch.no_grad():
            draw = thresholded(q)
            noise = draw.noise(draw_count(num_samples))
            one, other = draw.threshold(draw.logits + noise), draw.threshold(draw.logits - noise)
        cost = evaluate(f, torch.cat([one, other]), q)
        constant = cost.detach()
        difference = 0.5 * (constant[: len(one)] - constant[len(one) :])
        gradient = difference.unsqueeze(-1) * (one - other) * draw.logits.abs().sigmoid()
        return Estimate(constant.mean(0), (gradient * q.logits).sum(-1).mean(0) + cost.mean(0))
