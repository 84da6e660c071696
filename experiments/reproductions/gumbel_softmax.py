"""Gumbel-Softmax and other gradients through discrete latents (Jang, Gu & Poole 2017, table 1): static MNIST.

    python -m experiments.reproductions.gumbel_softmax --data-dir FOLDER [--quick]

Two tasks: a stochastic network (SBN) draws the lower half of an image from the upper one through two layers of latents,
an autoencoder (VAE) has one, and a learned prior. A layer is 200 bits or 20 choices among 10; between layers are linear
maps. In each, the path derivatives (ST, Gumbel-Softmax) have one draw, as all have in the paper, the others two
evaluations of what is above, the fewest that all of them work with; how they nest, see ``stochastic_layers``. REBAR and
RELAX tune their controls as they go. What is compared is the bound of m discrete draws.

Annealed ST is the slope annealing of Chung et al. 2017: logits are multiplied by a number that rises from 1 to 5, for
draws and gradients, of choices too, where it is an inverse temperature.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.agents import runs
from experiments.records import spread
from experiments.reproductions.mnist import Bits, static_bits
from experiments.reproductions.stochastic_layers import StochasticLayers
from experiments.reproductions.study import Args, folder_of, reproduce
from experiments.reproductions.training import Best, Minibatches, Training
from latentrl import estimators
from latentrl.cells import Cells, Record
from latentrl.distributions import Bernoullis, OneHots

NAME = "gumbel_softmax"
SIZES = {"SBN": (392, 200, 200, 392), "VAE": (784, 200, 784)}
LAWS = {"Bernoulli": Bernoullis, "categorical": partial(OneHots, sizes=(10,) * 20)}
VALIDATION_DRAWS = 10
LOWEST, STEEPEST = 0.5, 5.0
"""Temperature of Gumbel-Softmax, slope of annealed ST."""
TUNING = 1e-3
"""Learning rate of control variates (Adam)."""


def relax(latents: int = 200) -> estimators.Relax:
    """With a small network of its own."""
    return estimators.Relax(nn.Sequential(nn.Linear(latents, 100), nn.Tanh(), nn.Linear(100, 1)))


METHODS: Mapping[str, tuple[Callable[[], estimators.Estimator], int]] = {
    "score function": (lambda: estimators.ScoreFunction(estimators.LeaveOneOut()), 2),
    "MuProp": (estimators.MuProp, 1),
    "ST": (estimators.StraightThrough, 1),
    "annealed ST": (estimators.StraightThrough, 1),
    "Gumbel-Softmax": (estimators.GumbelSoftmax, 1),
    "ST Gumbel": (partial(estimators.GumbelSoftmax, hard=True), 1),
    "REBAR": (estimators.Rebar, 1),
    "RELAX": (relax, 1),
    "DisARM": (estimators.DisArm, 1),
    "VIMCO": (estimators.Vimco, 2),
}
"""The estimator of a layer, and its draws."""
FIGURES = {
    "SBN Bernoulli": (72.0, 58.9, 58.9, 58.7, 58.5, 59.3),
    "SBN categorical": (73.1, 63.0, 61.8, 61.1, 59.0, 59.7),
    "VAE Bernoulli": (112.2, 109.7, 116.0, 111.5, 105.0, 111.5),
    "VAE categorical": (110.6, 107.0, 110.9, 107.8, 101.5, 107.8),
}
PAPER = {task: dict(zip(METHODS, figures, strict=False)) for task, figures in FIGURES.items()}
read = functools.cache(static_bits)
COLUMNS = ("−log p(x)", "Monte Carlo error", "learning rate", "best epoch", "seconds")
ORDER = ("Gumbel-Softmax", "ST", "score function")


class Scale(NamedTuple):
    """What the numbers depend on."""

    rates: tuple[float, ...]
    """Learning rates to choose from."""
    cooling: tuple[float, ...]
    """r to choose from, of the VAE's temperature max(½, exp(−r t)) after t updates."""
    steepening: int
    """Updates over which annealed ST gets its slope; 100 epochs at Chung et al."""
    epochs: int
    train: int
    test: int
    """Images."""
    draws: int
    """m."""
    batch_size: int = 100


