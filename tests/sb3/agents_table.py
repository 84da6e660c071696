"""One table of agents with latent policies, over which the laws of stable-baselines3 run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

import latentrl.sb3  # noqa: F401  (knows the short names)

BOX = spaces.Box(-1, 1, (2,))
VECTOR = spaces.Box(-1, 1, (3,))
ON_POLICY: dict[str, Any] = {"n_steps": 32, "seed": 0, "device": "cpu"}


class Toy(gym.Env):
    """Random observations; the reward is least at the mean action's distance from what the observation asks for."""

    def __init__(self, observation_space: spaces.Space = VECTOR, action_space: spaces.Space = BOX, steps: int = 8):
        self.observation_space, self.action_space, self.steps = observation_space, action_space, steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.step_count = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.step_count += 1
        reward = -float(np.square(np.asarray(action, dtype=float) - 0.5).sum())
        return self.observation_space.sample(), reward, False, self.step_count >= self.steps, {}


@dataclass(frozen=True)
class Agent:
    """How to make one, and what it takes."""

    algorithm: type[BaseAlgorithm]
    policy: str
    options: dict[str, Any] = field(default_factory=dict)
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    actions: tuple[type[spaces.Space], ...] = (spaces.Box,)
    wrap: Callable[[Any], Any] = lambda env: env
    steps: int = 64
    """After which all of its parameters have been trained."""

    def make(self, env: Any, policy: str = "", **options: Any) -> BaseAlgorithm:
        """The agent; ``policy`` in place of its short name."""
        own: dict[str, Any] = {**self.options, **options}
        own["policy_kwargs"] = {**self.policy_kwargs, **own.get("policy_kwargs", {})}
        return self.algorithm(policy or self.policy, self.wrap(env), **own)


EVERY = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
AGENTS = {
    "mixture PPO": Agent(PPO, "MixturePolicy", {**ON_POLICY, "batch_size": 16}, {"n_components": 3}, EVERY),
    "mixture A2C": Agent(A2C, "MixturePolicy", ON_POLICY, {"n_components": 3}, EVERY),
}
SPACES = {
    "box": BOX,
    "asymmetric": spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32)),
    "float64": spaces.Box(-1, 1, (2,), np.float64),
    "two-dimensional": spaces.Box(-1, 1, (2, 3)),
    "choice": spaces.Discrete(4),
    "choices": spaces.MultiDiscrete([3, 2]),
    "bits": spaces.MultiBinary(3),
}
CELLS = [
    (name, space) for name, agent in AGENTS.items() for space in SPACES if isinstance(SPACES[space], agent.actions)
]
