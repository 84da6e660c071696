"""Table 1 of the Gumbel-Softmax paper, beside what was measured."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.records import spread
from latentrl.cells import Record

REPORTED = ("score function", "MuProp", "ST", "annealed ST", "Gumbel-Softmax", "ST Gumbel")
FIGURES = {
    "SBN Bernoulli": (72.0, 58.9, 58.9, 58.7, 58.5, 59.3),
    "SBN categorical": (73.1, 63.0, 61.8, 61.1, 59.0, 59.7),
    "VAE Bernoulli": (112.2, 109.7, 116.0, 111.5, 105.0, 111.5),
    "VAE categorical": (110.6, 107.0, 110.9, 107.8, 101.5, 107.8),
}
PAPER = {task: dict(zip(REPORTED, figures, strict=True)) for task, figures in FIGURES.items()}
ORDER = ("Gumbel-Softmax", "ST", "score function")


def values(found: Sequence[Record], cell: str) -> Any:
    """Of all seeds, in nats."""
    return np.array([record["−log p(x)"] for record in found if record["method"] == cell])


def methods_of(found: Sequence[Record]) -> list[str]:
    """In the order of the runs, whose methods are called "task, method"."""
    return list(dict.fromkeys(record["method"].partition(", ")[2] for record in found))


def note(found: Sequence[Record], tried: Sequence[float]) -> str:
    """Table 1 with the paper's numbers in brackets, and in how many seeds its order holds.

    :param tried: learning rates
    """
    lines = ["", "| method | " + " | ".join(PAPER) + " |", "|---" * (len(PAPER) + 1) + "|"]
    for method in methods_of(found):
        entries = []
        for task, figures in PAPER.items():
            mine, paper = spread(values(found, f"{task}, {method}").tolist()), figures.get(method)
            entries.append(mine if paper is None else f"{mine} ({paper})")
        lines.append(f"| {method} | " + " | ".join(entries) + " |")
    lines += [
        "",
        "Nats; in brackets the paper, at its scale. DisARM is for bits alone. Seeds with the order of estimators:",
    ]
    for task, figures in PAPER.items():
        said, chain = [], []
        for better, worse in pairwise(ORDER):
            mine, other = (values(found, f"{task}, {method}") for method in (better, worse))
            theirs = "as" if figures[better] < figures[worse] else "unlike"
            chain.append(mine < other)
            said.append(f"{better} below {worse} in {chain[-1].sum()} of {len(mine)} ({theirs} in the paper)")
        lines.append(f"- {task}: " + ", ".join(said) + f"; both in {np.all(chain, 0).sum()}")
    lines += ["", *at_the_edge(found, tried)]
    failed = [record["method"] for record in found if record.get("best epoch") == 0]
    if failed:
        lines += ["", f"Never finite, and not to be read: {'; '.join(failed)}."]
    return "\n".join(lines) + "\n"


def at_the_edge(found: Sequence[Record], tried: Sequence[float]) -> list[str]:
    """Cells whose learning rate is the largest or smallest tried: a wider choice might serve them better."""
    rates = {record["method"]: record["learning rate"] for record in found}
    cells = {
        which: [cell for cell, rate in rates.items() if rate == edge]
        for which, edge in (("largest", max(tried)), ("smallest", min(tried)))
    }
    return [f"With the {which} learning rate tried: {'; '.join(there)}." for which, there in cells.items() if there]


def draw(found: Sequence[Record]) -> Figure:
    """Test bounds of all seeds."""
    figure = Figure(figsize=(16, 4.5), layout="constrained")
    figure.suptitle("dashes: the paper, at its scale")
    methods = methods_of(found)
    for axis, (task, figures) in zip(figure.subplots(1, len(PAPER)), PAPER.items(), strict=True):
        for number, method in enumerate(methods):
            mine = values(found, f"{task}, {method}")
            axis.plot([number] * len(mine), mine, "o", color=f"C{number}", alpha=0.6)
        axis.plot(
            [methods_of(found).index(name) for name in figures], list(figures.values()), "_", color="0.2", markersize=20
        )
        axis.set_xticks(range(len(methods_of(found))), methods_of(found), rotation=60, ha="right")
        axis.set(title=task, ylabel="test −log p(x) (nats)")
    return figure
