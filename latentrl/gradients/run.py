"""Measure every estimator in every cell, write one JSON file and one picture."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gymnasium import spaces
from rich.console import Console

from latentrl.cells import Cells
from latentrl.checks import LatentRLError, at_least, count, layer_sizes, one_of, resolve_device
from latentrl.comparison import compare
from latentrl.estimators.rollout import LikelihoodRatio
from latentrl.files import locked, whole
from latentrl.gradients.problem import ESTIMATORS, Needs, make_problem, make_task
from latentrl.report import environment
from latentrl.runs import OPTIONS, write_options
from latentrl.sweeps import Backend, sweep
from latentrl.variance import gradient_variance

TASKS = (
    *("Pendulum-v1", "CartPole-v1", "CartPoleSwingUp-v0", "MountainCarContinuous-v0"),
    *("LQR-v0", "BallWall-v0", "Pushing-v0", "DoublePendulum-v0"),
)


@dataclass(frozen=True)
class GradientsConfig:
    """Compare gradient estimators of the expected return on differentiable Gymnasium tasks.

    A run that was killed goes on where it was when it is started again with the same settings, or by
    `latentrl gradients --resume RUN`.
    """

    out: Path = Path("runs/gradients")
    """Folder for config.yaml, gradients.json and gradients.png, and for one file per finished cell."""
    tasks: tuple[str, ...] = TASKS
    """Gymnasium ids, or what stands behind latentrl/ in them."""
    estimators: tuple[str, ...] = (
        "lr",
        "lr-naive",
        "lr-value",
        "rp",
        "inverse-variance",
        "total-propagation",
        "alpha-order",
    )
    """Likelihood ratios: lr, with leave-one-out baseline and reward to go; lr-no-baseline, with reward to go; lr-naive,
    with neither; lr-value, with a value function as baseline. rp, pathwise; short-horizon, pathwise in windows, with a
    value function for what comes after. Of both: inverse-variance, weighed by their variances at each step;
    total-propagation, the same, and earlier steps see the mixture; alpha-order, weighed once, pathwise only as far as
    it agrees with lr."""
    horizons: tuple[int, ...] = (5, 10, 25, 50, 100)
    """Steps of a rollout."""
    sigmas: tuple[float, ...] = (0.5,)
    """Standard deviations of the policy, in units of half the range of an action."""
    stiffnesses: tuple[float, ...] = ()
    """Of contacts, for tasks that have some; none for the task's own."""
    num_envs: int = 64
    """Trajectories per gradient."""
    replicates: int = 200
    """Gradients per estimator."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the policy's weights and of the noise."""
    hidden: tuple[int, ...] = ()
    """Layers of the policy; none for a linear one."""
    gamma: float = 10.0
    """Error that alpha-order tolerates, in standard errors of lr's gradient. Its confidence radius is about 7 of them;
    with less than that it takes nothing of the pathwise gradient."""
    window: int = 16
    """Steps of short-horizon's windows."""
    value_updates: int = 200
    """Rollouts on which lr-value and short-horizon fit their value function."""
    chunk_size: int = 50
    """Gradients at a time."""
    device: str = "auto"
    """auto, cpu, cuda, …"""
    workers: int = 1
    """Cells at a time, in a process each. They compete for the machine: seconds per gradient are best taken with 1."""
    backend: Backend = "processes"
    """Where they run: on this machine, or on the Ray cluster that RAY_ADDRESS names."""
    gpus: float = 0.0
    """Share of a GPU that each cell takes on Ray."""
    along: Literal["horizon", "sigma", "stiffness"] = "horizon"
    """What the picture runs along."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean little."""

    def __post_init__(self) -> None:
        for name in self.estimators:
            one_of("estimator", name, ESTIMATORS)
        for names in ("tasks", "estimators", "horizons", "sigmas", "seeds"):
            if not getattr(self, names):
                raise LatentRLError(f"give at least one of {names}")
        for what, wholes, least in (("horizon", self.horizons, 1), ("seed", self.seeds, 0)):
            for whole_number in wholes:
                count(what, whole_number, least)
        for sigma in self.sigmas:
            at_least("sigma", sigma, 1e-6)
        at_least("gamma", self.gamma, 0.0, infinite=True)
        at_least("gpus", self.gpus, 0.0)
        layer_sizes("hidden", self.hidden)
        for name, minimum in {
            "num_envs": 4,
            "replicates": 2,
            "window": 1,
            "value_updates": 1,
            "chunk_size": 1,
            "workers": 1,
        }.items():
            count(name, getattr(self, name), minimum)

    def smoked(self) -> "GradientsConfig":
        """The settings that count: those given, or with ``smoke`` the smallest."""
        if not self.smoke:
            return self
        return replace(
            self,
            tasks=("Pendulum-v1", "CartPole-v1"),
            horizons=(3, 6),
            num_envs=8,
            replicates=20,
            seeds=(0,),
            chunk_size=10,
            value_updates=5,
        )


