"""Off-policy agents with an actor, stock and latent, and demonstrations for them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from latentrl import Demonstrations
from tests.sb3.agents_table import AGENTS, SPACES, VECTOR, Toy

BOUNDS = SPACES["asymmetric"]
_STOCK = ("SAC", "TD3", "DDPG", "TQC")
_LATENT = ("latent SAC", "latent SAC, categorical", "latent TD3", "latent TQC", "latent TQC, categorical")
OFF = (*_STOCK, *_LATENT)


def off(name: str, env: Any = None, **options: Any) -> Any:
    """The agent, by default in Toy with asymmetric bounds; skips where sb3-contrib is needed and missing."""
    if "TQC" in name:
        pytest.importorskip("sb3_contrib")
    if name in _STOCK:
        made = replace(AGENTS[f"latent {name}"], policy="MlpPolicy", policy_kwargs={"net_arch": [16]})
    else:
        made = AGENTS[name]
    return made.make(Toy(action_space=BOUNDS) if env is None else env, **options)


def shown(action_space: spaces.Space = BOUNDS, observation_space: spaces.Space = VECTOR) -> Demonstrations:
    """Forty transitions of two episodes, with actions that are not at their bounds."""
    observation_space.seed(0), action_space.seed(0)
    seen = np.stack([observation_space.sample() for _ in range(40)])
    actions = np.stack([action_space.sample() for _ in range(40)])
    if isinstance(action_space, spaces.Box):
        actions = (0.8 * actions + 0.1 * (action_space.low + action_space.high)).astype(np.float32)
    return Demonstrations.from_arrays(seen, actions, [20, 20], observation_space, action_space)


class Each(BaseCallback):
    """Something to do in each step."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        self.act = act

    def _on_step(self) -> bool:
        self.act(self.model, self.n_calls)
        return True
