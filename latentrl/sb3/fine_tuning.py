"""Reinforcement learning after cloning: what keeps an agent from forgetting what it was shown."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from latentrl.checks import LatentRLError, at_least, count
from latentrl.sb3.on_policy import is_recurrent, to_read

PASS = 4096
"""Steps whose log-probability is computed at once."""


def has_actor(model: BaseAlgorithm) -> bool:
    """Whether an algorithm is one of SAC, TQC, TD3, DDPG: off-policy, and with an actor that has its own optimiser."""
    return isinstance(model, OffPolicyAlgorithm) and isinstance(getattr(model.policy, "actor", None), BasePolicy)


def in_this_learn(model: BaseAlgorithm, act: Callable[[Any], None]) -> Callable[..., None]:
    """A hook that calls ``act`` with what it hangs on, until ``learn`` is called again.

    Where ``learn`` is interrupted nobody removes it, and it does nothing in the next one.
    """
    started = model.start_time

    def hook(owner: Any, *_: Any) -> None:
        if model.start_time == started:
            act(owner)

    return hook


def before_updates(
    model: BaseAlgorithm, optimizer: torch.optim.Optimizer, act: Callable[[torch.optim.Optimizer], None]
) -> RemovableHandle:
    """Call ``act(optimizer)`` before each of its steps, when gradients are there, until the handle is removed."""
    return optimizer.register_step_pre_hook(in_this_learn(model, act))


def _drop(optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


def remaining(model: BaseAlgorithm, coef: float, share: float | None, at: int) -> float:
    """What is left of a coefficient that falls linearly to 0 over a share of this ``learn``, or stays.

    :param at: time steps of the algorithm so far
    """
    # Not the algorithm's own progress, which is that of an earlier learn until the first rollout of this one is over.
    start = model._num_timesteps_at_start
    done = (at - start) / max(model._total_timesteps - start, 1)
    return coef if share is None else coef * max(0.0, 1.0 - done / share)


def _copied(policy: BasePolicy) -> BasePolicy:
    """A copy, whose action law is a shallow one: the last that was made of it hangs on a graph, which none can copy."""
    law = getattr(policy, "action_dist", None)
    fresh: Any = copy.copy(law)
    if fresh is not None:
        fresh.distribution = None
    return copy.deepcopy(policy, {id(law): fresh})


def warn_of_no_use(name: str, share: float | None) -> None:
    """Of a term that fell to 0 before the policy had learned anything that it could have held back.

    With a share of 1 it falls to 0 at the end alone, and nothing is said.
    """
    if share is not None and share < 1.0:
        warnings.warn(
            f"{name} fell to 0 before it could keep anything: share={share} counts from where learn begins, with "
            "learning_starts and a critic's warm-up; give a larger share, or share=None",
            stacklevel=2,
        )


def checked_share(share: float | None) -> float | None:
    if share is not None and not 0.0 < at_least("share", share, 0.0) <= 1.0:
        raise LatentRLError(f"share is a share of training in (0, 1], or None, but {share!r} was given")
    return share


def _steps_of_rollout(model: Any) -> int:
    """Of one environment, as far as they are known before: of an off-policy algorithm that counts episodes 1."""
    if isinstance(model, OnPolicyAlgorithm):
        return model.n_steps
    return model.train_freq.frequency if model.train_freq.unit == TrainFrequencyUnit.STEP else 1


class CriticWarmUp(BaseCallback):
    """Lets only value functions learn at first: a cloned policy has none, and wrong ones would unlearn it.

    Updates are of the critics alone as long as the rollout before them began within the first ``steps`` steps of this
    ``learn``, or after ``learning_starts`` where that comes later; of PPO and A2C that is the value function, of SAC,
    TQC, TD3 and DDPG the Q functions. What policy and value function share is left as it is, too, and so is SAC's
    temperature. A warning says where that leaves no step to the policy.

    :param steps: of the environments, during which the policy stays as it is
    :raises LatentRLError: less than 1; where learning starts, another kind of algorithm
    """

    _first = 0

    def __init__(self, steps: int = 10_000, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.steps: int = count("steps", steps, 1)
        self._hooks: list[RemovableHandle] = []

    def _init_callback(self) -> None:
        if not has_actor(self.model) and not isinstance(self.model, PPO | A2C):
            raise LatentRLError(
                "CriticWarmUp is for PPO, A2C, LatentPPO, LatentA2C, SAC, TQC, TD3 and DDPG, not for "
                f"{type(self.model).__name__}"
            )

    def _on_training_start(self) -> None:
        self._release()
        model: Any = self.model
        policy, began = model.policy, model.num_timesteps
        self._first = max(began, getattr(model, "learning_starts", 0))
        rollout = self.training_env.num_envs * _steps_of_rollout(model)
        left = model._total_timesteps - began
        last = (left - 1) // rollout * rollout
        if self._first - began + self.steps > last:
            warnings.warn(
                f"CriticWarmUp({self.steps}) leaves the policy as it is to the end, as the last of the {left} steps to "
                f"learn are of a rollout that begins after {last}: learn for longer, or warm up for fewer steps",
                stacklevel=2,
            )
        if isinstance(policy, ActorCriticPolicy):
            self._hooks = self._frozen(policy)
            return
        optimizers = [policy.actor.optimizer, getattr(self.model, "ent_coef_optimizer", None)]
        self._hooks = [before_updates(self.model, made, _drop) for made in optimizers if made is not None]

    def _frozen(self, policy: ActorCriticPolicy) -> list[RemovableHandle]:
        """Keep all but the critic without gradients, which clipping and the optimiser then leave out."""
        critic = [policy.mlp_extractor.value_net, policy.value_net]
        if not policy.share_features_extractor:
            critic.append(policy.vf_features_extractor)
        kept = {id(parameter) for part in critic for parameter in part.parameters()}
        others = [p for p in policy.parameters() if id(p) not in kept and p.requires_grad]
        return [p.register_post_accumulate_grad_hook(in_this_learn(self.model, _forget)) for p in others]

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps - self._first >= self.steps:
            self._release()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._release()

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


class KLToClone(BaseCallback):
    """Rewards less by β (log π(a|s) − log π₀(a|s)): return − β KL(π ‖ π₀) is what is maximised (Ziegler et al. 2019).

    π₀ is the policy as it is when learning starts; of a policy with latents the KL is that of (a, z), which is not
    below that of a. β falls linearly to 0, or stays; a warning says where it is 0 before the policy began to learn.
    Rewards are those that the algorithm sees, normalised or not. Logs ``clone/kl``, in nats per step, and
    ``clone/coef``.

    :param coef: β at the start
    :param share: of training, a critic's warm-up included, after which β is 0; None lets it stay
    :raises LatentRLError: a negative β; a share outside of (0, 1]; where learning starts, another kind of algorithm
    """

    def __init__(self, coef: float = 0.1, share: float | None = 1.0, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.coef: float = at_least("coef", coef, 0.0)
        self.share: float | None = checked_share(share)

    def _init_callback(self) -> None:
        known = isinstance(self.model, OnPolicyAlgorithm) and isinstance(self.model.policy, ActorCriticPolicy)
        if not known or is_recurrent(self.model.policy):
            raise LatentRLError(
                f"KLToClone is for PPO, A2C, LatentPPO and LatentA2C, not for {type(self.model).__name__}: take "
                "CloneTerm for SAC, TQC, TD3 and DDPG"
            )

    def _on_step(self) -> bool:
        return True

    def _on_training_start(self) -> None:
        self.clone: BasePolicy = _copied(self.model.policy).requires_grad_(False)
        self.clone.set_training_mode(False)
        self._settled = self.coef == 0.0
        """Whether a price was paid, or its lack was told."""

    def _on_rollout_start(self) -> None:
        self._began = self.model.num_timesteps

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer  # type: ignore[attr-defined]
        coef = remaining(self.model, self.coef, self.share, self._began)
        difference = buffer.log_probs - self._log_probs(buffer)
        if not self._settled and (coef == 0.0 or self._moved()):
            self._settled = True
            if coef == 0.0:
                warn_of_no_use("KLToClone", self.share)
        buffer.rewards -= coef * difference
        buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
        self.logger.record("clone/kl", float(difference.mean()))
        self.logger.record("clone/coef", coef)

    def _moved(self) -> bool:
        """Whether the policy has learned since, by what only it trains."""
        pairs = zip(self.model.policy.action_net.parameters(), self.clone.action_net.parameters(), strict=True)  # type: ignore[union-attr]
        return not all(torch.equal(now, then) for now, then in pairs)

    def _log_probs(self, buffer: RolloutBuffer) -> np.ndarray:
        """log π₀ of every step, (steps, n_envs)."""
        assert isinstance(self.clone, ActorCriticPolicy)
        flat = to_read(buffer)
        next(flat.get(1))  # lays its steps one behind the other, environment by environment
        found = []
        for rows in torch.arange(buffer.buffer_size * buffer.n_envs).split(PASS):
            samples = flat._get_samples(rows.numpy())
            discrete = isinstance(self.model.action_space, spaces.Discrete)
            actions = samples.actions.long().flatten() if discrete else samples.actions
            with torch.no_grad():
                found.append(self.clone.evaluate_actions(samples.observations, actions)[1])
        return torch.cat(found).view(buffer.n_envs, buffer.buffer_size).T.cpu().numpy()
