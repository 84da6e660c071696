"""Variational deep embedding (VaDE, Jiang et al. 2017, table 2): digits sorted into ten clusters without labels.

    python -m experiments.reproductions.vade --data-dir FOLDER [--quick]

Networks 784-500-500-2000-10 and back, ReLU, grey pixels in [0, 1] under independent bits, as in the paper. The
pretraining, which was never released, is here a plain autoencoder: the same networks without draws of z, trained all at
once and without noise. k-means and a mixture of Gaussians on its codes are the controls; the mixture is also where the
prior starts. Unlike in the authors' code, log π counts once (:func:`latentrl.objectives.vade_bound`); unlike in the
paper, test images are only judged. VaDE's clusters are read off at the posterior mean. Labels choose nothing: the
weights of the last epoch count.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from experiments.reproductions import clusters
from experiments.reproductions.autoencoders import PIXELS, PlainEncoder, PlainTrunk, perceptron
from experiments.reproductions.mnist import Digits, digits, fingerprint
from experiments.reproductions.study import Args, folder_of, jobs_of, reproduce
from experiments.reproductions.training import Minibatches, Training
from experiments.vae import batch_of
from latentrl.cells import Cells, Record
from latentrl.decoders import BernoulliDecoder
from latentrl.model import LatentModel
from latentrl.objectives import vade_bound
from latentrl.posteriors import GaussianPosterior
from latentrl.priors import MixturePrior
from latentrl.sweeps import sweep
from latentrl.types import Batch

Z, CLUSTERS = 10, 10
AE, KMEANS, VADE = "autoencoder", "AE + k-means", "VaDE"
METHODS = (KMEANS, "AE + GMM", VADE)
COLUMNS = (clusters.TRAIN, clusters.TEST, "clusters", "−bound", "epochs", "seconds")
PUBLISHED = {
    "the paper, on images it learned from": {VADE: 94.46},
    "OpenDeepClustering, 20 seeds": {KMEANS: 79.2, VADE: 71.6},
}
NOTE = """
The paper: VaDE 94.46 on the 70 000 images that it learned from. OpenDeepClustering, 20 seeds
(https://github.com/zhoushengisnoob/OpenDeepClustering/issues/21): VaDE 71.6 ± 4.4, AE + k-means 79.2 ± 1.9.
Epochs and seconds include the pretraining.
"""


@dataclass(frozen=True, kw_only=True)
class VadeArgs(Args):
    seeds: tuple[int, ...] = tuple(range(10))
    """An autoencoder for each, and one run of each method on it."""


class Scale(NamedTuple):
    """What the numbers depend on."""

    hidden: tuple[int, ...]
    """Layers of the encoder; the decoder's are the same backwards."""
    epochs: dict[str, int]
    """Of the pretraining and of what follows."""
    train: int
    """Images."""
    batch_size: int = 100


SCALES = {
    "full": Scale((500, 500, 2_000), {AE: 50, VADE: 3_000}, 60_000),
    "quick": Scale((256, 256, 512), {AE: 40, VADE: 80}, 20_000),
    "smoke": Scale((8,), {AE: 2, VADE: 2}, 40, batch_size=10),
}
LEARNING_RATES = {AE: 1e-3, VADE: 2e-3}


def autoencoder(hidden: Sequence[int]) -> LatentModel:
    """With a mixture of as many Gaussians as there are digits."""
    encoder = PlainEncoder(PIXELS, perceptron([PIXELS, *hidden], nn.ReLU), hidden[-1])
    trunk = PlainTrunk(perceptron([Z, *hidden[::-1]], nn.ReLU), hidden[0])
    decoder = BernoulliDecoder(0, Z, PIXELS, lambda *_: trunk)
    return LatentModel(GaussianPosterior(encoder, Z), MixturePrior(Z, CLUSTERS), decoder)


def reconstruction(model: LatentModel, batch: Batch) -> Tensor:
    """log p(x|z) at the mean of q(z|x), (B,): what a plain autoencoder maximises."""
    return model.log_likelihood_given(batch, model.infer(batch).mean)


def learning_rate(start: float, epoch: int) -> float:
    """Times .9 every 10 epochs, to no less than a tenth."""
    return start * max(0.9 ** (epoch // 10), 0.1)


def train(model: LatentModel, name: str, images: Tensor, seed: int, args: Args) -> list[Record]:
    """As an autoencoder or as VaDE; what was seen after each epoch."""
    scale = SCALES[args.scale]
    # ε is that of the authors' code; the paper does not tell it.
    optimizer = torch.optim.Adam(model.parameters(), eps=1e-4)
    rows, losses = Minibatches(len(images), scale.batch_size, seed, images.device), list[Tensor]()

    def update(step: int) -> None:
        optimizer.param_groups[0]["lr"] = learning_rate(LEARNING_RATES[name], step // rows.per_epoch)
        batch = batch_of(images, rows(step))
        loss = -(reconstruction(model, batch) if name == AE else vade_bound(model, batch).surrogate).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    def look(epoch: int) -> Record:  # noqa: ARG001
        mean = float(torch.stack(losses).mean())
        losses.clear()
        return {"loss": mean}

    settings = {"method": name, "seed": seed, "scale": scale._asdict(), "data": fingerprint(images)}
    parts = {"model": model, "optimizer": optimizer}
    training = Training(folder_of("vade", args, f"{name} {seed}"), settings, parts, images.device)
    return training.run(scale.epochs[name], rows.per_epoch, update, look)


def pretrained(seed: int, args: Args, images: Tensor) -> tuple[LatentModel, list[Record]]:
    """The autoencoder of a seed, which is trained but once."""
    torch.manual_seed(seed)
    model = autoencoder(SCALES[args.scale].hidden).to(images.device)
    return model, train(model, AE, images, seed, args)


@torch.no_grad()
def codes(model: LatentModel, images: Tensor) -> Tensor:
    """Posterior means, (N, Z)."""
    return torch.cat([model.infer(batch_of(part)).mean for part in images.split(5_000)])


def images_of(args: Args) -> Digits:
    """Of this scale, on its device."""
    data, number, device = digits(args.data_dir), SCALES[args.scale].train, args.torch_device
    return Digits(data.train[:number].to(device), data.train_labels[:number], data.test.to(device), data.test_labels)


def pretrain(seed: int, args: Args) -> Record:
    """Before the methods, which may then run at once."""
    return {"loss": pretrained(seed, args, images_of(args).train)[1][-1]["loss"]}


def run(method: str, seed: int, args: Args) -> Record:
    """One method on the codes of one autoencoder."""
    data = images_of(args)
    model, history = pretrained(seed, args, data.train)
    points, begin = [codes(model, part) for part in (data.train, data.test)], time.perf_counter()
    fitted = clusters.fit(points[0], CLUSTERS, method != KMEANS, seed)
    seconds, told = time.perf_counter() - begin, Record()
    if method == VADE:
        prior = model.prior
        assert isinstance(prior, MixturePrior)
        prior.place(fitted.weights_, fitted.means_, np.sqrt(fitted.covariances_))
        history = history + train(model, VADE, data.train, seed, args)
        points = [codes(model, part) for part in (data.train, data.test)]
        found = [prior(part).responsibilities(part).argmax(-1).cpu().numpy() for part in points]
        pictures = model.decoder(prior.loc[:, :0], prior.loc).mean
        told = {"−bound": history[-1]["loss"], "pictures": clusters.packed(pictures)}
    else:
        found = [fitted.predict(part.double().cpu().numpy()) for part in points]
    judged = clusters.judge((found[0], data.train_labels), (found[1], data.test_labels), CLUSTERS)
    seconds += sum(seen["seconds"] for seen in history)
    return {**judged, **told, "epochs": len(history), "seconds": seconds}


def main(args: VadeArgs) -> None:
    """Train, judge, write."""
    scale, data = SCALES[args.scale], fingerprint(digits(args.data_dir).train)
    before = Cells(args.out / "vade" / args.scale / "autoencoders", {"scale": scale._asdict(), "data": data})
    sweep(before, {f"{AE} {seed}": partial(pretrain, seed, args) for seed in args.seeds}, args.workers)
    draw = partial(clusters.draw, published=PUBLISHED)
    jobs = jobs_of(run, METHODS, args)
    reproduce("vade", args, scale, jobs, COLUMNS, draw, lambda found: clusters.orderings(found) + NOTE, data)


if __name__ == "__main__":
    main(tyro.cli(VadeArgs))
