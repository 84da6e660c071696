"""The gradient of a return: which estimator is the least noisy, at what price, and where is it wrong?

    python -m experiments.gradient_study

Three comparisons by ``latentrl gradients``, whose folders they share: every task over the horizon; smooth and chaotic
tasks over the noise of the policy; contacts over their stiffness. A killed study goes on where it was. With a GPU:
``--num-envs 16384 --device cuda``. The findings are written up in gradient_study.md.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import tyro

from experiments.records import StudyArgs
from latentrl.files import whole
from latentrl.gradients import GradientsConfig, run_gradients

PARTS = {
    "horizons": GradientsConfig(),
    "noise": GradientsConfig(
        tasks=("Pendulum-v1", "CartPoleSwingUp-v0", "DoublePendulum-v0"), sigmas=(0.1, 0.25, 0.5, 1.0), horizons=(25,),
        along="sigma",
    ),
    "contacts": GradientsConfig(
        tasks=("BallWall-v0", "Pushing-v0"), stiffnesses=(10.0, 100.0, 1000.0, math.inf), horizons=(20, 60),
        along="stiffness",
    ),
}  # fmt: skip

SHOWN = ("rp", "inverse-variance", "total-propagation", "alpha-order", "lr-value")
BIASED = 1e-4
"""p-value of the bias test below which a gradient counts as biased."""


@dataclass(frozen=True)
class Args(StudyArgs):
    """Run the three comparisons."""

    num_envs: int = 64
    """Trajectories per gradient."""
    replicates: int = 128
    """Gradients per estimator and cell."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the policy's weights and of the noise."""
    chunk_size: int = 64
    """Gradients at a time."""
    device: str = "auto"
    """auto, cpu, cuda, …"""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/gradient_study")
    """Folder; each comparison has one of its own in it."""


def rows(cells: list[dict[str, Any]]) -> Iterator[list[str]]:
    """For each setting, over the seeds: variances over that of the likelihood ratio, and the cheapest estimator."""
    settings = dict.fromkeys((cell["task"], cell["sigma"], cell["stiffness"], cell["horizon"]) for cell in cells)
    for setting in settings:
        here = [
            {row["estimator"]: row for row in cell["estimators"] if row.get("trace")}
            for cell in cells
            if (cell["task"], cell["sigma"], cell["stiffness"], cell["horizon"]) == setting
        ]
        names = [name for name in here[0] if all(name in one for one in here)]
        ratios = {
            name: geometric_mean(one[name]["trace"] / one["lr"]["trace"] for one in here)
            for name in names
            if "lr" in names
        }
        doubted = {name for name in names if not all(one[name]["trustworthy"] for one in here)}
        alarms = {name: [one[name].get("bias_p") for one in here] for name in names}
        biased = {n for n in names if sum(p is not None and p < BIASED for p in alarms[n]) > len(here) / 2}
        cost = {n: geometric_mean(one[n]["cost_normalized"] for one in here) for n in names if n not in biased}
        marks = {name: "†" * (name in biased) + "?" * (name in doubted) for name in names}
        shown = [f"{ratios[name]:.2g}{marks[name]}" if name in ratios else "" for name in SHOWN]
        yield [
            *("" if item is None else str(item) for item in setting),
            *shown,
            min(cost, key=cost.__getitem__, default="") if "lr" in names else "",
        ]


def tabulate(summaries: dict[str, dict[str, Any]]) -> str:
    """Markdown; ? where tails are too heavy to trust the figure, † where the gradient is biased, as most seeds say."""
    head = ("task", "σ", "stiffness", "horizon", *SHOWN, "least variance × s")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, summary in summaries.items():
        lines += [f"| *{name}* |" + " |" * (len(head) - 1)]
        lines += [f"| {' | '.join(row)} |" for row in rows(summary["cells"])]
    title = "Variance over that of the likelihood ratio (geometric mean over seeds); ? heavy-tailed, † biased.\n"
    price = (
        "Least variance × s: lr-value's seconds are without those of its fit, on 200 rollouts; empty where lr is exact."
    )
    return title + price + "\n\n" + "\n".join(lines) + "\n"


def main(args: Args) -> None:
    """Run, print, write."""
    given = {name: getattr(args, name) for name in ("num_envs", "replicates", "seeds", "chunk_size", "device", "smoke")}
    summaries = {
        name: run_gradients(replace(part, **given, out=args.out / name))
        for name, part in PARTS.items()
        if not args.smoke or name == "horizons"
    }
    text = tabulate(summaries)
    print(text)
    with whole(args.out / "table.md") as partial:
        partial.write_text(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
