"""How far trajectories (N, T, D) are from one another, in their own unit."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from latentrl.checks import LatentRLError, dimension, one_of
from latentrl.metrics.arrays import Array, Integers, finite


def distances(trajectories: Array, references: Array) -> Array:
    """Time-aligned mean distance of every trajectory (N, T, D) to every reference (M, T, D): (N, M)."""
    trajectories, references = _same_shape(trajectories, references)
    return np.stack([np.linalg.norm(trajectories - reference, axis=-1).mean(-1) for reference in references], axis=1)


def leave_one_out(references: Array, modes: Integers) -> Array:
    """Distance (M,) of each reference to the nearest other one of its own mode: how far apart people are.

    Infinite where there is none, as for the mode −1, which is that of none.
    """
    table = distances(references, references)
    modes = _modes(modes, len(table))
    others = (modes[:, None] == modes[None, :]) & (modes >= 0) & ~np.eye(len(modes), dtype=bool)
    return np.where(others, table, np.inf).min(1)


def dtw(first: Array, second: Array) -> Array:
    """Dynamic-time-warping distance of paired trajectories (N, T, D), (N, T', D): (N,).

    The cost of the cheapest monotone alignment over the length of the longer trajectory, so that a trajectory traced
    at another pace is close. Computed along anti-diagonals for all pairs at once.
    """
    first, second = _trajectories(first), _trajectories(second)
    if len(first) != len(second) or first.shape[-1] != second.shape[-1]:
        raise LatentRLError(
            f"pairs must be (N, T, D), (N, T', D) with equal N and D, not {first.shape}, {second.shape}"
        )
    cost = np.linalg.norm(first[:, :, None] - second[:, None, :], axis=-1)
    pairs, rows, columns = cost.shape
    total = np.full((pairs, rows + 1, columns + 1), np.inf)
    total[:, 0, 0] = 0.0
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        before = np.minimum(np.minimum(total[:, i, j], total[:, i, j + 1]), total[:, i + 1, j])
        total[:, i + 1, j + 1] = cost[:, i, j] + before
    return total[:, rows, columns] / max(rows, columns)


def energy_distance(first: Array, second: Array) -> float:
    """Squared energy distance 2 E|X−Y| − E|X−X'| − E|Y−Y'| between two sets of trajectories, ≥ 0.

    |·| is the root-mean-square distance over time, a Hilbert norm, so it is 0 only for equal sets (Székely & Rizzo
    2013, the V-statistic). In the unit of the trajectories. Finite sets from one law are a little apart: compare with
    the distance between two sets of demonstrations.
    """
    first, second = _same_shape(first, second)
    middle = first.mean((0, 1))  # or squares of places that are far from the origin would cancel
    first, second = first - middle, second - middle
    return float(
        2 * root_mean_square(first, second).mean()
        - root_mean_square(first, first).mean()
        - root_mean_square(second, second).mean()
    )


def variety(trajectories: Array, modes: Integers) -> float:
    """Mean pairwise root-mean-square distance inside a mode, averaged over modes with at least two trajectories.

    Those of mode −1 show none of the modes, and do not count.
    """
    none = isinstance(trajectories, np.ndarray) and trajectories.shape[:1] == (0,)
    trajectories, spreads = trajectories if none else _trajectories(trajectories), []
    modes = _modes(modes, len(trajectories))
    for mode in np.unique(modes[modes >= 0]):
        members = trajectories[modes == mode]
        if len(members) > 1:
            members = members - members.mean((0, 1))  # as in energy_distance
            spreads.append(root_mean_square(members, members).sum() / (len(members) * (len(members) - 1)))
    return float(np.mean(spreads)) if spreads else 0.0


def resample(trajectory: Array, points: int) -> Array:
    """A trajectory (T, D) at ``points`` equal times by linear interpolation: (points, D)."""
    dimension("points", points, 2)
    trajectory = finite("trajectory", trajectory, "T D")
    old, new = np.linspace(0.0, 1.0, len(trajectory)), np.linspace(0.0, 1.0, points)
    return np.stack([np.interp(new, old, axis) for axis in trajectory.T], axis=-1)


class Nearest(NamedTuple):
    """The nearest demonstration of each of N rollouts."""

    distance: Array
    """(N,) in the unit of the trajectories."""
    which: Integers
    """(N,) its number."""


def nearest_demonstration(
    rollouts: Sequence[Array],
    demonstrations: Sequence[Array],
    measure: Literal["time", "dtw"] = "time",
    points: int = 100,
) -> Nearest:
    """How far each rollout is from the nearest demonstration, whatever their lengths.

    All are brought to the same number of points at equal shares of their own time. So an episode that took longer, but
    went the same way at an even pace, is near.

    :param rollouts: N trajectories (T, D), each with a length of its own
    :param demonstrations: M trajectories (T, D)
    :param measure: "time" compares what happened after equal shares of the time (:func:`distances`); "dtw" aligns
        first (:func:`dtw`), so that only the way counts, not its pace
    :param points: to which all are resampled
    :raises LatentRLError: an unknown measure, no trajectories, one of fewer than two points, values that are not
        finite, or other features in rollouts than in demonstrations
    """
    one_of("measure", measure, ("time", "dtw"))
    drawn, shown = _resampled("rollouts", rollouts, points), _resampled("demonstrations", demonstrations, points)
    _same_shape(drawn, shown)
    if measure == "time":
        table = distances(drawn, shown)
    else:  # one demonstration at a time, as the alignment of a pair takes points² numbers
        table = np.stack([dtw(drawn, np.broadcast_to(one, drawn.shape)) for one in shown], axis=1)
    return Nearest(table.min(1), table.argmin(1))


def _resampled(what: str, trajectories: Sequence[Array], points: int) -> Array:
    dimension("points", points, 2)
    if not len(trajectories):
        raise LatentRLError(f"there are no {what}: give at least one trajectory (T, D)")
    checked = [finite(f"{what}[{i}]", one, "T D") for i, one in enumerate(trajectories)]
    shapes = {one.shape[1] for one in checked}
    if len(shapes) > 1 or min(map(len, checked)) < 2:
        raise LatentRLError(
            f"{what} must be (T, D) with one D and at least two points each, but lengths go from "
            f"{min(map(len, checked))}, and D is {', '.join(map(str, sorted(shapes)))}"
        )
    return np.stack([resample(one, points) for one in checked])


def root_mean_square(first: Array, second: Array) -> Array:
    """Root-mean-square distance over time of every pair of (N, T, D) and (M, T, D): (N, M)."""
    x, y = first.reshape(len(first), -1).astype(np.float64), second.reshape(len(second), -1).astype(np.float64)
    squared = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * x @ y.T
    if first is second:
        np.fill_diagonal(squared, 0.0)
    return np.sqrt(np.maximum(squared, 0.0) / first.shape[1])


def _trajectories(values: Array) -> Array:
    """As they are, an array (N, T, D) of finite numbers; otherwise raise."""
    return finite("trajectories", values, "N T D")  # in float64: differences of bytes would wrap around


def _modes(modes: Integers, number: int) -> Integers:
    """Modes (N,) of so many trajectories; otherwise raise."""
    modes = np.asarray(modes)
    if modes.shape != (number,):
        raise LatentRLError(f"there must be one mode for each of {number} trajectories, but the shape is {modes.shape}")
    return modes


def _same_shape(first: Array, second: Array) -> tuple[Array, Array]:
    first, second = _trajectories(first), _trajectories(second)
    if first.shape[1:] != second.shape[1:]:
        raise LatentRLError(
            f"trajectories must both be (N, T, D) with equal T and D, not {first.shape}, {second.shape}"
        )
    return first, second
