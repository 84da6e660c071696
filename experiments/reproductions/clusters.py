"""Clusters of points, judged by labels that nothing else sees, and what a study of several methods tells of them."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from latentrl.cells import Record
from latentrl.checks import require

Numbers = NDArray[np.int64]
TRAIN, TEST = "training accuracy (%)", "test accuracy (%)"
SIDE = 28


def fit(points: Tensor, number: int, mixture: bool, seed: int) -> Any:
    """scikit-learn's k-means or mixture of diagonal Gaussians, the best of 10 starts by its own objective."""
    if mixture:
        kind, given = require("sklearn.mixture", "judge").GaussianMixture, {"covariance_type": "diag"}
    else:
        kind, given = require("sklearn.cluster", "judge").KMeans, {}
    return kind(number, n_init=10, random_state=seed, **given).fit(points.double().cpu().numpy())


def assignment(clusters: Numbers, labels: Numbers, number: int) -> Numbers:
    """The class of each cluster, (K,), one to one, with which the most labels are right (Hungarian method).

    :param number: K, of clusters and of classes
    """
    counts = np.zeros((number, number))
    np.add.at(counts, (clusters, labels), 1)
    return linear_sum_assignment(counts, maximize=True)[1]


def judge(train: tuple[Numbers, Numbers], test: tuple[Numbers, Numbers], number: int) -> Record:
    """Accuracies; training labels alone name the clusters.

    :param train: clusters and labels of the training images
    :param test: of others
    """
    names = assignment(*train, number)
    accuracy = {key: 100 * float((names[c] == labels).mean()) for key, (c, labels) in ((TRAIN, train), (TEST, test))}
    return {**accuracy, "clusters": len(np.unique(train[0])), "names": names.tolist()}


def packed(pixels: Tensor) -> str:
    """Pictures in [0, 1] as text for a record."""
    return zlib.compress((255 * pixels.detach()).round().byte().cpu().numpy().tobytes()).hex()


def row(record: Record) -> NDArray[np.uint8]:
    """The pictures of a record side by side, in the order of the clusters' names, (28, 28 K)."""
    pixels = np.frombuffer(zlib.decompress(bytes.fromhex(record["pictures"])), np.uint8)
    return np.concatenate(pixels.reshape(-1, SIDE, SIDE)[np.argsort(record["names"])], axis=1)


def accuracies(found: Sequence[Record], key: str) -> dict[str, NDArray[np.float64]]:
    """Of each method, in the order of the seeds."""
    methods = dict.fromkeys(record["method"] for record in found)
    return {name: np.array([record[key] for record in found if record["method"] == name]) for name in methods}


def orderings(found: Sequence[Record]) -> str:
    """In how many seeds the last method beats the others, and the best seed of each."""
    test, train = accuracies(found, TEST), accuracies(found, TRAIN)
    *controls, method = test
    beaten = "; ".join(
        f"{name} in {(test[method] > test[name]).sum()} of {len(test[name])} seeds on test images, "
        f"in {(train[method] > train[name]).sum()} on training images"
        for name in controls
    )
    bests = [", ".join(f"{name} {value.max():.2f}" for name, value in of.items()) for of in (test, train)]
    return (
        f"\n{method} beats {beaten}. The best seed of each, told but not chosen: on test images {bests[0]}; on "
        f"training images {bests[1]}.\n"
    )


def draw(found: Sequence[Record], published: Mapping[str, Mapping[str, float]]) -> Figure:
    """What the last method's clusters look like in each seed, and accuracies.

    :param published: source -> method -> accuracy, which horizontal strokes mark
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = [row(record) for record in found if "pictures" in record]
    left.imshow(np.concatenate(rows), cmap="gray_r")
    value = accuracies(found, TEST)
    number = rows[0].shape[1] // SIDE
    left.set_xticks(SIDE * (np.arange(number) + 0.5), range(number))
    left.set_yticks(SIDE * (np.arange(len(rows)) + 0.5), [f"{last:.1f} %" for last in list(value.values())[-1]])
    left.set_xlabel("digit of the cluster")
    left.set(ylabel="one seed in each row, and its test accuracy", title="p(x|z) at the components' means")
    right.plot(range(len(value)), np.stack(list(value.values())), "o-", color="C0", alpha=0.4)
    right.set_xticks(range(len(value)), list(value))
    for place, (source, figures) in enumerate(published.items()):
        at = [list(value).index(name) for name in figures]
        right.plot(at, list(figures.values()), "_", color=f"C{place + 1}", markersize=30, label=source)
    right.set(ylabel=f"{TEST}; strokes: as the legend says", title="seeds, from one autoencoder each")
    right.legend()
    return figure
