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


def cost_figure(cells: Sequence[dict[str, Any]], names: Sequence[str]) -> Figure:
    """One column per task and setting: variance, variance × seconds, and direction, over the horizon.

    Lines are medians over seeds, bands span them, hollow marks are heavy-tailed beyond trust.
    """
    settings = list(dict.fromkeys(_setting(cell) for cell in cells))
    colors = dict(zip(names, colormaps["tab10"](np.arange(len(names)) % 10), strict=True))
    figure = Figure(figsize=(2.2 + 3.0 * len(settings), 8.5), layout="constrained")
    axes = figure.subplots(len(ROWS), len(settings), squeeze=False, sharex="col")
    for column, setting in enumerate(settings):
        here = [cell for cell in cells if _setting(cell) == setting]
        for row, quantity in enumerate(ROWS):
            for name in names:
                _line(axes[row, column], here, name, quantity, colors[name])
            axes[row, column].grid(alpha=0.3)
            axes[row, column].set_xscale("log")
            if quantity != "cosine":
                axes[row, column].set_yscale("log")
        axes[0, column].set_title(setting, fontsize=10)
        axes[-1, column].set_xlabel("horizon (steps)")
        ticks = sorted({cell["horizon"] for cell in here})
        axes[-1, column].set_xticks(ticks, labels=[str(tick) for tick in ticks])
        axes[-1, column].minorticks_off()
    for row, label in enumerate(ROWS.values()):
        axes[row, 0].set_ylabel(label)
    handles = [axes[0, 0].plot([], [], "o-", color=colors[name], label=name)[0] for name in names]
    handles += axes[0, 0].plot([], [], "o", color="0.4", markerfacecolor="white", label="too heavy-tailed to trust")
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 2 * len(settings) + 1))
    return figure


def _setting(cell: dict[str, Any]) -> str:
    named = {"σ": cell["sigma"], "stiffness": cell["stiffness"]}
    given = ", ".join(f"{name} = {value:g}" for name, value in named.items() if value is not None)
    return f"{cell['task']}\n{given}"


def _line(axis: Axes, cells: Sequence[dict[str, Any]], name: str, quantity: str, color: Any) -> None:
    points: dict[int, list[tuple[float, bool]]] = {}
    for cell in cells:
        for record in cell["estimators"]:
            value = record.get(quantity) if record["estimator"] == name else None
            if value is not None:
                points.setdefault(cell["horizon"], []).append((value, record["trustworthy"]))
    if not points:
        return
    horizons = sorted(points)
    values = [[value for value, _ in points[horizon]] for horizon in horizons]
    middle = [float(np.median(some)) for some in values]
    axis.plot(horizons, middle, color=color, linewidth=1.2)
    axis.fill_between(horizons, [min(some) for some in values], [max(some) for some in values], color=color, alpha=0.15)
    for horizon, value in zip(horizons, middle, strict=True):
        trusted = all(trust for _, trust in points[horizon])
        axis.plot(horizon, value, "o", color=color, markersize=4, markerfacecolor=color if trusted else "white")
