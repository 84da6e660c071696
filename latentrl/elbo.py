"""The evidence lower bound of a latent-variable model, under any estimator of an expectation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from latentrl.checks import LatentRLError
from latentrl.distributions import ANALYTIC_KL, Law, Remembering
from latentrl.estimators import Enumerate, Estimator, LeaveOneOut, Pathwise, ScoreFunction
from latentrl.estimators.base import Integrand
from latentrl.estimators.compatible import reads_between_values, single_sample

PATHWISE, SCORE_FUNCTION = Pathwise(), ScoreFunction(LeaveOneOut())

Beta = float | Tensor | Callable[[Tensor], float | Tensor]
"""Weight of the KL, or a function of the batch's mean KL in nats (detached)."""
Form = Literal["kl", "entropy"]


class Parts(NamedTuple):
    """What every bound is made of, for the elements of one batch."""

    q: Distribution
    """q(z|·), batch_shape (B,)."""
    p: Distribution
    """p(z|s) where each element starts, or p(z); its batch_shape broadcasts with (B,)."""
    log_likelihood: Integrand
    """log p(a|s, z), summed over the actions of a segment: z (..., B, Z) -> (..., B)."""


@dataclass(frozen=True)
class Elbo:
    """The evidence lower bound and its parts, in nats; averages over the batch are taken when they are asked for."""

    loss: Float[Tensor, ""]
    """Minimise this: its gradient is that of −value under the chosen estimator."""
    log_likelihoods: Float[Tensor, " B"]
    """E_q[log p(a|s, z)] of each element, summed over the actions of a segment; without gradient."""
    kls: Float[Tensor, " B"]
    """KL(q(z|·) ‖ p(z|s)) of each element, an estimate where no closed form exists; without gradient."""
    beta: float | Tensor

    @property
    def reconstruction(self) -> Float[Tensor, ""]:
        """Mean of :attr:`log_likelihoods`."""
        return self.log_likelihoods.mean()

    @property
    def kl(self) -> Float[Tensor, ""]:
        """Mean of :attr:`kls`."""
        return self.kls.mean()

    @property
    def value(self) -> Float[Tensor, ""]:
        """reconstruction − β·kl."""
        return self.reconstruction - self.beta * self.kl


def evidence_lower_bound(
    parts: Parts, beta: Beta, estimator: Estimator | None, num_samples: int | None, form: Form
) -> Elbo:
    """E_q[log p(a|s, z)] − β KL(q ‖ p); see :meth:`latentrl.LatentModel.elbo`."""
    q, p, log_likelihood = parts
    if estimator is None:
        estimator = PATHWISE if q.has_rsample else SCORE_FUNCTION
    single_sample(estimator)
    if num_samples is None and not estimator.needs_rsample:
        num_samples = 4
    closed_form = ANALYTIC_KL.get((type(q), type(p))) if form == "kl" else None
    if closed_form is None and isinstance(estimator, Enumerate):
        closed_form = _summed_kl
    if closed_form is None:
        return _with_sampled_kl(parts, beta, estimator, num_samples, form)
    estimate = estimator(q, log_likelihood, num_samples)
    kl = closed_form(q, p)
    weight = _weight(beta, kl)
    return Elbo((_times(weight, kl) - estimate.surrogate).mean(), estimate.value, kl.detach(), weight)


def _with_sampled_kl(parts: Parts, beta: Beta, estimator: Estimator, num_samples: int | None, form: Form) -> Elbo:
    """The KL's integrand joins f, f(z) = log p(a|s, z) − β (log q(z) − log p(z))."""
    q, p, log_likelihood = parts
    reads_between_values(estimator, p)
    law = Remembering(q) if isinstance(q, Law) and estimator.needs_rsample and q.has_rsample else q
    entropy = None if form == "kl" else _entropy(q)

    def divergence(z: Tensor) -> Tensor:
        return (law.log_prob(z) if entropy is None else -entropy) - p.log_prob(z)

    if callable(beta) and not isinstance(estimator, Pathwise | ScoreFunction):
        # The others may call f more than once, and elsewhere than at draws from q: β must not change in between.
        with torch.no_grad():
            beta = beta(divergence(q.sample((num_samples or 1,))).mean())
    parts_of_f: dict[str, Tensor] = {}
    weights: list[float | Tensor] = []

    def integrand(z: Tensor) -> Tensor:
        log_p = parts_of_f["log_p"] = log_likelihood(z)
        kl = parts_of_f["kl"] = divergence(z)
        weights.append(_weight(beta, kl))
        return log_p - _times(weights[-1], kl)

    loss = -estimator(law, integrand, num_samples).surrogate.mean()
    # What f kept is of its last call, which all estimators make at the draws that their value is the mean over.
    log_p, kl = (_over_draws(parts_of_f[name].detach()) for name in ("log_p", "kl"))
    return Elbo(loss, log_p, kl, weights[-1])


def _summed_kl(q: Distribution, p: Distribution) -> Float[Tensor, " B"]:
    """KL(q ‖ p) as a sum over all values of q."""
    z = q.enumerate_support()
    log_q = q.log_prob(z)
    return (log_q.exp() * (log_q - p.log_prob(z))).sum(0)


def _entropy(q: Distribution) -> Float[Tensor, " B"]:
    try:
        return q.entropy()
    except NotImplementedError as error:
        raise LatentRLError(
            f"form='entropy' needs q's entropy in closed form, and {type(q).__name__} has none: use form='kl'"
        ) from error


def _weight(beta: Beta, kl: Tensor) -> float | Tensor:
    return beta(kl.detach().mean()) if callable(beta) else beta


def _times(weight: float | Tensor, kl: Tensor) -> Tensor:
    # β = 1 is the common case, and on small networks each operation counts.
    return kl if isinstance(weight, float) and weight == 1.0 else weight * kl


def _over_draws(values: Tensor) -> Float[Tensor, " B"]:
    return values.mean(0) if values.dim() > 1 else values
