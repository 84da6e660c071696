"""VAE with a VampPrior (Tomczak & Welling 2018, tables 1 and 2): one stochastic layer, static MNIST.

    python -m experiments.reproductions.vampprior --data-dir FOLDER [--quick]

Gated 300-300 networks and 40 latents, as in the paper; beside N(0, I) and the VampPrior a mixture of as many Gaussians
and a flow, which it lacks. The test likelihood is the importance-weighted estimate of the weights with the best
validation bound.
"""

from collections.abc import Sequence
from functools import partial
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.records import spread
from experiments.reproductions.autoencoders import LIKELIHOOD, PIXELS, PlainEncoder, PlainTrunk, judge, negative_elbo
from experiments.reproductions.mnist import Bits, fingerprint, static_bits
from experiments.reproductions.study import Args, folder_of, jobs_of, reproduce
from experiments.reproductions.training import Best, Minibatches, Training
from experiments.vae import batch_of
from latentrl.cells import Record
from latentrl.decoders import BernoulliDecoder
from latentrl.model import LatentModel
from latentrl.posteriors import GaussianPosterior
from latentrl.priors import FlowPrior, MixturePrior, Prior, StandardNormalPrior, VampPrior

Z, HIDDEN = 40, (300, 300)
METHODS = ("N(0, I)", "mixture", "VampPrior", "flow")
COLUMNS = (*LIKELIHOOD, "−ELBO", "KL", "active units", "epochs", "seconds")
PAPER = {"N(0, I)": 88.56, "VampPrior": 85.57}


class Scale(NamedTuple):
    """What the numbers depend on."""

    components: int
    warm_up: int
    """Epochs over which β rises to 1."""
    patience: int
    """Epochs without a better validation bound before training ends."""
    epochs: int
    """At most."""
    train: int
    test: int
    """Images."""
    draws: int
    """Of each test image's importance-weighted estimate."""
    learning_rate: float = 5e-4
    batch_size: int = 100


SCALES = {
    "full": Scale(500, 100, 50, 2_000, 50_000, 10_000, 5_000),
    "quick": Scale(500, 5, 10, 40, 50_000, 10_000, 500, learning_rate=1e-3, batch_size=250),
    "smoke": Scale(3, 1, 1, 2, 8, 4, 3, batch_size=4),
}


