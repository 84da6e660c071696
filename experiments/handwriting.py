"""The handwriting demo over several seeds, with spread: the table and the figures of the README. Then all 30 shapes.

    python -m experiments.handwriting
    python -m experiments.handwriting --parts start

Runs ``latentrl demo`` once per seed, keeps the first seed's figures, and writes mean and range over the seeds; and then
:mod:`experiments.handwriting_all`, which also runs on its own.
"""

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from experiments import handwriting_all
from experiments.records import StudyArgs
from latentrl.demo import DemoConfig, run_demo
from latentrl.demo.handwriting import TITLES
from latentrl.files import whole

COLUMNS = ("modes", "success", "entropy", "success_jittered", "energy_distance", "variety")
RESULTS = Path(__file__).parent / "results" / "handwriting"


@dataclass(frozen=True)
class Args(StudyArgs):
    """Repeat the demo and summarise."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One demo each."""
    out: Path = RESULTS
    """Folder for table.md, summary.json and the figures of the first seed."""
    demo: DemoConfig = field(default_factory=lambda: DemoConfig(out=Path("runs/handwriting")))
    """What each demo runs; its seed and folder are set here."""
    parts: tuple[Literal["start", "goal"], ...] = ("start", "goal")
    """26 shapes from one start, which is the demo; all 30 to one goal."""
    goal: handwriting_all.Args = field(default_factory=handwriting_all.Args)
    """How all 30 are drawn."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""


def main(args: Args) -> None:
    """One part after the other."""
    if "start" in args.parts:
        from_one_start(args)
    if "goal" in args.parts:
        handwriting_all.main(replace(args.goal, smoke=args.smoke or args.goal.smoke))


def from_one_start(args: Args) -> None:
    """Run the demo, summarise, write."""
    small: dict[str, Any] = {"updates": 10, "rollouts": 20, "replicates": 8, "horizons": (5,)} if args.smoke else {}
    summaries = []
    for seed in args.seeds:
        folder = args.demo.out / f"seed{seed}"
        config = DemoConfig(**{**vars(args.demo), **small, "seed": seed, "out": folder, "overwrite": True})
        summaries.append(run_demo(config))
    with whole(args.out / "table.md") as path:
        path.write_text(table(summaries))
    with whole(args.out / "summary.json") as path:
        path.write_text(json.dumps(summaries, indent=1) + "\n")
    for name in ("strokes.png", "gradients.png"):
        with whole(args.out / name) as path:
            shutil.copyfile(args.demo.out / f"seed{args.seeds[0]}" / name, path)


def table(summaries: list[dict[str, Any]]) -> str:
    """Markdown table: mean over seeds, and the range in brackets where the seeds differ."""
    header = (
        "policy",
        "modes of 26",
        "success",
        "entropy",
        "success, jittered",
        "energy distance (mm)",
        "variety (mm)",
    )
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for name, title in TITLES.items():
        rows = [{**summary["demonstrations"], **summary["controls"]}[name] for summary in summaries]
        cells = [_cell([row.get(column) for row in rows]) for column in COLUMNS]
        lines.append("| " + " | ".join([title, *cells]) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float | None]) -> str:
    numbers = np.array([value for value in values if value is not None], dtype=float)
    if len(numbers) == 0:
        return ""
    form = "{:.0f}" if all(isinstance(value, int) for value in values) else "{:.2f}"
    low, high = form.format(numbers.min()), form.format(numbers.max())
    mean = form.format(numbers.mean()) if form != "{:.0f}" else f"{numbers.mean():.3g}"
    return mean if low == high else f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    main(tyro.cli(Args))
