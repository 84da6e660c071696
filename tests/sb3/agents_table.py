"""One table of agents with latent policies, over which the laws of stable-baselines3 run."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from latentrl.sb3.on_policy import LatentA2C, LatentPPO

BOX = spaces.Box(-1, 1, (2,))
VECTOR = spaces.Box(-1, 1, (3,))
ON_POLICY: dict[str, Any] = {"n_steps": 32, "seed": 0, "device": "cpu"}
PPO_OPTIONS = {**ON_POLICY, "batch_size": 16, "n_epochs": 2}


class Toy(gym.Env):
    """Random observations; whatever they are, each action should be .5."""

    def __init__(self, observation_space: spaces.Space = VECTOR, action_space: spaces.Space = BOX, steps: int = 8):
        # Spaces draw from generators of their own, which environments must not share.
        self.observation_space, self.action_space = copy.deepcopy((observation_space, action_space))
        self.steps = steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
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
    """What the environments need around them."""
    wrong: tuple[tuple[dict[str, Any], str], ...] = ()
    """Arguments of the policy that are refused, and with which words."""
    lesson: tuple[dict[str, Any], int] = ({}, 0)
    """Options with which it learns fast, and steps that suffice."""
    steps: int = 64
    """After which all of its parameters have been trained."""

    def make(self, env: Any, policy: str = "", wrapped: bool = False, **options: Any) -> BaseAlgorithm:
        """The agent; ``policy`` in place of its short name.

        :param wrapped: the environment is already what it needs
        """
        own: dict[str, Any] = {**self.options, **options}
        own["policy_kwargs"] = {**self.policy_kwargs, **own.get("policy_kwargs", {})}
        return self.algorithm(policy or self.policy, env if wrapped else self.wrap(env), **own)


# A2C sees nothing in 64 actions whose noise is as wide as their space, with stable-baselines3's own policy neither.
NARROW: Any = {"learning_rate": 3e-3, "policy_kwargs": {"log_std_init": -1.0}}
PPO_LESSON: Any = ({**NARROW, "batch_size": 64, "n_epochs": 10}, 1536)
A2C_LESSON: Any = ({**NARROW, "n_steps": 8}, 6400)
OFF_POLICY: dict[str, Any] = {
    "learning_starts": 16,
    "batch_size": 16,
    "buffer_size": 1000,
    "train_freq": 4,
    "gradient_steps": 4,
    "seed": 0,
    "device": "cpu",
}
OFF_POLICY_LESSON: Any = ({"batch_size": 64, "learning_rate": 3e-3, "learning_starts": 100}, 4800)
NO_COMPONENTS = ({"n_components": 0}, "n_components must be")
LATENT = (
    ({"prior": "mixture", "n_components": 0}, "n_components must be"),
    ({"n_components": 3}, "n_components is for prior='mixture', but prior='normal' is chosen"),
    ({"latent_dim": 0}, "latent_dim must be"),
    ({"hold": -1}, "hold must be"),
    ({"prior": "flow"}, "unknown prior 'flow'"),
)
WRONG_SPREAD = ({"latent_spread": -1.0}, "latent_spread must be")
SQUASHED = (({"latent_dim": 0}, "latent_dim must be"), WRONG_SPREAD)
SAC_CONTINUOUS = (
    *SQUASHED,
    ({"num_samples": 0}, "num_samples must be"),
    ({"n_components": 3}, "n_components is for prior='categorical', but prior='gaussian' is chosen"),
    ({"prior": "flow"}, "unknown prior 'flow'"),
)
SAC_CATEGORICAL = (
    WRONG_SPREAD,
    NO_COMPONENTS,
    ({"latent_dim": 2}, "latent_dim is for prior='gaussian' or 'normal', but prior='categorical' is chosen"),
    ({"num_samples": 2}, "num_samples is for prior='gaussian' or 'normal'"),
)
EVERY = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
AGENTS = {
    "mixture PPO": Agent(
        PPO, "MixturePolicy", PPO_OPTIONS, {"n_components": 3}, EVERY, wrong=(NO_COMPONENTS,), lesson=PPO_LESSON
    ),
    "mixture A2C": Agent(
        A2C, "MixturePolicy", ON_POLICY, {"n_components": 3}, EVERY, wrong=(NO_COMPONENTS,), lesson=A2C_LESSON
    ),
    "latent PPO, episode": Agent(
        LatentPPO, "LatentPolicy", PPO_OPTIONS, {"latent_dim": 3}, EVERY, wrong=LATENT, lesson=PPO_LESSON
    ),
    "latent PPO, 3 steps, gaussian": Agent(
        LatentPPO,
        "LatentPolicy",
        PPO_OPTIONS,
        {"latent_dim": 2, "hold": 3, "prior": "gaussian"},
        EVERY,
        lesson=PPO_LESSON,
    ),
    "latent PPO, step, mixture": Agent(
        LatentPPO,
        "LatentPolicy",
        PPO_OPTIONS,
        {"latent_dim": 2, "hold": 1, "prior": "mixture", "n_components": 3},
        EVERY,
        lesson=PPO_LESSON,
    ),
    "latent A2C, categorical": Agent(
        LatentA2C, "LatentPolicy", ON_POLICY, {"latent_dim": 4, "prior": "categorical"}, EVERY, lesson=A2C_LESSON
    ),
    "latent SAC": Agent(
        SAC,
        "LatentPolicy",
        OFF_POLICY,
        {"prior": "gaussian", "num_samples": 4, "net_arch": [32, 32]},
        wrong=SAC_CONTINUOUS,
        lesson=OFF_POLICY_LESSON,
        steps=24,
    ),
    "latent SAC, categorical": Agent(
        SAC,
        "LatentPolicy",
        OFF_POLICY,
        {"prior": "categorical", "n_components": 3, "net_arch": [32, 32]},
        wrong=SAC_CATEGORICAL,
        lesson=OFF_POLICY_LESSON,
        steps=24,
    ),
    "latent TD3": Agent(
        TD3, "LatentPolicy", OFF_POLICY, {"net_arch": [32, 32]}, wrong=SQUASHED, lesson=OFF_POLICY_LESSON, steps=24
    ),
}
AGENTS["latent DDPG"] = replace(AGENTS["latent TD3"], algorithm=DDPG)
if find_spec("sb3_contrib") is not None:
    from sb3_contrib import TQC

    for _name in ("latent SAC", "latent SAC, categorical"):
        AGENTS[_name.replace("SAC", "TQC")] = replace(AGENTS[_name], algorithm=TQC)
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
