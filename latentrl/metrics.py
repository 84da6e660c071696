"""What a cloned behaviour is worth: coverage of modes, entropy, distances to demonstrations.

Trajectories are NumPy arrays (N, T, D) at equal times. Nothing here knows a task.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from scipy.stats import norm

from latentrl.checks import LatentRLError, count

Array = NDArray[np.floating]
Integers = NDArray[np.integer]


@dataclass(frozen=True)
class Entropy:
    """Entropy of a distribution over modes in units of log(number of modes): 0 one mode, 1 all alike."""

    value: float
    ci: tuple[float, float]
    """95 % confidence interval."""


def behaviour_entropy(counts: Integers, confidence: float = 0.95) -> Entropy:
    """Entropy of observed mode counts (M,), to the base of the number of modes M, bias-corrected.

    The plug-in estimate is biased low by about (M' − 1) / 2N nats, M' the modes seen and N the rollouts; the
    Miller–Madow correction adds that back. The interval is normal with the delta-method variance plus the
    second-order term (M' − 1) / 2N², which is what is left where all modes are alike. Both are clipped to [0, 1].
    Rollouts that all show one mode give an interval without width: no other mode was seen to estimate from.

    :param counts: (M,) rollouts that showed each mode; zeros count as modes
    :raises LatentRLError: with fewer than two modes or negative counts
    """
    counts = np.asarray(counts)
    if counts.ndim != 1 or len(counts) < 2 or (counts < 0).any():
        raise LatentRLError("counts must be one number ≥ 0 per mode, for at least two modes")
    total = int(counts.sum())
    if total == 0:
        return Entropy(0.0, (0.0, 1.0))
    p = counts / total
    seen = int((counts > 0).sum())
    plug_in = -xlogy(p, p).sum()
    corrected = plug_in + (seen - 1) / (2 * total)
    variance = max(0.0, (xlogy(p, p) * np.log(np.where(p > 0, p, 1.0))).sum() - plug_in**2) / total
    variance += (seen - 1) / (2 * total**2)
    half = norm.ppf(0.5 + confidence / 2) * np.sqrt(variance)
    low, value, high = np.clip(
        np.array([corrected - half, corrected, corrected + half]) / np.log(len(counts)), 0.0, 1.0
    )
    return Entropy(float(value), (float(low), float(high)))


def modes_covered(counts: Integers, minimum: int = 5) -> int:
    """Modes shown by at least ``minimum`` successful rollouts."""
    return int((np.asarray(counts) >= minimum).sum())


def distances(trajectories: Array, references: Array) -> Array:
    """Time-aligned mean distance of every trajectory (N, T, D) to every reference (M, T, D): (N, M)."""
    _same_shape(trajectories, references)
    return np.stack([np.linalg.norm(trajectories - reference, axis=-1).mean(-1) for reference in references], axis=1)


def leave_one_out(references: Array, modes: Integers) -> Array:
    """Distance (M,) of each reference to the nearest other one of its own mode: how far apart people are."""
    table = distances(references, references)
    others = (modes[:, None] == modes[None, :]) & ~np.eye(len(modes), dtype=bool)
    return np.where(others, table, np.inf).min(1)


def dtw(first: Array, second: Array) -> Array:
    """Dynamic-time-warping distance of paired trajectories (N, T, D), (N, T', D): (N,).

    The cost of the cheapest monotone alignment over the length of the longer trajectory, so that a trajectory traced
    at another pace is close. Computed along anti-diagonals for all pairs at once.
    """
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
    _same_shape(first, second)
    return float(2 * _rms(first, second).mean() - _rms(first, first).mean() - _rms(second, second).mean())


def variety(trajectories: Array, modes: Integers) -> float:
    """Mean pairwise root-mean-square distance inside a mode, averaged over modes with at least two trajectories."""
    spreads = []
    for mode in np.unique(modes):
        members = trajectories[modes == mode]
        if len(members) > 1:
            spreads.append(_rms(members, members).sum() / (len(members) * (len(members) - 1)))
    return float(np.mean(spreads)) if spreads else 0.0


def resample(trajectory: Array, points: int) -> Array:
    """A trajectory (T, D) at ``points`` equal times by linear interpolation: (points, D)."""
    count("points", points, 2)
    old, new = np.linspace(0.0, 1.0, len(trajectory)), np.linspace(0.0, 1.0, points)
    return np.stack([np.interp(new, old, axis) for axis in trajectory.T], axis=-1)


def _rms(first: Array, second: Array) -> Array:
    """Root-mean-square distance over time of every pair: (N, M)."""
    x, y = first.reshape(len(first), -1).astype(np.float64), second.reshape(len(second), -1).astype(np.float64)
    squared = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * x @ y.T
    if first is second:
        np.fill_diagonal(squared, 0.0)
    return np.sqrt(np.maximum(squared, 0.0) / first.shape[1])


def _same_shape(first: Array, second: Array) -> None:
    if first.ndim != 3 or second.ndim != 3 or first.shape[1:] != second.shape[1:]:
        raise LatentRLError(
            f"trajectories must both be (N, T, D) with equal T and D, not {first.shape}, {second.shape}"
        )
