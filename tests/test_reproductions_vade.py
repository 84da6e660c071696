"""Clustering of digits: the networks, where the prior starts, how clusters are judged, and the smallest study."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from experiments.reproductions import clusters, vade
from experiments.vae import batch_of
from latentrl.cells import Record
from latentrl.priors import MixturePrior
from tests.test_reproductions import folder

__all__ = ["folder"]


def test_networks_are_mirrored_and_of_relus() -> None:
    model = vade.autoencoder((5, 3))
    shapes = [tuple(p.shape) for p in model.parameters() if p.dim() == 2]
    assert shapes == [(5, 784), (3, 5), (20, 3), (3, 10), (5, 3), (784, 5)]
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    head, x = model.posterior.head, torch.rand(4, 784)  # type: ignore[union-attr]
    inner = [layer for layer in layers if layer not in (head, model.decoder.head)]

    def dense(h: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
        return (h @ layer.weight.T + layer.bias).clamp_min(0.0)

    z = (dense(dense(x, inner[0]), inner[1]) @ head.weight.T + head.bias)[:, :10]
    torch.testing.assert_close(vade.codes(model, x), z)
    logits = model.decoder.head(dense(dense(z, inner[2]), inner[3]))
    entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    torch.testing.assert_close(vade.reconstruction(model, batch_of(x)), -entropy)


def test_learning_rate() -> None:
    found = [vade.learning_rate(2e-3, epoch) for epoch in (0, 9, 10, 29, 210, 220, 2999)]
    assert found == pytest.approx([2e-3, 2e-3, 1.8e-3, 1.62e-3, 2e-3 * 0.9**21, 2e-4, 2e-4], rel=1e-12)


def test_the_prior_starts_as_the_mixture_of_the_codes() -> None:
    pytest.importorskip("sklearn")
    points = torch.randn(300, 10, generator=torch.Generator().manual_seed(0)).double()
    points[:100] += 3.0
    fitted = clusters.fit(points, 10, mixture=True, seed=0)
    prior = MixturePrior(10, 10).double()
    prior.place(fitted.weights_, fitted.means_, np.sqrt(fitted.covariances_))
    law = prior(points)
    np.testing.assert_allclose(law.log_prob(points).detach(), fitted.score_samples(points.numpy()), rtol=1e-6)
    np.testing.assert_allclose(law.responsibilities(points).detach(), fitted.predict_proba(points.numpy()), atol=1e-6)


@pytest.mark.parametrize("mixture", [False, True])
def test_clusters_apart_are_found(mixture: bool) -> None:
    pytest.importorskip("sklearn")
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(90) % 3
    points = 20.0 * torch.eye(3)[labels] + torch.randn(90, 3, generator=generator)
    fitted = clusters.fit(points, 3, mixture, seed=0)
    found = fitted.predict(points.double().numpy())
    means = fitted.means_ if mixture else fitted.cluster_centers_
    for label in range(3):
        mine = labels.numpy() == label
        assert len(set(found[mine])) == 1
        np.testing.assert_allclose(means[found[mine][0]], points[mine].double().mean(0), atol=1e-5)
    if mixture:
        variance = points[labels == 0].double().var(0, correction=0)
        np.testing.assert_allclose(fitted.covariances_[found[0]], variance, rtol=1e-4)


def test_assignment_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        found, labels = rng.integers(0, 5, 60), rng.integers(0, 5, 60)
        right = [(np.array(names)[found] == labels).sum() for names in itertools.permutations(range(5))]
        names = clusters.assignment(found, labels, 5)
        assert sorted(names) == list(range(5))
        assert (names[found] == labels).sum() == max(right)


def test_test_labels_name_no_cluster() -> None:
    """Swapped among the test images, two clusters have it all wrong there."""
    train, labels = np.array([0, 0, 1, 1, 1]), np.array([1, 1, 0, 0, 1])
    found = clusters.judge((train, labels), (train[:4], 1 - labels[:4]), 2)
    assert (found[clusters.TRAIN], found[clusters.TEST]) == (pytest.approx(80.0), 0.0)
    assert (found["names"], found["clusters"]) == ([1, 0], 2)
    assert clusters.judge((0 * train, labels), (train, labels), 2)["clusters"] == 1


def test_pictures_stand_in_the_order_of_their_names() -> None:
    pixels = torch.tensor([0.2, 0.6, 1.0]).unsqueeze(1).repeat(1, 784)
    pixels[0, 28] = 0.4  # the second line of the first
    row = clusters.row({"pictures": clusters.packed(pixels), "names": [2, 0, 1]})
    assert row.shape == (28, 84)
    assert row[0, [0, 28, 56]].tolist() == [153, 255, 51]
    assert row[1, 56:58].tolist() == [102, 51]


def records(values: dict[str, list[float]]) -> list[Record]:
    return [
        {"method": name, clusters.TEST: value, clusters.TRAIN: 100 - value}
        for name, mine in values.items()
        for value in mine
    ]


def test_orderings() -> None:
    text = clusters.orderings(records({"a": [50.0, 60.0, 71.0], "b": [90.0, 80.0, 95.0], "c": [70.0, 70.0, 70.0]}))
    assert "c beats a in 2 of 3 seeds on test images, in 1 on training images" in text
    assert "b in 0 of 3 seeds on test images, in 3 on training images" in text
    assert "a 71.00, b 95.00, c 70.00" in text


@pytest.mark.slow
def test_vade(folder: Path, tmp_path: Path) -> None:
    """With two autoencoders, which the methods of a seed share."""
    pytest.importorskip("sklearn")
    args = vade.VadeArgs(data_dir=folder, smoke=True, seeds=(0, 1), out=tmp_path, device="cpu")
    vade.main(args)
    made = tmp_path / "vade" / "smoke"
    runs = json.loads((made / "records.json").read_text())["runs"]
    assert [run["method"] for run in runs] == [name for name in vade.METHODS for _ in args.seeds]
    assert [run["epochs"] for run in runs] == [2, 2, 2, 2, 4, 4]
    assert all(0 <= run[key] <= 100 for run in runs for key in (clusters.TRAIN, clusters.TEST))
    assert {path.name for path in (made / "runs").iterdir()} == {
        f"{n}_{s}" for n in ("autoencoder", "VaDE") for s in "01"
    }
    assert "of 2 seeds on test images" in (made / "table.md").read_text()
    assert (made / "reproductions.vade.png").exists()
    assert vade.VadeArgs().seeds == tuple(range(10))
