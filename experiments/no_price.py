"""What does a latent cost where nothing is gained by it? Returns and seconds beside the stock policy, on three tasks.

    python -m experiments.no_price     (needs pip install 'gymnasium[mujoco,box2d]')

PPO with one Gaussian, with a mixture and as LatentPPO; SAC with one Gaussian, with a continuous latent and with a
mixture. The settings are near those of RL Baselines3 Zoo, the same for all policies of a task. Judged by mean actions.
The seconds are of the CPU, and their ratio is to the stock policy's with the same seed.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from matplotlib.figure import Figure
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from experiments.agents import Curve, judge
from experiments.records import table, write
from latentrl.cells import Cells, Record
from latentrl.sb3 import LatentPPO
from latentrl.sweeps import sweep

COLUMNS = ("return", "CPU seconds", "ratio of seconds")


class Policy(NamedTuple):
    """One kind of agent; the first of each algorithm is the stock one."""

    algorithm: type[BaseAlgorithm]
    name: str
    policy_kwargs: dict[str, Any]


class Task(NamedTuple):
    """An environment with an algorithm's settings."""

    env_id: str
    policies: str
    steps: int
    num_envs: int
    settings: dict[str, Any]
    normalize: bool = False


POLICIES = {
    "PPO": {
        "Gaussian": Policy(PPO, "MlpPolicy", {}),
        "mixture of 4": Policy(PPO, "MixturePolicy", {"n_components": 4}),
        "N(0, I), each step": Policy(LatentPPO, "LatentPolicy", {"latent_dim": 4, "hold": 1}),
        "N(0, I), held": Policy(LatentPPO, "LatentPolicy", {"latent_dim": 4, "hold": 0}),
    },
    "SAC": {
        "Gaussian": Policy(SAC, "MlpPolicy", {}),
        "N(0, I)": Policy(SAC, "LatentPolicy", {}),
        "mixture of 4": Policy(SAC, "LatentPolicy", {"prior": "categorical"}),
    },
}
ZOO: dict[str, Any] = {"n_steps": 1024, "batch_size": 64, "n_epochs": 10, "gae_lambda": 0.95}
TASKS = {
    "Pendulum, PPO": Task("Pendulum-v1", "PPO", 100_000, 4, ZOO | {"gamma": 0.9, "learning_rate": 1e-3}),
    "LunarLander, PPO": Task(
        "LunarLanderContinuous-v3",
        "PPO",
        400_000,
        16,
        ZOO | {"n_epochs": 4, "gamma": 0.999, "gae_lambda": 0.98, "ent_coef": 0.01},
    ),
    "HalfCheetah, PPO": Task("HalfCheetah-v5", "PPO", 250_000, 4, {"n_steps": 512, "batch_size": 64}, True),
    "Pendulum, SAC": Task("Pendulum-v1", "SAC", 10_000, 1, {"learning_rate": 1e-3}),
    "LunarLander, SAC": Task(
        "LunarLanderContinuous-v3", "SAC", 30_000, 1, {"learning_rate": 7.3e-4, "learning_starts": 5_000, "tau": 0.01}
    ),
    "HalfCheetah, SAC": Task("HalfCheetah-v5", "SAC", 25_000, 1, {"learning_starts": 5_000}),
}


@dataclass(frozen=True)
class Args:
    """Train every kind of agent on every task with every seed."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of each agent with each."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Which of the tasks."""
    share: float = 1.0
    """Of each task's steps."""
    episodes: int = 50
    """By which an agent is judged."""
    workers: int = 2
    """Parallel processes."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/no_price")
    """Folder for the table, the records, the picture, and one file per finished run."""

    def smoked(self) -> "Args":
        """The settings that count."""
        small = {"seeds": (0,), "tasks": ("Pendulum, PPO", "Pendulum, SAC"), "share": 1e-3, "episodes": 1}
        return replace(self, **small) if self.smoke else self


def run(task: Task, policy: Policy, seed: int, args: Args) -> Record:
    """Train one agent and judge it."""
    task = task._replace(num_envs=1) if args.smoke else task
    venv = make_vec_env(task.env_id, task.num_envs, seed=seed)
    judged = make_vec_env(task.env_id, max(1, args.episodes // 5), seed=10_000 + seed)
    if task.normalize:
        venv, judged = VecNormalize(venv), VecNormalize(judged, norm_reward=False, training=False)
        judged.obs_rms = venv.obs_rms
    agent = policy.algorithm(
        policy.name, venv, seed=seed, device="cpu", policy_kwargs=policy.policy_kwargs, **task.settings
    )
    steps = round(args.share * task.steps)
    spent = 0.0

    def look(agent: Any) -> Record:
        nonlocal spent
        start = time.process_time()
        found = judge(agent, judged, max(1, args.episodes // 5), deterministic=True)
        spent += time.process_time() - start
        return found

    curve = Curve(max(64, steps // 10), look)
    start = time.process_time()
    agent.learn(steps, curve)
    seconds = time.process_time() - start - spent
    return {**judge(agent, judged, args.episodes, deterministic=True), "CPU seconds": seconds, "curve": curve.records}


def rows(found: Sequence[Record]) -> list[Record]:
    """One row of the table for each run, with the ratio to the stock policy's seconds."""
    stock = {(r["task"], r["seed"]): r["CPU seconds"] for r in found if r["method"].endswith("Gaussian")}
    return [{**r, "ratio of seconds": r["CPU seconds"] / stock[r["task"], r["seed"]]} for r in found]


def draw(found: Sequence[Record], tasks: Sequence[str]) -> Figure:
    """Learning curves: mean over the seeds, and their range."""
    figure = Figure(figsize=(4.2 * len(tasks) / 2 + 1, 7), layout="constrained")
    axes = figure.subplots(2, -(-len(tasks) // 2), squeeze=False).ravel()
    for axis, task in zip(axes, tasks, strict=False):
        for number, name in enumerate(POLICIES[TASKS[task].policies]):
            curves = [record["curve"] for record in found if record["method"] == f"{task}: {name}"]
            returns = np.array([[point["return"] for point in curve] for curve in curves])
            steps = [point["steps"] for point in curves[0]]
            axis.plot(steps, returns.mean(0), color=f"C{number}", label=name)
            axis.fill_between(steps, returns.min(0), returns.max(0), color=f"C{number}", alpha=0.15, linewidth=0)
        axis.set(title=task, xlabel="environment steps", ylabel="return")
        axis.legend(fontsize=7)
    return figure


def main(args: Args) -> None:
    """Train, judge, write."""
    args = args.smoked()
    settings = {name: value for name, value in asdict(args).items() if name not in ("workers", "out")}
    jobs, labels = {}, []
    for seed, task in product(args.seeds, args.tasks):
        for name, policy in POLICIES[TASKS[task].policies].items():
            jobs[f"{task} {name} {seed}"] = partial(run, TASKS[task], policy, seed, args)
            labels.append({"method": f"{task}: {name}", "task": task, "seed": seed})
    made = sweep(Cells(args.out, settings), jobs, args.workers)
    found = [label | record for label, record in zip(labels, made, strict=True)]
    record = {"settings": settings, "runs": found}
    write(args.out, "no_price", ("latentrl",), table(rows(found), COLUMNS), record, draw(found, args.tasks))


if __name__ == "__main__":
    main(tyro.cli(Args))
