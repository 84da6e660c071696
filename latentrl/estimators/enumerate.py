"""Expectations over finite sets without any noise."""

from typing import ClassVar

from torch.distributions import Distribution

from latentrl.checks import LatentRLError
from latentrl.estimators.base import Estimator, Integrand, evaluate
from latentrl.estimators.finite import finite
from latentrl.types import Estimate

MOST_VALUES = 4096
"""Up to this many values are summed over."""


class Enumerate(Estimator):
    """Σ_z q(z) f(z) over all N values of q: value and gradient are exact.

    f is evaluated at (N, ..., B, Z), whatever ``num_samples`` says: it is ignored.
    """

    unbiased: ClassVar[bool] = True
    needs_rsample: ClassVar[bool] = False
    needs_differentiable_f: ClassVar[bool] = False
    discrete: ClassVar[bool] = True

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:  # noqa: ARG002
        """:raises LatentRLError: q is not a law of choices or bits, has more than 4096 values, or f returns another
        shape than (N, ..., B)
        """
        law = finite("Enumerate", q)
        if law.support_size > MOST_VALUES:
            raise LatentRLError(
                f"Enumerate sums over at most {MOST_VALUES} values, but {type(q).__name__} with "
                f"{law.event_shape[0]} entries has {law.support_size}: use Rebar() or ScoreFunction(LeaveOneOut())"
            )
        values = law.enumerate_support()
        expectation = (law.log_prob(values).exp() * evaluate(f, values, q)).sum(0)
        return Estimate(expectation.detach(), expectation)
