"""A mixture of Gaussians by EM and by amortized variational inference: what do the encoder and the noise cost?

    python -m experiments.mixture_of_gaussians

Four diagonal Gaussians in the plane with known parameters, and Fisher's iris (:mod:`experiments.gaussian_mixtures`). A
``LatentModel`` with one categorical latent and a Gaussian decoder *is* such a mixture. Adam climbs its ELBO with the
exact sum over the K components, and with the score function with and without a baseline; once the encoder alone learns
at first, as EM begins with the responsibilities. EM starts from the same mixture. Seconds are those of the processor,
with one thread. Needs pip install 'latentrl[judge]'.
"""

import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from torch import Tensor, nn
from torch.func import functional_call

from experiments.gaussian_mixtures import (
    Data,
    data_sets,
    expectation_maximization,
    latent_mixture,
    law_of,
    scikit_learn,
)
from experiments.records import StudyArgs, table, write
from experiments.vae import batch_of
from latentrl.checks import require
from latentrl.distributions import GaussianMixture
from latentrl.estimators import Estimator, LeaveOneOut, ScoreFunction
from latentrl.model import LatentModel
from latentrl.schedules import Cosine
from latentrl.types import Batch
from latentrl.variance import gradient_variance

METHODS: dict[str, tuple[Estimator | None, int]] = {
    "exact sum": (None, 0),
    "exact sum, encoder first": (None, 100),
    "score function, leave-one-out": (ScoreFunction(LeaveOneOut()), 0),
    "score function, no baseline": (ScoreFunction(), 0),
}
"""Estimator, and the updates for which the encoder learns alone."""
COLOURS = {"EM": "black", **dict(zip(METHODS, ("C0", "C2", "C1", "C3"), strict=True))}
EVERY = 10
"""Updates between two looks at the log-likelihood."""
NEAR = 0.02
"""Nats per training point below what EM reached at which a method has arrived."""
QUALITY = ("log-likelihood", "held out", "ELBO gap, held out", "adjusted Rand index")
COST = ("seconds", "iterations", "arrived", "iterations to arrive", "gradient SNR at the start")


@dataclass(frozen=True)
class Args(StudyArgs):
    """Fit both data sets."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Starts; the data stay the same."""
    updates: int = 1000
    """Of Adam, each on all training data, with 4 draws where there are draws."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/mixture_of_gaussians")
    """Folder for the table, the records and the picture."""


class Fit(NamedTuple):
    """A law, the components that it gives the test points, and log-likelihoods per training point on the way to it."""

    law: GaussianMixture
    assigned: Tensor
    seconds: float
    iterations: range
    curve: list[float]
    more: dict[str, Any]


class Loss(nn.Module):
    """−ELBO of a batch; without an estimator as a sum over all z, E_q[log p(x, z) − log q(z|x)]."""

    def __init__(self, model: LatentModel, batch: Batch, estimator: Estimator | None) -> None:
        super().__init__()
        self.model, self.batch, self.estimator = model, batch, estimator

    def forward(self) -> Tensor:
        if self.estimator is not None:
            return self.model.elbo(self.batch, estimator=self.estimator, num_samples=4).loss
        q, p = self.model.infer(self.batch), self.model.prior(self.batch.start)
        z = q.enumerate_support()
        terms = self.model.log_likelihood_given(self.batch, z) + p.log_prob(z) - q.log_prob(z)
        return -(q.log_prob(z).exp() * terms).sum(0).mean()


def fit_em(data: Data) -> Fit:
    """EM, and scikit-learn's from the same start."""
    start = law_of(latent_mixture(data.train, data.components))
    begun = time.process_time()
    law, curve = expectation_maximization(data.train, start)
    seconds, assigned = time.process_time() - begun, law.responsibilities(data.test).argmax(-1)
    more = {"scikit-learn": scikit_learn(data.train, start)}
    return Fit(law, assigned, seconds, range(1, len(curve) + 1), curve, more)


