"""What does variational inference get wrong where the truth is known, beside NUTS and at what price?

    python -m experiments.variational_inference

On both posteriors of :mod:`experiments.known_posteriors`, each family of q is fitted by the reverse KL(q ‖ p), that is
the ELBO, and by the forward KL(p ‖ q) on points drawn from the grid: what the family could do if the posterior were
known already. NUTS is Pyro's. What is said of q is computed on the grid, what is said of NUTS from its draws. Seconds
are those of the processor, with one thread. Needs pip install 'latentrl[nuts]'.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from experiments.known_posteriors import FAMILIES, MOMENTS, SIDE, KnownPosterior, known_posteriors
from experiments.records import StudyArgs, table, write
from latentrl.checks import require
from latentrl.schedules import Cosine

DIVERGENCES = ("KL(q‖p)", "ELBO gap", "KL(p‖q)")
NOTE = """Mean ± standard deviation over the seeds. Moments are errors, those of z in true standard deviations.
KL(q‖p) and the ELBO gap are one number, from the grid and from 20 000 draws.
"""
COSTS = ("fit (s)", "1000 draws (s)", "effective draws (%)", "Monte-Carlo error (sd)")


@dataclass(frozen=True)
class Args(StudyArgs):
    """Fit and sample both posteriors."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One fit of each family and one chain each; the data stay the same."""
    steps: int = 1000
    """Updates of a fit, with 64 draws each."""
    chain: int = 1000
    """Draws of NUTS, after half as many to adapt."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/variational_inference")
    """Folder for the table, the records and the picture."""


def fit(target: KnownPosterior, family: str, direction: str, steps: int) -> tuple[dict[str, float], Tensor]:
    """Minimise one of the two divergences; what came out, and the masses (N,) of q on the grid."""
    model, rate, start = target.build(family), Cosine(0.02), time.process_time()
    optimizer = torch.optim.Adam(model.posterior.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate(1.0 - step / steps)
        if direction == "reverse KL":
            loss = model.elbo(target.batch, num_samples=64).loss
        else:
            drawn = target.points[target.mass.multinomial(64, replacement=True)]
            loss = -model.infer(target.batch).log_prob(drawn).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fitting = time.process_time() - start
    with torch.no_grad():
        q, start = model.infer(target.batch), time.process_time()
        q.sample((1000,))
        drawing = time.process_time() - start
        log_q, bound = q.log_prob(target.points).squeeze(1), model.log_weights(target.batch, 20_000)
    mass, ratio = log_q.exp() * target.area, log_q - target.log_p
    return {
        **target.moments(target.points[:, 0], mass),
        "KL(q‖p)": float(mass @ ratio),
        "ELBO gap": target.log_evidence - float(bound.mean()),
        "KL(p‖q)": -float(target.mass @ ratio),
        "fit (s)": fitting,
        "1000 draws (s)": drawing,
        "error of the ELBO gap": float(bound.std()) / math.sqrt(len(bound)),
        "mass of q on the grid": float(mass.sum()),
    }, mass


def run_nuts(target: KnownPosterior, draws: int) -> tuple[dict[str, float], Tensor]:
    """One chain of the No-U-Turn sampler (Hoffman & Gelman 2014), and its draws (N, 2)."""
    infer, first = require("pyro.infer", "nuts"), {"start": time.process_time()}
    chain = infer.MCMC(
        infer.NUTS(potential_fn=lambda z: -target.log_joint(z["z"][None, None]).sum()),
        draws,
        draws // 2,
        {"z": torch.randn(2, dtype=torch.float64)},
        disable_progbar=True,
        hook_fn=lambda kernel, z, stage, i: first.setdefault(stage, time.process_time()),  # noqa: ARG005
    )
    chain.run()
    drawing, diagnostics = time.process_time() - first["Sample"], chain.diagnostics()
    z, effective = chain.get_samples()["z"], float(diagnostics["z"]["n_eff"].min())
    return {
        **target.moments(z, z.new_full((draws,), 1.0 / draws)),
        "fit (s)": first["Sample"] - first["start"],
        "1000 draws (s)": drawing * 1000 / draws,
        "effective draws (%)": 100.0 * effective / draws,
        "Monte-Carlo error (sd)": effective**-0.5,
        "divergent": len(diagnostics["divergences"]["chain 0"]),
    }, z


def draw(axis: Axes, target: KnownPosterior, shown: dict[str, Tensor]) -> None:
    """The true density in grey; draws (N, 2), or the regions that hold 50 % and 95 % of masses (N,) on the grid."""
    x, y, p = (values.reshape(SIDE, SIDE) for values in (*target.points.unbind(-1), target.mass))
    axis.contourf(x, y, p, levels=12, cmap="Greys")
    for (label, values), colour in zip(shown.items(), ("C0", "C1"), strict=False):
        if values.dim() == 2:
            axis.plot(*values[::4].T, "C2.", markersize=4, label=label)
            continue
        ordered = values.sort(descending=True).values
        levels = [float(ordered[int((ordered.cumsum(0) < share).sum())]) for share in (0.95, 0.5)]
        axis.contour(x, y, values.reshape(SIDE, SIDE), levels=levels, colors=colour, linewidths=1.5)
        axis.plot([], [], colour, label=label)
    axis.legend(loc="upper right")
    for i, limits in enumerate((axis.set_xlim, axis.set_ylim), 1):
        center, reach = target.truth[f"mean z{i}"], 3.8 * target.truth[f"sd z{i}"]
        limits(center - reach, center + reach)
    axis.set(xlabel="z1", ylabel="z2")


def study(name: str, target: KnownPosterior, args: Args, axes: Iterable[Axes]) -> list[dict[str, Any]]:
    """All runs on one target; those of the first seed are drawn."""
    runs, shown = [], defaultdict(dict)
    methods = [*product(FAMILIES, ("reverse KL", "forward KL")), ("NUTS", "draws")]
    for seed, (family, kind) in product(args.seeds, methods):
        torch.manual_seed(seed)
        found, what = run_nuts(target, args.chain) if family == "NUTS" else fit(target, family, kind, args.steps)
        runs.append({"method": f"{family}, {kind}", "seed": seed, **found})
        shown[family].setdefault(kind, what)
    for axis, (title, panel) in zip(axes, shown.items(), strict=True):
        draw(axis, target, panel)
        axis.set_title(f"{name}: {title}")
    return runs


def main(args: Args) -> None:
    """Fit, sample, compare, write."""
    require("pyro", "nuts")
    torch.set_num_threads(1)
    if args.smoke:
        args = replace(args, steps=10, chain=20)
    text, record = NOTE, {}
    figure = Figure(figsize=(14, 7.2), layout="constrained")
    for row, (name, target) in zip(figure.subplots(2, 4), known_posteriors().items(), strict=True):
        runs = study(name, target, args, row)
        record[name] = {"truth": {**target.truth, "log evidence": target.log_evidence}, "runs": runs}
        text += f"\n**{name}**, truth: " + ", ".join(f"{key} {value:.3f}" for key, value in target.truth.items())
        text += "\n\n" + table([run | target.errors(run) for run in runs], (*MOMENTS, *DIVERGENCES, *COSTS))
    write(args.out, "variational_inference", ["pyro-ppl"], text, record, figure)


if __name__ == "__main__":
    main(tyro.cli(Args))
