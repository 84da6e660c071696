"""Does stock PPO learn our Pendulum and CartPole as it learns Gymnasium's?

    python -m experiments.ppo

The same hyperparameters (RL Baselines3 Zoo's), the same seeds; ours through ``TorchVecEnvAdapter``, Gymnasium's through
``make_vec_env``. Both are evaluated on *Gymnasium's* environment, so an error in our task would show. Writes the table,
the records and the learning curves.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from matplotlib.figure import Figure
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

import latentrl_envs  # noqa: F401  (registers the ids)
from experiments.records import StudyArgs, write
from latentrl.cells import Cells, Record
from latentrl.sb3 import TorchVecEnvAdapter
from latentrl.sweeps import sweep

SOURCES = ("gymnasium", "latentrl")


def falling(start: float) -> Callable[[float], float]:
    """A value that falls linearly to 0."""
    return lambda remaining: start * remaining


@dataclass(frozen=True)
class Study:
    """One task with its settings."""

    env_id: str
    n_envs: int
    timesteps: int
    settings: dict[str, Any]
    solved: float
    """Mean return of 100 evaluation episodes from which the task counts as solved."""


STUDIES = (
    Study(
        "CartPole-v1",
        n_envs=8,
        timesteps=100_000,
        settings={
            "n_steps": 32,
            "batch_size": 256,
            "n_epochs": 20,
            "gamma": 0.98,
            "gae_lambda": 0.8,
            "learning_rate": falling(1e-3),
            "clip_range": falling(0.2),
        },
        solved=475.0,
    ),
    Study(
        "Pendulum-v1",
        n_envs=4,
        timesteps=100_000,
        settings={
            "n_steps": 1024,
            "n_epochs": 10,
            "gamma": 0.9,
            "gae_lambda": 0.95,
            "learning_rate": 1e-3,
            "clip_range": 0.2,
            "use_sde": True,
            "sde_sample_freq": 4,
        },
        solved=-200.0,
    ),
)


@dataclass(frozen=True)
class Args(StudyArgs):
    """Train PPO on both sources of each task."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run each."""
    workers: int = 2
    """Parallel processes."""
    smoke: bool = False
    """A few steps only, to see that it runs."""
    out: Path = Path("experiments/results/ppo")
    """Folder for the table, the records and the picture."""


def build(study: Study, source: str, seed: int) -> VecEnv:
    """The training environments."""
    if source == "gymnasium":
        return make_vec_env(study.env_id, study.n_envs, seed=seed)
    batch = gym.make_vec(f"latentrl/{study.env_id}", study.n_envs, autoreset_mode="SameStep")
    env = VecMonitor(TorchVecEnvAdapter(batch))
    env.seed(seed)
    return env


def train(which: int, source: str, seed: int, smoke: bool) -> Record:
    """One run: the learning curve and the final return, both on Gymnasium's environment."""
    study = STUDIES[which]
    warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")  # that is the point
    agent = PPO("MlpPolicy", build(study, source, seed), seed=seed, device="cpu", **study.settings)
    judge = make_vec_env(study.env_id, 5, seed=10_000 + seed)
    timesteps = 2 * study.n_envs * study.settings["n_steps"] if smoke else study.timesteps
    with TemporaryDirectory() as folder:  # without a folder for its log the callback keeps no returns
        every = max(1, timesteps // 20 // study.n_envs)
        curve = EvalCallback(judge, n_eval_episodes=5, eval_freq=every, log_path=folder, verbose=0)
        agent.learn(timesteps, callback=curve)
    mean, spread = evaluate_policy(agent, judge, n_eval_episodes=5 if smoke else 100)
    return {
        "task": study.env_id,
        "source": source,
        "seed": seed,
        "mean_return": float(mean),
        "spread_over_episodes": float(spread),
        "curve": [
            list(map(float, curve.evaluations_timesteps)),
            [float(np.mean(r)) for r in curve.evaluations_results],
        ],
    }


def table(records: Sequence[Record]) -> str:
    """Mean and range over seeds, in Markdown."""
    lines = ["| task | trained on | mean return [range over seeds] | seeds that solve it |", "|---|---|---|---|"]
    for study in STUDIES:
        for source in SOURCES:
            found = [r["mean_return"] for r in records if (r["task"], r["source"]) == (study.env_id, source)]
            solved = sum(value >= study.solved for value in found)
            lines.append(
                f"| {study.env_id} | {source} | {np.mean(found):.1f} [{min(found):.1f}, {max(found):.1f}] | "
                f"{solved} of {len(found)} (≥ {study.solved:g}) |"
            )
    return "\n".join(lines) + "\n"


def draw(records: Sequence[Record]) -> Figure:
    """Learning curves: one line for each seed, one colour for each source."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, len(STUDIES))
    for axis, study in zip(axes, STUDIES, strict=True):
        for record in records:
            if record["task"] == study.env_id:
                colour = f"C{SOURCES.index(record['source'])}"
                label = record["source"] if record["seed"] == records[0]["seed"] else None
                axis.plot(*record["curve"], color=colour, alpha=0.6, label=label)
        axis.axhline(study.solved, color="0.6", linestyle=":")
        axis.set(title=f"PPO, trained on {study.env_id}", xlabel="time steps")
        axis.legend()
    axes[0].set_ylabel("return on Gymnasium's environment")
    return figure


def main(args: Args) -> None:
    """Run, print, write."""
    jobs = {
        f"{study.env_id} {source} {seed}": partial(train, which, source, seed, args.smoke)
        for which, study in enumerate(STUDIES)
        for source in SOURCES
        for seed in args.seeds
    }
    records = sweep(Cells(args.out, {"seeds": args.seeds, "smoke": args.smoke}), jobs, args.workers)
    write(args.out, "ppo", ("latentrl",), table(records), {"runs": records}, draw(records))


if __name__ == "__main__":
    main(tyro.cli(Args))
