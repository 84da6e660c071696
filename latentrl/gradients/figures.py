"""The picture of a comparison, made from its records only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROWS = {
    "trace": "variance (trace)",
    "cost_normalized": "variance × seconds",
    "cosine": "cosine to the likelihood ratio's",
}
SETTINGS = {"task": "", "sigma": "σ = ", "stiffness": "stiffness = ", "horizon": "horizon = "}


def cost_figure(cells: Sequence[dict[str, Any]], names: Sequence[str], along: str = "horizon") -> Figure:
    """One column per task and setting: variance, variance × seconds, and direction, over one of the settings.

    Lines are medians over seeds, bands span them, hollow marks are heavy-tailed beyond trust.
    """
    titles = list(dict.fromkeys(_title(cell, along) for cell in cells))
    colors = dict(zip(names, colormaps["tab10"](np.arange(len(names)) % 10), strict=True))
    figure = Figure(figsize=(2.2 + 3.0 * len(titles), 8.5), layout="constrained")
    axes = figure.subplots(len(ROWS), len(titles), squeeze=False, sharex="col")
    for column, title in enumerate(titles):
        here = [cell for cell in cells if _title(cell, along) == title]
        places = list(dict.fromkeys(cell[along] for cell in here))
        for row, quantity in enumerate(ROWS):
            for name in names:
                _line(axes[row, column], here, name, quantity, colors[name], [cell[along] for cell in here], places)
            axes[row, column].grid(alpha=0.3)
            if quantity != "cosine":
                axes[row, column].set_yscale("log")
        axes[0, column].set_title(title, fontsize=10)
        axes[-1, column].set_xlabel(f"{along} (steps)" if along == "horizon" else along)
        axes[-1, column].set_xticks(range(len(places)), labels=[str(place) for place in places])
    for row, label in enumerate(ROWS.values()):
        axes[row, 0].set_ylabel(label)
    handles = [axes[0, 0].plot([], [], "o-", color=colors[name], label=name)[0] for name in names]
    handles += axes[0, 0].plot([], [], "o", color="0.4", markerfacecolor="white", label="too heavy-tailed to trust")
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 2 * len(titles) + 1))
    return figure


def _title(cell: dict[str, Any], along: str) -> str:
    """What else distinguishes a cell, but for its seed."""
    given = {name: cell[name] for name in SETTINGS if name != along and cell[name] is not None}
    task = given.pop("task")
    return f"{task}\n{', '.join(f'{SETTINGS[name]}{value}' for name, value in given.items())}"


def _line(
    axis: Axes,
    cells: Sequence[dict[str, Any]],
    name: str,
    quantity: str,
    color: Any,
    values: Sequence[Any],
    places: Sequence[Any],
) -> None:
    points: dict[int, list[tuple[float, bool]]] = {}
    for cell, value in zip(cells, values, strict=True):
        for record in cell["estimators"]:
            found = record.get(quantity) if record["estimator"] == name else None
            if found is not None:
                points.setdefault(places.index(value), []).append((found, record["trustworthy"]))
    if not points:
        return
    at = sorted(points)
    found_at = [[value for value, _ in points[place]] for place in at]
    middle = [float(np.median(some)) for some in found_at]
    axis.plot(at, middle, color=color, linewidth=1.2)
    axis.fill_between(at, [min(some) for some in found_at], [max(some) for some in found_at], color=color, alpha=0.15)
    for place, value in zip(at, middle, strict=True):
        trusted = all(trust for _, trust in points[place])
        axis.plot(place, value, "o", color=color, markersize=4, markerfacecolor=color if trusted else "white")
