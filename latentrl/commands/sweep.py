"""``latentrl sweep``: train with every combination of some options, and rank them by what is held out."""

import csv
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from latentrl.cells import MOST_LETTERS, Cells, Record
from latentrl.checks import LatentRLError, at_least, count
from latentrl.commands.parsing import parsed
from latentrl.commands.train import TrainConfig, fit, played
from latentrl.files import locked, whole
from latentrl.runs import READERS, RUNS, flags_of, options_of, read_source
from latentrl.sweeps import Backend, sweep
from latentrl.training.fingerprint import digest

FIGURES = ("nats per action", "held-out bound", "at update")
"""Of which the first ranks: a bound grows with the length of what ``hold`` and ``chunk`` make a segment."""
AGAIN = "again"
"""Of a run that failed: the same command tries it again."""
DATA = "data digest"
"""Of what a run was made from."""


@dataclass(frozen=True)
class SweepConfig:
    """Train with every combination of some options, in parallel, and rank them by their bound on held-out episodes.

    Each run is one of `latentrl train` in a folder of its own, to be evaluated and reported like any other. What is
    finished is kept: the same command goes on with what is left.
    """

    base: Path
    """YAML file with the options of `latentrl train` that all runs share, such as the config.yaml of a run."""
    grid: tuple[str, ...]
    """OPTION=VALUE,VALUE,… for each option that is varied, such as kl-weight=0.5,1 policy.latent-dim=2,8 seed=0,1,2;
    values as in YAML, of layer sizes "policy.hidden=[64,64],[128,128]"."""
    out: Path = Path("runs/sweep")
    """Folder for sweep.csv and the runs."""
    workers: int = 2
    """Runs at a time, in a process each."""
    backend: Backend = "processes"
    """Where they run: on this machine, or on the Ray cluster that RAY_ADDRESS names, whose machines share folder and
    data under the same absolute paths."""
    gpus: float = 0.0
    """Share of a GPU that each run takes on Ray."""

    def __post_init__(self) -> None:
        count("workers", self.workers, 1)
        at_least("gpus", self.gpus, 0.0)


def run_sweep(config: SweepConfig, console: Console | None = None) -> list[Record]:
    """Train what is missing, print and write; one record for each run, which has an "error" where training failed.

    :raises LatentRLError: options that `latentrl train` does not take, no held-out episodes, decoders that cannot be
        compared, an unusable folder, one that another process writes to or whose runs were made from other data
    """
    console, out = console or Console(), config.out.expanduser()
    shared, varied = options_of(config.base), _values(config.grid)
    shared.pop("out", None)
    combinations = [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]
    jobs = _jobs(config.base, shared, combinations, out.resolve() / RUNS, elsewhere=config.backend == "ray")
    with locked(out):
        cells = Cells(out, {"shared": shared})
        _look_through(cells, jobs)
        figures = sweep(cells, jobs, config.workers, config.backend, config.gpus, label="runs")
    own = (*FIGURES, "error")
    records = [
        {**chosen, **{name: found[name] for name in own if name in found}}
        for chosen, found in zip(combinations, figures, strict=True)
    ]
    _print(records, varied, console)
    target = out / "sweep.csv"
    with whole(target) as partly, partly.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*varied, *FIGURES, "error"])
        writer.writeheader()
        writer.writerows(records)
    console.print(f"figures in {target}, runs in {out / RUNS}", soft_wrap=True, markup=False)
    for key, record in zip(jobs, records, strict=True):
        if "error" in record:
            console.print(f"failed: {key}: {record['error']}", soft_wrap=True, markup=False)
    return records


def _jobs(
    base: Path, shared: dict[str, Any], combinations: Sequence[dict[str, str]], folder: Path, elsewhere: bool
) -> dict[str, partial[Record]]:
    """What makes the record of each run, by its name; arguments are its options and the digest of its data.

    :param elsewhere: they run in other folders than this one
    :raises LatentRLError: as :func:`run_sweep`
    """
    jobs: dict[str, partial[Record]] = {}
    denoises, digests = set[bool](), dict[str, Record]()
    for chosen in combinations:
        key = " ".join(f"{name}={value}" for name, value in chosen.items())
        made = _parsed(base, shared, chosen)
        if elsewhere:
            made = replace(made, data=_absolute(made.data))
        if not made.held_out:
            raise LatentRLError("runs are ranked by what is held out, and there is nothing: give held_out in the base")
        denoises.add(made.policy.decoder == "diffusion")
        if made.data not in digests:
            digests[made.data] = digest(read_source(made.data))
        jobs[key] = partial(_train, replace(made, out=folder / _folder_name(key)), digests[made.data])
    if len(denoises) > 1:
        raise LatentRLError(
            "a diffusion decoder has no density, and its denoising loss says nothing beside the others' likelihoods: "
            "sweep it alone, and compare what the policies do with latentrl evaluate"
        )
    return jobs


