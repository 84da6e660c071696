"""Gymnasium tasks in torch: pure, batched, differentiable functions, and the two environments around them.

Importing the package registers the ids; an id may name the package: ``gym.make("latentrl_envs:latentrl/Trace-v0")``.
Other arguments go on to the task: ``gym.make_vec("latentrl_envs:latentrl/Pendulum-v1", num_envs=8, g=9.81)``.
"""

import gymnasium as gym

from latentrl_envs.pendulum import Pendulum
from latentrl_envs.single import TorchEnv
from latentrl_envs.task import Task
from latentrl_envs.trace import Trace
from latentrl_envs.vector import TorchVectorEnv

__all__ = ["Pendulum", "Task", "TorchEnv", "TorchVectorEnv", "Trace"]


def _register(env_id: str, task: str, max_episode_steps: int) -> None:
    if env_id in gym.registry:  # a reload; Gymnasium would warn
        return
    gym.register(
        env_id,
        entry_point="latentrl_envs.single:TorchEnv",
        vector_entry_point="latentrl_envs.vector:TorchVectorEnv",
        max_episode_steps=max_episode_steps,
        kwargs={"func_env": task},
    )


_register("latentrl/Pendulum-v1", "latentrl_envs.pendulum:Pendulum", max_episode_steps=200)
_register("latentrl/Trace-v0", "latentrl_envs.trace:Trace", max_episode_steps=100)
