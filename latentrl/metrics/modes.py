"""Modes of behaviour without labels: which kinds demonstrations fall into, and which of them a rollout shows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # loads a part such as scipy.stats (most of a second) when it is first used

from latentrl.checks import LatentRLError, at_least, count
from latentrl.metrics.arrays import Array, Integers, finite
from latentrl.metrics.distances import distances, leave_one_out

MOST = 50
"""Parts into which a group is cut at once; each part may be cut again."""
REFERENCES = 20
"""Groups without parts, drawn to know how well such a one seems to fall apart."""


@dataclass(frozen=True)
class Modes:
    """Demonstrations and the kinds that they fall into."""

    labels: Integers
    """(N,) mode of each demonstration, 0 … n_modes − 1 by first appearance, or −1 for one that stands alone."""
    demonstrations: Array
    """(N, T, D)"""
    threshold: float
    """Time-aligned mean distance to the nearest demonstration beyond which a trajectory shows none of the modes."""

    @property
    def n_modes(self) -> int:
        """How many there are."""
        return int(self.labels.max()) + 1

    def assign(self, trajectories: Any) -> Integers:
        """Mode of the nearest demonstration of each trajectory (N, T, D), or −1 for one that is near none: (N,).

        :raises LatentRLError: other T or D than the demonstrations', values that are not finite
        """
        known = self.labels >= 0
        table = distances(finite("trajectories", trajectories, "N T D"), self.demonstrations[known])
        return np.where(table.min(1) <= self.threshold, self.labels[known][table.argmin(1)], -1)

    def counts(self, trajectories: Any) -> Integers:
        """How many of the trajectories (N, T, D) show each mode, (n_modes,): for :func:`behaviour_entropy`."""
        found = self.assign(trajectories)
        return np.bincount(found[found >= 0], minlength=self.n_modes)


def find_modes(
    trajectories: Any, minimum: int = 3, alarm: float = 0.05, quantile: float = 0.95, seed: int = 0
) -> Modes:
    """Cluster demonstrations of one length; their number of modes follows from them, and may be one.

    A group is cut by Ward's tree on root-mean-square distances, at the number of parts with the largest mean
    silhouette (Rousseeuw 1987). The cut counts if that silhouette is larger than those of groups without parts, drawn
    uniformly along the group's own principal axes with its variances (Tibshirani, Walther & Hastie 2001), by as much
    as ``alarm`` says, shared out by size (Kimes et al. 2017). Each part is then tried likewise, as a silhouette prefers
    a few far groups of modes to the modes in them. It takes about 3 seconds for 480 demonstrations.

    Features should be of one unit, or scaled; pace counts, so for routes alone resample by length of way. A mode that
    is long-tailed to one side, or bent like a ring, can be taken for several.

    :param trajectories: (N, T, D) demonstrations; :func:`resample` makes them equally long
    :param minimum: demonstrations that make a mode; smaller clusters stand alone. A group of fewer than twice as many
        is not cut, as so few do not tell: look for strays among them yourself
    :param alarm: probability that one mode, uniform or tighter, is taken for several
    :param quantile: of the distances between a demonstration and the nearest other one of its mode; beyond it a
        trajectory shows none
    :param seed: of the groups without parts
    :raises LatentRLError: fewer than ``minimum`` trajectories, another shape, values that are not finite, clusters that
        are all too small; bad options
    """
    given = finite("trajectories", trajectories, "N T D")
    if len(given) < count("minimum", minimum, 2):
        raise LatentRLError(
            f"{len(given)} trajectories are fewer than the {minimum} that make a mode: give more, or lower minimum"
        )
    for name, value in (("alarm", alarm), ("quantile", quantile)):
        if not 0.0 < at_least(name, value, 0.0) < 1.0:
            raise LatentRLError(f"{name} must lie between 0 and 1, but {value!r} was given")
    points = given.reshape(len(given), -1) / np.sqrt(given.shape[1])
    labels = np.full(len(points), -1)
    generator, groups, kept = np.random.default_rng(count("seed", seed, 0)), [np.arange(len(points))], []
    while groups:
        group = groups.pop()
        level = alarm * max(len(group) - 1, 1) / max(len(points) - 1, 1)
        parts = _parts(points[group], level, generator) if len(group) >= 2 * minimum else None
        if parts is not None:
            groups += [group[parts == part] for part in np.unique(parts)]
        elif len(group) >= minimum:
            kept.append(group)
    if not kept:
        raise LatentRLError(f"no {minimum} trajectories are alike: lower minimum, or look at their units")
    for mode, group in enumerate(sorted(kept, key=lambda members: int(members.min()))):
        labels[group] = mode
    known = labels >= 0
    apart = leave_one_out(given[known], labels[known])
    return Modes(labels, given, float(np.quantile(apart, quantile)))


def _parts(points: Array, level: float, generator: np.random.Generator) -> Integers | None:
    """The part of each of the points (N, F), or None where they are no less alike than points without parts are."""
    number = len(points)
    spread = np.linalg.svd(points - points.mean(0), compute_uv=False) / np.sqrt(number - 1)
    spread = spread[spread > 1e-12 * np.abs(points).max()]
    if not len(spread):  # all the same
        return None
    found, parts = _best_cut(points)
    bound = np.sqrt(3.0) * spread
    drawn = [_best_cut(generator.uniform(-bound, bound, (number, len(spread))))[0] for _ in range(REFERENCES)]
    # The last factor is for the error of the mean of the drawn.
    limit = np.mean(drawn) + scipy.stats.norm.isf(level) * np.std(drawn, ddof=1) * np.sqrt(1 + 1 / REFERENCES)
    return parts if found > limit else None


def _best_cut(points: Array) -> tuple[float, Integers]:
    """Largest mean silhouette of the cuts of Ward's tree over points (N, F), and the part of each point in it."""
    hierarchy, squareform = scipy.cluster.hierarchy, scipy.spatial.distance.squareform
    number, table = len(points), scipy.spatial.distance.pdist(points)
    tree = hierarchy.ward(table)
    # In the tree's order every part is a run, and a cut into k parts is at the k − 1 highest joints between neighbours.
    order = hierarchy.leaves_list(tree)
    joints = np.argsort(-np.diagonal(squareform(hierarchy.cophenet(tree))[np.ix_(order, order)], 1), kind="stable") + 1
    sums = np.zeros((number, number + 1))
    np.cumsum(squareform(table)[np.ix_(order, order)], axis=1, out=sums[:, 1:])
    best, rows = (-1.0, np.zeros(number, np.int64)), np.arange(number)
    for k in range(2, min(MOST, number - 1) + 1):
        edges = np.concatenate([[0], np.sort(joints[: k - 1]), [number]])
        sizes = np.diff(edges)
        parts = np.repeat(np.arange(k), sizes)
        apart = np.diff(sums[:, edges], axis=1)
        within = apart[rows, parts] / np.maximum(sizes[parts] - 1, 1)
        apart /= sizes
        apart[rows, parts] = np.inf
        other = apart.min(1)
        larger = np.maximum(within, other)
        clear = (sizes[parts] > 1) & (larger > 0)  # one alone has the silhouette 0
        value = float(np.where(clear, (other - within) / np.where(larger > 0, larger, 1.0), 0.0).mean())
        if value > best[0]:
            best = value, parts
    unordered = np.empty(number, np.int64)
    unordered[order] = best[1]
    return best[0], unordered