def _absolute(source: str) -> str:
    """The same data, as they are named in any folder; what is no path, such as a name that Minari knows, stays."""
    reader, colon, where = source.partition(":")
    if reader not in READERS:
        reader, colon, where = "", "", source
    path = Path(where).expanduser()
    known = where and reader != "minari" and path.exists()
    return f"{reader}{colon}{path.absolute()}" if known else source


def _look_through(cells: Cells, jobs: Mapping[str, partial[Record]]) -> None:
    """Forget runs that are to be tried again.

    :raises LatentRLError: a run that is kept was made from other data
    """
    for key, job in jobs.items():
        if key not in cells:
            continue
        kept = cells.read(key)
        if kept.get(AGAIN):
            cells.forget(key)
        elif kept.get(DATA) != job.args[1]:
            raise LatentRLError(
                f"the run {key!r} was made from other data than {job.args[0].data!r} holds now: give another folder"
            )


def _folder_name(key: str) -> str:
    """Different for keys that only differ in what a folder's name cannot hold."""
    if "/" not in key and len(key) <= MOST_LETTERS:
        return key
    return f"{key.replace('/', '_')[:MOST_LETTERS]}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _values(grid: Sequence[str]) -> dict[str, list[str]]:
    """What each option is given.

    :raises LatentRLError: something else than OPTION=VALUE,VALUE, or an option twice
    """
    found: dict[str, list[str]] = {}
    for entry in grid:
        name, _, values = entry.lstrip("-").partition("=")
        name, listed = name.replace("_", "-"), re.split(r",(?![^\[]*\])", values)
        if name in ("", "help") or "" in listed or name in found or len(set(listed)) < len(listed):
            raise LatentRLError(f"{entry!r} is no option with different values: give each once, as kl-weight=0.5,1")
        found[name] = listed
    return found


def _parsed(base: Path, shared: dict[str, Any], chosen: dict[str, str]) -> TrainConfig:
    """Options of one run, as the command line reads them."""
    typed = flags_of({name: yaml.safe_load(value) for name, value in chosen.items()})
    try:
        return parsed(TrainConfig, [*flags_of(shared), *typed], prog="latentrl train")
    except LatentRLError as error:
        raise LatentRLError(
            f"latentrl train does not take {' '.join(typed)} with the options of {str(base)!r}: {error}"
        ) from error


def _train(config: TrainConfig, data: Record) -> Record:
    about = {DATA: data}
    try:
        _, held_out = fit(config, Console(quiet=True))
    except (LatentRLError, FloatingPointError) as error:  # one combination must not end the others
        # That a loss is not finite is a result; a full disk, or memory that is too small, are not.
        failed = {"error": " ".join(str(error).split()), AGAIN: not isinstance(error, FloatingPointError)}
        return dict.fromkeys(FIGURES) | failed | about
    assert held_out is not None
    bound, update = played(held_out)
    figures = (None, None, update) if bound is None else (bound.per_action, bound.elbo, update)
    return dict(zip(FIGURES, figures, strict=True)) | about


def _print(records: Sequence[Record], varied: dict[str, list[str]], console: Console) -> None:
    """Combinations but for their seeds, the best first: mean and range of the bound."""
    names = [name for name in varied if name != "seed"]
    groups: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        bounds = groups.setdefault(tuple(record[name] for name in names), [])
        bounds.append(float("-inf") if record[FIGURES[0]] is None else record[FIGURES[0]])
    table = Table(*names, "held-out bound", "range", title="nats of a held-out action; more is better")
    for group in sorted(groups, key=lambda group: -np.mean(groups[group])):
        bounds = groups[group]
        table.add_row(*group, f"{np.mean(bounds):.4g}", f"{min(bounds):.4g} … {max(bounds):.4g}")
    console.print(table)
