"""What do more processes give? Seconds of the same work over those of one process.

    python -m experiments.benchmarks.machines

A study of eight clones in one process, in as many as there are cores, and on a Ray cluster of this machine with as many
workers; and one clone whose batches two processes share, by the size of the batch. Half the seconds are the best that
two processes can do. One thread each. Starting the processes of a study counts; starting Ray does not, nor starting
those that share a batch.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro

from experiments.benchmarks.bc_throughput import Clock, data
from experiments.benchmarks.timing import machine, row
from latentrl.cells import Cells, Record
from latentrl.sb3 import LatentBC
from latentrl.sweeps import sweep

STUDY, SKIPPED = 8, 10


@dataclass(frozen=True)
class Args:
    """Time one process and several, in turn."""

    rounds: int = 3
    """Of each; the median counts."""
    updates: int = 300
    """Of each clone."""
    batches: tuple[int, ...] = (64, 1024)
    """Sizes of a batch that two processes share."""


def cloned(seed: int, updates: int, batch_size: int = 64, devices: int = 1) -> Record:
    """One clone; the seconds of its updates but for the first ones, which wait for the processes."""
    agent = LatentBC(demonstrations=data(), batch_size=batch_size, devices=devices, seed=seed, device="cpu")
    clock = Clock(SKIPPED, updates)
    agent.learn(SKIPPED + updates, clock)
    return {"seconds": clock.seconds * updates}


def study(workers: int, backend: str, updates: int) -> float:
    """Seconds of eight clones."""
    folder = Path(tempfile.mkdtemp())
    start = time.perf_counter()
    jobs = {f"clone {seed}": partial(cloned, seed, updates) for seed in range(STUDY)}
    sweep(Cells(folder, {}), jobs, workers, backend, label=None)  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    return seconds


def shared(batch_size: int, devices: int, updates: int) -> float:
    """Seconds of one clone with processes that share its batches."""
    return float(cloned(0, updates, batch_size, devices)["seconds"])


def ratio(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> tuple[float, float, float]:
    """Of seconds: median, least, most."""
    found = sorted(ours() / theirs() for _ in range(rounds))
    return found[len(found) // 2], found[0], found[-1]


def main(args: Args) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    cores = os.cpu_count() or 1
    print(f"{machine()}, torch {torch.__version__}: seconds over those of one process")
    print(f"{'':44} median   [least, most]          at best")
    one = partial(study, 1, "processes", args.updates)
    study(1, "ray", 1)  # starts it
    for name, backend in {"processes": "processes", "Ray workers": "ray"}.items():
        found = ratio(partial(study, cores, backend, args.updates), one, args.rounds)
        print(row(f"{STUDY} clones, {cores} {name}", found, f"{1 / cores:.2f}"), flush=True)
    for size in args.batches:
        updates = max(20, args.updates * 64 // size)
        found = ratio(partial(shared, size, 2, updates), partial(shared, size, 1, updates), args.rounds)
        print(row(f"one clone, batches of {size}, 2 processes", found, "0.50"), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
