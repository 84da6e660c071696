"""Independent jobs on many cores or machines: what is done is kept, and what died with its process is done again."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from typing import Any, Literal

import torch
from tqdm import tqdm

from latentrl.cells import Cells, Record
from latentrl.checks import LatentRLError, at_least, count, instance, one_of, require
from latentrl.files import locked
from latentrl.processes import end_with_parent

Backend = Literal["processes", "ray"]
Job = Callable[[], Record]
RETRIES = 3
"""How often jobs are begun anew after a process, or a machine, was lost before any of them ended."""


def sweep(
    cells: Cells,
    jobs: Mapping[str, Job],
    workers: int = 1,
    backend: Backend = "processes",
    gpus: float = 0.0,
    label: str | None = "jobs",
) -> list[Record]:
    """The records of all jobs, in their order; those that ``cells`` lacks are made, and kept as soon as they are there.

    Jobs are pickled, and run with one thread of torch each; with one worker they run in this process, with its threads.
    The error of a job is passed on as it is; in processes, once what others have begun is kept.
    On a Ray cluster only records travel back, so that machines need not share a folder.

    :param jobs: for each cell's name, what makes its record
    :param workers: processes at a time; on Ray the cluster decides, one job for each CPU
    :param backend: ``"ray"`` for the cluster that RAY_ADDRESS names, or else one of this machine (``latentrl[ray]``)
    :param gpus: share of a GPU that each job takes on Ray
    :param label: of the progress bar; None for no bar
    :raises LatentRLError: arguments out of range; another process writes to the folder; without the package ray;
        no cluster where RAY_ADDRESS says; processes die again and again
    """
    instance("jobs", jobs, Mapping)
    one_of("backend", backend, ("processes", "ray"))
    workers, gpus = count("workers", workers, 1), at_least("gpus", gpus, 0.0)
    if gpus and backend != "ray":
        raise LatentRLError(f"gpus={gpus} are shared out by Ray alone: give backend='ray', or leave gpus out")
    with locked(cells.folder):
        todo = {key: job for key, job in jobs.items() if key not in cells}
        made = _on_ray(todo, gpus) if backend == "ray" else _here(todo) if workers == 1 else _across(todo, workers)
        with tqdm(total=len(jobs), initial=len(jobs) - len(todo), desc=label, disable=label is None) as bar:
            for key, record in made:
                cells.keep(key, record)
                bar.update()
        return [cells.read(key) for key in jobs]


def _here(todo: Mapping[str, Job]) -> Iterator[tuple[str, Record]]:
    return ((key, job()) for key, job in todo.items())


def _across(todo: Mapping[str, Job], workers: int) -> Iterator[tuple[str, Record]]:
    """In processes; a pool that lost one is of no more use, and what is left goes to a new one."""
    left, losses = dict(todo), 0
    while left:
        before = len(left)
        with ProcessPoolExecutor(min(workers, len(left)), get_context("spawn"), _begin) as pool:
            keys = {}
            with suppress(BrokenProcessPool):  # what was not submitted any more goes to the next pool
                for key, job in left.items():
                    keys[pool.submit(job)] = key
            try:
                for future in as_completed(keys):
                    if isinstance(future.exception(), BrokenProcessPool):
                        continue
                    if future.exception() is not None:  # what others have begun is still kept
                        begun = [other for other in keys if keys[other] in left and not other.cancel()]
                        yield from ((keys[o], o.result()) for o in as_completed(begun) if o.exception() is None)
                    yield keys[future], future.result()
                    del left[keys[future]]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        losses = losses + 1 if len(left) == before else 0
        if losses > RETRIES:
            raise _lost(left)


def _begin() -> None:
    """In a new process."""
    torch.set_num_threads(1)
    end_with_parent()


def _on_ray(todo: Mapping[str, Job], gpus: float) -> Iterator[tuple[str, Record]]:
    """On a cluster, which itself begins anew what died with its process or machine."""
    ray: Any = require("ray", "ray")
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "local")
        try:
            ray.init(address, log_to_driver=False)
        except ConnectionError as error:
            raise LatentRLError(f"no Ray cluster answers at {address!r} ({error}): give another RAY_ADDRESS") from error
    run = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_alone)
    left = {run.remote(job): key for key, job in todo.items()}
    try:
        while left:
            (done,), _ = ray.wait(list(left), num_returns=1)
            try:
                record = ray.get(done)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
                raise _lost(list(left.values())) from error
            except ray.exceptions.RayTaskError as error:  # whose text is a whole traceback
                raise error.cause from error
            yield left.pop(done), record
    finally:
        for reference in left:
            ray.cancel(reference)


def _alone(job: Job) -> Record:
    torch.set_num_threads(1)
    return job()


def _lost(left: Collection[str]) -> LatentRLError:
    return LatentRLError(
        f"processes died {RETRIES + 1} times with {len(left)} jobs left, such as {next(iter(left))!r}: where memory "
        "runs out, give fewer workers; the same command goes on with what is left"
    )
