"""Vector environments of tensors under stable-baselines3."""
# ruff: noqa: ARG002 - the signatures are VecEnv's

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
from torch import Tensor

from latentrl.checks import LatentRLError


class TorchVecEnvAdapter(VecEnv):
    """A Gymnasium ``VectorEnv`` that speaks tensors, as a stable-baselines3 ``VecEnv`` that speaks NumPy.

    The only copy between device and host. stable-baselines3 wants the first observation of the next episode together
    with the last reward of the old one, the last observation as ``infos[i]["terminal_observation"]`` and time limits as
    ``infos[i]["TimeLimit.truncated"]``. So the environment resets in the same step, or not by itself (then the adapter
    resets the rows that ended)::

        env = gym.make_vec("latentrl_envs:latentrl/CartPole-v1", num_envs=8, autoreset_mode="SameStep")
        PPO("MlpPolicy", TorchVecEnvAdapter(env)).learn(100_000)

    Statistics of episodes are VecMonitor's, around it; those of RecordEpisodeStatistics inside are not read.

    :param env: a vector environment with ``metadata["autoreset_mode"]`` SAME_STEP or DISABLED
    :raises LatentRLError: another autoreset mode, observations with parts, or something that is no vector environment
    """

    def __init__(self, env: VectorEnv) -> None:
        if not isinstance(env, VectorEnv):
            raise LatentRLError(
                f"TorchVecEnvAdapter takes a gymnasium VectorEnv, got {env!r}: make it with gym.make_vec"
            )
        seen = env.single_observation_space
        if not isinstance(seen, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise LatentRLError(
                f"observations must be one tensor, but they are {seen}: flatten them, or make "
                "the environment with stable-baselines3's make_vec_env"
            )
        self.env = env
        self.autoreset_mode: Any | None = env.metadata.get("autoreset_mode")
        if self.autoreset_mode not in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
            raise LatentRLError(
                f"stable-baselines3 needs a reset in the same step, but the environment has {self.autoreset_mode}: "
                "make it with autoreset_mode='SameStep' or 'Disabled'"
            )
        self._actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata: dict[str, Any] = env.metadata

    def reset(self) -> np.ndarray:
        """Start an episode in every row; a seed given by :meth:`seed` is used once."""
        if any(self._options):
            raise LatentRLError("reset options are not supported here: give them to the environment's own reset")
        observations, told = self.env.reset(seed=self._seeds[0])
        self.reset_infos: list[dict[str, Any]] = self._rows(told)
        self._reset_seeds()
        self._reset_options()
        return _copied(observations)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """One step of every row, as in stable-baselines3's own: rows that ended show their next start."""
        observations, rewards, terminations, truncations, told = self.env.step(self._actions)
        terminated, truncated = _array(terminations), _array(truncations)
        dones = terminated | truncated
        infos = self._rows(told)
        if dones.any():
            if self.autoreset_mode == AutoresetMode.SAME_STEP:
                last, ends, starts = told["final_obs"], self._rows(told["final_info"]), list(infos)
            else:
                last, ends = _copied(observations), infos
                observations, told = self.env.reset(options={"reset_mask": dones})
                starts = self._rows(told)
            seen = _array(last)
            for i in dones.nonzero()[0]:
                infos[i] = ends[i] | {"terminal_observation": np.array(seen[i])}
                self.reset_infos[i] = starts[i]
        for info, limit in zip(infos, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = limit
        return _copied(observations), _array(rewards).astype(np.float32), dones, infos

    def _rows(self, told: dict[str, Any]) -> list[dict[str, Any]]:
        """Infos of the batch (arrays or tensors (N,), with masks "_key") as one dictionary for each row."""
        rows: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for key, values in told.items():
            statistics = key == "episode" and isinstance(values, dict)  # of RecordEpisodeStatistics
            if key.startswith("_") or key in ("final_obs", "final_info") or statistics:
                continue
            given = _array(told.get(f"_{key}", np.ones(self.num_envs, bool)))
            parts = self._rows(values) if isinstance(values, dict) else self._parts(values)
            for row, part, is_told in zip(rows, parts, given, strict=True):
                if is_told:
                    row[key] = part
        return rows

    def _parts(self, values: Any) -> list[Any]:
        """One for each row: Python's numbers, or arrays; what is not one for each is told to all."""
        array = _array(values)
        if array.ndim == 0 or len(array) != self.num_envs:
            return [values] * self.num_envs
        return array.tolist() if array.ndim == 1 else [np.array(row) for row in array]

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        warnings.warn("a batch of tensors has no pictures: render one environment made with gym.make", stacklevel=2)
        return [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The batch's attribute, once for each row asked for."""
        return [getattr(self.env.unwrapped, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the batch; rows have none of their own.

        :raises LatentRLError: for some rows only
        """
        if indices is not None:
            raise LatentRLError(f"rows share all attributes: set {attr_name!r} without indices")
        setattr(self.env.unwrapped, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """:raises LatentRLError: always; the environment is one object and not one for each row"""
        raise LatentRLError(f"rows are no environments of their own: call {method_name!r} on the vector environment")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """No row is wrapped: wrappers of single environments do not fit a batch."""
        return [False] * len(list(self._get_indices(indices)))


def _copied(observations: Any) -> np.ndarray:
    """stable-baselines3 keeps observations over the next step, at which an environment may write over its own."""
    return np.array(_array(observations))


def _array(values: Any) -> np.ndarray:
    return values.numpy(force=True) if isinstance(values, Tensor) else np.asarray(values)
