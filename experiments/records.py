"""What studies that repeat methods over seeds have in common: their table, and the files that they leave."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from latentrl.files import whole
from latentrl.report import environment


class StudyArgs:
    """Of which a smoke run keeps out of the results: its folder is below runs/smoke where none is given."""

    smoke: bool
    out: Path

    def __post_init__(self) -> None:
        if self.smoke and self.out == type(self).out:
            object.__setattr__(self, "out", Path("runs/smoke") / self.out.name)


def digest(path: Path) -> str:
    """Of a file's content, by which results of other data are told apart."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over the seeds, of which equal values have none; nothing where there are no values."""
    if not values:
        return ""
    if len(set(values)) == 1:
        return f"{values[0]:.4g}"
    deviation = np.std(values, ddof=1)
    digits = ".0f" if deviation >= 9.5 else ".2g"
    return f"{np.mean(values):.4g} ± {deviation:{digits}}"


def table(runs: Iterable[Mapping[str, Any]], columns: Sequence[str], units: Mapping[str, str] | None = None) -> str:
    """A Markdown table with one row for each ``run["method"]``; a run lacks the columns that do not apply to it.

    :param units: of columns, with an arrow to where it is better
    """
    runs = list(runs)
    heads = [f"{column} ({units[column]})" if units and column in units else column for column in columns]
    lines = ["| method | " + " | ".join(heads) + " |", "|---" * (len(columns) + 1) + "|"]
    for method in dict.fromkeys(run["method"] for run in runs):
        mine = [run for run in runs if run["method"] == method]
        cells = [spread([run[column] for run in mine if column in run]) for column in columns]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(
    folder: Path,
    study: str,
    packages: Sequence[str],
    text: str,
    record: dict[str, Any],
    figure: Figure,
    arguments: str = "",
    device: str = "cpu",
) -> None:
    """table.md, records.json with command, versions and hardware, and STUDY.png, each whole or not at all.

    :param study: name of the module under ``experiments``
    :param packages: whose versions matter beside those of :func:`latentrl.report.environment`
    :param arguments: of the command, with a space in front
    :param device: on which it was made
    """
    print(text)
    where = environment(device) | {name: version(name) for name in packages}
    with whole(folder / "table.md") as partial:
        partial.write_text(text)
    with whole(folder / "records.json") as partial:
        everything = {"command": f"python -m experiments.{study}{arguments}", "environment": where, **record}
        partial.write_text(json.dumps(everything, indent=1) + "\n")
    with whole(folder / f"{study}.png") as partial:
        figure.savefig(partial, dpi=130, format="png")
