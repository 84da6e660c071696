"""Does a constraint on the KL, or a weight β, find the best reconstruction at its rate?

    python -m experiments.beta_and_constraint

A linear autoencoder on Gaussian data with known eigenvalues λ has a known rate-distortion curve, reverse water filling:
KL = Σ ½ log(λ/θ)₊ at the squared error Σ min(λ, θ); β puts the water level at θ = β s², a constraint where the KL is
its target. A nonlinear one, on handwritten digits, shows β and constraint with annealing and free bits beside.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from experiments.linear_vae import (
    EIGENVALUES,
    NOISE,
    exact,
    gaussian_data,
    level_at,
    linear_autoencoder,
    reconstruction_of,
    squared_error_of,
)
from experiments.records import StudyArgs, table
from experiments.vae import Training, autoencoder, binary_images, measure, save, train_together
from latentrl.encoders import TransitionEncoder
from latentrl.model import LatentModel
from latentrl.posteriors import GaussianPosterior
from latentrl.schedules import Capacity, Constant, CyclicalAnnealing, FreeBits, Geco, KLConstraint, LinearAnnealing

MARKS, DIGIT_MARKS = ("o", "s", "^", "x"), ("o", "s", "^", "D", "v")
LINEAR_COLUMNS = ("exact KL", "KL", "KL off", "squared error off", "above the curve", "exact β", "last β")
DIGIT_COLUMNS = ("KL", "reconstruction", "KL, held out", "reconstruction, held out", "bound, held out", "last β")
Family = tuple[str, float, Callable[[], Any]]
"""Kind of weight, its setting, and how to make a new one."""


@dataclass(frozen=True)
class Args(StudyArgs):
    """Train linear autoencoders and autoencoders of digits under all weights."""

    data: Path | None = None
    """An .npz with packed bits under "train" and "test"; by default scikit-learn's digits."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run each."""
    linear_updates: int = 3000
    """Gradient updates of each linear autoencoder, with minibatches and sampled latents as always."""
    updates: int = 800
    """Gradient updates of each nonlinear one."""
    linear_betas: tuple[float, ...] = (0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    linear_targets: tuple[float, ...] = (0.1, 0.5, 1.0, 2.0, 4.0)
    """Nats; GECO gets the reconstruction that belongs to them."""
    betas: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    targets: tuple[float, ...] = (3.0, 6.0, 9.0, 12.0, 15.0)
    """β, and nats, on digits."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/beta_and_constraint")
    """Folder for the table, the records and the picture."""


def linear_weights(args: Args) -> list[Family]:
    """β, constraint, and for every other target of the constraints GECO and capacity, asked for the same points."""
    weights: list[Family] = [("β", beta, partial(Constant, beta)) for beta in args.linear_betas]
    weights += [("constraint", nats, partial(KLConstraint, nats)) for nats in args.linear_targets]
    for nats in args.linear_targets[::2]:
        best = reconstruction_of(exact(level_at(nats))[1])
        weights.append(("GECO", nats, partial(Geco, best)))
        weights.append(("capacity", nats, partial(Capacity, nats, args.linear_updates // 2)))
    return weights


def digit_weights(args: Args) -> list[Family]:
    """β and constraint; at β = 1 also annealing and free bits."""
    half = args.updates // 2
    return [
        *(("β", beta, partial(Constant, beta)) for beta in args.betas),
        *(("constraint", nats, partial(KLConstraint, nats)) for nats in args.targets),
        *(("free bits", nats, partial(FreeBits, nats)) for nats in (6.0, 12.0)),
        ("linear annealing", 1.0, partial(LinearAnnealing, half)),
        ("cyclical annealing", 1.0, partial(CyclicalAnnealing, half)),
    ]


def train(
    build: Callable[[], LatentModel], families: list[Family], args: Args, data: Tensor, updates: int, rate: float
) -> list[tuple[dict[str, Any], LatentModel]]:
    """A model of each family and seed, with what tells it from the others and the weight at which it ended."""
    jobs = list(itertools.product(families, args.seeds))
    models, weights = [], [make() for (_, _, make), _ in jobs]
    for _, seed in jobs:
        torch.manual_seed(seed)
        models.append(build())
    blind = [index for index, weight in enumerate(weights) if not weight.reads_kl]
    train_together([models[i] for i in blind], [weights[i] for i in blind], data, updates, rate)
    for index in set(range(len(jobs))) - set(blind):
        optimizer = torch.optim.Adam(models[index].parameters(), rate, fused=True)
        Training(models[index], data, optimizer, weights[index], decay=updates).run(updates)
    return [
        (
            {"method": f"{kind} {setting:g}", "kind": kind, "setting": setting, "seed": seed}
            | {"last β": float(weight(updates, measure(model, data, 1).kl))},
            model,
        )
        for ((kind, setting, _), seed), model, weight in zip(jobs, models, weights, strict=True)
    ]


def linear_record(about: dict[str, Any], model: LatentModel, data: Tensor) -> dict[str, Any]:
    """One linear autoencoder beside the exact answer."""
    bound = measure(model, data)
    level = about["setting"] * NOISE if about["kind"] == "β" else level_at(about["setting"])
    (kl, squared_error), own = exact(level), squared_error_of(float(bound.reconstruction))
    return about | {
        "KL": float(bound.kl),
        "exact KL": kl,
        "KL off": 100.0 * (float(bound.kl) / kl - 1.0),
        "squared error": own,
        "squared error off": 100.0 * (own / squared_error - 1.0),
        "above the curve": 100.0 * (own / exact(level_at(float(bound.kl)))[1] - 1.0),
        "exact β": level / NOISE,
    }


def digit_record(about: dict[str, Any], model: LatentModel, old: Tensor, new: Tensor) -> dict[str, Any]:
    """One nonlinear autoencoder, judged on both sets."""
    record = dict(about)
    for kind, data in (("", old), (", held out", new)):
        bound = measure(model, data, 10)
        record |= {f"KL{kind}": float(bound.kl), f"reconstruction{kind}": float(bound.reconstruction)}
        record |= {f"bound{kind}": float(bound.value)}
    return record


def draw(linear: list[dict[str, Any]], digits: list[dict[str, Any]]) -> Figure:
    """The exact curve with all points, how far each KL is off, and the digits."""
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    plane, errors, nonlinear = figure.subplots(1, 3)
    plane.plot(*np.array([exact(level) for level in np.geomspace(0.1, EIGENVALUES.max(), 300)]).T, color="0.5")
    for index, kind in enumerate(dict.fromkeys(r["kind"] for r in linear)):
        x, y, wrong = np.array([(r["KL"], r["squared error"], r["KL off"]) for r in linear if r["kind"] == kind]).T
        plane.plot(x, y, MARKS[index], color=f"C{index}", alpha=0.7, label=kind)
        exact_kl = [r["exact KL"] for r in linear if r["kind"] == kind]
        errors.plot(exact_kl, wrong, MARKS[index], color=f"C{index}", alpha=0.7, label=kind)
    errors.axhspan(-5.0, 5.0, color="0.9")
    for index, kind in enumerate(dict.fromkeys(r["kind"] for r in digits)):
        points = sorted((r["KL, held out"], r["reconstruction, held out"]) for r in digits if r["kind"] == kind)
        nonlinear.plot(*np.array(points).T, DIGIT_MARKS[index], color=f"C{index}", alpha=0.7, label=kind)
    plane.set(title="Linear: reverse water filling (grey)", xlabel="KL (nats)", ylabel="squared error")
    errors.set(title="Linear: KL off its exact value (grey: 5 %)", xlabel="exact KL (nats)", ylabel="%", xscale="log")
    nonlinear.set(title="Digits, held out", xlabel="KL (nats)", ylabel="E_q[log p] (nats)")
    for axis in (plane, errors, nonlinear):
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    return figure


def main(args: Args) -> None:
    """Train, print, write."""
    torch.set_num_threads(1)
    if args.smoke:
        args = replace(args, seeds=(0,), linear_updates=5, updates=3)
    data, (old, new), sizes = gaussian_data(), binary_images(args.data), (128, 128)

    def nonlinear() -> LatentModel:
        posterior = GaussianPosterior(TransitionEncoder(0, old.shape[1], sizes), latent_dim=8)
        return autoencoder(posterior, old.shape[1], sizes)

    found = train(linear_autoencoder, linear_weights(args), args, data, args.linear_updates, 1e-2)
    linear = [linear_record(about, model, data) for about, model in found]
    found = train(nonlinear, digit_weights(args), args, old, args.updates, 3e-3)
    digits = [digit_record(about, model, old, new) for about, model in found]
    text = "Linear autoencoder (errors in %)\n\n" + table(linear, LINEAR_COLUMNS)
    text += "\nHandwritten digits (nats)\n\n" + table(digits, DIGIT_COLUMNS)
    save(args, "beta_and_constraint", text, {"linear": linear, "digits": digits}, draw(linear, digits))


if __name__ == "__main__":
    main(tyro.cli(Args))
