"""How noisy is the gradient of a SAC actor through its critic, by score function and by reparameterization?

    python -m experiments.gradient_critics

No physics is differentiated: stable-baselines3's SAC learns HalfCheetah (MuJoCo) and LunarLanderContinuous (Box2D) with
its own defaults, and at checkpoints of that run the gradient of the actor's objective by all of the actor's parameters
is measured at frozen parameters, over actions alone at a fixed minibatch of states, and over new minibatches of the
replay buffer too. Variances are those of a gradient that evaluates the critic 256 times, as SAC's own does: independent
gradients that cost n evaluations are averaged 256 / n at a time. An evaluation is one action of one state, through both
networks. A run that was killed goes on where it was. Needs pip install 'gymnasium[mujoco,box2d]'.
"""

import itertools
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.critics import TASKS, checkpoint, methods, objective, soft_value, train
from experiments.records import StudyArgs, table, write
from latentrl.cells import Cells
from latentrl.gradient_report import GradientReport
from latentrl.variance import gradient_variance

EVALUATIONS = 256
"""Of the critic, for one gradient: the batch size of SAC."""
REFERENCE = "reparameterization"
ROWS = {
    "variance, actions": "variance over actions",
    "variance, both": "variance over states and actions",
    "variance × s": "variance over both × seconds",
    "SNR, actions": "SNR, actions alone",
    "SNR, both": "SNR, both",
}
"""What the picture shows, all but the third at :data:`EVALUATIONS`."""
RATIOS = ("variance, actions", "variance, both", "variance × s")
COLUMNS = (
    *("return", "variance, actions", "variance, both", *(f"{name} ÷ {REFERENCE}'s" for name in RATIOS)),
    *("SNR, actions", "SNR, both", "cosine, actions", "cosine, both", "kurtosis, both", "smallest bias p", "trusted"),
)


@dataclass(frozen=True)
class Args(StudyArgs):
    """Train an agent on each task and measure its gradients."""

    seeds: tuple[int, ...] = (0,)
    """One training run of each task with each."""
    shares: tuple[float, ...] = (0.01, 0.1, 0.3, 1.0)
    """Of the training steps, after which gradients are measured."""
    minibatches: int = 3
    """Measurements of each checkpoint, each with a fixed minibatch and noise of its own."""
    batch_size: int = 256
    """States of a minibatch."""
    draws: int = 4
    """Actions for each state with the leave-one-out baseline."""
    replicates: int = 200
    """Gradients per estimator; three times as many for the reference."""
    chunk_size: int = 10
    """Gradients at a time."""
    hidden: tuple[int, ...] = (256, 256)
    """Layers of actor and critics."""
    steps: int | None = None
    """Of training; by default 30 000 of HalfCheetah, 50 000 of LunarLander."""
    workers: int = 2
    """Parallel processes that train; gradients are measured, and timed, one after another."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/gradient_critics")
    """Folder for the table, the records and the picture; agents, in models/, are not kept with them."""


def length(report: GradientReport) -> float:
    """‖E g‖, without bias by the noise in ḡ; 0 where that is larger."""
    return report.snr * report.trace**0.5


def measure(folder: Path, step: int, minibatch: int, args: Args) -> dict[str, Any]:
    """All estimators at one checkpoint: at a fixed minibatch, and at new ones."""
    agent, seen, mean_return = checkpoint(folder, step)
    value, parameters = soft_value(agent)
    assert agent.action_space.shape is not None
    every = methods(agent.action_space.shape[0], args.draws)
    generator = torch.Generator().manual_seed(minibatch)
    fixed = seen[torch.randint(len(seen), (args.batch_size,), generator=generator)]
    kinds = {"actions": lambda: fixed, "both": lambda: seen[torch.randint(len(seen), (args.batch_size,))]}
    records: dict[str, dict[str, Any]] = {
        name: {"estimator": name, "evaluations": method.evaluations} for name, method in every.items()
    }
    for place, (kind, choose) in enumerate(kinds.items()):
        these = {name: objective(value, choose, method) for name, method in every.items()}
        seed, meter = 1000 * (2 * minibatch + place), partial(gradient_variance, chunk_size=args.chunk_size)
        reference = meter(these[REFERENCE], parameters, 3 * args.replicates, seed=seed + 999)
        for index, (name, record) in enumerate(records.items()):
            report = meter(these[name], parameters, args.replicates, reference, seed=seed + index)
            found = report.to_dict()
            found["variance"] = found["trace"] * args.batch_size * every[name].evaluations / EVALUATIONS
            # All have the same mean; the reference knows it best.
            found["SNR"] = length(reference) / found["variance"] ** 0.5
            record |= {f"{key}, {kind}": number for key, number in found.items()}
    for record in records.values():
        # A new minibatch goes through the actor for each gradient; a fixed one once for all.
        record["variance × s"] = record["trace, both"] * record["seconds_per_gradient, both"]
    return {"alpha": value.alpha, "return": mean_return, "estimators": list(records.values())}


def flatten(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One run for each task, seed, step, minibatch and estimator, with what compares it to the reference estimator."""
    runs = []
    for cell in cells:
        own = {record["estimator"]: record for record in cell["estimators"]}
        for name, record in own.items():
            ratios = {f"{q} ÷ {REFERENCE}'s": record[q] / own[REFERENCE][q] for q in RATIOS}
            about = {key: cell[key] for key in ("task", "seed", "step", "minibatch", "return")}
            trusted = float(record["trustworthy, actions"] and record["trustworthy, both"])
            told = [record[f"bias_norm_p, {kind}"] for kind in ("actions", "both")]  # None of few replicates
            smallest = min((p for p in told if p is not None), default=1.0)
            method = f"{cell['task']}, {cell['step']} steps, {name}"
            runs.append({"method": method, **about, **record, **ratios, "trusted": trusted, "p": smallest})
    for method in {run["method"] for run in runs}:
        mine = [run for run in runs if run["method"] == method]
        mine[0]["smallest bias p"] = min(1.0, 2 * len(mine) * min(run["p"] for run in mine))
    return runs


