"""Gradients from the log-probability of the draw."""

from typing import ClassVar

from torch import nn
from torch.distributions import Distribution

from latentrl.estimators.base import Estimator, Integrand, draw_count, evaluate
from latentrl.estimators.baselines import checked_baseline, score_term
from latentrl.types import Estimate


class ScoreFunction(Estimator):
    """REINFORCE, ∇E_q f = E_q[(f(z) − b) ∇log q(z) + ∇f(z)] (Williams 1992; Mohamed et al. 2020).

    The last term is for f's own parameters. Needs only samples and log-probabilities: q may be discrete, f a black
    box.

    :param baseline: b, one of :mod:`latentrl.estimators.baselines`; None for 0
    :raises LatentRLError: a baseline that is no module
    """

    unbiased: ClassVar[bool] = True
    needs_rsample: ClassVar[bool] = False
    needs_differentiable_f: ClassVar[bool] = False
    discrete: ClassVar[bool] = True

    def __init__(self, baseline: nn.Module | None = None) -> None:
        super().__init__()
        self.baseline: nn.Module | None = checked_baseline(baseline)

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        """:raises LatentRLError: f returns another shape than (S, ..., B), or the baseline refuses q or num_samples."""
        draws = draw_count(num_samples)
        z = q.sample((draws,))
        cost = evaluate(f, z, q)
        constant = cost.detach()
        surrogate = score_term(self.baseline, q, z, constant) + cost
        return Estimate(constant.mean(0), surrogate.mean(0))
