"""What a latent policy does, logged while it learns: modes in evaluation, and what its actions tell of the latent."""

from typing import Any

import numpy as np
import torch
from gymnasium import Env
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.distributions import kl_divergence

from latentrl.checks import LatentRLError, count, dimension
from latentrl.metrics import behaviour_entropy, modes_covered
from latentrl.randomness import same_randomness
from latentrl.sb3.actor_critic import LatentActorCriticPolicy
from latentrl.sb3.evaluation import Recorder
from latentrl.sb3.held import WithLatent
from latentrl.sb3.on_policy import to_read
from latentrl.sb3.seeding import frozen, undisturbed

ACTIVE = 0.01
"""Nats by which a dimension of the latent moves the law of actions, from which it counts as used."""


class ModeCoverage(EvalCallback):
    """stable-baselines3's EvalCallback with stochastic actions, which also counts what kinds of behaviour there are.

    Environments say in the last ``info`` of an episode which "mode" it showed, 0 … n_modes − 1, and, where there is
    such a thing, "success" (or "is_success"); without, every episode counts. Logs ``eval/modes``,
    ``eval/behaviour_entropy`` (0 one mode, 1 all alike; bias-corrected) and the ends of its 95 % interval, ``…_low``
    and ``…_high``. Random numbers of learning are as they would be without.

    :param eval_env: one environment or several
    :param n_modes: number of modes that there are
    :param n_eval_episodes: of each evaluation
    :param minimum: successes that cover a mode
    :param kwargs: of EvalCallback
    :raises LatentRLError: fewer than two modes; an evaluation whose successes name no mode, or one outside
    """

    def __init__(
        self,
        eval_env: Env[Any, Any] | VecEnv,
        n_modes: int,
        n_eval_episodes: int = 100,
        minimum: int = 5,
        deterministic: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(eval_env, n_eval_episodes=n_eval_episodes, deterministic=deterministic, **kwargs)
        self.n_modes: int = dimension("n_modes", n_modes, 2)
        self.minimum: int = count("minimum", minimum, 1)
        self.counts: NDArray[np.int64] = np.zeros(self.n_modes, dtype=np.int64)
        """(n_modes,) successful episodes of the last evaluation."""
        self._recorder = Recorder()

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq:
            return True
        self._recorder = Recorder()
        with frozen(self.eval_env), undisturbed(self.model):
            return super()._on_step()

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        super()._log_success_callback(locals_, globals_)
        # After each episode, as the parent writes the log before it comes back.
        if not self._recorder.note(locals_):
            return
        shown = self._recorder.evaluation()
        self.counts = shown.counts(self.n_modes)
        entropy = behaviour_entropy(self.counts)
        self.logger.record("eval/modes", modes_covered(self.counts, self.minimum))
        self.logger.record("eval/behaviour_entropy", entropy.value)
        self.logger.record("eval/behaviour_entropy_low", entropy.ci[0])
        self.logger.record("eval/behaviour_entropy_high", entropy.ci[1])


class LatentUsage(BaseCallback):
    """Logs, after each rollout of LatentPPO or LatentA2C, what actions tell of the latent.

    - ``latent/information``: a lower bound of I(a; z|s), in nats: the bounded entropy of π(a|s) less that of p(a|s, z)
    - ``latent/active_units``: dimensions whose redrawing, alone, moves p(a|s, z) by more than .01 nats; of a
      categorical latent 1 or 0

    :param states: of the rollout, on which that is measured
    :raises LatentRLError: less than 1; where learning starts, a policy without latent
    """

    def __init__(self, states: int = 256, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.states: int = count("states", states, 1)

    def _on_training_start(self) -> None:
        if not isinstance(self.model.policy, LatentActorCriticPolicy):
            name = type(self.model.policy).__name__
            raise LatentRLError(f"LatentUsage is for LatentPPO and LatentA2C: {name} has no latent of its own")

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, OnPolicyAlgorithm)
        policy = self.model.policy
        assert isinstance(policy, LatentActorCriticPolicy)
        with same_randomness(self.model.device), torch.no_grad():
            samples = next(to_read(self.model.rollout_buffer).get(self.states))
            assert isinstance(samples.observations, WithLatent)
            found = usage(policy, samples.observations)
        for name, value in found.items():
            self.logger.record(f"latent/{name}", value)


def usage(policy: LatentActorCriticPolicy, seen: WithLatent) -> dict[str, float]:
    """What :class:`LatentUsage` logs, at the given states and latents."""
    features = policy.features_of(seen.observations)
    acts, redrawn = policy.acts(features, seen.latent), policy.draw(features)
    # Not at the latents in force, which may be drawn of other states.
    alone = policy.acts(features, redrawn).entropy()
    assert alone is not None
    information, active = (policy.entropy_bound(features) - alone).mean(), 0
    for part in [slice(None)] if policy.prior_name == "categorical" else range(policy.latent_dim):
        moved = seen.latent.clone()
        moved[:, part] = redrawn[:, part]
        active += float(_divergence(acts, policy.acts(features, moved)).mean()) > ACTIVE
    return {"information": float(information), "active_units": float(active)}


def _divergence(first: Distribution, second: Distribution) -> Tensor:
    """KL of stable-baselines3's laws, (B,)."""
    if isinstance(first.distribution, list):
        pairs = zip(first.distribution, second.distribution, strict=True)  # type: ignore[arg-type]
        return torch.stack([kl_divergence(p, q) for p, q in pairs]).sum(0)
    kl = kl_divergence(first.distribution, second.distribution)  # type: ignore[arg-type]
    return kl.sum(-1) if kl.dim() > 1 else kl
