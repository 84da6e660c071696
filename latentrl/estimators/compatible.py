"""Which estimator serves which objective: what cannot work is refused, with the reason and the nearest that can."""

from typing import Any

from torch.distributions import Distribution

from latentrl.checks import LatentRLError
from latentrl.distributions.law import Law
from latentrl.estimators.base import Estimator
from latentrl.estimators.multi_sample import MultiSample


def single_sample(estimator: Any) -> Estimator:
    """Return an estimator of an expectation E_q f, as the ELBO is one.

    :raises LatentRLError: it is for a bound of several draws, for rollouts, or no estimator at all
    """
    if isinstance(estimator, Estimator) and not estimator.multi_sample:
        return estimator
    if isinstance(estimator, Estimator):
        raise LatentRLError(
            f"{type(estimator).__name__} estimates the gradient of the importance-weighted bound, no expectation: use "
            "objectives.importance_bound, or for this objective Pathwise() or ScoreFunction(LeaveOneOut())"
        )
    raise LatentRLError(
        f"estimator must be one of an expectation over one law, but {_given(estimator)} was given: "
        "use Pathwise(), or ScoreFunction(LeaveOneOut()) for discrete latents"
    )


def multi_sample(estimator: Any) -> MultiSample:
    """Return an estimator of a bound whose draws share one logarithm.

    :raises LatentRLError: it is for expectations, for rollouts, or no estimator at all
    """
    if isinstance(estimator, MultiSample):
        return estimator
    raise LatentRLError(
        f"importance_bound is the logarithm of a mean over draws, no expectation of one, but {_given(estimator)} was "
        "given: use ImportanceWeighted(), DReG() or, for discrete latents, Vimco(); other estimators go with model.elbo"
    )


def reads_between_values(estimator: Estimator, p: Distribution) -> None:
    """Refuse a prior that may mean nothing between the values of a discrete q, where f is evaluated or differentiated.

    The log masses of the library's own laws go on smoothly there; torch's, for one, jump.

    :raises LatentRLError: p is none of the library's laws, and the estimator relaxes draws
    """
    if estimator.discrete and estimator.needs_differentiable_f and not isinstance(p, Law):
        raise LatentRLError(
            f"{type(estimator).__name__} reads log p(z) between the values of z, where {type(p).__name__} is not "
            "defined: use Enumerate() or ScoreFunction(LeaveOneOut()), or a prior such as CategoricalPrior"
        )


def _given(estimator: Any) -> str:
    return f"the class {estimator.__name__}" if isinstance(estimator, type) else type(estimator).__name__
