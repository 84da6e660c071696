"""Training a latent policy on demonstrations: one update at a time, everything on one device."""

from functools import partial

import torch
from torch import Tensor

from latentrl.checks import LatentRLError, count
from latentrl.data.segments import Segments
from latentrl.estimators import Estimator
from latentrl.model import REMEMBERED, Elbo, LatentModel
from latentrl.noise import CorrectiveNoise
from latentrl.schedules import Schedule
from latentrl.types import Batch


class ElboTrainer:
    """Maximises the ELBO of a model on segments; :meth:`update` is one gradient step.

    :param model: the policy, already standardised and on the segments' device
    :param segments: the data
    :param optimizer: over the model's parameters
    :param kl_weight: ``(step, kl) -> β``
    :param batch_size: segments per update
    :param steps_per_segment: random steps of each segment on which the decoder is scored; None scores all of them
    :param noise: corrective noise, or None
    :param max_grad_norm: gradients are clipped to this norm
    :param total_steps: updates planned in all, for what happens at a share of training
    :param estimator: of the gradient; None chooses by the posterior, as :meth:`LatentModel.elbo` does
    :param num_samples: draws of z per segment; None for 1, or 4 where the estimator does not reparameterize
    """

    def __init__(
        self,
        model: LatentModel,
        segments: Segments,
        optimizer: torch.optim.Optimizer,
        kl_weight: Schedule,
        batch_size: int,
        steps_per_segment: int | None,
        noise: CorrectiveNoise | None,
        max_grad_norm: float | None = None,
        total_steps: int = 0,
        estimator: Estimator | None = None,
        num_samples: int | None = None,
    ) -> None:
        self.model, self.segments, self.optimizer = model, segments, optimizer
        self.kl_weight = kl_weight
        self.batch_size = count("batch_size", batch_size, 1)
        self.steps_per_segment = steps_per_segment
        self.max_grad_norm = max_grad_norm
        self.estimator, self.num_samples = estimator, num_samples
        self._noise = None if noise is None else self._noise_tensors(noise)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._reads_kl = model.posterior is not None and getattr(kl_weight, "reads_kl", True)
        self._observes = model.posterior is not None and getattr(kl_weight, "observes", hasattr(kl_weight, "observe"))
        self._seed_pending = model.prior is not None and not bool(model.prior.seeded)
        self._seed_step = 0 if model.prior is None else int(model.prior.seed_at * total_steps)

    def _noise_tensors(self, noise: CorrectiveNoise) -> tuple[Tensor, Tensor | None]:
        observation_dim, action_dim = self.segments.observations.shape[1], self.segments.actions.shape[1]
        if len(noise.std) != observation_dim:
            raise LatentRLError(f"noise std has {len(noise.std)} features, observations have {observation_dim}")
        if noise.gain is not None and len(noise.gain) != action_dim:
            raise LatentRLError(f"noise gain has {len(noise.gain)} rows, actions have {action_dim} features")
        device = self.segments.observations.device
        gain = None if noise.gain is None else torch.as_tensor(noise.gain, device=device)
        return torch.as_tensor(noise.std, device=device), gain

    def _perturbed(self, batch: Batch) -> Batch:
        if self._noise is None:
            return batch
        std, gain = self._noise
        seen, history = batch.observations, self.segments.history
        delta = std * torch.randn(*seen.shape[:-1], len(std), dtype=seen.dtype, device=seen.device)
        actions = batch.actions if gain is None else batch.actions + delta @ gain.T
        # All of a history is as far off as the present is.
        moved = seen + (delta if history == 1 else delta.repeat(*(1 for _ in seen.shape[:-1]), history))
        return batch._replace(observations=moved, actions=actions)

    def _seed_prior(self) -> None:
        """Let the prior start where the posteriors of the data lie; once in its life."""
        size = 4096 if self.model.trunk is None else 512  # pictures take their time
        self.model.seed_prior(self.segments.batch(self._distinct(size), steps=1))
        self._seed_pending = False

    def _distinct(self, size: int) -> Tensor:
        """Indices of up to ``size`` different segments, in random order."""
        return torch.randperm(len(self.segments), device=self.segments.starts.device)[:size]

    def terms(self, step: int) -> Elbo:
        """The ELBO of a new batch, with noise of its own, as it is weighed at ``step``."""
        batch = self._perturbed(
            self.segments.batch(self.segments.random_index(self.batch_size), self.steps_per_segment)
        )
        beta = partial(self.kl_weight, step) if self._reads_kl else self.kl_weight(step, 0.0)
        return self.model.elbo(batch, beta, self.estimator, self.num_samples)

    def update(self, step: int) -> Elbo:
        """One gradient step; ``step`` counts updates from 0."""
        if self._seed_pending and step >= self._seed_step:
            self._seed_prior()
        terms = self.terms(step)
        # What Optimizer.zero_grad does, without its walk over groups and its profiler record: 2 % of a small update.
        for parameter in self._parameters:
            parameter.grad = None
        terms.loss.backward()
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm)
        self.optimizer.step()
        if self._observes:
            self.kl_weight.observe(step, terms.kl, terms.reconstruction)  # type: ignore[attr-defined]
        return terms

    def remember(self) -> None:
        """Let the model act with latents of the data from now on, as many as it keeps; every episode counts alike."""
        index = self.segments.random_index(REMEMBERED)
        self.model.remember(self.segments.batch(part, self.steps_per_segment) for part in index.split(256))

    def diagnostic_batch(self, size: int = 256) -> Batch:
        """Different segments on which to look at the latent."""
        return self.segments.batch(self._distinct(size), self.steps_per_segment)
