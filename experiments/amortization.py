"""What does amortization cost, and what does it save? Parameters, bound and time against the number of data.

    python -m experiments.amortization

The same decoder and the same number of gradient updates with four posteriors: a mean and a scale of its own for each
datum; an encoder; an encoder improved by k steps on each datum (Kim et al. 2018), k = 1 and 5. The amortization gap is
what an encoder's answer gains when it is optimised on each datum until nothing is left to gain (Cremer et al. 2018).
"""

import copy
import itertools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution

from experiments.records import StudyArgs, table
from experiments.vae import Training, autoencoder, batch_of, binary_images, measure, save
from latentrl.encoders import TransitionEncoder
from latentrl.model import LatentModel
from latentrl.nets import SCALE_FLOOR
from latentrl.posteriors import GaussianPosterior, PerDatapointPosterior, Posterior, SemiAmortizedPosterior

OWN = "per datum"
POSTERIORS = (OWN, "encoder", "encoder + 1 step", "encoder + 5 steps")
COLUMNS = (
    *("parameters of q", "bound, training", "bound, held out", "gap, training", "gap, held out"),
    *("ms per update", "s for 100 new data", "bound at equal s", "s to a common bound"),
)


@dataclass(frozen=True)
class Args(StudyArgs):
    """Train every posterior on every number of data."""

    data: Path | None = None
    """An .npz with packed bits under "train" and "test"; by default scikit-learn's digits."""
    sizes: tuple[int, ...] = (100, 400, 1500)
    """Numbers of training data."""
    seeds: tuple[int, ...] = (0, 1, 2)
    updates: int = 800
    """Gradient updates of each run."""
    batch_size: int = 100
    latent_dim: int = 8
    hidden: tuple[int, ...] = (128, 128)
    """Layers of the encoder and of the decoder."""
    rate: float = 3e-3
    """Learning rate of networks (Adam)."""
    local_rate: float = 2e-2
    """Learning rate of means and scales that belong to one datum."""
    step_size: float = 0.1
    """Of the steps that improve an encoder's answer."""
    watched: int = 100
    """Data of each kind, training and held out, on which bounds are measured."""
    checkpoints: int = 20
    """Times at which the bound is measured in a run."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/amortization")
    """Folder for the table, the records and the picture."""


def build(name: str, size: int, data_dim: int, args: Args) -> Posterior:
    """One of :data:`POSTERIORS` for so many data."""
    if name == OWN:
        return PerDatapointPosterior(size, args.latent_dim)
    encoder = TransitionEncoder(0, data_dim, args.hidden)
    if name == "encoder":
        return GaussianPosterior(encoder, args.latent_dim)
    return SemiAmortizedPosterior(encoder, args.latent_dim, steps=int(name.split()[2]), step_size=args.step_size)


def refine(model: LatentModel, data: Tensor, start: Distribution | None, args: Args) -> dict[str, float]:
    """Optimise each datum's mean and scale, from ``start`` or N(0, I), under the frozen decoder until nothing grows.

    Adam's rate is halved whenever 100 steps bring less than 0.02 nats, three times.
    """
    local = PerDatapointPosterior(len(data), args.latent_dim)
    if start is not None:
        with torch.no_grad():
            local.loc.copy_(start.mean)
            local.raw_scale.copy_((start.stddev - SCALE_FLOOR).expm1().log())  # softplus, undone
    frozen = LatentModel(local, model.prior, copy.deepcopy(model.decoder).requires_grad_(False))
    optimizer = torch.optim.Adam(local.parameters(), args.local_rate, fused=True)
    training = Training(frozen, data, optimizer, batch_size=None)
    bound, halvings = float(measure(frozen, data).value), 0
    while halvings < 3:
        training.run(3 if args.smoke else 100)
        before, bound = bound, float(measure(frozen, data).value)
        if args.smoke or bound - before < 0.02:
            halvings += 1
            optimizer.param_groups[0]["lr"] /= 2
    return {"bound": bound, "seconds": training.seconds}


def judge(model: LatentModel, data: Tensor, kind: str, args: Args) -> dict[str, float]:
    """The posterior's own bound on data, what optimising each datum's law gains, and the seconds that takes.

    A posterior without an answer for these data is optimised afresh, which gives its bound and no gap.
    """
    if kind == "held out" and isinstance(model.posterior, PerDatapointPosterior):
        afresh = refine(model, data, None, args)
        return {f"bound, {kind}": afresh["bound"], "s for 100 new data": 100 * afresh["seconds"] / len(data)}
    start = time.process_time()
    with torch.no_grad():
        q = model.infer(batch_of(data))
    seconds = time.process_time() - start
    own, refined = float(measure(model, data).value), refine(model, data, q, args)
    record = {f"bound, {kind}": own, f"gap, {kind}": refined["bound"] - own}
    return record | ({"s for 100 new data": 100 * seconds / len(data)} if kind == "held out" else {})


def run(name: str, size: int, seed: int, train: Tensor, test: Tensor, args: Args) -> dict[str, Any]:
    """Train one posterior on one number of data."""
    torch.manual_seed(seed)
    data = train[torch.randperm(len(train))[:size]]
    posterior = build(name, size, data.shape[1], args)
    model = autoencoder(posterior, data.shape[1], args.hidden)
    own: dict[str, Any] = {"params": list(posterior.parameters()), "lr": args.local_rate if name == OWN else args.rate}
    optimizer = torch.optim.Adam([own, {"params": list(model.decoder.parameters())}], args.rate, fused=True)
    training = Training(model, data, optimizer, batch_size=args.batch_size)
    curve = []
    for _ in range(args.checkpoints):
        training.run(args.updates // args.checkpoints)
        curve.append((training.seconds, float(measure(model, data[: args.watched], 10).value)))
    about = {"method": f"N = {size}, {name}", "posterior": name, "size": size, "seed": seed}
    return about | {
        "parameters of q": sum(p.numel() for p in posterior.parameters()),
        **judge(model, data[: args.watched], "training", args),
        **judge(model, test[: args.watched], "held out", args),
        "ms per update": 1e3 * training.seconds / training.step,
        "curve": curve,
    }


def compare_times(runs: list[dict[str, Any]]) -> None:
    """Add what needs the other posteriors of a size and seed: the bound at equal seconds, seconds to a common bound."""
    for own in runs:
        peers = [r["curve"] for r in runs if (r["size"], r["seed"]) == (own["size"], own["seed"])]
        budget, common = min(c[-1][0] for c in peers), min(max(bound for _, bound in c) for c in peers)
        seconds, bounds = np.array(own["curve"]).T
        own["bound at equal s"] = float(np.interp(budget, seconds, bounds))
        own["s to a common bound"] = float(np.interp(common, np.maximum.accumulate(bounds), seconds))


def draw(runs: list[dict[str, Any]], args: Args) -> Figure:
    """Parameters, bounds and gaps against N, with the range over seeds; the bound at the largest N against time."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    (memory, bounds), (gaps, times) = figure.subplots(2, 2)
    panels = [(memory, "parameters of q", "o-")]
    for axis, key in ((bounds, "bound"), (gaps, "gap")):
        panels += [(axis, f"{key}, training", "o-"), (axis, f"{key}, held out", "s--")]
    for index, name in enumerate(POSTERIORS):
        own, color = [r for r in runs if r["posterior"] == name], f"C{index}"
        for axis, key, style in panels:
            if key in own[0]:
                each = np.array([[r[key] for r in own if r["size"] == size] for size in args.sizes])
                ranges = (each.mean(1) - each.min(1), each.max(1) - each.mean(1))
                at = np.array(args.sizes) * 1.04 ** (index - 1.5)  # bars side by side
                axis.errorbar(at, each.mean(1), ranges, color=color, fmt=style, label=name if style == "o-" else None)
        for r in own:
            if r["size"] == args.sizes[-1]:
                times.plot(*np.array(r["curve"]).T, color=color)
    memory.set(yscale="log", title="Parameters of q", ylabel="numbers")
    bounds.set(title="Bound: training (solid), held out (dashed)", ylabel="nats")
    gaps.set(yscale="log", title="Gained by optimising each q (dashed: held out)", ylabel="nats")
    times.grid(alpha=0.3)
    times.set(xscale="log", title=f"Training, N = {args.sizes[-1]}", xlabel="CPU seconds", ylabel="nats")
    for axis in (memory, bounds, gaps):
        axis.set(xscale="log", xlabel="N")
        axis.set_xticks(args.sizes, labels=[str(size) for size in args.sizes])
        axis.set_xticks([], minor=True)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    return figure


def main(args: Args) -> None:
    """Train, compare, write."""
    torch.set_num_threads(1)
    if args.smoke:
        args = replace(args, sizes=(30, 60), seeds=(0,), updates=10, watched=20, checkpoints=2)
    train, test = binary_images(args.data)
    runs = []
    for seed, size, name in itertools.product(args.seeds, args.sizes, POSTERIORS):
        runs.append(run(name, size, seed, train, test, args))
        print(f"{runs[-1]['method']}, seed {seed}: {runs[-1]['bound, training']:.2f} nats", flush=True)
    compare_times(runs)
    save(args, "amortization", table(runs, COLUMNS), {"runs": runs}, draw(runs, args))


if __name__ == "__main__":
    main(tyro.cli(Args))