def draw(runs: list[dict[str, Any]]) -> Figure:
    """Rows as in :data:`ROWS`, one column for each task; medians, with the range over minibatches and seeds."""
    tasks, names = (list(dict.fromkeys(run[key] for run in runs)) for key in ("task", "estimator"))
    figure = Figure(figsize=(1 + 4.2 * len(tasks), 2.4 * len(ROWS)), layout="constrained")
    axes = figure.subplots(len(ROWS), len(tasks), squeeze=False, sharex="col")
    for (row, quantity), (column, task) in itertools.product(enumerate(ROWS), enumerate(tasks)):
        axis = axes[row, column]
        for index, name in enumerate(names):
            own = [run for run in runs if (run["task"], run["estimator"]) == (task, name)]
            _line(axis, own, quantity, f"C{index}", name)
        axis.set(xscale="log", yscale="log")
        axis.grid(alpha=0.3)
        if column == 0:
            axis.set_ylabel(ROWS[quantity], fontsize=9)
    for column, task in enumerate(tasks):
        axes[0, column].set_title(task)
        axes[-1, column].set_xlabel("training steps")
    handles = axes[0, 0].get_legend_handles_labels()[0]
    handles += axes[0, 0].plot([], [], "o", color="0.4", mfc="white", label="too heavy-tailed to trust")
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _line(axis: Axes, runs: list[dict[str, Any]], quantity: str, color: str, name: str) -> None:
    steps = sorted({run["step"] for run in runs})
    values = [[run[quantity] for run in runs if run["step"] == step] for step in steps]
    middle = [float(np.median(some)) for some in values]
    axis.plot(steps, middle, color=color, label=name)
    axis.fill_between(steps, [min(some) for some in values], [max(some) for some in values], color=color, alpha=0.2)
    for step, at in zip(steps, middle, strict=True):
        trusted = all(run["trusted"] for run in runs if run["step"] == step)
        axis.plot(step, at, "o", color=color, markersize=4, mfc=color if trusted else "white")


def main(args: Args) -> None:
    """Train, measure, write."""
    torch.set_num_threads(1)
    if args.smoke:
        args = replace(args, shares=(1.0,), minibatches=1, batch_size=8, replicates=4, hidden=(8,), steps=120)
    settings = {key: value for key, value in asdict(args).items() if key not in ("out", "workers", "seeds")}
    cells, jobs = Cells(args.out, settings), []
    todo: dict[str, tuple[dict[str, Any], Path]] = {}
    for task, seed in itertools.product(TASKS, args.seeds):
        steps = tuple(round(share * (args.steps or task.steps)) for share in args.shares)
        folder = args.out / "models" / f"{task.env_id}-{seed}"
        jobs.append((task, seed, folder, steps, args.hidden))
        for step, minibatch in itertools.product(steps, range(args.minibatches)):
            about: dict[str, Any] = {"task": task.env_id, "seed": seed, "step": step, "minibatch": minibatch}
            todo[" ".join(f"{name}={value}" for name, value in about.items())] = (about, folder)
    if any(key not in cells for key in todo):
        with ProcessPoolExecutor(args.workers) as pool:
            list(pool.map(train, jobs))
    records = []
    for key, (about, folder) in todo.items():
        records.append({**about, **cells(key, partial(measure, folder, about["step"], about["minibatch"], args))})
        print(key, flush=True)
    runs = flatten(records)
    record = {"arguments": {**settings, "seeds": args.seeds}, "cells": records}
    write(args.out, "gradient_critics", ("mujoco", "box2d"), table(runs, COLUMNS), record, draw(runs))


if __name__ == "__main__":
    main(tyro.cli(Args))
