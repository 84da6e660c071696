"""Figures, made from records and arrays only."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

FAILED = "0.75"
LR_COLOR, RP_COLOR = "#c1440e", "#1f5fa8"


def stroke_figure(
    human: NDArray[Any],
    modes: NDArray[np.integer],
    panels: dict[str, tuple[NDArray[Any], NDArray[np.integer], dict[str, Any]]],
) -> Figure:
    """Human strokes beside each policy's, one colour per mode, failures grey.

    :param human: (M, T, 2) strokes in mm
    :param modes: (M,) shape of each
    :param panels: by title: rollouts (N, T, 2), their modes (N,) with −1 for failures, and their record
    """
    columns = 3
    rows = -(-(len(panels) + 1) // columns)
    figure = Figure(figsize=(4.2 * columns, 4.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    reach = float(np.abs(human).max()) * 1.08
    n_modes = int(modes.max()) + 1
    _draw(axes[0], human, modes, n_modes)
    axes[0].set_title(f"{len(human)} human strokes, {n_modes} shapes")
    for axis, (title, (drawn, mode, record)) in zip(axes[1:], panels.items(), strict=False):
        _draw(axis, drawn, mode, n_modes)
        axis.set_title(f"{title}\n{record['modes']} modes, success {record['success']:.2f}")
    for axis in axes:
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axis.label_outer()
    for axis in axes[len(panels) + 1 :]:
        axis.remove()
    figure.supxlabel("x (mm)")
    figure.supylabel("y (mm)")
    figure.suptitle("One starting state, many human continuations (grey: near no human stroke)")
    return figure


def _draw(axis: Axes, strokes: NDArray[Any], modes: NDArray[np.integer], n_modes: int) -> None:
    palette = colormaps["gist_rainbow"](np.linspace(0.0, 1.0, n_modes))
    # Failures first, so that they lie below.
    for index in np.argsort(modes, kind="stable"):
        color = FAILED if modes[index] < 0 else palette[modes[index]]
        axis.plot(*strokes[index].T, color=color, linewidth=0.6, alpha=0.6)
    axis.plot(0.0, 0.0, "ko", markersize=4)


def gradient_figure(records: dict[str, Any]) -> Figure:
    """Variance of both estimators and their ratio over the horizon; hollow where it cannot be trusted."""
    horizons = [int(horizon) for horizon in records]
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label, color in (
        ("likelihood_ratio", "likelihood ratio", LR_COLOR),
        ("pathwise", "pathwise", RP_COLOR),
    ):
        rows = [record[name] for record in records.values()]
        points = [(row["trace"], row["trace_ci"], row["trustworthy"]) for row in rows]
        _curve(left, horizons, points, color, label)
    left.set(title="Gradient variance (trace, 64 trajectories per gradient)", xlabel="horizon (steps)", ylabel="trace")
    ratios = [(row["variance_ratio"], row["ci"], row["trustworthy"]) for row in records.values()]
    _curve(right, horizons, ratios, "black", "Var likelihood ratio / Var pathwise")
    right.axhline(1.0, color="0.5", linestyle=":", label="equal")
    right.set(title="Above 1: pathwise is less noisy", xlabel="horizon (steps)", ylabel="ratio")
    for axis in (left, right):
        axis.set(xscale="log", yscale="log")
        axis.set_xticks(horizons, labels=[str(horizon) for horizon in horizons])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.plot([], [], "o", color="0.4", markerfacecolor="white", label="too heavy-tailed to trust")
        axis.legend()
    figure.suptitle("Pendulum-v1, linear-Gaussian policy at θ = 0")
    return figure


def _curve(
    axis: Axes, x: list[int], points: list[tuple[float, tuple[float, float], bool]], color: str, label: str
) -> None:
    values = np.array([value for value, _, _ in points])
    low, high = np.array([interval for _, interval, _ in points]).T
    errors = np.maximum(0.0, [values - low, high - values])
    axis.errorbar(x, values, errors, color=color, capsize=3, label=label)
    for position, (value, _, trusted) in zip(x, points, strict=True):
        axis.plot(position, value, "o", color=color, markerfacecolor=color if trusted else "white", zorder=3)
