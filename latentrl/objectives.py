"""Objectives beyond the ELBO of :class:`latentrl.LatentModel`, ready to be differentiated."""

from torch import Tensor

from latentrl.checks import LatentRLError, count
from latentrl.distributions import DiagonalNormal, GaussianMixture
from latentrl.distributions.gaussian import HALF_LOG_2PI
from latentrl.estimators import Estimator, ImportanceWeighted, MultiSample, Pathwise, Vimco
from latentrl.estimators.compatible import multi_sample, single_sample
from latentrl.model import LatentModel
from latentrl.types import Batch, Estimate


def importance_bound(
    model: LatentModel, batch: Batch, num_samples: int, estimator: MultiSample | None = None
) -> Estimate:
    """The importance-weighted bound log (1/K) Σ_k p(a, z_k|s) / q(z_k|·) of log π(a|s) (Burda et al. 2016, eq. 8).

    K = 1 is the ELBO; the bound grows with K towards the log-likelihood. Maximise the surrogate's mean.

    :param num_samples: K ≥ 1, of ``Vimco`` ≥ 2
    :param estimator: of its gradient; by default :class:`~latentrl.estimators.ImportanceWeighted` where q has
        ``rsample``, else :class:`~latentrl.estimators.Vimco`. The posterior's gradient under the former drowns in
        noise as K grows, that under :class:`~latentrl.estimators.DReG` does not
    :return: value and surrogate (B,), in nats
    :raises LatentRLError: an estimator of an expectation, or one that q or K does not suit; with K > 1 a random subset
        of a segment's steps, of which this would be no bound; a diffusion decoder, which has no density
    """
    count("num_samples", num_samples, 1)
    model.require_density()
    if estimator is not None:
        multi_sample(estimator)
    if model.posterior is None:
        log_p = model.log_weights(batch, 1).squeeze(0)
        return Estimate(log_p.detach(), log_p)
    if num_samples > 1 and batch.weight is not None:
        raise LatentRLError(
            "importance_bound needs all steps of a segment: make the batch without steps=, or use model.elbo"
        )
    q, p, log_likelihood = model.parts(batch)
    if estimator is None:
        estimator = ImportanceWeighted() if q.has_rsample else Vimco()
    return estimator(q, lambda z: log_likelihood(z) + p.log_prob(z), num_samples)


def vade_bound(
    model: LatentModel, batch: Batch, num_samples: int | None = 1, estimator: Estimator | None = None
) -> Estimate:
    """The ELBO of a mixture prior with its component c as a latent of its own, q(z, c|x) = q(z|x) q(c|x).

    VaDE (Jiang et al. 2017, eq. 8 to 16), with their q(c|x) = p(c|z) at the drawn z:

    E_q[log p(x|z)] + H(q) + Σ_c q(c|x) (E_q[log p(z|c)] + log π_c − log q(c|x)), the Gaussian expectations in closed
    form. log π_c counts once, outside of the sum over dimensions. It is a bound for any q(c|x), and never above
    ``model.elbo``, which sums c out at each draw; in return the mixture's part has less noise.

    :param num_samples: draws of z per element
    :param estimator: of the gradient of an expectation; pathwise by default
    :return: value and surrogate (B,), in nats
    :raises LatentRLError: the posterior is no diagonal Gaussian, or the prior no mixture of such; an estimator that
        they or ``num_samples`` do not suit
    """
    if estimator is None:
        estimator = Pathwise()
    single_sample(estimator)
    q, p, log_likelihood = model.parts(batch)
    if not isinstance(q, DiagonalNormal) or not isinstance(p, GaussianMixture):
        raise LatentRLError(
            "vade_bound needs a diagonal Gaussian posterior and a mixture of diagonal Gaussians as prior "
            f"(prior='mixture' or 'vamp'), not {type(q).__name__} and {type(p).__name__}: use model.elbo for others"
        )
    variance = q.stddev.square().unsqueeze(-2) + (q.loc.unsqueeze(-2) - p.loc).square()
    expected = -(0.5 * variance / p.scale.square() + p.scale.log() + HALF_LOG_2PI).sum(-1)

    def integrand(z: Tensor) -> Tensor:
        log_component = (p.log_weights + p.component_log_prob(z)).log_softmax(-1)
        return log_likelihood(z) + (log_component.exp() * (expected + p.log_weights - log_component)).sum(-1)

    estimate, entropy = estimator(q, integrand, num_samples), q.entropy()
    return Estimate(estimate.value + entropy.detach(), estimate.surrogate + entropy)