class Cell(NamedTuple):
    """What one comparison is made for."""

    task: str
    stiffness: float | None
    sigma: float | None
    horizon: int
    seed: int

    @property
    def key(self) -> str:
        """Its name."""
        return " ".join(f"{name}={value}" for name, value in self._asdict().items() if value is not None)


def cells_of(config: GradientsConfig) -> Iterator[Cell]:
    """All of them; a task without contacts has no stiffness, one with choices no σ.

    :raises LatentRLError: a task that cannot be made, or a stiffness that it does not accept
    """
    for name in config.tasks:
        task = make_task(name, None)
        stiffnesses = config.stiffnesses if hasattr(task, "stiffness") and config.stiffnesses else (None,)
        for stiffness in stiffnesses:
            make_task(name, stiffness)
        sigmas = (None,) if isinstance(task.action_space, spaces.Discrete) else config.sigmas
        for rest in product(stiffnesses, sigmas, config.horizons, config.seeds):
            yield Cell(name, *rest)


def measure(cell: Cell, config: GradientsConfig) -> dict[str, Any]:
    """All estimators of one cell, beside the mean of a likelihood ratio with noise of its own."""
    problem = make_problem(*cell, config.num_envs, config.hidden, config.device)
    reference, standard_error, error = None, 0.0, None
    try:
        reference = gradient_variance(
            problem.objective(LikelihoodRatio()),
            problem.parameters,
            config.replicates,
            chunk_size=config.chunk_size,
            seed=1000 * cell.seed + 999,
            batch_size=config.num_envs,
        )
        standard_error = math.sqrt(reference.trace)
    except LatentRLError as failure:  # such as returns that are all the same
        error = str(failure)
    # Of an infinite γ, 0 · γ would be no number.
    gamma = config.gamma if math.isinf(config.gamma) else config.gamma * standard_error
    needs = Needs(problem, gamma, config.window, config.value_updates, cell.seed)
    table = compare(
        {name: problem.objective(ESTIMATORS[name](needs)) for name in config.estimators},
        problem.parameters,
        config.replicates,
        reference,
        config.chunk_size,
        1000 * cell.seed,
    )
    # In the given order: by cost, it would change from run to run.
    records = sorted(table.to_records(), key=lambda record: config.estimators.index(record["estimator"]))
    about = {"reference_snr": None if reference is None else reference.snr, "reference_error": error}
    return {**_plain(cell._asdict()), **about, "estimators": records}


def _plain(value: Any) -> Any:
    """For JSON, which has no infinity."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return "inf" if value == math.inf else value


def run_gradients(config: GradientsConfig, console: Console | None = None) -> dict[str, Any]:
    """Measure what is not there yet, then write gradients.json and gradients.png; return what the former holds.

    :raises LatentRLError: on unusable settings, device or folder, before any work
    """
    from latentrl.gradients.figures import cost_figure  # here, as matplotlib takes half a second to import

    console, started = console or Console(), time.perf_counter()
    given, config = config, config.smoked()
    config = replace(config, device=str(resolve_device(config.device)))
    aside = ("out", "along", "workers", "backend", "gpus")
    settings = {name: _plain(value) for name, value in asdict(config).items() if name not in aside}
    jobs = {cell.key: partial(measure, cell, config) for cell in cells_of(config)}
    with locked(config.out):
        cells = Cells(config.out, settings)
        write_options(config.out / OPTIONS, asdict(given))
        records = sweep(cells, jobs, config.workers, config.backend, config.gpus, label="cells")
    summary = {"settings": settings, "environment": environment(config.device), "cells": records}
    with whole(config.out / "gradients.json") as path:
        path.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    with whole(config.out / "gradients.png") as path:
        cost_figure(records, config.estimators, config.along).savefig(path, dpi=100)
    console.print(f"{config.out}/gradients.json, gradients.png  ({time.perf_counter() - started:.0f} s)", markup=False)
    return summary
