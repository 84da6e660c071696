"""The latent-variable policy π(a|s) = ∫ p(a|s, z) p(z|s) dz, composed of a posterior, a prior and a decoder."""

import math
from collections.abc import Iterable, Iterator
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, at_least, count, dimension, instance, one_of
from latentrl.decoders import Decoder
from latentrl.diagnostics import Diagnostics, diagnose
from latentrl.distributions import ANALYTIC_KL, Law, MonteCarlo
from latentrl.distributions.discrete import Discrete
from latentrl.elbo import Beta, Elbo, Form, Parts, evidence_lower_bound
from latentrl.estimators import Estimator
from latentrl.estimators.enumerate import MOST_VALUES
from latentrl.nets import TRUNK_ROWS, Fitted, ObservationTrunk, evenly
from latentrl.posteriors import AmortizedPosterior, Posterior
from latentrl.priors import Prior
from latentrl.types import Actions, Batch, Latents, Observations

REMEMBERED = 1024


class LatentModel(nn.Module):
    """A latent-variable policy.

    :param posterior: q(z|s, a) or q(z|segment); None together with ``prior=None`` is a policy without latent
    :param prior: p(z) or p(z|s)
    :param decoder: p(a|s, z)
    :param trunk: features of raw observations, (..., O) -> (..., O'), which is what the other three then see; None
        passes observations on. It is trained with them.
    :param latent_clip: latents drawn to act are clipped to ± this; None does not clip
    :param history: how many observations, side by side, the members see; the trunk sees one at a time
    :param temperature: of the latents that are drawn to act, as :meth:`Law.tempered` takes it
    :param aggregate: draw the latents to act from the posteriors of data instead of the prior, see :meth:`remember`
    """

    remembered: Tensor | None
    """(1024, Z), draws from posteriors of the data; None where latents come from the prior."""
    standardized: Tensor
    """Whether :meth:`standardize` was called; saved with the weights, which mean nothing in other units."""

    def __init__(
        self,
        posterior: Posterior | None,
        prior: Prior | None,
        decoder: Decoder,
        trunk: ObservationTrunk | None = None,
        latent_clip: float | None = None,
        history: int = 1,
        temperature: float = 1.0,
        aggregate: bool = False,
    ) -> None:
        super().__init__()
        if (posterior is None) != (prior is None):
            raise LatentRLError("give both a posterior and a prior, or neither for a policy without latent")
        for name, part in {"posterior": posterior, "prior": prior, "decoder": decoder, "trunk": trunk}.items():
            if part is not None or name == "decoder":
                instance(name, part, nn.Module)
        if posterior is not None and prior is not None and posterior.latent_dim != prior.latent_dim:
            raise LatentRLError(
                f"the posterior has {posterior.latent_dim} latent dimensions, the prior {prior.latent_dim}: "
                "give both the same latent_dim"
            )
        kinds = [getattr(part, "sizes", None) for part in (posterior, prior)]
        if kinds[0] != kinds[1]:
            raise LatentRLError(
                f"the posterior's latent is {_named(kinds[0])}, the prior's {_named(kinds[1])}: make them the same"
            )
        self.posterior: Posterior | None = posterior
        self.prior: Prior | None = prior
        self.decoder: Decoder = decoder
        self.trunk: ObservationTrunk | None = trunk
        self.latent_clip: float | None = (
            None if latent_clip is None else at_least("latent_clip", latent_clip, 0.0, infinite=True)
        )
        self.history: int = dimension("history", history)
        self.temperature: float = at_least("temperature", temperature, 1e-6)
        self.latent_dim: int = 0 if prior is None else prior.latent_dim
        self.register_buffer("remembered", torch.full((REMEMBERED, self.latent_dim), torch.nan) if aggregate else None)
        self.register_buffer("standardized", torch.tensor(False))

    def standardize(self, observations: Float[Tensor, "M O"], actions: Float[Tensor, "N A"]) -> None:
        """Fit every module's standardisation to data of single steps; log densities stay in raw units.

        Of a trunk's features, those of 4096 observations count, evenly spaced among all, as they are before training;
        what there is to fit in the trunk itself is left as it is. There may be fewer observations than actions, if they
        are evenly spaced among these.
        """
        paired = actions
        if self.trunk is not None:
            with torch.no_grad():
                observations = self.trunk(observations[evenly(len(observations), TRUNK_ROWS)])
            paired = actions[evenly(len(actions), len(observations))]
        seen = [observations] * self.history
        data = {"observation": seen, "action": [actions], "transition": [*seen, paired]}
        for module in self._units():
            if isinstance(module, Fitted):
                module.fit(*data[module.kind])
        self.standardized.fill_(True)

    def _units(self) -> Iterator[nn.Module]:
        """Modules whose units may be fitted to data."""
        for part in (self.posterior, self.prior, self.decoder):
            if part is not None:
                yield from part.modules()

    @torch.no_grad()
    def seed_prior(self, batch: Batch) -> None:
        """Let the prior start where the posteriors of data lie."""
        assert self.prior is not None
        if isinstance(self.posterior, AmortizedPosterior):
            batch = self._seen(batch)
            inputs = self.posterior.encoder.inputs(batch.context_observations, batch.context_actions)
            if batch.context_lengths is not None:
                # Pseudo-inputs have all T steps: behind its end, a sequence repeats its last one.
                steps = torch.arange(inputs.shape[1], device=inputs.device)
                inputs = inputs.take_along_dim(torch.minimum(steps, batch.context_lengths[:, None] - 1)[..., None], 1)
            self.prior.seed_from(self.posterior, inputs, batch.context_lengths)
        self.prior.seeded.fill_(True)

    @torch.no_grad()
    def remember(self, batches: Iterable[Batch]) -> None:
        """Draw z ~ q(z|·) of each element of batches, 1024 in all, to act with from now on."""
        drawn = torch.cat([self.infer(batch).sample() for batch in batches])
        if len(drawn) != REMEMBERED:
            raise LatentRLError(f"{REMEMBERED} latents are remembered, but the batches have {len(drawn)} elements")
        self.remembered = drawn

    def _features(self, observations: Tensor) -> Tensor:
        """What the members see of raw observations: through the trunk, those of a history one at a time."""
        if self.trunk is None:
            return observations
        return self.trunk(observations.unflatten(-1, (self.history, -1))).flatten(-2)

    def _seen(self, batch: Batch) -> Batch:
        """The batch as the trunk sees it."""
        if self.trunk is None:
            return batch
        context = observations = self._features(batch.observations)
        if batch.context_observations is not batch.observations:
            context = self._features(batch.context_observations)
        return batch._replace(observations=observations, context_observations=context)

    # -- acting ------------------------------------------------------------------------------------------------

    def sample_latent(self, observations: Float[Tensor, "B O"], deterministic: bool = False) -> Float[Tensor, "B Z"]:
        """Draw z ~ p(z|s) for each state, or take the mean of the prior's heaviest component.

        :raises LatentRLError: draws from posteriors are asked for, but none were made
        """
        if self.prior is None:
            return observations.new_empty(len(observations), 0, dtype=torch.get_default_dtype())
        if self.remembered is not None and not deterministic:
            z = self._recalled(len(observations))
        else:
            law = self.latent_law(observations)
            z = law.mode if deterministic else law.sample()
        return z if self.latent_clip is None else z.clamp(-self.latent_clip, self.latent_clip)

    def _recalled(self, number: int) -> Float[Tensor, "B Z"]:
        assert self.remembered is not None
        if bool(self.remembered.isnan().any()):
            raise LatentRLError(
                "latents='aggregate' draws from posteriors of the data: learn from demonstrations first"
            )
        return self.remembered[torch.randint(len(self.remembered), (number,), device=self.remembered.device)]

    def latent_law(self, observations: Float[Tensor, "B O"]) -> Distribution:
        """p(z|s) of each state at the temperature to act with, batch_shape (B,)."""
        assert self.prior is not None
        law = self.prior(self._features(observations))
        if law.batch_shape != observations.shape[:1]:  # or it would be normalised twice
            law = law.expand(observations.shape[:1])
        if self.temperature == 1.0:
            return law
        if not isinstance(law, Law):
            raise LatentRLError(f"a temperature is for the library's laws, not for {type(law).__name__}: leave it at 1")
        return law.tempered(self.temperature)

    def act(
        self, observations: Observations, z: Latents, action_noise: bool = False, deterministic: bool = False
    ) -> Actions:
        """Actions for given latents: one of the peaks of p(a|s, z) by chance, which most laws have but one of.

        :param action_noise: a draw from p(a|s, z) instead
        :param deterministic: the law's mode instead
        """
        law = self.decoder(self._features(observations), z)
        if deterministic:
            return law.mode
        if action_noise:
            return law.sample()
        return law.sample_mode() if isinstance(law, Law) else law.mode

    # -- bounds ------------------------------------------------------------------------------------------------

    def log_likelihood_given(self, batch: Batch, z: Tensor) -> Tensor:
        """log p(actions|states, z) of transitions or segments, (..., B) for z (..., B, Z)."""
        return self._given(self._seen(batch), z)

    def _given(self, batch: Batch, z: Tensor) -> Tensor:
        """:meth:`log_likelihood_given` of a batch that went through the trunk."""
        law = self.decoder(batch.observations, z)
        if batch.actions.shape != (law.batch_shape + law.event_shape)[-batch.actions.dim() :]:
            raise LatentRLError(
                f"actions have shape {tuple(batch.actions.shape)}, but the law of actions has batch_shape "
                f"{tuple(law.batch_shape)} and event_shape {tuple(law.event_shape)}: give actions (..., A) to "
                "observations (..., O)"
            )
        log_prob = law.log_prob(batch.actions)
        if batch.observations.dim() == 3:
            log_prob = log_prob.sum(-1)
        return log_prob if batch.weight is None else log_prob * batch.weight

    def _without_latent(self, batch: Batch) -> Tensor:
        return self._given(batch, batch.actions.new_empty(len(batch.actions), 0))

    def infer(self, batch: Batch) -> Distribution:
        """q(z|·) of each element."""
        return self._infer(self._seen(batch))

    def prior_law(self, batch: Batch) -> Distribution:
        """p(z|s) where each element starts, or p(z)."""
        assert self.prior is not None
        return self.prior(self._seen(batch).start)

    def _infer(self, batch: Batch) -> Distribution:
        assert self.posterior is not None
        return self.posterior.infer(batch, lambda q: self._pathwise_bound(batch, q))

    def parts(self, batch: Batch) -> Parts:
        """q(z|·), p(z|s) and z -> log p(a|s, z) of a batch, which goes through the trunk once.

        :raises LatentRLError: the policy has no latent, or posterior and prior are laws over different kinds of latents
            or of other shapes than (Z,)
        """
        if self.posterior is None or self.prior is None:
            raise LatentRLError("this bound needs a latent, and the policy has none: set latent_dim to 1 or more")
        batch = self._seen(batch)
        q, p = self._infer(batch), self.prior(batch.start)
        self._check_event_shape("posterior", q)
        self._check_event_shape("prior", p)
        if len({getattr(law.support, "is_discrete", False) for law in (q, p) if isinstance(law, Law)}) > 1:
            raise LatentRLError(
                f"the posterior is {type(q).__name__} and the prior {type(p).__name__}, one of them over a finite set: "
                "use a prior over the same latents"
            )
        return Parts(q, p, lambda z: self._given(batch, z))

    def _check_event_shape(self, of: str, law: Distribution) -> None:
        if law.event_shape != (self.latent_dim,):
            raise LatentRLError(
                f"the {of} gave a {type(law).__name__} of event_shape {tuple(law.event_shape)} and batch_shape "
                f"{tuple(law.batch_shape)}, but a latent is one event of shape ({self.latent_dim},): where its "
                "dimensions are batch dimensions, torch.distributions.Independent(law, 1) makes them one"
            )

    def _pathwise_bound(self, batch: Batch, q: Law) -> Float[Tensor, " B"]:
        """One-draw estimate of the ELBO of each element under q."""
        assert self.prior is not None
        p = self.prior(batch.start)
        analytic_kl = ANALYTIC_KL.get((type(q), type(p)))
        if analytic_kl is not None:
            return self._given(batch, q.rsample()) - analytic_kl(q, p)
        z, log_q = q.rsample_and_log_prob()
        return self._given(batch, z) + p.log_prob(z) - log_q

    def elbo(
        self,
        batch: Batch,
        beta: Beta = 1.0,
        estimator: Estimator | None = None,
        num_samples: int | None = None,
        form: Form = "kl",
    ) -> Elbo:
        """E_q[log p(a|s, z)] − β KL(q ‖ p), in nats, averaged over the batch (Kingma & Welling 2014, eq. 3).

        The KL is analytic where a closed form is registered, else its integrand joins f. With
        :class:`~latentrl.estimators.Enumerate` it is a sum, too.

        An estimator with parameters of its own needs q and f to train them, which :meth:`parts` gives: f is
        ``log_likelihood`` where the KL is analytic, and ``log_likelihoods`` are its values, of q's elements. So a
        learned baseline has the loss ``baseline.loss(model.infer(batch), terms.log_likelihoods)``.

        :param beta: weight of the KL, or a function of this batch's mean KL
        :param estimator: gradient estimator of an expectation; by default pathwise where q has ``rsample``, else the
            score function with a leave-one-out baseline
        :param num_samples: draws of z per element; by default 4, or 1 for estimators that need ``rsample``
        :param form: "kl" as above; "entropy" is E_q[log p(a|s, z) + β log p(z|s)] + β H(q), energy plus entropy, which
            draws log p(z|s) but takes q's entropy in closed form
        :raises LatentRLError: an unknown form, an estimator that q, the prior or ``num_samples`` does not suit (the
            message says why, and names one that they do), or one of a bound of several draws
        """
        one_of("form", form, ("kl", "entropy"))
        if self.posterior is None or self.prior is None:
            log_p = self._without_latent(self._seen(batch))
            return Elbo(-log_p.mean(), log_p.detach(), torch.zeros_like(log_p), 1.0)
        return evidence_lower_bound(self.parts(batch), beta, estimator, num_samples, form)

    def log_weights(self, batch: Batch, num_samples: int) -> Float[Tensor, "S B"]:
        """log p(a|s, z) p(z|s) / q(z|·) for S draws z ~ q, reparameterized where q allows."""
        if self.posterior is None:
            return self._without_latent(self._seen(batch)).unsqueeze(0)
        q, p, log_likelihood = self.parts(batch)
        if isinstance(q, Law) and q.has_rsample:
            z, log_q = q.rsample_and_log_prob((num_samples,))
        else:
            z = (q.rsample if q.has_rsample else q.sample)((num_samples,))
            log_q = q.log_prob(z)
        return log_likelihood(z) + p.log_prob(z) - log_q

    @torch.no_grad()
    def log_likelihood(self, batch: Batch, num_samples: int = 100) -> MonteCarlo:
        """log π(a|s) of each element in nats, value and standard error (B,).

        Exact, with error 0, without latent and where the latent is finite: π(a|s) = Σ_z p(z|s) p(a|s, z). Otherwise the
        importance-weighted bound, which lies below on average and grows towards it with K (Burda et al. 2016, eq. 8).
        The error (delta method) is that of the bound; where it is not small, the bound is not tight either.

        :param num_samples: K
        :raises LatentRLError: for a random subset of a segment's steps, whose estimate would not be a bound; a
            diffusion decoder, which has no density
        """
        if batch.weight is not None:
            raise LatentRLError("log_likelihood needs all steps of a segment: make the batch without steps=")
        self.require_density()
        exact = self.exact_log_likelihood(batch)
        if exact is not None:
            return MonteCarlo(exact, torch.zeros_like(exact))
        return importance_weighted(self.log_weights(batch, count("num_samples", num_samples, 1)))

    def require_density(self) -> None:
        """:raises LatentRLError: the decoder is trained without one, so that there is no likelihood"""
        if not getattr(self.decoder, "has_density", True):
            raise LatentRLError(
                f"{type(self.decoder).__name__} has no density that could be evaluated: compare what policies do, with "
                "evaluate_behaviour, or take another decoder"
            )

    def exact_log_likelihood(self, batch: Batch) -> Tensor | None:
        """log π(a|s) (B,), without latent or as a sum over all latents; None where they are too many."""
        batch = self._seen(batch)
        if self.prior is None:
            return self._without_latent(batch)
        p = self.prior(batch.start)
        if not _is_summed(p):
            return None
        z = p.expand((len(batch.actions),)).enumerate_support()
        return (p.log_prob(z) + self._given(batch, z)).logsumexp(0)

    def summed_values(self, batch: Batch) -> int:
        """How many latents :meth:`exact_log_likelihood` evaluates for each element; 1 where it sums none."""
        law = None if self.prior is None else self.prior_law(batch)
        return law.support_size if _is_summed(law) else 1

    # -- diagnostics -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def diagnostics(self, batch: Batch) -> Diagnostics:
        """Look at the latent over a batch (:class:`Diagnostics`); the larger the batch, the truer."""
        batch = self._seen(batch)
        if self.posterior is None or self.prior is None:
            return Diagnostics.without_latent(float(self._without_latent(batch).mean()))
        q = self._infer(batch)
        z = q.sample()
        return diagnose(q, self.prior(batch.start), z, self._given(batch, z))


def importance_weighted(log_weights: Float[Tensor, "K B"]) -> MonteCarlo:
    """log (1/K) Σ_k w_k of K importance weights, and its standard error by the delta method; infinite for K = 1."""
    number = len(log_weights)
    bound = log_weights.logsumexp(0) - math.log(number)
    # Standard deviation of the weights over their mean, over √K.
    excess = number * log_weights.softmax(0).square().sum(0) - 1.0
    spread = excess.clamp_min(0.0) / max(number - 1, 1)
    return MonteCarlo(bound, spread.sqrt() if number > 1 else torch.full_like(bound, math.inf))


def _is_summed(law: Distribution | None) -> TypeGuard[Discrete]:
    return isinstance(law, Discrete) and law.support_size <= MOST_VALUES


def _named(sizes: tuple[int, ...] | None) -> str:
    return "continuous" if sizes is None else f"choices among {sizes}"
