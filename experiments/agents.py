"""What studies of agents over seeds have in common: environments and evaluation."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from latentrl.cells import Record
from latentrl.randomness import same_randomness
from latentrl.sb3 import TorchVecEnvAdapter, evaluate_behaviour
from latentrl_envs.avoiding import Avoiding
from latentrl_envs.multi_goal import MultiGoal


def batch(env_id: str, num_envs: int, seed: int, **kwargs: Any) -> VecEnv:
    """Environments of ours, one tensor for all, with SB3's monitor; ``kwargs`` are those of the task."""
    made = gym.make_vec(f"latentrl/{env_id}", num_envs, autoreset_mode="SameStep", **kwargs)
    venv = VecMonitor(TorchVecEnvAdapter(made))
    venv.seed(seed)
    return venv


def judge(agent: Any, venv: VecEnv, episodes: int, n_modes: int = 0, deterministic: bool = False) -> Record:
    """Play episodes: mean return, share of successes where the environments tell of them, and how many showed each of
    ``n_modes`` kinds.

    :param agent: anything with stable-baselines3's ``predict``
    :param venv: with a monitor inside
    """
    shown = evaluate_behaviour(agent, venv, episodes, deterministic)
    record: Record = {"return": shown.mean_return.value}
    if shown.successes is not None:
        record["success"] = shown.success_rate.value
    return record | ({"counts": shown.counts(n_modes).tolist()} if n_modes else {})


def paths(agent: Any, venv: VecEnv, episodes: int) -> list[list[list[float]]]:
    """Where as many environments went in their first episode: for each, rows of the observation, in hundredths."""
    shown = evaluate_behaviour(agent, venv, venv.num_envs, trajectories=True)
    assert shown.trajectories is not None
    places = [shown.trajectories[i] for i in shown.environments.argsort()[:episodes]]
    places = [seen["observation"] if isinstance(seen, dict) else seen for seen in places]
    return [np.round(seen.astype(float), 2).tolist() for seen in places]


def landmarks(env_id: str) -> list[tuple[tuple[float, float], float, str]]:
    """What to draw under paths: centres, radii and colours of goals or posts."""
    if env_id == "MultiGoal-v0":
        return [(goal, 1.0, "#bbddbb") for goal in MultiGoal.goals]
    return [(post, Avoiding.post_radius, "#bb5566") for post in Avoiding().posts]


class Curve(BaseCallback):
    """Judges an agent between rollouts, where it starts and about every ``every`` time steps.

    :param look: what to note of an agent
    """

    def __init__(self, every: int, look: Callable[[Any], Record]) -> None:
        super().__init__()
        self.every, self.look = every, look
        self.records: list[Record] = []

    def _on_rollout_start(self) -> None:
        if not self.records or self.num_timesteps - self.records[-1]["steps"] >= self.every:
            with same_randomness(self.model.device):
                self.records.append({"steps": self.num_timesteps, **self.look(self.model)})

    def _on_step(self) -> bool:
        return True
