"""Demonstrations in the loss of an off-policy agent's actor, for as long as reinforcement learning needs them."""

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from latentrl.checks import LatentRLError, at_least, dimension
from latentrl.data import Demonstrations
from latentrl.sb3.actor_decoders import ShownActions
from latentrl.sb3.fine_tuning import before_updates, checked_share, has_actor, remaining, warn_of_no_use
from latentrl.sb3.from_demonstrations import observations_at, scaled
from latentrl.sb3.in_place import in_space, require_demonstrations


class CloneTerm(BaseCallback):
    """Adds β (−log π(a|s)), the mean over a batch of demonstrations, to the loss of each update of an actor.

    For SAC, TQC, TD3 and DDPG, whose own ``train`` is as it was: gradients join those of the actor's loss before its
    optimiser steps. log π is :class:`~latentrl.sb3.actor_decoders.ShownActions`, so that for TD3 and DDPG, up to a
    constant, the term is the squared error over twice the variance of :data:`~latentrl.sb3.actor_decoders.SPREAD`. β
    falls linearly to 0, or stays; a warning says where it is 0 before the actor began to learn. Logs ``clone/loss``, in
    nats per step, and ``clone/coef``.

    :param demonstrations: what is to be kept
    :param coef: β at the start: what one nat is worth, in units of Q as the critics see it
    :param share: of training, a critic's warm-up included, after which β is 0; None lets it stay, as goes well with
        ``q_filter``
    :param batch_size: of demonstrations; None is the agent's
    :param q_filter: only where the critics prefer what was shown to what the actor does (Nair et al. 2018, eq. 4)
    :raises LatentRLError: a negative β; a share outside of (0, 1]; where learning starts, another kind of algorithm,
        gSDE, or demonstrations of other spaces
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        coef: float = 1.0,
        share: float | None = 1.0,
        batch_size: int | None = None,
        q_filter: bool = False,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.demonstrations: Demonstrations = require_demonstrations(demonstrations)
        self.coef: float = at_least("coef", coef, 0.0)
        self.share: float | None = checked_share(share)
        self.batch_size: int | None = None if batch_size is None else dimension("batch_size", batch_size)
        self.q_filter = q_filter
        self._hook: RemovableHandle | None = None

    def _init_callback(self) -> None:
        model: Any = self.model
        if not has_actor(model):
            raise LatentRLError(
                f"CloneTerm is for SAC, TQC, TD3 and DDPG, not for {type(model).__name__}: take KLToClone for PPO and "
                "A2C"
            )
        self._log_prob = ShownActions(model.policy.actor)
        self._shown = in_space(self.demonstrations, model.observation_space, model.action_space)
        self._actions = scaled(model.action_space, self._shown.actions)

    def _on_training_start(self) -> None:
        self._on_training_end()
        self._settled = self.coef == 0.0
        """Whether the term was added, or its lack was told."""

    def _on_rollout_start(self) -> None:
        """Behind the hooks of those callbacks that take gradients away, which hang on since training started."""
        if self._hook is None:
            policy: Any = self.model.policy
            self._hook = before_updates(self.model, policy.actor.optimizer, self._add)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _add(self, optimizer: torch.optim.Optimizer) -> None:
        coef = remaining(self.model, self.coef, self.share, self.model.num_timesteps)
        # Without gradients the actor waits, for its critic perhaps.
        waits = all(parameter.grad is None for group in optimizer.param_groups for parameter in group["params"])
        self.logger.record("clone/coef", coef)
        if waits:
            return
        if coef == 0.0 and not self._settled:
            warn_of_no_use("CloneTerm", self.share)
        self._settled = True
        if coef == 0.0:
            return
        loss = self.loss()
        (coef * loss).backward()
        self.logger.record_mean("clone/loss", float(loss.detach()))

    def loss(self) -> Tensor:
        """−log π(a|s), the mean over a new batch, with gradient."""
        model: Any = self.model
        rows = np.random.randint(len(self._shown), size=self.batch_size or model.batch_size)  # noqa: NPY002
        seen, normalizer = observations_at(self._shown, rows), model.get_vec_normalize_env()
        observations, _ = model.policy.obs_to_tensor(seen if normalizer is None else normalizer.normalize_obs(seen))
        actions = torch.as_tensor(self._actions[rows], device=model.device)
        losses = -self._log_prob(observations, actions)
        if self.q_filter:
            with torch.no_grad():
                own = model.policy._predict(observations, deterministic=True)
                better = self._worth(observations, actions) > self._worth(observations, own)
            losses = losses * better
        return losses.mean()

    def _worth(self, observations: Any, actions: Tensor) -> Tensor:
        """The least that one of the critics expects, or of TQC the mean over quantiles, (B,)."""
        found = self.model.policy.critic(observations, actions)  # type: ignore[operator]
        return found.mean((1, 2)) if isinstance(found, Tensor) else torch.cat(found, 1).amin(1)
