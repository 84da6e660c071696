"""Gumbel-Softmax and other gradients through discrete latents (Jang, Gu & Poole 2017, table 1): static MNIST.

    python -m experiments.reproductions.gumbel_softmax --data-dir FOLDER [--quick]

Two tasks: a stochastic network (SBN) draws the lower half of an image from the upper one through two layers of latents,
an autoencoder (VAE) has one, and a learned prior. A layer is 200 bits or 20 choices among 10; between layers are linear
maps. Path derivatives (ST, Gumbel-Softmax) have one draw in each, the others two evaluations of what is above (see
``stochastic_layers``). REBAR and RELAX tune their controls as they go. Compared is the bound of m discrete draws.
Annealed ST is Chung et al. 2017: logits times a slope that rises from 1 to 5.
"""

import functools
import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
import tyro
from torch import nn

from experiments.reproductions.autoencoders import LIKELIHOOD, likelihood_of
from experiments.reproductions.gumbel_table import draw, note
from experiments.reproductions.mnist import Bits, fingerprint, shown, static_bits
from experiments.reproductions.stochastic_layers import StochasticLayers
from experiments.reproductions.study import Args, folder_of, reproduce
from experiments.reproductions.training import Best, Minibatches, Training
from latentrl import estimators
from latentrl.cells import Cells, Record
from latentrl.distributions import Bernoullis, OneHots
from latentrl.sweeps import sweep

NAME = "gumbel_softmax"
SIZES = {"SBN": (392, 200, 200, 392), "VAE": (784, 200, 784)}
LAWS = {"Bernoulli": Bernoullis, "categorical": partial(OneHots, sizes=(10,) * 20)}
VALIDATION_DRAWS, LOWEST, STEEPEST = 10, 0.5, 5.0
"""And the temperature of Gumbel-Softmax, the slope of annealed ST."""
TUNING = 1e-3
"""Learning rate of control variates (Adam)."""


def relax(latents: int = 200) -> estimators.Relax:
    """With a small network of its own."""
    return estimators.Relax(nn.Sequential(nn.Linear(latents, 100), nn.Tanh(), nn.Linear(100, 1)))


METHODS: Mapping[str, tuple[Callable[[], estimators.Estimator], int]] = {
    "score function": (lambda: estimators.ScoreFunction(estimators.LeaveOneOut()), 2),
    "MuProp": (lambda: estimators.MuProp(estimators.RunningMean()), 1),
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
read = functools.cache(static_bits)
COLUMNS = (*LIKELIHOOD, "learning rate", "best epoch", "seconds")


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
    "quick": Scale((1e-1, 3e-2, 1e-2, 3e-3, 1e-3), (1e-3,), 2_400, 6, 40_000, 1_000, 100),
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

    @property
    def key(self) -> str:
        return " ".join(map(str, self))


def train(run: Run, args: Args) -> tuple[StochasticLayers, Best, float, Bits]:
    """To the weights with the best validation bound; the seconds that it took; the data."""
    scale, device = SCALES[args.scale], args.torch_device
    sizes = zip(read(args.data_dir), (scale.train, scale.test, scale.test), strict=True)
    data = Bits(*(part[:size].to(device) for part, size in sizes))
    x, y = shown(data.train, run.task)
    torch.manual_seed(run.seed)
    model = StochasticLayers(SIZES[run.task], LAWS[run.latents], *METHODS[run.method]).to(device)
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
            some = batch[: -(-len(batch) // 4)]  # it costs as much as the gradient itself
            model.variance_loss(x[some], y[some]).backward(inputs=tunable)
            tuner.step()

    def look(epoch: int) -> Record:
        value = -float(model.bound(*shown(data.valid, run.task), VALIDATION_DRAWS).value.mean())
        best(value, epoch)
        return {"−log p(x)": value}

    parts = {"model": model, "optimizer": optimizer, "best": best} | ({} if tuner is None else {"tuner": tuner})
    settings = {"run": run._asdict(), "scale": scale._asdict(), "data": fingerprint(data.train)}
    place = folder_of(NAME, args, run.key)
    history = Training(place, settings, parts, device).run(scale.epochs, rows.per_epoch, update, look)
    best.restore()
    return model, best, sum(seen["seconds"] for seen in history), data


def tried(run: Run, args: Args) -> Record:
    """The best validation bound, where there was one."""
    return {"bound": value} if math.isfinite(value := train(run, args)[1].value) else {}


def judged(run: Run, args: Args) -> Record:
    """The test bound of one training."""
    model, best, seconds, data = train(run, args)
    return {
        **likelihood_of(model.bound(*shown(data.test, run.task), SCALES[args.scale].draws)),
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
    jobs = {run.key: partial(tried, run, args) for runs_of in every.values() for run in runs_of}
    settings = {"scale": SCALES[args.scale]._asdict(), "data": fingerprint(read(args.data_dir).train)}
    cells = Cells(folder_of(NAME, args, "choices"), settings)
    bounds = dict(zip(jobs, (found.get("bound", math.inf) for found in sweep(cells, jobs, args.workers)), strict=True))
    return {cell: min(runs_of, key=lambda run: bounds[run.key]) for cell, runs_of in every.items()}


def main(args: Args) -> None:
    """Choose, train, judge, write."""
    every = product(chosen(args).items(), args.seeds)
    jobs = {f"{cell} {seed}": partial(judged, run._replace(seed=seed), args) for (cell, run), seed in every}
    data = fingerprint(read(args.data_dir).train)
    scale = SCALES[args.scale]
    reproduce(NAME, args, scale, jobs, COLUMNS, draw, partial(note, tried=scale.rates), data)


if __name__ == "__main__":
    main(tyro.cli(Args))
