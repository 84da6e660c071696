"""Importance-weighted autoencoders and the noise of their encoders' gradients, as the number of draws K grows.

    python -m experiments.reproductions.iwae_dreg --data-dir FOLDER [--quick]

Burda et al. 2016, table 1: one stochastic layer of 50 latents between tanh layers of 200; pixels are drawn anew each
time that an image is seen. Beside their gradient ("plain") those of sticking the landing (Roeder et al. 2017, biased
for K > 1) and DReG (Tucker et al. 2019). As K grows, the signal-to-noise ratio of the encoder's gradient falls under
the plain one (Rainforth et al. 2018) and rises under DReG; that is a law of large K, and both papers show it on a
linear Gaussian, as is done here. Beside it stand the ratios ‖E g‖ / √tr Cov g on images, for each seed of the same
ones at the same weights, those of its plain K = 1; there, log weights vary by so many nats that K is not yet large.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.reproductions import ratios
from experiments.reproductions.autoencoders import (
    LIKELIHOOD,
    PIXELS,
    PlainEncoder,
    PlainTrunk,
    judge,
    log_likelihood,
    negative_elbo,
    perceptron,
)
from experiments.reproductions.mnist import binarised, digits, fingerprint
from experiments.reproductions.study import Args, folder_of, jobs_of, reproduce
from experiments.reproductions.training import Minibatches, Training
from experiments.vae import batch_of
from latentrl.cells import Record
from latentrl.decoders import BernoulliDecoder
from latentrl.estimators import DReG, ImportanceWeighted, MultiSample, StickingTheLanding
from latentrl.model import LatentModel
from latentrl.objectives import importance_bound
from latentrl.posteriors import GaussianPosterior
from latentrl.priors import StandardNormalPrior

Z, HIDDEN = 50, (200, 200)
DRAWS = (1, 5, 50)
ESTIMATORS: dict[str, MultiSample] = {"plain": ImportanceWeighted(), "STL": StickingTheLanding(), "DReG": DReG()}
# For K = 1, DReG sticks the landing, too.
METHODS = {f"{n}, K = {k}": (e, k) for n, e in ESTIMATORS.items() for k in DRAWS if (n, k) != ("STL", 1)}
COLUMNS = (*LIKELIHOOD, "−L_1", "−L_5", "−L_50", "KL", "active units", "seconds")
PAPER = {1: 86.76, 5: 85.54, 50: 84.78}


class Scale(NamedTuple):
    """What the numbers depend on."""

    stages: int
    """3^i epochs at a learning rate of .001 · 10^(−i/7), for i = 0, 1, …"""
    train: int
    test: int
    """Images."""
    judged: int
    """Draws of each test image's importance-weighted estimate."""
    replicates: int
    """Gradients of which a signal-to-noise ratio is made."""
    batch_size: int = 20


SCALES = {
    "full": Scale(8, 60_000, 10_000, 5_000, 1_000),
    "quick": Scale(3, 10_000, 1_000, 500, 100, batch_size=50),
    "smoke": Scale(1, 8, 4, 3, 3, batch_size=4),
}


def autoencoder(pixels: Tensor) -> LatentModel:
    """Its output starts at the pixels' mean."""
    encoder = PlainEncoder(PIXELS, perceptron([PIXELS, *HIDDEN], nn.Tanh), HIDDEN[-1])
    trunk = PlainTrunk(perceptron([Z, *HIDDEN], nn.Tanh), HIDDEN[-1])
    decoder = BernoulliDecoder(0, Z, PIXELS, lambda *_: trunk)
    with torch.no_grad():
        decoder.head.bias.copy_(pixels.mean(0).clamp(1e-3, 1 - 1e-3).logit())
    return LatentModel(GaussianPosterior(encoder, Z), StandardNormalPrior(Z), decoder)


