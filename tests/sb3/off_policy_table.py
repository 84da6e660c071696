"""Off-policy agents with an actor, stock and latent, and demonstrations for them."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback

from latentrl import Demonstrations
from tests.sb3.agents_table import AGENTS, OFF_POLICY, SPACES, VECTOR, Agent, Toy

BOUNDS = SPACES["asymmetric"]
_TQC: dict[str, dict[str, Any]] = {
    "TQC": {},
    "latent TQC": {"prior": "gaussian", "num_samples": 4},
    "latent TQC, categorical": {"prior": "categorical", "n_components": 3},
}
_STOCK: dict[str, Any] = {"net_arch": [16]}
_OTHERS = {
    **{kind.__name__: Agent(kind, "MlpPolicy", OFF_POLICY, _STOCK) for kind in (SAC, TD3, DDPG)},
    **{name: AGENTS[name] for name in ("latent SAC", "latent SAC, categorical", "latent TD3")},
}
OFF = (*_OTHERS, *_TQC)


def off(name: str, env: Any = None, **options: Any) -> Any:
    """The agent, by default in Toy with asymmetric bounds; skips where sb3-contrib is needed and missing."""
    made = _OTHERS.get(name)
    if made is None:
        policy = "LatentPolicy" if _TQC[name] else "MlpPolicy"
        made = Agent(pytest.importorskip("sb3_contrib").TQC, policy, OFF_POLICY, {**_STOCK, **_TQC[name]})
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
