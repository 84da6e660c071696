"""β-VAE (Higgins et al. 2017), capacity (Burgess et al. 2018) and a constraint on the KL, where factors are known.

    python -m experiments.reproductions.beta_vae [--quick]

The pictures have the factors of dSprites and are drawn anew for each update. Every method is a way to choose the rate,
KL(q ‖ p); capacity and constraint are told it in nats. Judged by the mutual information gap (Chen et al. 2018), by
disentanglement, completeness and informativeness of random forests (Eastwood & Williams 2018), and by what the rate
buys: the distortion, −E log p(x|z). If nothing but the rate mattered, all would lie on one line in each picture.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from torch import nn

from experiments.disentanglement import gaps, information
from experiments.records import spread
from experiments.reproductions.autoencoders import PlainEncoder, PlainTrunk, perceptron
from experiments.reproductions.dci import disentanglement, importances
from experiments.reproductions.shapes import Factors
from experiments.reproductions.study import Args, folder_of, jobs_of, reproduce
from experiments.reproductions.training import ScheduleState, Training
from experiments.vae import batch_of
from latentrl.cells import Record
from latentrl.decoders import BernoulliDecoder
from latentrl.model import LatentModel
from latentrl.posteriors import GaussianPosterior
from latentrl.priors import StandardNormalPrior
from latentrl.schedules import Capacity, Constant, KLConstraint, Schedule

Z = 10
DCI = ("disentanglement", "completeness", "informativeness", "informativeness of draws")
COLUMNS = ("KL", "distortion", "gap", *DCI, "active units", "seconds")
NAMES = ("shape", "size", "angle", "x", "y")


class Scale(NamedTuple):
    """What the numbers depend on."""

    factors: Factors
    nats: tuple[int, ...]
    """Rates that capacity and constraint are told; what tells the pictures apart is 12.8 nats in full, 7.7 quick, as a
    quarter turn leaves a square as it was, and half a turn an ellipse."""
    hidden: int
    epochs: int
    """Of a hundredth of the updates each."""
    per_epoch: int
    judged: int
    """Pictures."""
    gamma: float = 100.0
    """Of capacity."""
    learning_rate: float = 5e-4
    batch_size: int = 100
    betas: tuple[int, ...] = (1, 2, 4, 8, 16)


SCALES = {
    "full": Scale(Factors(), (4, 8, 12), 1_200, 100, 3_000, 10_000),
    "quick": Scale(Factors(3, 3, 8, 8, 8, 24), (2, 4, 6), 256, 10, 500, 3_000, learning_rate=1e-3),
    "smoke": Scale(Factors(2, 2, 2, 2, 2, 8), (1, 2), 8, 2, 1, 64, batch_size=4),
}


def weights(scale: Scale) -> dict[str, Schedule]:
    """A schedule of the KL's weight for each method."""
    made: dict[str, Schedule] = {f"β = {beta}": Constant(beta) for beta in scale.betas}
    for nats in scale.nats:
        made[f"capacity {nats}"] = Capacity(nats, scale.epochs * scale.per_epoch // 2, gamma=scale.gamma)
        made[f"constraint {nats}"] = KLConstraint(nats)
    return made


def autoencoder(scale: Scale) -> LatentModel:
    """The dense one of Higgins et al.: two ReLU layers there, three tanh layers back."""
    pixels, width = scale.factors.pixels**2, scale.hidden
    encoder = PlainEncoder(pixels, perceptron([pixels, width, width], nn.ReLU), width)
    trunk = PlainTrunk(perceptron([Z, width, width, width], nn.Tanh), width)
    decoder = BernoulliDecoder(0, Z, pixels, lambda *_: trunk)
    return LatentModel(GaussianPosterior(encoder, Z), StandardNormalPrior(Z), decoder)


def train(method: str, seed: int, args: Args) -> tuple[LatentModel, list[Record]]:
    """The model, and what was seen after each epoch."""
    scale, device = SCALES[args.scale], args.torch_device
    torch.manual_seed(seed)
    model = autoencoder(scale).to(device)
    weight = weights(scale)[method]
    optimizer = torch.optim.Adam(model.parameters(), scale.learning_rate)
    observe = getattr(weight, "observe", None)
    seen: Record = {}

    def update(step: int) -> None:
        pictures = scale.factors.render(scale.factors.sample(scale.batch_size, device))
        terms = model.elbo(batch_of(pictures), partial(weight, step))
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
        if observe is not None:
            observe(step, terms.kl, terms.reconstruction)
        seen.update(KL=terms.kl, distortion=-terms.reconstruction)

    parts: Any = {"model": model, "optimizer": optimizer, "weight": ScheduleState(weight)}
    settings = {"method": method, "seed": seed, **scale._asdict()}
    training = Training(folder_of("beta_vae", args, f"{method} {seed}"), settings, parts, device)
    look = lambda _: {name: float(value) for name, value in seen.items()}  # noqa: E731
    return model, training.run(scale.epochs, scale.per_epoch, update, look)


@torch.no_grad()
def judge(model: LatentModel, factors: Factors, number: int, device: torch.device) -> Record:
    """Rate, distortion and what the codes tell of the factors, from new pictures; the same for all models."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        values = factors.sample(number, device)
        batch = batch_of(factors.render(values))
        terms = model.elbo(batch)
        shares = information(model, batch.actions, dict(zip(NAMES, values.T, strict=True)))
        posterior, known = model.infer(batch), values.cpu().numpy()
        importance, accuracies = importances(posterior.mean.cpu().numpy(), known)
        # A forest reads a mean however small its spread is beside the posterior's noise, which a draw does not hide.
        _, drawn = importances(posterior.sample().cpu().numpy(), known)
        modular, compact = disentanglement(importance)
        return {
            "KL": float(terms.kl),
            "distortion": -float(terms.reconstruction),
            "gap": gaps(shares)["gap"],
            "disentanglement": modular,
            "completeness": compact,
            "informativeness": float(np.mean(accuracies)),
            "informativeness of draws": float(np.mean(drawn)),
            "accuracies": dict(zip(NAMES, accuracies, strict=True)),
            "active units": model.diagnostics(batch).active_units,
        }


def run(method: str, seed: int, args: Args) -> Record:
    """Train one model and judge it."""
    scale = SCALES[args.scale]
    model, history = train(method, seed, args)
    record = judge(model, scale.factors, scale.judged, args.torch_device)
    return {**record, "seconds": sum(seen["seconds"] for seen in history)}


def note(found: Sequence[Record]) -> str:
    """Whether a gap follows from more than the rate: seed by seed, of ways to the same one; and whether β raises it.

    A rate beyond those of all β has nothing to be compared with.
    """
    methods = dict.fromkeys(record["method"] for record in found)
    gaps_of, rates, distortions = (
        {name: np.array([record[column] for record in found if record["method"] == name]) for name in methods}
        for column in ("gap", "KL", "distortion")
    )
    betas = [name for name in gaps_of if name.startswith("β")]
    heads = "capacity's gap less the constraint's | its KL less the constraint's | its distortion less the constraint's"
    lines = ["", f"| nats | {heads} | its gap less β's | seeds |", "|---" * 6 + "|"]
    for name in (name for name in gaps_of if name.startswith("capacity")):
        nats, other = name.split()[1], name.replace("capacity", "constraint")
        less = [spread((values[name] - values[other]).tolist()) for values in (gaps_of, rates, distortions)]
        between = []
        for seed, (gap, rate) in enumerate(zip(gaps_of[name], rates[name], strict=True)):
            known = sorted((rates[beta][seed], gaps_of[beta][seed]) for beta in betas)
            between.append(gap - np.interp(rate, *zip(*known, strict=True), left=np.nan, right=np.nan))
        within = [value for value in between if np.isfinite(value)]
        lines.append(f"| {nats} | {' | '.join(less)} | {spread(within)} | {len(within)} |")
    rises = [f"{name} in {(gaps_of[name] > gaps_of[betas[0]]).sum()}" for name in betas[1:]]
    lines.append(f"\nOf {len(gaps_of[betas[0]])} seeds, the gap is larger than with {betas[0]}: {', '.join(rises)}.")
    return "\n".join(lines) + "\n"


def draw(found: Sequence[Record]) -> Figure:
    """Distortion, gap and disentanglement over the rate, one dot for each run."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    for axis, name in zip(figure.subplots(1, 3), ("distortion", "gap", "disentanglement"), strict=True):
        for number, kind in enumerate(("β", "capacity", "constraint")):
            mine = [record for record in found if record["method"].startswith(kind)]
            x, y = [r["KL"] for r in mine], [r[name] for r in mine]
            axis.plot(x, y, "os^"[number], color=f"C{number}", alpha=0.6, label=kind)
        axis.set(xlabel="rate KL(q ‖ p) (nats)", ylabel=name)
    axis.legend()
    return figure


def main(args: Args) -> None:
    """Train, judge, write."""
    scale = SCALES[args.scale]
    reproduce("beta_vae", args, scale, jobs_of(run, weights(scale), args), COLUMNS, draw, note)


if __name__ == "__main__":
    main(tyro.cli(Args))
