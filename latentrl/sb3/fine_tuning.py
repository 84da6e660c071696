"""Reinforcement learning after cloning: what keeps an on-policy agent from forgetting what it was shown."""

import copy

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from latentrl.checks import LatentRLError, at_least, count

PASS = 4096
"""Steps whose log-probability is computed at once."""


class _OnPolicyCallback(BaseCallback):
    """A callback for PPO, A2C and what derives from them."""

    def _init_callback(self) -> None:
        if not isinstance(self.model, OnPolicyAlgorithm) or not isinstance(self.model.policy, ActorCriticPolicy):
            raise LatentRLError(
                f"{type(self).__name__} is for PPO, A2C, LatentPPO and LatentA2C, not for {type(self.model).__name__}"
            )

    def _on_step(self) -> bool:
        return True


class CriticWarmUp(_OnPolicyCallback):
    """Lets only the value function learn at first: a cloned policy has none, and wrong advantages would unlearn it.

    What policy and value function share is left as it is, too.

    :param rollouts: during which the policy stays as it is
    :raises LatentRLError: less than 1; where learning starts, another kind of algorithm
    """

    def __init__(self, rollouts: int = 10, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.rollouts = count("rollouts", rollouts, 1)
        self._frozen: list[Tensor] = []
        self._done = 0

    def _on_training_start(self) -> None:
        policy = self.model.policy
        assert isinstance(policy, ActorCriticPolicy)
        critic = [policy.mlp_extractor.value_net, policy.value_net]
        if not policy.share_features_extractor:
            critic.append(policy.vf_features_extractor)
        kept = {id(parameter) for part in critic for parameter in part.parameters()}
        others: list[Tensor] = [p for p in policy.parameters() if id(p) not in kept and p.requires_grad]
        self._frozen = others if self._done < self.rollouts else []
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def _on_rollout_start(self) -> None:
        if self._done >= self.rollouts:
            self._release()
        self._done += 1

    def _on_training_end(self) -> None:
        self._release()

    def _release(self) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []


class KLToClone(_OnPolicyCallback):
    """Rewards less by β (log π(a|s) − log π₀(a|s)): return − β KL(π ‖ π₀) is what is maximised (Ziegler et al. 2019).

    π₀ is the policy as it is when learning starts; of a policy with latents the KL is that of (a, z), which is not
    below that of a. β falls linearly to 0. Rewards are those that the algorithm sees, normalised or not. Logs
    ``clone/kl``, in nats per step, and ``clone/coef``.

    :param coef: β at the start
    :param share: of training after which β is 0
    :raises LatentRLError: a negative β; a share outside of (0, 1]; where learning starts, another kind of algorithm
    """

    def __init__(self, coef: float = 0.1, share: float = 1.0, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.coef = at_least("coef", coef, 0.0)
        if not 0.0 < at_least("share", share, 0.0) <= 1.0:
            raise LatentRLError(f"share is a share of training in (0, 1], but {share!r} was given")
        self.share = share

    def _on_training_start(self) -> None:
        self.clone = copy.deepcopy(self.model.policy).requires_grad_(False)
        self.clone.set_training_mode(False)

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer  # type: ignore[attr-defined]
        done = 1.0 - self.model._current_progress_remaining
        coef = self.coef * max(0.0, 1.0 - done / self.share)
        difference = buffer.log_probs - self._log_probs(buffer)
        buffer.rewards -= coef * difference
        buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
        self.logger.record("clone/kl", float(difference.mean()))
        self.logger.record("clone/coef", coef)

    def _log_probs(self, buffer: RolloutBuffer) -> np.ndarray:
        """log π₀ of every step, (steps, n_envs)."""
        assert isinstance(self.clone, ActorCriticPolicy)
        flat = copy.copy(buffer)
        next(flat.get(1))  # lays its steps one behind the other, environment by environment
        found = []
        for rows in torch.arange(buffer.buffer_size * buffer.n_envs).split(PASS):
            samples = flat._get_samples(rows.numpy())
            discrete = isinstance(self.model.action_space, spaces.Discrete)
            actions = samples.actions.long().flatten() if discrete else samples.actions
            with torch.no_grad():
                found.append(self.clone.evaluate_actions(samples.observations, actions)[1])
        return torch.cat(found).view(buffer.n_envs, buffer.buffer_size).T.cpu().numpy()