def train(method: str, pixels: Tensor, seed: int, args: Args) -> tuple[LatentModel, list[Record]]:
    """The model, and what was seen after each epoch."""
    scale, (estimator, draws) = SCALES[args.scale], METHODS[method]
    torch.manual_seed(seed)
    model = autoencoder(pixels).to(pixels.device)
    optimizer = torch.optim.Adam(model.parameters(), eps=1e-4)
    rows = Minibatches(len(pixels), scale.batch_size, seed, pixels.device)
    rates = [1e-3 * 10 ** (-i / 7) for i in range(scale.stages) for _ in range(3**i)]

    def update(step: int) -> None:
        optimizer.param_groups[0]["lr"] = rates[step // rows.per_epoch]
        batch = batch_of(torch.bernoulli(pixels[rows(step)]))
        optimizer.zero_grad()
        (-importance_bound(model, batch, draws, estimator).surrogate.mean()).backward()
        optimizer.step()

    def look(_: int) -> Record:
        return {"−ELBO": negative_elbo(model, torch.bernoulli(pixels[:1_000]))[0]}

    settings = {"method": method, "seed": seed, **scale._asdict(), "data": fingerprint(pixels)}
    parts = {"model": model, "optimizer": optimizer}
    training = Training(folder_of("iwae_dreg", args, f"{method} {seed}"), settings, parts, pixels.device)
    return model, training.run(len(rates), rows.per_epoch, update, look)


def run(method: str, seed: int, args: Args) -> Record:
    """Train one model and judge it; of plain K = 1, the ratios too."""
    scale = SCALES[args.scale]
    images = digits(args.data_dir)
    pixels = images.train[: scale.train].to(args.torch_device)
    # Not the first ones: of MNIST's test images these are the cleaner half.
    order = torch.randperm(len(images.test), generator=torch.Generator().manual_seed(0))
    test = binarised(images.test)[order[: scale.test]].to(args.torch_device)
    model, history = train(method, pixels, seed, args)
    record = judge(model, test, scale.judged)
    record |= {f"−L_{k}": -float(log_likelihood(model, test, k).value.mean()) for k in DRAWS}
    record |= {"seconds": sum(seen["seconds"] for seen in history), "curve": [seen["−ELBO"] for seen in history]}
    if METHODS[method] == (ESTIMATORS["plain"], 1):
        record["snr"] = ratios.of_encoder(model, ESTIMATORS, DRAWS, test[: scale.batch_size], scale.replicates, seed)
        record["linear snr"] = ratios.of_linear_gaussian(ESTIMATORS, scale.replicates, seed)
    return record


def ratios_of(found: Sequence[Record], name: str = "snr") -> dict[str, NDArray[np.float64]]:
    """Signal-to-noise ratios (seeds, K) by estimator."""
    measured = [record[name] for record in found if name in record]
    return {estimator: np.array([snr[estimator] for snr in measured]) for estimator in ESTIMATORS}


def note(found: Sequence[Record]) -> str:
    """The ratios, and in how many seeds they fall and rise as the papers say."""
    linear, images = ratios_of(found, "linear snr"), ratios_of(found)
    lines = ratios.listed("linear Gaussian", linear, ratios.DRAWS)
    lines += ratios.listed("images", images, DRAWS)
    falls, rises, drowned, kept = (
        compare(ratio[name][:, -1], ratio[name][:, 0])
        for ratio in (linear, images)
        for name, compare in (("plain", np.less), ("DReG", np.greater))
    )
    nll = {m: np.array([r["−log p(x)"] for r in found if r["method"] == m]) for m in METHODS}
    one, five, fifty = (nll[f"plain, K = {k}"] for k in DRAWS)
    tighter = (fifty < five) & (five < one)
    plain = {name: nll[f"plain, K = {k}"] for name, (_, k) in METHODS.items() if "plain" not in name}
    below = [f"{name} in {(nll[name] < values).sum()}" for name, values in plain.items()]
    paper = ", ".join(f"K = {k} {value}" for k, value in PAPER.items())
    lines.append(
        f"\nOf {len(falls)} seeds, the ratio on the linear Gaussian is smaller with K = {ratios.DRAWS[-1]} than "
        f"with 1 under the plain gradient in {falls.sum()}, and larger under DReG in {rises.sum()}; on images, with "
        f"{DRAWS[-1]} draws, in {drowned.sum()} and {kept.sum()}; more plain draws "
        f"give a better model of images in {tighter.sum()}. Better than under the plain gradient, with as many draws: "
        f"{'; '.join(below)}. The paper: {paper}."
    )
    return "\n".join(lines) + "\n"


def draw(found: Sequence[Record]) -> Figure:
    """Test likelihoods and signal-to-noise ratios over K."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for number, name in enumerate(ESTIMATORS):
        for k in DRAWS:
            values = [r["−log p(x)"] for r in found if r["method"] == f"{name}, K = {k}"]
            left.plot([k * 1.08 ** (number - 1)] * len(values), values, "o", color=f"C{number}", alpha=0.6)
        for axis, kind, draws in ((middle, "linear snr", ratios.DRAWS), (right, "snr", DRAWS)):
            for row in ratios_of(found, kind)[name]:
                axis.plot(draws, row, "o-", color=f"C{number}", alpha=0.6)
            axis.plot([], [], color=f"C{number}", label=name)
    left.plot(PAPER.keys(), PAPER.values(), "_", color="0.2", markersize=25, label="Burda et al., at their scale")
    left.set(xscale="log", xlabel="K", ylabel="test −log p(x) (nats)")
    left.legend()
    for axis, where in ((middle, "linear Gaussian"), (right, "images")):
        axis.set(xscale="log", yscale="log", xlabel="K", ylabel="signal-to-noise ratio of the gradient", title=where)
        axis.legend()
    return figure


def main(args: Args) -> None:
    """Train, judge, write."""
    data = fingerprint(digits(args.data_dir).train)
    reproduce("iwae_dreg", args, SCALES[args.scale], jobs_of(run, METHODS, args), COLUMNS, draw, note, data)


if __name__ == "__main__":
    main(tyro.cli(Args))
