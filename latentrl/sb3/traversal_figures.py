"""Pictures of a traversal of the latent: paths in the plane, or moments of an episode laid over each other.

Nothing imports this file before there is something to draw: matplotlib takes half a second.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from latentrl.sb3.traversal_rows import Row

COLUMNS = 5
"""Most panels side by side."""


def path_figure(rows: Sequence[Row], paths: Sequence[Sequence[Sequence[NDArray[Any]]]]) -> Figure:
    """One panel for each row, one colour for each latent; a ring where paths start, a dot where they end.

    :param paths: of each row, latent and environment, (T, 2)
    """
    columns = min(len(rows), COLUMNS if len(rows) % 4 else 4)
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(3.4 * columns + 1.4, 3.4 * lines + 0.4), layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, row, of_row in zip(axes, rows, paths, strict=False):
        for color, of_latent in zip(_colors(row), of_row, strict=True):
            for path in of_latent:
                axis.plot(*path.T, color=color, linewidth=1.2, alpha=0.8)
                axis.plot(*path[-1], "o", color=color, markersize=4)
                axis.plot(*path[0], "o", color="black", markerfacecolor="white", markersize=4, zorder=3)
        axis.set(title=row.title, aspect="equal")
        axis.grid(alpha=0.3)
        axis.label_outer()
    for axis in axes[len(rows) :]:
        axis.remove()
    longest = max(rows, key=lambda row: len(row.names))
    handles = [
        Line2D([], [], color=color, linewidth=2, label=name)
        for color, name in zip(_colors(longest), longest.names, strict=True)
    ]
    figure.legend(handles=handles, loc="outside right center")
    return figure


def picture_figure(rows: Sequence[Row], pictures: Sequence[Sequence[NDArray[Any]]]) -> Figure:
    """One line of pictures for each row; a single row is broken into lines.

    :param pictures: of each row and latent, (H, W, 3)
    """
    if len(rows) == 1:
        names, cells = rows[0].names, list(pictures[0])
        lines = [(rows[0].title, names[i : i + COLUMNS], cells[i : i + COLUMNS]) for i in range(0, len(cells), COLUMNS)]
    else:
        lines = [(row.title, row.names, list(cells)) for row, cells in zip(rows, pictures, strict=True)]
    columns = max(len(cells) for _, _, cells in lines)
    height, width = lines[0][2][0].shape[:2]
    figure = Figure(
        figsize=(2.2 * columns + 0.3, (2.2 * height / width + 0.25) * len(lines) + 0.4), layout="constrained"
    )
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for index, (line, (title, names, cells)) in enumerate(zip(axes, lines, strict=True)):
        for axis in line[len(cells) :]:
            axis.remove()
        for axis, name, cell in zip(line, names, cells, strict=False):
            _show(axis, cell, "" if index and names == lines[0][1] else name)
        line[0].set_ylabel(title, rotation=0, labelpad=14, fontsize="large")
    return figure


def _show(axis: Axes, picture: NDArray[Any], name: str) -> None:
    axis.imshow(picture)
    axis.set_title(name, fontsize="small", pad=3)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color("0.8")


def _colors(row: Row) -> NDArray[Any]:
    return colormaps["turbo"](np.linspace(0.08, 0.92, len(row.names)))