class Gated(nn.ModuleList):
    """h = (W x + b) · sigmoid(V x + c) in each layer, both in one product."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__(nn.Linear(fan_in, 2 * fan_out) for fan_in, fan_out in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = nn.functional.glu(layer(x))
        return x


def autoencoder(method: str, components: int) -> LatentModel:
    """With one of the priors."""
    posterior = GaussianPosterior(PlainEncoder(PIXELS, Gated([PIXELS, *HIDDEN]), HIDDEN[-1]), Z)
    priors: dict[str, partial[Prior]] = {
        "N(0, I)": partial(StandardNormalPrior, Z),
        "mixture": partial(MixturePrior, Z, components),
        "VampPrior": partial(VampPrior, posterior, components),
        "flow": partial(FlowPrior, Z),
    }
    return LatentModel(
        posterior,
        priors[method](),
        BernoulliDecoder(0, Z, PIXELS, lambda *_: PlainTrunk(Gated([Z, *HIDDEN]), HIDDEN[-1])),
    )


def train(model: LatentModel, data: Bits, seed: int, scale: Scale, folder: Any, settings: Record) -> list[Record]:
    """To the best weights; what was seen after each epoch.

    :raises FloatingPointError: there are none, as no bound was finite
    """
    device = data.train.device
    optimizer, best = torch.optim.Adam(model.parameters(), scale.learning_rate), Best(model)
    rows = Minibatches(len(data.train), scale.batch_size, seed, device)
    assert model.prior is not None
    # As the trainer of policies does: a VampPrior starts from data, a mixture where posteriors lie in mid-warm-up.
    seed_step = int(model.prior.seed_at * scale.warm_up * rows.per_epoch)

    def update(step: int) -> None:
        if step == seed_step:
            model.seed_prior(batch_of(data.train[:4096]))
        terms = model.elbo(batch_of(data.train, rows(step)), min(1.0, (step + 1) / (scale.warm_up * rows.per_epoch)))
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()

    def look(epoch: int) -> Record:
        value, kl = negative_elbo(model, data.valid)
        if epoch < scale.warm_up:  # of another objective
            return {"−ELBO": value, "KL": kl}
        return {"−ELBO": value, "KL": kl, "stop": best(value, epoch) >= scale.patience}

    parts = {"model": model, "optimizer": optimizer, "best": best}
    history = Training(folder, settings, parts, device).run(scale.epochs, rows.per_epoch, update, look)
    if not best.epoch:
        raise FloatingPointError
    best.restore()
    return history


def run(method: str, seed: int, args: Args) -> Record:
    """Train one model and judge it."""
    scale, device = SCALES[args.scale], args.torch_device
    bits = static_bits(args.data_dir)
    data = Bits(
        bits.train[: scale.train].to(device), bits.valid[: scale.test].to(device), bits.test[: scale.test].to(device)
    )
    torch.manual_seed(seed)
    model = autoencoder(method, scale.components).to(device)
    settings = {"method": method, "seed": seed, "scale": scale._asdict(), "data": fingerprint(data.train)}
    history = train(model, data, seed, scale, folder_of("vampprior", args, f"{method} {seed}"), settings)
    return {
        **judge(model, data.test, scale.draws),
        "epochs": len(history),
        "seconds": sum(seen["seconds"] for seen in history),
        "curve": [seen["−ELBO"] for seen in history],
    }


def orderings(found: Sequence[Record]) -> str:
    """In how many seeds the order of the paper holds, and with the mixture between."""
    value = {name: np.array([r["−log p(x)"] for r in found if r["method"] == name]) for name in METHODS}
    below = {(a, b): value[a] < value[b] for a, b in combinations(("VampPrior", "mixture", "N(0, I)"), 2)}
    seeds = len(value["N(0, I)"])
    said = "; ".join(f"{a} below {b} in {holds.sum()} of {seeds}" for (a, b), holds in below.items())
    paper = ", ".join(f"{name} {figure}" for name, figure in PAPER.items())
    gain, theirs = spread((value["N(0, I)"] - value["VampPrior"]).tolist()), PAPER["N(0, I)"] - PAPER["VampPrior"]
    return (
        f"\nSeeds: {said}; all three in {np.all(list(below.values()), 0).sum()}. The paper: {paper}, no mixture. "
        f"A VampPrior gains {gain} nats on N(0, I), in the paper {theirs:.2f}.\n"
    )


def draw(found: Sequence[Record]) -> Figure:
    """Validation bounds over epochs, and the test likelihoods."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, name in enumerate(METHODS):
        mine = [record for record in found if record["method"] == name]
        for index, record in enumerate(mine):
            curve = record["curve"]
            left.plot(range(1, len(curve) + 1), curve, color=f"C{number}", alpha=0.6, label=None if index else name)
        right.plot([number] * len(mine), [r["−log p(x)"] for r in mine], "o", color=f"C{number}", alpha=0.6)
        if name in PAPER:
            right.plot(number, PAPER[name], "_", color="0.2", markersize=30)
    left.set(xlabel="epoch", ylabel="validation −ELBO (nats)", ylim=(None, min(r["curve"][0] for r in found)))
    left.legend()
    right.set_xticks(range(len(METHODS)), METHODS)
    right.set(ylabel="test −log p(x) (nats)", title="dashes: the paper, at its scale")
    return figure


def main(args: Args) -> None:
    """Train, judge, write."""
    data = fingerprint(static_bits(args.data_dir).train)
    reproduce("vampprior", args, SCALES[args.scale], jobs_of(run, METHODS, args), COLUMNS, draw, orderings, data)


if __name__ == "__main__":
    main(tyro.cli(Args))