SCALES = {
    "full": Scale((3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5), (1e-5, 1e-4), 50_000, 1_000, 50_000, 10_000, 1_000),
    # So few updates want faster ones; a shorter schedule goes with them.
    "quick": Scale((1e-1, 3e-2, 1e-2), (1e-3,), 1_200, 3, 40_000, 1_000, 100),
    "smoke": Scale((1e-2, 1e-3), (1e-1,), 4, 2, 8, 4, 3, batch_size=4),
}


class Run(NamedTuple):
    """One training."""

    task: str
    latents: str
    method: str
    rate: float
    cooling: float
    """0 where the temperature stays 1."""
    seed: int


def key(run: Run) -> str:
    return " ".join(map(str, run))


def halves(bits: Tensor, task: str) -> tuple[Tensor, Tensor]:
    """What is given and what is to be explained."""
    return (bits[:, :392], bits[:, 392:]) if task == "SBN" else (bits, bits)


def spaced(data: Tensor, number: int) -> Tensor:
    """So many rows from everywhere: the common file of static test images is sorted by digit."""
    return data[:: max(1, len(data) // number)][:number]


def train(run: Run, args: Args) -> tuple[StochasticLayers, Best, float, Bits]:
    """To the weights with the best validation bound; the seconds that it took; the data."""
    scale, device = SCALES[args.scale], args.torch_device
    sizes = (scale.train, scale.test, scale.test)
    data = Bits(*(spaced(part, size).to(device) for part, size in zip(read(args.data_dir), sizes, strict=True)))
    x, y = halves(data.train, run.task)
    torch.manual_seed(run.seed)
    rule, draws = METHODS[run.method]
    model = StochasticLayers(SIZES[run.task], LAWS[run.latents], rule, draws).to(device)
    rows, best = Minibatches(len(x), scale.batch_size, run.seed, device), Best(model)
    tunable = model.tunable()
    learned = [parameter for name, parameter in model.named_parameters() if not name.startswith("rules.")]
    optimizer = torch.optim.SGD(learned, run.rate, momentum=0.9)
    tuner = torch.optim.Adam(tunable, TUNING) if tunable else None

    def update(step: int) -> None:
        if run.method == "annealed ST":
            model.slope.fill_(min(STEEPEST, 1.0 + (STEEPEST - 1.0) * step / scale.steepening))
        for part in model.rules:
            if isinstance(part, estimators.GumbelSoftmax):
                part.temperature = max(LOWEST, math.exp(-run.cooling * step))
        batch = rows(step)
        optimizer.zero_grad()
        model.loss(x[batch], y[batch]).backward(inputs=learned)
        optimizer.step()
        if tuner is not None:
            tuner.zero_grad()
            some = batch[: -(-len(batch) // 4)]  # It costs as much as the gradient itself.
            model.variance_loss(x[some], y[some]).backward(inputs=tunable)
            tuner.step()

    def look(epoch: int) -> Record:
        value = -float(model.bound(*halves(data.valid, run.task), VALIDATION_DRAWS).value.mean())
        best(value, epoch)
        return {"−log p(x)": value}

    parts = {"model": model, "optimizer": optimizer, "best": best} | ({} if tuner is None else {"tuner": tuner})
    place, settings = folder_of(NAME, args, key(run)), {"run": run._asdict(), "scale": scale._asdict()}
    history = Training(place, settings, parts, device).run(scale.epochs, rows.per_epoch, update, look)
    best.restore()
    return model, best, sum(seen["seconds"] for seen in history), data


def tried(run: Run, args: Args) -> Record:
    """The best validation bound, if there was one before all diverged."""
    value = train(run, args)[1].value
    return {"bound": value} if math.isfinite(value) else {}


def judged(run: Run, args: Args) -> Record:
    """The test bound of one training."""
    model, best, seconds, data = train(run, args)
    value, error = model.bound(*halves(data.test, run.task), SCALES[args.scale].draws)
    return {
        "−log p(x)": -float(value.mean()),
        "Monte Carlo error": float(error.square().sum().sqrt()) / len(value),
        "learning rate": run.rate,
        "cooling": run.cooling,
        "best epoch": best.epoch,
        "seconds": seconds,
    }


def options(args: Args) -> dict[str, list[Run]]:
    """What there is to choose from in each cell of the table, with the first seed."""
    scale, found = SCALES[args.scale], dict[str, list[Run]]()
    for task, latents, method in product(SIZES, LAWS, METHODS):
        if method != "DisARM" or latents == "Bernoulli":
            cooling = scale.cooling if task == "VAE" and "Gumbel" in method else (0.0,)
            choices = product(scale.rates, cooling)
            found[f"{task} {latents}, {method}"] = [Run(task, latents, method, *c, args.seeds[0]) for c in choices]
    return found


def chosen(args: Args) -> dict[str, Run]:
    """Of each cell the learning rate, and what cools, with the best validation bound."""
    every = options(args)
    jobs = {key(run): partial(tried, run, args) for runs_of in every.values() for run in runs_of}
    cells = Cells(folder_of(NAME, args, "choices"), {"scale": SCALES[args.scale]._asdict()})
    bounds = dict(zip(jobs, (found.get("bound", math.inf) for found in runs(cells, jobs, args.workers)), strict=True))
    return {cell: min(runs_of, key=lambda run: bounds[key(run)]) for cell, runs_of in every.items()}


def values(found: Sequence[Record], cell: str) -> Any:
    """Of all seeds, in nats."""
    return np.array([record["−log p(x)"] for record in found if record["method"] == cell])


def note(found: Sequence[Record]) -> str:
    """Table 1 with the paper's numbers in brackets, and in how many seeds its order holds."""
    lines = ["", "| method | " + " | ".join(PAPER) + " |", "|---" * (len(PAPER) + 1) + "|"]
    for method in METHODS:
        entries = []
        for task, figures in PAPER.items():
            mine, paper = spread(values(found, f"{task}, {method}").tolist()), figures.get(method)
            entries.append(mine if paper is None else f"{mine} ({paper})")
        lines.append(f"| {method} | " + " | ".join(entries) + " |")
    lines += [
        "",
        "Nats; in brackets the paper, at its scale. DisARM is for bits alone. Seeds with the order of estimators:",
    ]
    for task, figures in PAPER.items():
        said = []
        for better, worse in pairwise(ORDER):
            mine, other = (values(found, f"{task}, {method}") for method in (better, worse))
            theirs = "as" if figures[better] < figures[worse] else "unlike"
            said.append(f"{better} below {worse} in {(mine < other).sum()} of {len(mine)} ({theirs} in the paper)")
        lines.append(f"- {task}: " + ", ".join(said))
    return "\n".join(lines) + "\n"


def draw(found: Sequence[Record]) -> Figure:
    """Test bounds of all seeds."""
    figure = Figure(figsize=(16, 4.5), layout="constrained")
    figure.suptitle("dashes: the paper, at its scale")
    for axis, (task, figures) in zip(figure.subplots(1, len(PAPER)), PAPER.items(), strict=True):
        for number, method in enumerate(METHODS):
            mine = values(found, f"{task}, {method}")
            axis.plot([number] * len(mine), mine, "o", color=f"C{number}", alpha=0.6)
        axis.plot(range(len(figures)), list(figures.values()), "_", color="0.2", markersize=20)
        axis.set_xticks(range(len(METHODS)), list(METHODS), rotation=60, ha="right")
        axis.set(title=task, ylabel="test −log p(x) (nats)")
    return figure


def main(args: Args) -> None:
    """Choose, train, judge, write."""
    cells = product(chosen(args).items(), args.seeds)
    jobs = {f"{cell} {seed}": partial(judged, run._replace(seed=seed), args) for (cell, run), seed in cells}
    reproduce(NAME, args, SCALES[args.scale], jobs, COLUMNS, draw, note)


if __name__ == "__main__":
    main(tyro.cli(Args))
