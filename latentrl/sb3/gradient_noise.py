"""How noisy an agent's gradient is, logged while it learns."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING

import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor, nn

from latentrl.checks import LatentRLError, count
from latentrl.moments import Moments, moments
from latentrl.randomness import same_randomness
from latentrl.sb3.on_policy import is_recurrent, to_read

if TYPE_CHECKING:
    from latentrl.training import ElboTrainer


class GradientVariance(BaseCallback):
    """Logs trace, SNR and kurtosis of the current gradient under ``gradient/``, at frozen parameters.

    Every so often it takes R gradients of what the agent minimises, each from a new batch, and steps none of them; it
    leaves random numbers as they were, so that learning goes as it would without. What is measured:

    - :class:`LatentBC`: the ELBO with new segments, noise and latents; each 500 updates
    - SAC, TD3 and what derives from them: the actor's loss on new batches of the replay buffer; each 1000 steps of
      ``learn``'s loop, once learning has started, where a rollout ends, so that they stand in the
      log's next dump
    - PPO, A2C and what derives from them: the policy gradient of the new rollout, advantage times ∇log π, cut into
      batches (PPO's own, as many as there are up to R; A2C has but one, so R parts of it); each 4 rollouts of PPO, or
      100, as A2C's are short

    The variance of a batch's gradient falls as one over ``gradient/batch_size``. At the defaults it takes 16
    gradients for each 500 updates of :class:`LatentBC`.

    :param every: updates, steps or rollouts between two measurements; None as above
    :param replicates: R; the trace's relative error is about √((κ − 1)/R)
    :param verbose: as in stable-baselines3
    :raises LatentRLError: ``every`` < 1, R < 2; when learning starts, an algorithm of another kind, a rollout of less
        than two batches
    """

    def __init__(self, every: int | None = None, replicates: int = 16, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.every: int | None = None if every is None else count("every", every, 1)
        self.replicates: int = count("replicates", replicates, 2)
        self._rollouts = 0
        self._due = False

    def _on_training_start(self) -> None:
        known = "trainer" in self.locals or isinstance(self.model, (OnPolicyAlgorithm, SAC, TD3))
        if not known or is_recurrent(self.model.policy):
            raise LatentRLError(
                f"GradientVariance knows the losses of LatentBC, PPO, A2C, SAC and TD3, not of "
                f"{type(self.model).__name__}: leave it out"
            )
        if isinstance(self.model, OnPolicyAlgorithm):
            steps, size = self.model.n_steps * self.model.n_envs, self._batch_size(self.model)
            if steps < 2 * size:
                raise LatentRLError(
                    f"GradientVariance compares gradients of the batches of a rollout, but its {steps} steps make one "
                    f"of {size}: take a batch_size of half or less, or leave it out"
                )

    def _on_rollout_end(self) -> None:
        if isinstance(self.model, OnPolicyAlgorithm):
            if self._rollouts % (self.every or (4 if isinstance(self.model, PPO) else 100)) == 0:
                self._measure()
            self._rollouts += 1
        elif self._due:
            self._due = False
            self._measure()

    def _on_step(self) -> bool:
        if "trainer" in self.locals:
            if self.num_timesteps % (self.every or 500) == 0:
                self._measure()
        elif isinstance(self.model, OffPolicyAlgorithm):
            # Measured where the rollout ends: a buffer that looks back on whole episodes does not know others.
            started = self.num_timesteps > self.model.learning_starts
            self._due |= started and self.n_calls % (self.every or 1000) == 0
        return True

    def _measure(self) -> None:
        same = self.locals["trainer"].same_statistics() if "trainer" in self.locals else nullcontext()
        with same_randomness(self.model.device), _same_exploration(self.model), same:
            rows = [_flat(loss, parameters) for loss, parameters in islice(self._losses(), self.replicates)]
        found = moments(torch.stack(rows))
        for name, value in self._figures(found).items():
            self.logger.record(f"gradient/{name}", value)

    def _figures(self, found: Moments) -> dict[str, float]:
        return {
            "trace": found.trace,
            "snr": math.sqrt(max(found.snr_squared, 0.0)),
            "kurtosis": found.kurtosis,
            "batch_size": self._batch_size(self.model),
        }

    def _losses(self) -> Iterator[tuple[Tensor, Sequence[Tensor]]]:
        """What the agent minimises, on one new batch after another, and the parameters that it moves."""
        model = self.model
        if "trainer" in self.locals:
            trainer: ElboTrainer = self.locals["trainer"]
            model.policy.set_training_mode(True)  # an evaluation before this leaves the average of the weights behind
            parameters = _moved(trainer.model)
            while True:
                yield trainer.terms(self.num_timesteps).loss, parameters
        elif isinstance(model, OnPolicyAlgorithm):
            yield from self._policy_gradients(model)
        elif isinstance(model, (SAC, TD3)):
            while True:
                yield _actor_loss(model), _moved(model.actor)

    def _policy_gradients(self, model: OnPolicyAlgorithm) -> Iterator[tuple[Tensor, Sequence[Tensor]]]:
        """−A log π, the gradient of the surrogate at the policy that made the rollout."""
        parameters = _moved(model.policy)
        size = self._batch_size(model)
        for data in to_read(model.rollout_buffer).get(size):
            if len(data.advantages) < size:
                return  # the last batch is smaller
            advantages = data.advantages
            if getattr(model, "normalize_advantage", False) and size > 1:
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            actions = data.actions
            if isinstance(model.action_space, spaces.Discrete):
                actions = actions.long().flatten()
            _, log_prob, _ = model.policy.evaluate_actions(data.observations, actions)
            yield -(advantages * log_prob).mean(), parameters

    def _batch_size(self, model: BaseAlgorithm) -> int:
        if isinstance(model, OnPolicyAlgorithm) and not isinstance(model, PPO):
            return max(1, model.n_steps * model.n_envs // self.replicates)
        # Of several processes, what one of them averages.
        return int(model.batch_size) // getattr(model, "devices", 1)  # type: ignore[attr-defined]


def _moved(module: nn.Module) -> list[Tensor]:
    """The parameters that learning moves: not those that the user has frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _actor_loss(model: SAC | TD3) -> Tensor:
    assert model.replay_buffer is not None
    observations = model.replay_buffer.sample(model.batch_size, env=model.get_vec_normalize_env()).observations
    if isinstance(model, TD3):
        return -model.critic.q1_forward(observations, model.actor(observations)).mean()
    if model.use_sde:
        model.actor.reset_noise()
    actions, log_prob = model.actor.action_log_prob(observations)
    worth = torch.cat(model.critic(observations, actions), dim=1).amin(1)
    weight = model.ent_coef_tensor if model.log_ent_coef is None else model.log_ent_coef.detach().exp()
    return (weight * log_prob.reshape(-1) - worth).mean()


@contextmanager
def _same_exploration(model: BaseAlgorithm) -> Iterator[None]:
    """What gSDE draws for several steps stays as it was."""
    law = getattr(getattr(model, "actor", None), "action_dist", None)
    kept = dict(vars(law)) if isinstance(law, StateDependentNoiseDistribution) else None
    yield
    if kept is not None:
        vars(law).update(kept)


def _flat(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The gradient in float64 on the CPU; what the loss does not reach counts as 0."""
    parts = torch.autograd.grad(loss, parameters, allow_unused=True)
    flat = [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, parts, strict=True)]
    return torch.cat([part.reshape(-1) for part in flat]).to("cpu", torch.float64)
