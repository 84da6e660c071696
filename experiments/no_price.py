"""What does a latent cost where nothing is gained by it? Returns and seconds beside the stock policy, on three tasks.

    python -m experiments.no_price     (needs pip install 'gymnasium[mujoco,box2d]')

PPO with one Gaussian, with a mixture and as LatentPPO, on HalfCheetah also with latents that hardly matter at first;
SAC with one Gaussian, with a continuous latent and with a mixture. All policies of a task have the same settings:
stable-baselines3's, but for those of ``TASKS``, most of which RL Baselines3 Zoo found for the stock policy; there are
fewer steps here, and LunarLander's SAC has smaller networks and episodes of 400 steps, as the stock agent hovers
through longer ones. Judged by mean actions, of a latent at its mode, and as they act, with noise and drawn latents. A
policy reaches the stock one's return where it is, on average over the seeds, no further below than those are apart;
surely so where that holds for all of the interval. The seconds are of the CPU, and their ratio is to the stock
policy's with the same seed; as a shared machine's speed changes between two runs, the median of the seeds is judged,
and ``experiments.benchmarks.sb3_overhead`` compares the same policies turn by turn.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from experiments.agents import Curve, judge
from experiments.records import StudyArgs, table, write
from latentrl import metrics
from latentrl.cells import Cells, Record
from latentrl.sb3 import LatentPPO
from latentrl.sweeps import sweep
from latentrl.training.fingerprint import describe

COLUMNS = ("return", "less stock's", "return as it acts", "CPU seconds", "ratio of seconds")
LIMITS = {"PPO": 1.3, "PPO, and small latents": 1.3, "SAC": 2.0}
"""Of the ratio of seconds."""


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
    policy_kwargs: dict[str, Any] | None = None
    env_kwargs: dict[str, Any] | None = None


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
SMALL = {"latent_dim": 4, "latent_scale": 0.1}
"""Latents that hardly matter at first: tried where LatentPPO missed the stock policy's return, and chosen by runs with
seeds that are not reported."""
POLICIES["PPO, and small latents"] = POLICIES["PPO"] | {
    "N(0, I), each step, small at first": Policy(LatentPPO, "LatentPolicy", SMALL | {"hold": 1}),
    "N(0, I), held, small at first": Policy(LatentPPO, "LatentPolicy", SMALL | {"hold": 0}),
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
    "HalfCheetah, PPO": Task(
        "HalfCheetah-v5", "PPO, and small latents", 250_000, 4, {"n_steps": 512, "batch_size": 64}, True
    ),
    "Pendulum, SAC": Task("Pendulum-v1", "SAC", 10_000, 1, {"learning_rate": 1e-3}),
    "LunarLander, SAC": Task(
        "LunarLanderContinuous-v3",
        "SAC",
        60_000,
        1,
        {"learning_rate": 7.3e-4, "learning_starts": 2_000, "tau": 0.01, "batch_size": 128},
        policy_kwargs={"net_arch": [128, 128]},
        env_kwargs={"max_episode_steps": 400},
    ),
    "HalfCheetah, SAC": Task(
        "HalfCheetah-v5", "SAC", 30_000, 1, {"learning_rate": 1e-3, "learning_starts": 1_000, "tau": 0.01}
    ),
}


@dataclass(frozen=True)
class Args(StudyArgs):
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
    torch.set_num_threads(1)  # or CPU seconds would be those of all of them
    task = task._replace(num_envs=1) if args.smoke else task
    # Far apart, as environment i of a batch has the seed of the batch plus i.
    made = partial(make_vec_env, task.env_id, env_kwargs=task.env_kwargs)
    venv, judged = made(task.num_envs, 1_000 * seed), made(max(1, args.episodes // 5), 10**6 + 1_000 * seed)
    if task.normalize:
        venv, judged = VecNormalize(venv), VecNormalize(judged, norm_reward=False, training=False)
        judged.obs_rms = venv.obs_rms
    policy_kwargs = policy.policy_kwargs | (task.policy_kwargs or {})
    agent = policy.algorithm(policy.name, venv, seed=seed, device="cpu", policy_kwargs=policy_kwargs, **task.settings)
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
    return {
        **judge(agent, judged, args.episodes, deterministic=True),
        "return as it acts": judge(agent, judged, args.episodes)["return"],
        "CPU seconds": seconds,
        "curve": curve.records,
    }


def rows(found: Sequence[Record]) -> list[Record]:
    """One row of the table for each run, with what it has beyond the stock policy's return and seconds."""
    stock = {(r["task"], r["seed"]): r for r in found if r["method"].endswith("Gaussian")}
    listed = []
    for record in found:
        its = stock[record["task"], record["seed"]]
        ratio = record["CPU seconds"] / its["CPU seconds"]
        listed.append({**record, "less stock's": record["return"] - its["return"], "ratio of seconds": ratio})
    return listed


def verdict(listed: Sequence[Record]) -> str:
    """Which policies reach the stock one's return, and keep within their limit of its seconds."""
    titles = (
        "policy | less stock's, 95 % interval | stock's spread | reaches it | surely | ratio of seconds, median (limit)"
    )
    lines = ["", f"| {titles} |", "|---" * 6 + "|"]
    for name in dict.fromkeys(r["method"] for r in listed if not r["method"].endswith("Gaussian")):
        mine = [record for record in listed if record["method"] == name]
        task = mine[0]["task"]
        stock = [r["return"] for r in listed if r["task"] == task and r["method"].endswith("Gaussian")]
        spread = float(np.std(stock, ddof=1)) if len(stock) > 1 else 0.0
        less = metrics.mean(np.array([record["less stock's"] for record in mine]))
        ratio, limit = np.median([record["ratio of seconds"] for record in mine]), LIMITS[TASKS[task].policies]
        lines.append(
            f"| {name} | {less.value:.4g} [{less.ci[0]:.4g}, {less.ci[1]:.4g}] | {spread:.3g} | "
            f"{'yes' if less.value >= -spread else 'no'} | {'yes' if less.ci[0] >= -spread else 'no'} | "
            f"{ratio:.2f} ({limit}) |"
        )
    return "\n".join(lines) + "\n"


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
    given = {name: value for name, value in asdict(args).items() if name not in ("workers", "out")}
    settings = given | {"policies": describe(POLICIES), "settings": describe(TASKS)}
    jobs, labels = {}, []
    for seed, task in product(args.seeds, args.tasks):
        for name, policy in POLICIES[TASKS[task].policies].items():
            jobs[f"{task} {name} {seed}"] = partial(run, TASKS[task], policy, seed, args)
            labels.append({"method": f"{task}: {name}", "task": task, "seed": seed})
    made = sweep(Cells(args.out, settings), jobs, args.workers)
    found = [label | record for label, record in zip(labels, made, strict=True)]
    record = {"settings": settings, "runs": found}
    listed = rows(found)
    text = table(listed, COLUMNS) + verdict(listed)
    write(args.out, "no_price", ("latentrl",), text, record, draw(found, args.tasks))


if __name__ == "__main__":
    main(tyro.cli(Args))
