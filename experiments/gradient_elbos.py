"""How noisy is the gradient of a policy's ELBO under each estimator, early and late in its training?

    python -m experiments.gradient_elbos

Policies cloned from human strokes, with a Gaussian latent (prior N(0, I) or VampPrior) and with a choice among 32. At
the start, after a tenth and at the end of training, with data and parameters frozen: variance and signal-to-noise ratio
of the encoder's gradient that come from the draws of z alone, at about equal numbers of decoder evaluations, but for
measure-valued gradients, which take three times as many. Then the
importance-weighted bound: signal-to-noise ratio of the encoder's and the decoder's gradient by the number of draws.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from experiments.frozen_policies import objective, part, stages, strokes_of
from experiments.records import StudyArgs, table, write
from latentrl import Demonstrations, LatentModel
from latentrl.cells import Cells
from latentrl.comparison import compare
from latentrl.demo import handwriting
from latentrl.estimators import (
    DeltaMethod,
    DReG,
    Enumerate,
    Estimator,
    GumbelSoftmax,
    ImportanceWeighted,
    LeaveOneOut,
    MeasureValued,
    MuProp,
    OptimalBaseline,
    Pathwise,
    Rebar,
    ScoreFunction,
    StickingTheLanding,
    StraightThrough,
    Vimco,
)
from latentrl.objectives import importance_bound
from latentrl.types import Batch

SCORES: dict[str, tuple[Callable[[], Estimator], int]] = {
    "score function": (ScoreFunction, 8),
    "score function, leave-one-out": (lambda: ScoreFunction(LeaveOneOut()), 8),
    "score function, optimal baseline": (lambda: ScoreFunction(OptimalBaseline()), 8),
}
CONTINUOUS = {
    "pathwise": (Pathwise, 8),
    **SCORES,
    "score function, delta method": (DeltaMethod, 8),
    "measure-valued": (MeasureValued, 1),  # of 6 latents: 24 evaluations
}
CHOICES = {
    "enumerated": (Enumerate, 1),
    **{name: SCORES[name] for name in list(SCORES)[:2]},
    "REBAR": (Rebar, 4),
    "MuProp": (MuProp, 7),
    "straight-through": (StraightThrough, 8),
    "Gumbel-Softmax": (lambda: GumbelSoftmax(0.5), 8),
}
POLICIES: dict[str, tuple[dict[str, Any], Mapping[str, tuple[Callable[[], Estimator], int]], str]] = {
    "N(0, I)": ({"prior": "normal", "latent_dim": 6}, CONTINUOUS, "pathwise"),
    "VampPrior": ({"prior": "vamp", "latent_dim": 6}, CONTINUOUS, "pathwise"),
    "32 choices": ({"posterior": "categorical", "prior": "categorical", "latent_dim": 32}, CHOICES, "enumerated"),
}
MULTI: dict[str, Callable[[], Estimator]] = {
    "IWAE": ImportanceWeighted, "DReG": DReG, "STL": StickingTheLanding, "VIMCO": Vimco,
}  # fmt: skip
DRAWS = (2, 8, 32)
COLUMNS = ("variance", "SNR", "cosine", "bias p", "variance × s")


@dataclass(frozen=True)
class Args(StudyArgs):
    """Clone, freeze, measure."""

    updates: int = 1500
    """Of training; measured at 0, a tenth of them, and all of them."""
    segments: int = 8
    """Strokes in the batch of which the gradient is taken."""
    replicates: int = 100
    """Gradients of each estimator."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training, batch and noise."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/gradient_elbos")
    """Folder for the table, the records and the picture; finished cells are kept there until the study is done."""


def single(model: LatentModel, batch: Batch, name: str, seed: int, args: Args) -> list[dict[str, Any]]:
    """Every estimator of the ELBO's gradient by the encoder."""
    _, members, reference = POLICIES[name]

    def loss(rule: Estimator, draws: int, model: LatentModel) -> Tensor:
        return model.elbo(batch, estimator=rule, num_samples=draws).loss

    named = {label: objective(model, partial(loss, make(), draws)) for label, (make, draws) in members.items()}
    return compare(named, part(model, "posterior"), args.replicates, reference, 20, 100 * seed).to_records()


