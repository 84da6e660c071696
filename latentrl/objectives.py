"""Objectives beyond the ELBO of :class:`latentrl.LatentModel`, ready to be differentiated."""

import math

from latentrl.checks import LatentRLError, count
from latentrl.distributions import DiagonalNormal, GaussianMixture
from latentrl.distributions.gaussian import HALF_LOG_2PI
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
        q = model.infer(batch)
        if not q.has_rsample:
            raise LatentRLError(
                f"importance_bound needs a posterior with rsample, and {type(q).__name__} has none: "
                "use model.elbo, which falls back on the score function"
            )
    weights = model.log_weights(batch, num_samples)
    bound = weights.logsumexp(0) - math.log(len(weights))
    return Estimate(bound.detach(), bound)


def vade_bound(model: LatentModel, batch: Batch, num_samples: int = 1) -> Estimate:
    """The ELBO of a mixture prior with its component c as a latent of its own, q(z, c|x) = q(z|x) q(c|x).

    VaDE (Jiang et al. 2017, eq. 8 to 16), with their q(c|x) = p(c|z) at the drawn z:

    E_q[log p(x|z)] + H(q) + Σ_c q(c|x) (E_q[log p(z|c)] + log π_c − log q(c|x)), the Gaussian expectations in closed
    form. log π_c counts once, outside of the sum over dimensions. It is a bound for any q(c|x), and never above
    ``model.elbo``, which sums c out at each draw; in return the mixture's part has less noise.

    :param num_samples: draws of z per element
    :return: value and surrogate (B,), in nats
    :raises LatentRLError: the posterior is no diagonal Gaussian, or the prior no mixture of such
    """
    count("num_samples", num_samples, 1)
    q = None if model.posterior is None else model.infer(batch)
    p = None if model.prior is None else model.prior_law(batch)
    if not isinstance(q, DiagonalNormal) or not isinstance(p, GaussianMixture):
        raise LatentRLError(
            "vade_bound needs a diagonal Gaussian posterior and a mixture of diagonal Gaussians as prior "
            f"(prior='mixture' or 'vamp'), not {type(q).__name__} and {type(p).__name__}"
        )
    z = q.rsample((num_samples,))
    log_component = (p.log_weights + p.component_log_prob(z)).log_softmax(-1)
    variance = q.stddev.square().unsqueeze(-2) + (q.loc.unsqueeze(-2) - p.loc).square()
    expected = -(0.5 * variance / p.scale.square() + p.scale.log() + HALF_LOG_2PI).sum(-1)
    mixture = (log_component.exp() * (expected + p.log_weights - log_component)).sum(-1)
    bound = (model.log_likelihood_given(batch, z) + mixture).mean(0) + q.entropy()
    return Estimate(bound.detach(), bound)
