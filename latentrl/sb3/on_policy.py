"""PPO and A2C that remember the latents of their rollouts; nothing else of stable-baselines3's algorithms changes."""

import copy
from collections.abc import Generator
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor

from latentrl.checks import LatentRLError, finite
from latentrl.sb3.actor_critic import (
    LatentActorCriticCnnPolicy,
    LatentActorCriticPolicy,
    LatentMultiInputActorCriticPolicy,
)
from latentrl.sb3.held import RolloutLatents, State, WithLatent


class _RemembersLatents(RolloutBuffer):
    """Takes latents with the log-probabilities, and hands them out with the observations."""

    latents: np.ndarray
    """(steps, n_envs, 1 + Z): the share of z's steps that are left, 1 where it was drawn at the step, and z."""

    def add(
        self,
        obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: Tensor,
        log_prob: Tensor,
    ) -> None:
        """As the parent.

        :param log_prob: (n_envs, 2 + Z): log-probability, the share of z's steps that are left, z
        :raises LatentRLError: log-probabilities alone; rewards, observations or weights that are not finite
        """
        if log_prob.dim() != 2:
            raise LatentRLError(
                f"{type(self).__name__} keeps latents, but the policy gives none: use it with LatentPPO or LatentA2C"
            )
        finite("rewards", reward)
        if not bool(value.isfinite().all()):
            _refuse(obs)
        if self.pos == 0:
            self.latents = np.zeros((self.buffer_size, self.n_envs, log_prob.shape[1] - 1), np.float32)
        self.latents[self.pos] = log_prob[:, 1:].cpu().numpy()
        super().add(obs, action, reward, episode_start, value, log_prob[:, 0])

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        if not self.generator_ready:
            self.latents = self.swap_and_flatten(self.latents)
        yield from super().get(batch_size)

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> Any:
        samples = super()._get_samples(batch_inds, env)
        latents: Tensor = self.to_torch(self.latents[batch_inds])
        return samples._replace(observations=WithLatent(samples.observations, latents[:, 1:], latents[:, 0]))  # type: ignore[arg-type]


def _refuse(observations: Any) -> None:
    """:raises LatentRLError: values are not finite: by observations, or else by weights"""
    for part in observations.values() if isinstance(observations, dict) else [observations]:
        finite("observations", part)
    raise LatentRLError(
        "the values of finite observations are NaN or infinite, as the weights of the policy are: lower learning_rate "
        "or max_grad_norm, and look for extreme rewards"
    )


class LatentRolloutBuffer(_RemembersLatents):
    """stable-baselines3's rollout buffer, with latents."""


class LatentDictRolloutBuffer(_RemembersLatents, DictRolloutBuffer):
    """stable-baselines3's rollout buffer for Dict observations, with latents."""


def to_read(buffer: RolloutBuffer) -> RolloutBuffer:
    """A copy to get samples of, which lays steps one behind the other; those who come after may need them apart."""
    made: Any = copy.copy(buffer)
    if isinstance(made.observations, dict):
        made.observations = dict(made.observations)
    return made


def is_recurrent(policy: BasePolicy) -> bool:
    """Whether a policy is one of sb3-contrib's RecurrentPPO: an actor-critic policy that needs its memory, too."""
    return hasattr(policy, "lstm_hidden_state_shape")


class _LastArray(np.ndarray):
    """The last observation of an episode, which knows its environment."""

    environment: int


class _LastDict(dict[str, np.ndarray]):
    """The same of a Dict."""

    environment: int


class _Watched(VecEnvWrapper):
    """Notes which latents are taken and where episodes end.

    Their last observations are marked, so that each finds the latent it belongs to.
    """

    def __init__(self, venv: VecEnv, rollout: RolloutLatents) -> None:
        super().__init__(venv)
        self.rollout = rollout

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self.rollout.take()
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.rollout.starts = np.array(dones, bool)
        for place in np.flatnonzero(dones):
            last = infos[place].get("terminal_observation")
            if last is not None:
                marked = _LastDict(last) if isinstance(last, dict) else np.asarray(last).view(_LastArray)
                marked.environment = int(place)
                infos[place]["terminal_observation"] = marked
        return observations, rewards, dones, infos


class _RemembersRollouts(OnPolicyAlgorithm):
    """An on-policy algorithm whose rollouts hold latents."""

    _latents: RolloutLatents | None = None
    """Not saved: an episode that a loaded agent goes on with goes on under another latent."""
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "LatentPolicy": LatentActorCriticPolicy,
        "LatentCnnPolicy": LatentActorCriticCnnPolicy,
        "LatentMultiInputPolicy": LatentMultiInputActorCriticPolicy,
        "MlpPolicy": LatentActorCriticPolicy,
        "CnnPolicy": LatentActorCriticCnnPolicy,
        "MultiInputPolicy": LatentMultiInputActorCriticPolicy,
    }

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, LatentActorCriticPolicy):
            raise LatentRLError(
                f"{type(self).__name__} trains a LatentActorCriticPolicy, not {self.policy_class.__name__}: take "
                f"'LatentPolicy', or stable-baselines3's own {type(self).__name__.removeprefix('Latent')}"
            )
        fitting = LatentDictRolloutBuffer if isinstance(self.observation_space, spaces.Dict) else LatentRolloutBuffer
        chosen = self.rollout_buffer_class
        if chosen is not None and not (isinstance(chosen, type) and issubclass(chosen, fitting)):
            raise LatentRLError(
                f"rollout_buffer_class {chosen!r} does not keep latents beside such observations: leave it out, or "
                f"derive from {fitting.__name__}"
            )
        self.rollout_buffer_class: type[RolloutBuffer] | None = chosen or fitting
        super()._setup_model()

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        made = super()._setup_learn(*args, **kwargs)
        starts = self._last_episode_starts
        assert starts is not None
        if self._latents is None or starts.all():  # the agent was loaded, or its environments were reset or are others
            self._latents = RolloutLatents(np.array(starts, bool))
        return made

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        assert isinstance(self.policy, LatentActorCriticPolicy)
        assert self._latents is not None
        with self.policy.collecting(self._latents):
            return super().collect_rollouts(_Watched(env, self._latents), callback, rollout_buffer, n_rollout_steps)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        latent: Any = None,
    ) -> tuple[np.ndarray, State | None]:
        """See :meth:`LatentActorCriticPolicy.predict`."""
        assert isinstance(self.policy, LatentActorCriticPolicy)
        return self.policy.predict(observation, state, episode_start, deterministic, latent)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_latents"]


class LatentPPO(_RemembersRollouts, PPO):
    """stable-baselines3's PPO for a policy with a latent: the ratio is that of (a, z).

    ``LatentPPO("LatentPolicy", env, policy_kwargs=dict(latent_dim=8, hold=0))``; all arguments are PPO's.

    :raises LatentRLError: another policy class, or a buffer that keeps no latents
    """


class LatentA2C(_RemembersRollouts, A2C):
    """stable-baselines3's A2C for a policy with a latent; see :class:`LatentPPO`."""
