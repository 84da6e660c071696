"""Gradients from the log-probability of the draw."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, count
from latentrl.estimators.base import Estimator, Integrand, evaluate
from latentrl.estimators.baselines import LawBaseline
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
        if baseline is not None and not isinstance(baseline, nn.Module):
            raise LatentRLError(f"baseline must be a module, but {baseline!r} was given: use LeaveOneOut()")
        self.baseline = baseline

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        """:raises LatentRLError: f returns another shape than (S, ..., B), or the baseline refuses q or num_samples."""
        draws = 1 if num_samples is None else count("num_samples", num_samples, 1)
        z = q.sample((draws,))
        cost = evaluate(f, z, q)
        constant = cost.detach()
        surrogate = self._score_term(q, z, constant) + cost
        return Estimate(constant.mean(0), surrogate.mean(0))

    def _score_term(self, q: Distribution, z: Tensor, cost: Float[Tensor, "S *batch"]) -> Float[Tensor, "S *batch"]:
        if isinstance(self.baseline, LawBaseline):
            return self.baseline.score_term(q, z, cost)
        advantage = cost if self.baseline is None else cost - self.baseline(cost)
        return advantage * q.log_prob(z)
