"""What estimators for laws over finite sets share."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from latentrl.checks import LatentRLError
from latentrl.distributions.discrete import Discrete
from latentrl.estimators.base import Integrand

LEAST_LOGIT = -30.0
"""What networks read of an option that is ruled out, whose logit is −∞ or the least number that there is."""


def finite(estimator: str, q: Distribution) -> Discrete:
    """Return q if it is a law of choices or bits; otherwise raise, naming an estimator for it."""
    if not isinstance(q, Discrete):
        instead = "Pathwise()" if q.has_rsample else "ScoreFunction(LeaveOneOut())"
        raise LatentRLError(
            f"{estimator} needs a law over one-hot vectors or bits (OneHot, OneHots, Bernoullis), "
            f"but {type(q).__name__} was given: use {instead}"
        )
    return q


def value_and_slope(f: Integrand, z: Float[Tensor, "S *batch Z"]) -> tuple[Tensor, Tensor]:
    """f(z) (S, ..., B) and its gradient by z, each draw for itself.

    By ``torch.func``, so that it nests in the meter's transforms. Like any value it is differentiable by what f reads;
    under ``torch.no_grad`` it is a constant.
    """

    def summed(z: Tensor) -> tuple[Tensor, Tensor]:
        value = f(z)
        return value.sum(), value

    slope, value = torch.func.grad(summed, has_aux=True)(z)
    return value, slope
