"""What a page shows of a run's folder, as plain values."""

import csv
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from latentrl.checks import LatentRLError
from latentrl.demo.handwriting import TITLES
from latentrl.page.latents import behaviour, latent_space
from latentrl.runs import OPTIONS, POLICY, options_of

STEP = "time/total_timesteps"
GRADIENTS, DEMO, EVALUATION = "gradients.json", "summary.json", "evaluation.json"


def collect(folder: Path) -> dict[str, Any]:
    """A run of ``latentrl train``, ``gradients`` or ``demo``: its options and all that is there to be drawn.

    What cannot be drawn has its reason in ``"missing"``.

    :raises LatentRLError: a folder that is no run, or a damaged file in it
    """
    record: dict[str, Any] = {"name": folder.resolve().name, "missing": {}}
    try:
        record |= _of_files(folder)
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, LatentRLError):
            raise
        raise LatentRLError(f"a file in {str(folder)!r} is damaged or of another version ({error})") from error
    record["options"] = finite_or_text(record["options"])
    if record["kind"] == "train":
        _add_latents(record, folder / POLICY, options_of(folder / OPTIONS))
    return record


def _of_files(folder: Path) -> dict[str, Any]:
    """What is read off the files, without the policy."""
    if (folder / GRADIENTS).exists():
        found = json.loads((folder / GRADIENTS).read_text())
        options = {k: v for k, v in found["settings"].items() if not isinstance(v, dict)}
        return {"kind": "gradients", "options": options, "gradients": _rows(found["cells"])}
    if (folder / DEMO).exists():
        found = json.loads((folder / DEMO).read_text())
        return {"kind": "demo", "options": found["config"], **finite_or_none(_demo(found))}
    if not (folder / OPTIONS).exists():
        raise LatentRLError(
            f"{str(folder)!r} is no run: give a folder of `latentrl train` (with {OPTIONS}), of "
            f"`latentrl gradients` (with {GRADIENTS}) or of `latentrl demo` (with {DEMO})"
        )
    options = options_of(folder / OPTIONS)
    if "estimators" in options:
        raise LatentRLError(f"{str(folder)!r} is not finished: latentrl gradients --resume {folder} goes on with it")
    made = {"kind": "train", "options": _flat(options), "curves": _curves(folder)}
    if (folder / EVALUATION).exists():
        made["figures"] = finite_or_none(_evaluated(json.loads((folder / EVALUATION).read_text()), options))
    return made


def _add_latents(record: dict[str, Any], policy: Path, options: dict[str, Any]) -> None:
    """What the policy's latents are and do, or why that cannot be drawn."""
    for name, make in (("latents", latent_space), ("behaviour", behaviour)):
        try:
            if not policy.exists():
                raise LatentRLError("the run is not finished: it has no policy yet")
            record[name] = make(policy, options)
        except LatentRLError as error:
            record["missing"][name] = str(error)


def _evaluated(found: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Figures behind what was evaluated: those of other tasks and settings are not to be compared."""
    config = found["config"]
    about = {"task": config["env"] or options.get("env"), "episodes played": config["episodes"]}
    return {**about, "deterministic": config["deterministic"], "seed": config["seed"], **found["figures"]}


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in options.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _curves(folder: Path) -> dict[str, list[list[float]]]:
    """Of each logged number its updates and values; a run that went on has several files."""
    points: dict[str, dict[float, float]] = {}
    for path in sorted(folder.glob("progress*.csv"), key=lambda path: (len(path.name), path.name)):
        for row in _numbers(path):
            for name, value in row.items():
                if name != STEP and STEP in row and math.isfinite(value):
                    points.setdefault(name, {})[row[STEP]] = value
    return {
        name: [list(column) for column in zip(*sorted(known.items()), strict=True)]
        for name, known in sorted(points.items())
    }


def _numbers(path: Path) -> Iterator[dict[str, float]]:
    """Rows of a log, but for those that a full disk or a kill tore, such as the last."""
    with path.open(newline="", errors="replace") as file:
        for row in csv.DictReader(line for line in file if line.endswith("\n")):
            with suppress(TypeError, ValueError):
                yield {name: float(text) for name, text in row.items() if text}


def _rows(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each estimator of each cell; where there is no measurement, "error" says why and the rest is None."""
    shared = ("task", "stiffness", "sigma", "horizon", "seed")
    measured = ("trace", "trace_ci", "cosine", "trustworthy", "cost_normalized", "seconds_per_gradient", "error")
    return [
        {name: cell[name] for name in shared}
        | {"estimator": record["estimator"]}
        | {name: finite_or_none(record.get(name)) for name in measured}
        for cell in cells
        for record in cell["estimators"]
    ]


def _demo(found: dict[str, Any]) -> dict[str, Any]:
    """Scores of each policy and control, and by horizon how much more one gradient varies than the other."""
    scores = {**found["demonstrations"], **found["controls"]}
    names = ("modes", "success", "entropy", "success_jittered", "energy_distance", "variety")
    return {
        "scores": [
            {"policy": TITLES[key]} | {name.replace("_", " "): row.get(name) for name in names}
            for key, row in scores.items()
        ],
        "ratios": [
            {"horizon": int(horizon)} | {name: row[name] for name in ("variance_ratio", "ci", "cosine", "trustworthy")}
            for horizon, row in found["gradients"].items()
        ],
    }


def finite_or_text(value: Any) -> Any:
    """Options are shown, not drawn; also inside of lists and dictionaries."""
    if isinstance(value, dict):
        return {name: finite_or_text(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_text(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def finite_or_none(value: Any) -> Any:
    """JSON has no infinity, and a page draws none: also inside of lists and dictionaries."""
    if isinstance(value, dict):
        return {name: finite_or_none(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(part) for part in value]
    unknown = value in ("inf", "nan") or (isinstance(value, float) and not math.isfinite(value))
    return None if unknown else value
