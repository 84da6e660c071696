"""Training a latent policy on demonstrations: one update at a time, everything on one device."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentrl.checks import LatentRLError, count
from latentrl.data.segments import Segments
from latentrl.model import Elbo, LatentModel
from latentrl.schedules import Schedule
from latentrl.types import Batch


@dataclass(frozen=True)
class CorrectiveNoise:
    """Noise on what the decoder sees, with a target that leads back: the cure for covariate shift in cloning.

    The policy is trained at s + δ, δ ~ N(0, diag std²), on a + gain·δ, so that it learns to return to what the
    demonstrator did instead of drifting away (the idea of DART, Laskey et al. 2017, without a demonstrator at hand).

    :param std: (O,) standard deviation of δ in observation units; 0 leaves a feature alone
    :param gain: (A, O) change of the action per unit of δ; None trains on the unchanged action
    """

    std: NDArray[np.float32]
    gain: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", np.asarray(self.std, dtype=np.float32))
        if self.std.ndim != 1 or not (self.std >= 0).all():
            raise LatentRLError("noise std must be one number ≥ 0 per observation feature")
        if self.gain is not None:
            object.__setattr__(self, "gain", np.asarray(self.gain, dtype=np.float32))
            if self.gain.ndim != 2 or self.gain.shape[1] != len(self.std):
                raise LatentRLError(f"noise gain must have shape (A, {len(self.std)}), but it is {self.gain.shape}")

    @classmethod
    def velocity_control(
        cls, observation_dim: int, position: slice, position_std: float, velocity_std: float, steps: float = 8.0
    ) -> "CorrectiveNoise":
        """For observations (position, velocity, …) and velocity actions: head back within about ``steps`` steps.

        :param position: where the positions stand; the velocities are expected right behind them
        """
        start, stop, _ = position.indices(observation_dim)
        size = stop - start
        if size < 1 or stop + size > observation_dim:
            raise LatentRLError(
                f"positions {position} and as many velocities behind them do not fit {observation_dim} features: "
                "say where the positions stand, such as slice(0, 2)"
            )
        std = np.zeros(observation_dim, dtype=np.float32)
        std[start:stop] = position_std
        std[stop : stop + size] = velocity_std
        gain = np.zeros((size, observation_dim), dtype=np.float32)
        gain[:, start:stop] = -np.eye(size) / steps
        return cls(std, gain)


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
    ) -> None:
        self.model, self.segments, self.optimizer = model, segments, optimizer
        self.kl_weight = kl_weight
        self.batch_size = count("batch_size", batch_size, 1)
        self.steps_per_segment = steps_per_segment
        self.max_grad_norm = max_grad_norm
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
        delta = std * torch.randn_like(batch.observations)
        actions = batch.actions if gain is None else batch.actions + delta @ gain.T
        return batch._replace(observations=batch.observations + delta, actions=actions)

    def _seed_prior(self) -> None:
        """Let the prior start where the posteriors of the data lie; once in its life."""
        self.model.seed_prior(self.segments.batch(self._distinct(4096), steps=1))
        self._seed_pending = False

    def _distinct(self, size: int) -> Tensor:
        """Indices of up to ``size`` different segments, in random order."""
        return torch.randperm(len(self.segments), device=self.segments.starts.device)[:size]

    def update(self, step: int) -> Elbo:
        """One gradient step; ``step`` counts updates from 0."""
        if self._seed_pending and step >= self._seed_step:
            self._seed_prior()
        batch = self._perturbed(
            self.segments.batch(self.segments.random_index(self.batch_size), self.steps_per_segment)
        )
        beta = partial(self.kl_weight, step) if self._reads_kl else self.kl_weight(step, 0.0)
        terms = self.model.elbo(batch, beta)
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

    def diagnostic_batch(self, size: int = 256) -> Batch:
        """Different segments on which to look at the latent."""
        return self.segments.batch(self._distinct(size), self.steps_per_segment)
