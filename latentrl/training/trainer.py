"""Training a latent policy on demonstrations, one update at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from latentrl.checks import LatentRLError, count
from latentrl.data.cuts import Cuts
from latentrl.data.host_segments import HostSegments
from latentrl.elbo import Elbo
from latentrl.estimators import Estimator
from latentrl.model import REMEMBERED, LatentModel
from latentrl.noise import CorrectiveNoise
from latentrl.randomness import same_randomness, seed_of
from latentrl.schedules import Schedule
from latentrl.training.ahead import Ahead
from latentrl.training.average import WeightAverage
from latentrl.training.compiled import CompiledElbo
from latentrl.training.finite import FiniteWatch
from latentrl.training.parallel import Processes
from latentrl.types import Batch


class ElboTrainer:
    """Maximises the ELBO of a model on segments; :meth:`update` is one gradient step.

    :param model: the policy, already standardised and on the segments' device
    :param segments: the data
    :param optimizer: over the model's parameters
    :param kl_weight: ``(step, kl) -> β``
    :param batch_size: segments per update, of all processes together
    :param steps_per_segment: random steps of each segment on which the decoder is scored; None scores all of them
    :param noise: corrective noise, or None
    :param max_grad_norm: gradients are clipped to this norm
    :param total_steps: updates planned in all, for what happens at a share of training
    :param estimator: of the gradient; None chooses by the posterior, as :meth:`LatentModel.elbo` does
    :param num_samples: draws of z per segment; None for 1, or 4 where the estimator does not reparameterize
    :param compiled: whether the loss is compiled (:class:`CompiledElbo`)
    :param average: of the weights, counted in after each update
    :raises LatentRLError: noise of other sizes than the data; ``compiled`` with a weight that reads the batch's KL
    """

    segments: Cuts

    def __init__(
        self,
        model: LatentModel,
        segments: Cuts,
        optimizer: torch.optim.Optimizer,
        kl_weight: Schedule,
        batch_size: int,
        steps_per_segment: int | None,
        noise: CorrectiveNoise | None,
        max_grad_norm: float | None = None,
        total_steps: int = 0,
        estimator: Estimator | None = None,
        num_samples: int | None = None,
        compiled: bool = False,
        average: WeightAverage | None = None,
    ) -> None:
        self.model: LatentModel = model
        self.optimizer: torch.optim.Optimizer = optimizer
        self.kl_weight: Schedule = kl_weight
        self.batch_size: int = count("batch_size", batch_size, 1)
        self.steps_per_segment: int | None = steps_per_segment
        self.total_steps: int = total_steps
        self.max_grad_norm = max_grad_norm
        self.estimator: Estimator | None = estimator
        self.num_samples: int | None = num_samples
        self.compiled: bool = compiled
        self.average: WeightAverage | None = average
        self._given_noise = noise
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._reads_kl = model.posterior is not None and getattr(kl_weight, "reads_kl", True)
        self._observes = model.posterior is not None and getattr(kl_weight, "observes", hasattr(kl_weight, "observe"))
        self._seed_step = 0 if model.prior is None else int(model.prior.seed_at * total_steps)
        if compiled and self._reads_kl:
            raise LatentRLError(
                "compile=True needs a KL weight that does not read the KL of the batch it weighs: use a number, "
                "annealing, KLConstraint, Geco or KLRange, set reads_kl = False on your own, or compile=False"
            )
        self.data_seed: int | None = None
        """What the random numbers of data on the host and of helper processes follow from; None where neither is."""
        self.settle(segments, None)

    def settle(self, segments: Cuts, processes: Processes | None) -> None:
        """Work on these data in this process, as one of several."""
        self.segments: Cuts = segments
        self.processes: Processes | None = processes
        self._rank, self._size = (0, 1) if processes is None else (processes.rank, processes.size)
        self._seed_pending = self.model.prior is not None and not bool(self.model.prior.seeded)
        self._noise = None if self._given_noise is None else self._noise_tensors(self._given_noise)
        self._compiled = CompiledElbo(self.model, self.estimator, self.num_samples) if self.compiled else None
        self._watch = FiniteWatch(segments.device, self._batch)
        self._ahead: Ahead | None = None
        if isinstance(segments, HostSegments):
            self.draw_data_seed()

    def draw_data_seed(self) -> int:
        """Make sure that there is one."""
        if self.data_seed is None:
            self.data_seed = int(torch.randint(2**62, ()))
        return self.data_seed

    def __getstate__(self) -> dict[str, Any]:
        """What a helper process needs, which settles down on its own segments."""
        own = ("segments", "processes", "average", "_noise", "_compiled", "_watch", "_ahead")
        return {**{name: value for name, value in self.__dict__.items() if name not in own}, "average": None}

    # -- batches -----------------------------------------------------------------------------------------------

    def _noise_tensors(self, noise: CorrectiveNoise) -> tuple[Tensor, Tensor | None]:
        observation_dim, action_dim = self.segments.observation_dim, self.segments.action_dim
        if len(noise.std) != observation_dim:
            raise LatentRLError(f"noise std has {len(noise.std)} features, observations have {observation_dim}")
        if noise.gain is not None and len(noise.gain) != action_dim:
            raise LatentRLError(f"noise gain has {len(noise.gain)} rows, actions have {action_dim} features")
        device = self.segments.device
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
        moved = seen + (delta if history == 1 else torch.cat([delta] * history, -1))
        return batch._replace(observations=moved, actions=actions)

    def _new_batch(self) -> Batch:
        index = self.segments.random_index(self.batch_size // self._size)
        return self._perturbed(self.segments.batch(index, self.steps_per_segment))

    def _batch(self, step: int) -> Batch:
        """What an update learns from."""
        if not isinstance(self.segments, HostSegments):
            return self._new_batch()
        if self._ahead is None:
            size, seeds = self.batch_size // self._size, (self.draw_data_seed(), self._rank)
            self._ahead = Ahead(self.segments, size, self.steps_per_segment, seeds)
        return self._perturbed(self._ahead(step))

    def remember(self) -> None:
        """Let the model act with latents of the data from now on: the same ones at each call."""
        with same_randomness(self.segments.device, 0):
            index = self.segments.random_index(REMEMBERED)
            self.model.remember(self.segments.batch(part, self.steps_per_segment) for part in index.split(256))

    def diagnostic_batch(self, size: int = 256) -> Batch:
        """Different segments on which to look at the latent."""
        return self.segments.batch(self._distinct(size), self.steps_per_segment)

    def _distinct(self, size: int) -> Tensor:
        """Indices of up to ``size`` different segments, in random order."""
        return torch.randperm(len(self.segments), device=self.segments.starts.device)[:size]

    # -- updates -----------------------------------------------------------------------------------------------

    def _seed_prior(self) -> None:
        """Let the prior start where the posteriors of the data lie; once in its life."""
        assert self.model.prior is not None
        if self._rank == 0:
            size = 4096 if self.model.trunk is None else 512  # pictures take their time
            self.model.seed_prior(self.segments.batch(self._distinct(size), steps=1))
        self.model.prior.seeded.fill_(True)
        if self.average is not None:  # of weights before the leap, it would lie between both
            self.average.updates = 0
        if self.processes is not None:
            self.processes.share([parameter.data for parameter in self.model.prior.parameters()])
        self._seed_pending = False

    def terms(self, step: int) -> Elbo:
        """The ELBO of a new batch, with noise of its own, as it is weighed at ``step``; in this process alone."""
        return self._terms(self._new_batch(), step, self.kl_weight)

    def _terms(self, batch: Batch, step: int, kl_weight: Schedule) -> Elbo:
        beta = partial(kl_weight, step) if self._reads_kl else self.kl_weight(step, 0.0)
        if self.processes is None:
            return self._elbo(batch, beta)
        with self.processes.autocast():
            return self._elbo(batch, beta)

    def _elbo(self, batch: Batch, beta: Any) -> Elbo:
        if self._compiled is not None:
            return self._compiled(batch, beta)
        return self.model.elbo(batch, beta, self.estimator, self.num_samples)

    def _weight_by_mean(self, step: int, kl: Tensor | float) -> float | Tensor:
        """Every process weighs by what the whole batch shows, not by its share of it."""
        assert self.processes is not None
        assert isinstance(kl, Tensor)
        return self.kl_weight(step, self.processes.mean(kl))

    def update(self, step: int) -> Elbo:
        """One gradient step; ``step`` counts updates from 0.

        :raises NonFiniteLossError: a loss is not finite; on a GPU it is found up to 64 updates later
        """
        if self._seed_pending and step >= self._seed_step:
            self._seed_prior()
        if self._rank > 0:  # so that what a helper draws follows from the update alone, and need not be saved
            torch.manual_seed(seed_of(self.draw_data_seed(), self._rank, step, 1))
        self._watch.begin()
        batch = self._batch(step)
        terms = self._terms(batch, step, self.kl_weight if self._size == 1 else self._weight_by_mean)
        self._watch.saw(step, terms.loss, batch)
        # What Optimizer.zero_grad does, without its walk over groups and its profiler record: 2 % of a small update.
        for parameter in self._parameters:
            parameter.grad = None
        terms.loss.backward()
        if self._size > 1:
            terms = self._averaged(terms)
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        if self._observes:
            self.kl_weight.observe(step, terms.kl, terms.reconstruction)  # type: ignore[attr-defined]
        return terms

    def _averaged(self, terms: Elbo) -> Elbo:
        """Average over the processes: gradients, what they are judged by, and statistics that modules keep."""
        assert self.processes is not None
        statistics = self._statistics()
        judged = (terms.loss.detach(), terms.reconstruction, terms.kl)
        loss, reconstruction, kl, *means = self.processes.average_gradients(self._parameters, [*judged, *statistics])
        for kept, mean in zip(statistics, means, strict=True):
            kept.copy_(mean)
        return Elbo(loss, reconstruction.reshape(1), kl.reshape(1), terms.beta)

    def _statistics(self) -> list[Tensor]:
        """Numbers that change by being used: a baseline's running mean, those of batch normalisation."""
        normalizers = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        keepers = normalizers if self.estimator is None else [*normalizers, self.estimator]
        return [b for keeper in keepers for b in keeper.buffers() if b.is_floating_point()]

    @contextmanager
    def same_statistics(self) -> Iterator[None]:
        """What is used in the block leaves them as they were."""
        before = [kept.clone() for kept in self._statistics()]
        try:
            yield
        finally:
            for kept, value in zip(self._statistics(), before, strict=True):
                kept.copy_(value)

    # -- runs --------------------------------------------------------------------------------------------------

    def check_losses(self) -> None:
        """Look at those that may not have been looked at yet; waits for the device.

        :raises NonFiniteLossError: one was not finite
        """
        self._watch.check()

    def check_finite(self) -> None:
        """:meth:`check_losses`, and the weights.

        :raises FloatingPointError: either is not finite
        """
        self.check_losses()
        if not all(bool(parameter.isfinite().all()) for parameter in self._parameters):
            raise FloatingPointError(
                "the weights are not finite, though the last loss was: lower the learning rate or set max_grad_norm"
            )

    def close(self) -> None:
        """Stop making batches ahead of time."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
