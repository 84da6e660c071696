"""The latent-variable policy π(a|s) = ∫ p(a|s, z) p(z|s) dz, composed of a posterior, a prior and a decoder."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from latentrl.checks import LatentRLError
from latentrl.decoders import Decoder
from latentrl.distributions import ANALYTIC_KL
from latentrl.estimators import Estimator, LeaveOneOut, Pathwise, ScoreFunction
from latentrl.nets import Affine
from latentrl.posteriors import Posterior
from latentrl.priors import Prior
from latentrl.types import Actions, Batch, Latents, Observations

PATHWISE, SCORE_FUNCTION = Pathwise(), ScoreFunction(LeaveOneOut())


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

    standardized: Tensor
    """Whether :meth:`standardize` was called; saved with the weights, which mean nothing in other units."""

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
        self.register_buffer("standardized", torch.tensor(False))

    def standardize(self, observations: Float[Tensor, "N O"], actions: Float[Tensor, "N A"]) -> None:
        """Fit every module's standardisation to data; log densities stay in raw units."""
        joined = torch.cat([observations, actions], dim=-1)
        data = {"observation": observations, "action": actions, "transition": joined}
        for module in self.modules():
            if isinstance(module, Affine):
                module.fit(data[module.kind])
        self.standardized.fill_(True)

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
            log_p = self.log_likelihood_given(batch, batch.actions.new_empty(len(batch.actions), 0))
            return Elbo(-log_p.mean(), log_p.detach(), torch.zeros_like(log_p), beta)
        q = self.posterior(batch.context_observations, batch.context_actions)
        p = self.prior(batch.start)
        if estimator is None:
            estimator = PATHWISE if q.has_rsample else SCORE_FUNCTION
        if num_samples is None and not estimator.needs_rsample:
            num_samples = 4
        analytic_kl = ANALYTIC_KL.get((type(q), type(p)))
        if analytic_kl is not None:
            estimate = estimator(q, lambda z: self.log_likelihood_given(batch, z), num_samples)
            kl = analytic_kl(q, p)
            # β = 1 is the common case, and on small networks each operation counts.
            penalty = kl if isinstance(beta, float) and beta == 1.0 else beta * kl
            return Elbo((penalty - estimate.surrogate).mean(), estimate.value, kl.detach(), beta)
        parts: dict[str, Tensor] = {}

        def integrand(z: Tensor) -> Tensor:
            parts["log_p"] = self.log_likelihood_given(batch, z)
            parts["kl"] = q.log_prob(z) - p.log_prob(z)
            return parts["log_p"] - beta * parts["kl"]

        loss = -estimator(q, integrand, num_samples).surrogate.mean()
        log_p, kl = (parts[name].detach().reshape(-1, len(batch.actions)).mean(0) for name in ("log_p", "kl"))
        return Elbo(loss, log_p, kl, beta)

    def log_weights(self, batch: Batch, num_samples: int) -> Float[Tensor, "S B"]:
        """log p(a|s, z) p(z|s) / q(z|·) for S draws z ~ q, reparameterized where q allows."""
        if self.posterior is None or self.prior is None:
            return self.log_likelihood_given(batch, batch.actions.new_empty(len(batch.actions), 0)).unsqueeze(0)
        q = self.posterior(batch.context_observations, batch.context_actions)
        z = (q.rsample if q.has_rsample else q.sample)((num_samples,))
        return self.log_likelihood_given(batch, z) + self.prior(batch.start).log_prob(z) - q.log_prob(z)

    @torch.no_grad()
    def log_likelihood(self, batch: Batch, num_samples: int = 100) -> Float[Tensor, " B"]:
        """Importance-weighted lower bound of log π(a|s), tight as K grows (Burda et al. 2016, eq. 8), in nats.

        :raises LatentRLError: for a random subset of a segment's steps, whose estimate would not be a bound
        """
        if batch.weight is not None:
            raise LatentRLError("log_likelihood needs all steps of a segment: make the batch without steps=")
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
