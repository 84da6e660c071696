"""Gymnasium tasks in torch: pure, batched, differentiable functions, and the two environments around them.

Importing the package registers the ids; an id may name the package: ``gym.make("latentrl_envs:latentrl/Trace-v0")``.
Other arguments go on to the task: ``gym.make_vec("latentrl_envs:latentrl/Pendulum-v1", num_envs=8, g=9.81)``.
"""

import gymnasium as gym

from latentrl_envs.acrobot import Acrobot
from latentrl_envs.avoiding import Avoiding
from latentrl_envs.ball_wall import BallWall
from latentrl_envs.cartpole import CartPole
from latentrl_envs.cartpole_swing_up import CartPoleSwingUp
from latentrl_envs.double_pendulum import DoublePendulum
from latentrl_envs.lqr import LQR
from latentrl_envs.mountain_car import MountainCarContinuous
from latentrl_envs.multi_goal import MultiGoal
from latentrl_envs.pendulum import Pendulum
from latentrl_envs.pushing import Pushing
from latentrl_envs.single import TorchEnv
from latentrl_envs.task import Task
from latentrl_envs.trace import Trace
from latentrl_envs.vector import TorchVectorEnv

__all__ = [
    "LQR",
    "Acrobot",
    "Avoiding",
    "BallWall",
    "CartPole",
    "CartPoleSwingUp",
    "DoublePendulum",
    "MountainCarContinuous",
    "MultiGoal",
    "Pendulum",
    "Pushing",
    "Task",
    "TorchEnv",
    "TorchVectorEnv",
    "Trace",
]


def _register(env_id: str, task: str, max_episode_steps: int, reward_threshold: float | None = None) -> None:
    if env_id in gym.registry:  # a reload; Gymnasium would warn
        return
    gym.register(
        env_id,
        entry_point="latentrl_envs.single:TorchEnv",
        vector_entry_point="latentrl_envs.vector:TorchVectorEnv",
        max_episode_steps=max_episode_steps,
        reward_threshold=reward_threshold,
        kwargs={"func_env": task},
    )


_register("latentrl/Acrobot-v1", "latentrl_envs.acrobot:Acrobot", max_episode_steps=500, reward_threshold=-100.0)
_register("latentrl/Avoiding-v0", "latentrl_envs.avoiding:Avoiding", max_episode_steps=200)
_register("latentrl/BallWall-v0", "latentrl_envs.ball_wall:BallWall", max_episode_steps=20)
_register("latentrl/CartPole-v1", "latentrl_envs.cartpole:CartPole", max_episode_steps=500, reward_threshold=475.0)
_register("latentrl/CartPoleSwingUp-v0", "latentrl_envs.cartpole_swing_up:CartPoleSwingUp", max_episode_steps=240)
_register("latentrl/DoublePendulum-v0", "latentrl_envs.double_pendulum:DoublePendulum", max_episode_steps=200)
_register("latentrl/LQR-v0", "latentrl_envs.lqr:LQR", max_episode_steps=50)
_register(
    "latentrl/MountainCarContinuous-v0",
    "latentrl_envs.mountain_car:MountainCarContinuous",
    max_episode_steps=999,
    reward_threshold=90.0,
)
_register("latentrl/MultiGoal-v0", "latentrl_envs.multi_goal:MultiGoal", max_episode_steps=30)
_register("latentrl/Pendulum-v1", "latentrl_envs.pendulum:Pendulum", max_episode_steps=200)
_register("latentrl/Pushing-v0", "latentrl_envs.pushing:Pushing", max_episode_steps=60)
_register("latentrl/Trace-v0", "latentrl_envs.trace:Trace", max_episode_steps=100)