def multiple(model: LatentModel, batch: Batch, seed: int, args: Args) -> list[dict[str, Any]]:
    """SNR of the importance-weighted bound's gradient, by draws, for encoder and decoder."""

    def loss(rule: Estimator, draws: int, model: LatentModel) -> Tensor:
        return -importance_bound(model, batch, draws, rule).surrogate.mean()  # type: ignore[arg-type]

    records = []
    for draws in DRAWS[:2] if args.smoke else DRAWS:
        named = {name: objective(model, partial(loss, make(), draws)) for name, make in MULTI.items()}
        for which in ("posterior", "decoder"):
            found = compare(named, part(model, which), args.replicates, None, 20, 100 * seed)
            records += [{**record, "draws": draws, "part": which} for record in found.to_records()]
    return records


def cell(name: str, seed: int, args: Args) -> dict[str, Any]:
    """All stages of one policy."""
    demonstrations = Demonstrations.from_lasa(steps=handwriting.STEPS)
    found: dict[str, Any] = {"single": {}, "multiple": []}
    for stage, model in stages(POLICIES[name][0], demonstrations, seed, args.updates):
        batch = strokes_of(demonstrations, POLICIES[name][0], args.segments, seed)
        found["single"][stage] = single(model, batch, name, seed, args)
        if name == "N(0, I)" and stage == "the end":
            found["multiple"] = multiple(model, batch, seed, args)
    return found


def draw(cells: dict[str, list[dict[str, Any]]]) -> Figure:
    """SNR by stage for each policy; SNR by draws for encoder and decoder."""
    figure = Figure(figsize=(4.2 * 5, 5.2), layout="constrained")
    axes = figure.subplots(1, 5)
    for axis, (name, found) in zip(axes, cells.items(), strict=False):
        for label in POLICIES[name][1]:
            points = [
                (list(one["single"]).index(stage), row["trace"])
                for one in found for stage, rows in one["single"].items() for row in rows
                if row["estimator"] == label and row.get("trace")
            ]  # fmt: skip
            if points and label != "enumerated":
                axis.semilogy(*zip(*points, strict=True), "o", markersize=5, alpha=0.6, label=label)
        axis.set_xticks(range(3), labels=["start", "a tenth", "the end"])
        axis.set(title=f"latent: {name}", ylabel="variance of the encoder's gradient")
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)
    for axis, which in zip(axes[3:], ("posterior", "decoder"), strict=True):
        rows = [row for one in cells["N(0, I)"] for row in one["multiple"] if row["part"] == which]
        for label in MULTI:
            points = [(row["draws"], row["snr"]) for row in rows if row["estimator"] == label and row.get("snr")]
            if points:
                axis.loglog(*zip(*sorted(points), strict=True), "o", alpha=0.6, label=label)
        axis.set(title=f"importance-weighted bound: {which}", xlabel="draws K", ylabel="SNR")
        axis.set_xticks(DRAWS, labels=[str(draws) for draws in DRAWS])
        axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axis.legend(fontsize=8)
    return figure


def tabulated(cells: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """One row per policy, stage and estimator, for each seed."""
    names = dict(zip(COLUMNS, ("trace", "snr", "cosine", "bias_norm_p", "cost_normalized"), strict=True))
    for name, found in cells.items():
        for one in found:
            for stage, rows in one["single"].items():
                for row in rows:
                    values = {column: row[key] for column, key in names.items() if row.get(key) is not None}
                    yield {"method": f"{name}, {stage}: {row['estimator']}", **values}


def main(args: Args) -> None:
    """Run, print, write."""
    if args.smoke:
        args = Args(updates=10, segments=3, replicates=4, seeds=args.seeds[:1], smoke=True, out=args.out)
    torch.set_num_threads(1)
    settings = {name: value for name, value in asdict(args).items() if name not in ("out", "seeds")}
    store = Cells(args.out / "partial", settings)
    jobs = [(name, seed) for name in POLICIES for seed in args.seeds]
    done = {job: store(f"{job[0]} {job[1]}", partial(cell, *job, args)) for job in tqdm(jobs, desc="policies")}
    cells = {name: [done[name, seed] for seed in args.seeds] for name in POLICIES}
    record = {"settings": settings, "seeds": args.seeds, "cells": cells}
    write(args.out, "gradient_elbos", (), table(tabulated(cells), COLUMNS), record, draw(cells))


if __name__ == "__main__":
    main(tyro.cli(Args))
