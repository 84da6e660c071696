"""Does the variance of a rollout gradient matter? Policies optimised under each estimator, by steps and by seconds.

    python -m experiments.gradient_learning

Undiscounted returns of whole episodes, started from the same weights. Policy, trajectories per update, Adam and
clipping are the same for all; each estimator's learning rate is chosen on another seed, from the same starts. A run
has learned where the mean of its last three looks is above the task's threshold. Runs of one estimator on one
task go side by side (:class:`experiments.learners.Runs`); the seconds of an update are those of a run alone, measured
in turns when all is done. A study that was killed goes on where it was.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.learners import METHODS, Runs, first_norm, make_runs
from experiments.records import StudyArgs, table, write
from latentrl.cells import Cells

Record = dict[str, Any]


class Task(NamedTuple):
    """One task, rolled out to its end."""

    horizon: int
    updates: int
    threshold: float
    """Return that counts as learned."""


TASKS = {
    "Pendulum-v1": Task(200, 300, -400.0),  # from most starts, swung up and held; at rest about -1200
    "CartPoleSwingUp-v0": Task(240, 100, -250.0),  # swung up; hanging -480, at once about -170
    "Pushing-v0": Task(60, 60, -16.0),  # the best found is about -14.5; untouched -61
}
COLUMNS = (
    *("rate", "return, same steps", "return, same seconds", "ms per update"),
    *("share that learns, same steps", "share that learns, same seconds", "clipped", "skipped"),
    *("1000 steps to its first look above", "s to its first look above"),
)


@dataclass(frozen=True)
class Args(StudyArgs):
    """Optimise a policy on every task under every estimator."""

    tasks: tuple[str, ...] = tuple(TASKS)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run each."""
    tuning_seeds: tuple[int, ...] = (100,)
    """Of the runs by which learning rates are chosen."""
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    """To choose from, by the mean return over the last half of a task's updates."""
    num_envs: int = 16
    """Trajectories of each gradient."""
    clip: float = 1.0
    """Largest norm of a gradient of the mean reward per step."""
    gamma: float = 30.0
    """γ of α-order, fixed, in units of the norm of the first gradient: two to four times its confidence radius. A γ
    below that radius makes it the likelihood ratio of half of the trajectories."""
    checkpoints: int = 20
    """Times at which policies are judged during a task's updates."""
    timings: int = 7
    """Updates of each estimator by which its seconds are measured; the median counts."""
    workers: int = 2
    """Parallel processes."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/gradient_learning")
    """Folder for the table, the records, the picture, and one file per finished cell."""

    def smoked(self) -> "Args":
        """The settings that count."""
        small = replace(self, seeds=(0, 1), tuning_seeds=(100,), rates=(1e-2, 3e-2), num_envs=4, timings=1)
        return small if self.smoke else self

    def settings(self) -> Record:
        """What all results depend on."""
        given = {name: value for name, value in asdict(self).items() if name not in ("workers", "out")}
        return given | {"tasks": {name: self.task(name)._asdict() for name in self.tasks}}

    def task(self, name: str) -> Task:
        """A task as long as counts."""
        return TASKS[name]._replace(horizon=4, updates=2) if self.smoke else TASKS[name]


def runs_of(name: str, method: str, rates: Sequence[float], seeds: Sequence[int], args: Args) -> Runs:
    """Runs of one estimator on one task, one for each rate and seed."""
    torch.set_num_threads(1)
    horizon = args.task(name).horizon
    gamma = args.gamma * first_norm(name, horizon, args.num_envs, args.tuning_seeds[0])
    return make_runs(name, method, rates, seeds, horizon, args.num_envs, args.clip, gamma)


def best_rate(rates: Sequence[float], curves: Sequence[Sequence[float]]) -> tuple[float, dict[str, float]]:
    """The rate with the best mean return over the last half of its curves, and the score of each.

    :param rates: one for each curve
    """
    late = [float(np.mean(curve[len(curve) // 2 :])) for curve in curves]
    scores = {rate: float(np.mean([x for x, r in zip(late, rates, strict=True) if r == rate])) for rate in rates}
    return max(scores, key=scores.__getitem__), {f"{rate:g}": score for rate, score in scores.items()}


def study(job: tuple[str, str], args: Args) -> Record:
    """Choose a rate, then make the runs that count."""
    (name, method), cells = job, Cells(args.out, args.settings())
    updates = args.task(name).updates
    every = max(1, updates // args.checkpoints)
    rates, seeds = zip(*itertools.product(args.rates, args.tuning_seeds), strict=True)
    key = f"{name} {method}"
    tuning = cells(f"{key} rates", lambda: runs_of(name, method, rates, seeds, args).learn(updates, every))
    rate, scores = best_rate(rates, tuning["returns"])
    same, longer = [rate] * len(args.seeds), METHODS[method].longer * updates
    made = cells(f"{key} runs", lambda: runs_of(name, method, same, args.seeds, args).learn(longer, every))
    return {"task": name, "estimator": method, "rate": rate, "scores of rates": scores, **made}


def seconds_per_update(name: str, args: Args) -> Record:
    """CPU seconds of one update of a run alone, by estimator: medians of updates taken in turns."""
    alone = {method: runs_of(name, method, args.rates[:1], args.seeds[:1], args) for method in METHODS}
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(args.timings + 1):
        for method, runs in alone.items():
            start = time.process_time()
            runs.update()
            times[method].append(time.process_time() - start)
    return {method: float(np.median(each[1:])) for method, each in times.items()}  # the first warms up


def late(at: Sequence[float], curve: Sequence[float], until: float) -> float:
    """Mean of the last three judgements up to a point: policies go up and down."""
    return float(np.mean([value for x, value in zip(at, curve, strict=True) if x <= until][-3:]))


def rows(found: Sequence[Record], seconds: Mapping[str, Record], args: Args) -> list[Record]:
    """What is tabulated of each run; estimators of a task are compared at the steps and seconds that all were given."""
    made = []
    for record in found:
        name, (horizon, updates, threshold) = record["task"], args.task(record["task"])
        own, at = seconds[name][record["estimator"]], record["updates"]
        budget = min(r["updates"][-1] * seconds[name][r["estimator"]] for r in found if r["task"] == name)
        for curve, clipped, skipped in zip(record["returns"], record["clipped"], record["skipped"], strict=True):
            above = [update for update, value in zip(at, curve, strict=True) if value >= threshold]
            returns = [late(at, curve, end) for end in (updates, budget / own)]
            shares = [float(value >= threshold) for value in returns]
            values = (record["rate"], *returns, 1e3 * own, *shares, clipped / at[-1], skipped / at[-1])
            row = {"method": f"{name}: {record['estimator']}", **dict(zip(COLUMNS, values, strict=False))}
            units = horizon * args.num_envs / 1e3, own
            for column, within, unit in zip(COLUMNS[-2:], shares, units, strict=True):
                if within:  # no costs where nothing was learned in time
                    row[column] = above[0] * unit
            made.append(row)
    return made


def at_the_edge(found: Sequence[Record], rates: Sequence[float]) -> str:
    """Whose learning rate is an extreme one of those tried, so that a better one may lie beyond."""
    edges = {
        end(rates): [f"{r['task']}: {r['estimator']}" for r in found if r["rate"] == end(rates)] for end in (max, min)
    }
    said = [f"{rate:g}, of {', '.join(names)}" for rate, names in edges.items() if names]
    return f"\nRates at the edge of those tried: {'; '.join(said)}.\n" if said else ""


def draw(found: Sequence[Record], seconds: Mapping[str, Record], args: Args) -> Figure:
    """Median and range over seeds, against environment steps above and CPU seconds below."""
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes = figure.subplots(2, len(args.tasks), sharey="col", squeeze=False)
    for record in found:
        name, estimator, at = record["task"], record["estimator"], np.array(record["updates"])
        curves, color = np.array(record["returns"]), f"C{list(METHODS).index(estimator)}"
        column = axes[:, args.tasks.index(name)]
        column[0].set_ylim(bottom=1.3 * curves[:, 0].min())  # what falls below is lost anyway
        for axis, unit in zip(column, (TASKS[name].horizon * args.num_envs, seconds[name][estimator]), strict=True):
            axis.plot(at * unit, np.median(curves, 0), color=color, label=estimator)
            axis.fill_between(at * unit, curves.min(0), curves.max(0), color=color, alpha=0.12, linewidth=0)
    for (above, below), name in zip(axes.T, args.tasks, strict=True):
        above.set(title=name, xlabel="environment steps", ylabel="return without noise", xscale="log")
        below.set(xlabel="CPU seconds", ylabel="return without noise", xscale="log")
        for axis in (above, below):
            axis.axhline(TASKS[name].threshold, color="0.6", linestyle=":")
            axis.grid(alpha=0.3)
    axes[0, -1].legend(fontsize=8)
    return figure


def main(args: Args) -> None:
    """Tune, run, time, write."""
    args = args.smoked()
    cells, jobs = Cells(args.out, args.settings()), list(itertools.product(args.tasks, METHODS))
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        found = list(tqdm(pool.map(partial(study, args=args), jobs), total=len(jobs), desc="estimators"))
    seconds = {name: cells(f"{name} seconds", partial(seconds_per_update, name, args)) for name in args.tasks}
    text = table(rows(found, seconds, args), COLUMNS) + at_the_edge(found, args.rates)
    record = {"settings": args.settings(), "seconds per update": seconds, "runs": found}
    write(args.out, "gradient_learning", ("latentrl",), text, record, draw(found, seconds, args))


if __name__ == "__main__":
    main(tyro.cli(Args))