def fit_elbo(data: Data, estimator: Estimator | None, alone: int, updates: int) -> Fit:
    """Adam on one of the losses; ``alone`` updates of the encoder come before."""
    model, rate, curve, more, seconds = latent_mixture(data.train, data.components), Cosine(0.01), [], {}, 0.0
    batch, test = batch_of(data.train), batch_of(data.test)
    loss, optimizer = Loss(model, batch, estimator), torch.optim.Adam(model.parameters())
    if estimator is not None:
        noise = gradient_variance(lambda p: functional_call(loss, p), loss.named_parameters(), 100, chunk_size=10)
        more = {"gradient SNR at the start": noise.snr, "trustworthy": noise.trustworthy}
    for step in range(updates):
        begun = time.process_time()
        optimizer.param_groups[0]["lr"] = rate(1.0 - step / updates)
        for module in (model.decoder, model.prior):
            module.requires_grad_(step >= alone)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        seconds += time.process_time() - begun
        if step % EVERY == EVERY - 1:
            curve.append(float(model.log_likelihood(batch).value.mean()))
    with torch.no_grad():
        more["ELBO gap, held out"] = float(model.log_likelihood(test).value.mean() + Loss(model, test, None)())
    assigned, seen = model.infer(test).mode.argmax(-1), range(EVERY, updates + 1, EVERY)
    return Fit(law_of(model), assigned, seconds, seen, curve, more)


def record(fit: Fit, data: Data, goal: float) -> dict[str, Any]:
    """What is kept of a fit; ``goal`` is where it arrives."""
    rand = require("sklearn.metrics", "judge").adjusted_rand_score
    there = [i for i, value in zip(fit.iterations, fit.curve, strict=True) if value >= goal]
    return {
        "log-likelihood": fit.curve[-1],
        "held out": float(fit.law.log_prob(data.test).mean()),
        "adjusted Rand index": rand(data.labels, fit.assigned),
        "iterations": fit.iterations[-1],
        "seconds": fit.seconds,
        "arrived": float(bool(there)),
        **({"iterations to arrive": there[0]} if there else {}),
        **fit.more,
    }


def draw(axes: list[Axes], title: str, data: Data, fits: dict[str, list[Fit]]) -> None:
    """Log-likelihood over iterations for each start, and the components of the first as ellipses of two sd."""
    for method, found in fits.items():
        for start, fit in enumerate(found):
            style = {"color": COLOURS[method], "lw": 1, "alpha": 0.8, "label": None if start else method}
            axes[0].semilogx(fit.iterations, fit.curve, **style)
    axes[0].set(title=f"{title}: training", xlabel="iteration", ylabel="log-likelihood (nats per point)")
    axes[0].legend()
    i, j = data.plane
    for axis, method in zip(axes[1:], ("exact sum", "score function, no baseline"), strict=True):
        axis.plot(*data.train[:, [i, j]].T, ".", color="0.7", markersize=3)
        for shown in ("EM", method):
            law, colour = fits[shown][0].law, COLOURS[shown]
            for loc, scale in zip(law.loc, law.scale, strict=True):
                axis.add_patch(Ellipse((loc[i], loc[j]), 4 * scale[i], 4 * scale[j], fill=False, color=colour, lw=2))
            axis.plot([], [], colour, label=shown)
        axis.set_title(f"{title}: components from the first start")
        axis.legend()


def main(args: Args) -> None:
    """Fit, compare, write."""
    torch.set_num_threads(1)
    text, records = "Mean ± standard deviation over the starts; log-likelihoods in nats per point.\n", {}
    figure = Figure(figsize=(14, 8), layout="constrained")
    for row, (title, data) in zip(figure.subplots(2, 3), data_sets().items(), strict=True):
        runs, fits = [], defaultdict(list)
        for seed in args.seeds:
            torch.manual_seed(seed)
            fits["EM"].append(fit_em(data))
            goal = fits["EM"][-1].curve[-1] - NEAR
            for method, (estimator, alone) in METHODS.items():
                torch.manual_seed(seed)
                fits[method].append(fit_elbo(data, estimator, alone, 20 if args.smoke else args.updates))
            runs += [{"method": name, "seed": seed, **record(fit[-1], data, goal)} for name, fit in fits.items()]
        draw(row, title, data, fits)
        facts = {
            "EM less scikit-learn's, at most": max(abs(fit.curve[-1] - fit.more["scikit-learn"]) for fit in fits["EM"])
        }
        if data.law is not None:
            facts["held out under the true law"] = float(data.law.log_prob(data.test).mean())
        records[title] = {**facts, "runs": runs}
        text += f"\n**{title}**: " + ", ".join(f"{key} {value:.4g}" for key, value in facts.items())
        text += "\n\n" + table(runs, (*QUALITY, *COST))
    write(args.out, "mixture_of_gaussians", ["scikit-learn"], text, records, figure)


if __name__ == "__main__":
    main(tyro.cli(Args))
