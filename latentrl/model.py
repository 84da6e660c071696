"""The latent-variable policy π(a|s) = ∫ p(a|s, z) p(z|s) dz, composed of a posterior, a prior and a decoder."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from latentrl.checks import LatentRLError
from latentrl.decoders import Decoder
from latentrl.distributions import DiagonalNormal, OneHot
from latentrl.estimators import Estimator, LeaveOneOut, Pathwise, ScoreFunction
from latentrl.nets import Standardize
from latentrl.posteriors import Posterior
from latentrl.priors import Prior
from latentrl.types import Actions, Batch, Latents, Observations

PATHWISE, SCORE_FUNCTION = Pathwise(), ScoreFunction(LeaveOneOut())
ANALYTIC_KL = {(DiagonalNormal, DiagonalNormal), (OneHot, OneHot)}


class Elbo(NamedTuple):
    """The evidence lower bound and its parts, in nats, averaged over the batch."""

    value: Float[Tensor, ""]
    """reconstruction − β·kl, without gradient."""
    reconstruction: Float[Tensor, ""]
    """E_q[log p(a|s, z)], summed over the actions of a segment."""
    kl: Float[Tensor, ""]
    """KL(q(z|·) ‖ p(z|s)), an estimate where no closed form exists."""
    loss: Float[Tensor, ""]
    """Minimise this: its gradient is that of −value under the chosen estimator."""


class Diagnostics(NamedTuple):
    """What tells whether the latent is used."""

    active_units: int
    """Latent dimensions whose posterior mean varies over the data by more than 0.01 (Burda et al. 2016)."""
    kl: float
    """Mean KL(q ‖ p) in nats."""
    mutual_information: float
    """Estimate of I_q(x; z) ≤ log N: mean log q(z|x) − log (1/N) Σ_n q(z|x_n), in nats (Hoffman & Johnson 2016)."""

    @property
    def collapsed(self) -> bool:
        """True where the posterior says next to nothing about the data (less than 0.1 nat)."""
        return self.mutual_information < 0.1


class LatentModel(nn.Module):
    """A latent-variable policy.

    :param posterior: q(z|s, a) or q(z|segment); None together with ``prior=None`` is a policy without latent
    :param prior: p(z) or p(z|s)
    :param decoder: p(a|s, z)
    """

    def __init__(self, posterior: Posterior | None, prior: Prior | None, decoder: Decoder) -> None:
        super().__init__()
        if (posterior is None) != (prior is None):
            raise LatentRLError("give both a posterior and a prior, or neither for a policy without latent")
        if posterior is not None and prior is not None and posterior.latent_dim != prior.latent_dim:
            raise LatentRLError(
                f"the posterior has {posterior.latent_dim} latent dimensions, the prior {prior.latent_dim}: "
                "give both the same latent_dim"
            )
        self.posterior, self.prior, self.decoder = posterior, prior, decoder
        self.latent_dim = 0 if prior is None else prior.latent_dim

    def standardize(self, observations: Float[Tensor, "N O"], actions: Float[Tensor, "N A"]) -> None:
        """Fit every module's standardisation to data; log densities stay in raw units."""
        data = {"observation": observations, "action": actions}
        for module in self.modules():
            if isinstance(module, Standardize):
                module.fit(data[module.kind])

    # -- acting ------------------------------------------------------------------------------------------------

    def sample_latent(self, observations: Float[Tensor, "B O"], deterministic: bool = False) -> Float[Tensor, "B Z"]:
        """Draw z ~ p(z|s) for each state, or take the mean of the prior's heaviest component."""
        if self.prior is None:
            return observations.new_empty(len(observations), 0)
        law = self.prior(observations)
        law = law.expand(observations.shape[:1])
        return law.mode if deterministic else law.sample()

    def act(self, observations: Observations, z: Latents, action_noise: bool = False) -> Actions:
        """Actions for given latents: the law's mode, or with ``action_noise`` a draw from p(a|s, z)."""
        law = self.decoder(observations, z)
        return law.sample() if action_noise else law.mode

    # -- bounds ------------------------------------------------------------------------------------------------

    def log_likelihood_given(self, batch: Batch, z: Tensor) -> Tensor:
        """log p(actions|states, z) of transitions or segments, (..., B) for z (..., B, Z)."""
        log_prob = self.decoder(batch.observations, z).log_prob(batch.actions)
        if batch.observations.dim() == 3:
            log_prob = log_prob.sum(-1)
        return log_prob if batch.weight is None else log_prob * batch.weight

    def elbo(
        self,
        batch: Batch,
        beta: float | Tensor = 1.0,
        estimator: Estimator | None = None,
        num_samples: int | None = None,
    ) -> Elbo:
        """E_q[log p(a|s, z)] − β KL(q ‖ p), in nats, averaged over the batch (Kingma & Welling 2014, eq. 3).

        The KL is analytic where a closed form is registered, else its integrand joins f.

        :param estimator: gradient estimator; by default pathwise where q has ``rsample``, else the score function
            with a leave-one-out baseline
        :param num_samples: draws of z per element; 1 by default, 4 for the score function
        """
        if self.posterior is None or self.prior is None:
            value = self.log_likelihood_given(batch, batch.actions.new_empty(len(batch.actions), 0)).mean()
            zero = torch.zeros_like(value.detach())
            return Elbo(value.detach(), value.detach(), zero, -value)
        q = self.posterior(batch.context_observations, batch.context_actions)
        p = self.prior(batch.start)
        if estimator is None:
            estimator = PATHWISE if q.has_rsample else SCORE_FUNCTION
        if num_samples is None:
            num_samples = 1 if q.has_rsample else 4
        if (type(q), type(p)) in ANALYTIC_KL:
            reconstruction = estimator(q, lambda z: self.log_likelihood_given(batch, z), num_samples)
            kl = kl_divergence(q, p)
            loss = (beta * kl - reconstruction.surrogate).mean()
            recon_value, kl_value = reconstruction.value.mean(), kl.detach().mean()
        else:
            parts: dict[str, Tensor] = {}

            def integrand(z: Tensor) -> Tensor:
                parts["log_p"] = self.log_likelihood_given(batch, z)
                parts["kl"] = q.log_prob(z) - p.log_prob(z)
                return parts["log_p"] - beta * parts["kl"]

            loss = -estimator(q, integrand, num_samples).surrogate.mean()
            recon_value, kl_value = parts["log_p"].detach().mean(), parts["kl"].detach().mean()
        return Elbo(recon_value - beta * kl_value, recon_value, kl_value, loss)

    def log_weights(self, batch: Batch, num_samples: int) -> Float[Tensor, "S B"]:
        """log p(a|s, z) p(z|s) / q(z|·) for S draws z ~ q, reparameterized where q allows."""
        if self.posterior is None or self.prior is None:
            return self.log_likelihood_given(batch, batch.actions.new_empty(len(batch.actions), 0)).unsqueeze(0)
        q = self.posterior(batch.context_observations, batch.context_actions)
        z = (q.rsample if q.has_rsample else q.sample)((num_samples,))
        return self.log_likelihood_given(batch, z) + self.prior(batch.start).log_prob(z) - q.log_prob(z)

    @torch.no_grad()
    def log_likelihood(self, batch: Batch, num_samples: int = 100) -> Float[Tensor, " B"]:
        """Importance-weighted lower bound of log π(a|s), tight as K grows (Burda et al. 2016, eq. 8), in nats."""
        weights = self.log_weights(batch, num_samples)
        return weights.logsumexp(0) - math.log(len(weights))

    # -- diagnostics -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def diagnostics(self, batch: Batch) -> Diagnostics:
        """Active units, KL and mutual information over a batch; the larger the batch, the truer."""
        if self.posterior is None or self.prior is None:
            return Diagnostics(0, 0.0, 0.0)
        q = self.posterior(batch.context_observations, batch.context_actions)
        z = q.sample()
        # log q(z_i|x_j) for every pair: an N×N table, so the batch stays moderate.
        pairs = _with_leading_batch(q).log_prob(z.unsqueeze(1))
        own = pairs.diagonal()
        information = (own - (pairs.logsumexp(1) - math.log(len(z)))).mean()
        kl = (own - self.prior(batch.start).log_prob(z)).mean()
        return Diagnostics(int((q.mean.var(0) > 0.01).sum()), float(kl), float(information))


def _with_leading_batch(q: Distribution) -> Distribution:
    """q with batch_shape (1, N), so that values (N, 1, Z) meet every member."""
    return q.expand((1, *q.batch_shape))
