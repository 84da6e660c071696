"""Objectives beyond the ELBO: tighter bounds of the log-likelihood, ready to be differentiated."""

import math

from latentrl.checks import LatentRLError, count
from latentrl.model import LatentModel
from latentrl.types import Batch, Estimate


def importance_bound(model: LatentModel, batch: Batch, num_samples: int) -> Estimate:
    """The importance-weighted bound log (1/K) Σ_k p(a, z_k|s) / q(z_k|·) of log π(a|s) (Burda et al. 2016, eq. 8).

    K = 1 is the ELBO; the bound grows with K towards the log-likelihood. The draws are reparameterized. Maximise the
    surrogate's mean; mind that the posterior's gradient drowns in noise as K grows (Rainforth et al. 2018).

    :param num_samples: K ≥ 1
    :return: value and surrogate (B,), in nats
    :raises LatentRLError: where the posterior cannot be reparameterized
    """
    count("num_samples", num_samples, 1)
    if model.posterior is not None:
        q = model.posterior(batch.context_observations, batch.context_actions)
        if not q.has_rsample:
            raise LatentRLError(
                f"importance_bound needs a posterior with rsample, and {type(q).__name__} has none: "
                "use model.elbo, which falls back on the score function"
            )
    weights = model.log_weights(batch, num_samples)
    bound = weights.logsumexp(0) - math.log(len(weights))
    return Estimate(bound.detach(), bound)
