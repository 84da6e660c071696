"""What the reproductions share: their arguments, three scales, and the files that they leave."""

import math
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from matplotlib.figure import Figure

from experiments.records import table, write
from latentrl.cells import Cells, Record
from latentrl.checks import LatentRLError, resolve_device
from latentrl.sweeps import sweep

Scale = TypeVar("Scale")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Arguments of every reproduction."""

    data_dir: Path | None = None
    """Folder with MNIST's idx files and perhaps static_binarized_packed.npz; without it they are fetched."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of each method with each."""
    quick: bool = False
    """One to three hours of a CPU instead of the paper's scale: honest, smaller numbers."""
    smoke: bool = False
    """Seconds; the numbers mean nothing."""
    device: str = "auto"
    """"auto", "cpu", "cuda", …"""
    workers: int = 1
    """Parallel processes."""
    out: Path = Path("experiments/results/reproductions")
    """Folder of all reproductions; each scale of each has one below."""

    def __post_init__(self) -> None:
        if self.quick and self.smoke:
            raise LatentRLError("--quick and --smoke are two scales: give one of them, or none for the full one")

    @property
    def scale(self) -> str:
        return "smoke" if self.smoke else "quick" if self.quick else "full"

    @property
    def torch_device(self) -> torch.device:
        return resolve_device(self.device)


def commit() -> str:
    """Of the code that runs, with a + where files differ from it; empty outside of a repository."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=here, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.decode().strip()


def with_commit(job: Callable[[], Record], columns: Sequence[str] = ()) -> Record:
    """A run's record, with the commit that made it: a study may go on with later code. Numbers that are not finite,
    which JSON does not know, are None; so are all of a run that ends in a FloatingPointError."""
    try:
        made = job()
    except FloatingPointError:
        made = dict.fromkeys(columns)
    return {name: _kept(value) for name, value in made.items()} | {"commit": commit()}


def _kept(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _kept(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_kept(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def whole_seeds(found: Sequence[Record], columns: Sequence[str]) -> tuple[list[Record], str]:
    """Without the seeds of which a run diverged, as methods are compared seed by seed; what to say of it.

    :raises LatentRLError: no seed is left
    """
    diverged = [record for record in found if any(record.get(column, 0.0) is None for column in columns)]
    if not diverged:
        return list(found), ""
    lost = {record["seed"] for record in diverged}
    left = [record for record in found if record["seed"] not in lost]
    runs = ", ".join(f"{record['method']} {record['seed']}" for record in diverged)
    if not left:
        raise LatentRLError(f"with every seed a run diverged ({runs}): lower the learning rate in SCALES")
    return left, f"\nDiverged, and their seeds left out of all above: {runs}.\n"


def reproduce(
    name: str,
    args: Args,
    scale: Any,
    jobs: Mapping[str, Callable[[], Record]],
    columns: Sequence[str],
    draw: Callable[[Sequence[Record]], Figure],
    note: Callable[[Sequence[Record]], str] = lambda _: "",
    data: str = "",
    device: str = "",
) -> list[Record]:
    """Make what is missing of the runs, tabulate all, and write table, records and picture.

    :param scale: a NamedTuple, what the results of this scale depend on
    :param jobs: one for each "method seed"
    :param note: what stands below the table
    :param data: fingerprint of what is learned from, if that is given: a study is not gone on with on other data
    :param device: on which it runs, where that is not the one asked for
    """
    folder = args.out / name / args.scale
    device, packages = (
        device or str(args.torch_device),
        ["latentrl", *(["scikit-learn"] if find_spec("sklearn") else [])],
    )
    here = {key: partial(with_commit, job, columns) for key, job in jobs.items()}
    made = sweep(Cells(folder, {"scale": scale._asdict(), "data": data}), here, args.workers)
    keys = [key.rpartition(" ") for key in jobs]
    found = [{"method": key[0], "seed": int(key[2]), **record} for key, record in zip(keys, made, strict=True)]
    whole, said = whole_seeds(found, columns)
    given = {key: value for key, value in asdict(args).items() if key not in ("data_dir", "out", "workers")}
    record = {"arguments": given, "scale": scale._asdict(), "data": data, "runs": found}
    text = table(whole, columns) + note(whole) + said
    options = ("" if args.scale == "full" else f" --{args.scale}") + f" --seeds {' '.join(map(str, args.seeds))}"
    options += "" if args.data_dir is None else " --data-dir DIR"
    write(folder, f"reproductions.{name}", packages, text, record, draw(whole), options, device)
    return found


def jobs_of(
    run: Callable[[str, int, Any], Record], methods: Iterable[str], args: Args
) -> dict[str, Callable[[], Record]]:
    """One run of each method with each seed."""
    return {f"{method} {seed}": partial(run, method, seed, args) for method in methods for seed in args.seeds}


def folder_of(name: str, args: Args, run: str) -> Path:
    """Where one run keeps its state."""
    return args.out / name / args.scale / "runs" / run.replace(" ", "_").replace(",", "")
