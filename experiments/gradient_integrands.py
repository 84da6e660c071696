"""Where the integrand is known: how noisy, and how wrong, is each gradient estimator?

    python -m experiments.gradient_integrands

Gaussians: ∂μ and ∂σ of E f(x), x ~ N(0.3, 1.5²), from four draws, for a square, a sine slow and fast, and a step. The
exact gradient is by quadrature. Then the sine by its frequency: where does the pathwise gradient stop being the
quieter one? Categorical laws: 8 choices, a cost that is a network of the one-hot vector, all 8 enumerated for the
truth. A gradient's error is the distance of its mean from the truth; what noise leaves of it shrinks with replicates.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from experiments.records import StudyArgs, table, write
from latentrl.checks import LatentRLError
from latentrl.distributions import DiagonalNormal, OneHot
from latentrl.estimators import (
    DeltaMethod,
    Enumerate,
    Estimator,
    GumbelSoftmax,
    LeaveOneOut,
    MeasureValued,
    MuProp,
    OptimalBaseline,
    Pathwise,
    Rebar,
    ScoreFunction,
    StraightThrough,
)  # fmt: skip
from latentrl.variance import GradientReport, gradient_variance

MU, SIGMA, DRAWS, CHOICES = 0.3, 1.5, 4, 8
INTEGRANDS: dict[str, Callable[[Tensor], Tensor]] = {
    "(x − 1)²": lambda x: (x - 1.0).square(),
    "sin x": torch.sin,
    "sin 10x": lambda x: (10.0 * x).sin(),
    "[x > 1]": lambda x: (x > 1.0).to(x.dtype),
}
CONTINUOUS: dict[str, tuple[Callable[[], Estimator], int]] = {
    "pathwise": (Pathwise, DRAWS),
    "score function": (ScoreFunction, DRAWS),
    "score function, leave-one-out": (lambda: ScoreFunction(LeaveOneOut()), DRAWS),
    "score function, optimal baseline": (lambda: ScoreFunction(OptimalBaseline()), DRAWS),
    "score function, delta method": (DeltaMethod, DRAWS),
    # As many evaluations of f: each draw takes two for the mean and two for the scale.
    "measure-valued": (MeasureValued, DRAWS // 4),
}
TEMPERATURES = (0.1, 0.2, 0.5, 1.0, 2.0)
DISCRETE: dict[str, tuple[Callable[[], Estimator], int]] = {
    "score function": (ScoreFunction, 2),
    "score function, leave-one-out": (lambda: ScoreFunction(LeaveOneOut()), 2),
    "REBAR": (Rebar, 1),
    "MuProp": (MuProp, 1),
    "straight-through": (StraightThrough, 2),
    **{f"Gumbel-Softmax, λ = {t:g}": (lambda t=t: GumbelSoftmax(t), 2) for t in TEMPERATURES},
    **{f"straight-through Gumbel, λ = {t:g}": (lambda t=t: GumbelSoftmax(t, hard=True), 2) for t in TEMPERATURES},
}
FREQUENCIES = tuple(round(10 ** (i / 4 - 1), 4) for i in range(10))
COLUMNS = ("variance", "error", "error / |gradient|", "bias p", "κ", "µs per gradient")


@dataclass(frozen=True)
class Args(StudyArgs):
    """Measure every estimator on every integrand."""

    replicates: int = 40_000
    """Gradients of each."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the noise; of the categorical cost, too."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/gradient_integrands")
    """Folder for the table, the records and the picture."""


def exact_gradient(f: Callable[[Tensor], Tensor]) -> Tensor:
    """∂μ and ∂σ of E f(x), by the trapezoidal rule over ±12 σ; a step is smooth after integration to 1e-5."""
    noise = torch.linspace(-12.0, 12.0, 2_000_001, dtype=torch.float64)
    density = (-0.5 * noise.square()).exp() / math.sqrt(2.0 * math.pi)
    value = f(MU + SIGMA * noise) * density
    return torch.trapezoid(torch.stack([value * noise, value * (noise.square() - 1.0)]) / SIGMA, noise)


def gaussian(estimator: Estimator, draws: int, f: Callable, replicates: int, seed: int) -> GradientReport:
    """The meter's report on (∂μ, ∂σ)."""

    def objective(p: dict[str, Tensor]) -> Tensor:
        return estimator(DiagonalNormal(p["mu"], p["sigma"]), lambda x: f(x).sum(-1), draws).surrogate.mean()

    parameters = {"mu": torch.tensor([MU]).double(), "sigma": torch.tensor([SIGMA]).double()}
    return gradient_variance(objective, parameters, replicates, exact_gradient(f), 5000, seed)


def categorical(estimator: Estimator, draws: int, replicates: int, seed: int) -> GradientReport:
    """The meter's report on the gradient by logits, for a random cost and random logits."""
    source = torch.Generator().manual_seed(seed)
    logits, first, second = (
        torch.randn(size, generator=source, dtype=torch.float64) for size in ((CHOICES,), (CHOICES, 16), (16,))
    )

    def objective_with(rule: Estimator) -> Callable[[dict[str, Tensor]], Tensor]:
        cost = lambda z: (z @ first).tanh() @ second  # noqa: E731
        return lambda p: rule(OneHot(p["logits"]), cost, draws).surrogate

    truth = torch.func.grad(objective_with(Enumerate()))({"logits": logits})["logits"]
    return gradient_variance(objective_with(estimator), {"logits": logits}, replicates, truth, 5000, seed)


def row(law: str, integrand: str, name: str, seed: int, measure: Callable[[], GradientReport], truth: Tensor) -> dict:
    """One record; a gradient that is exactly 0 has no variance, and all of it is bias."""
    record = {"law": law, "integrand": integrand, "estimator": name, "seed": seed, "method": f"{integrand}: {name}"}
    try:
        report = measure()
    except LatentRLError:
        return {**record, "variance": 0.0, "error": float(truth.norm()), "error / |gradient|": 1.0}
    error = float((report.mean - truth).norm())
    # That of the fast sine is 0 to fifty digits.
    relative = {"error / |gradient|": error / float(truth.norm())} if float(truth.norm()) > 1e-9 else {}
    return {
        **record,
        **relative,
        "variance": report.trace,
        "error": error,
        "bias p": report.bias_p,
        "κ": report.kurtosis,
        "µs per gradient": 1e6 * report.seconds_per_gradient,
    }


def sweep(replicates: int, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Variances of sin ωx by frequency, one draw."""
    records = []
    for omega in FREQUENCIES:
        for name, estimator in (("pathwise", Pathwise()), ("score function", ScoreFunction())):
            for seed in seeds:
                report = gaussian(estimator, 1, lambda x, w=omega: (w * x).sin(), replicates, seed)
                records.append({"ω": omega, "estimator": name, "seed": seed, "variance": report.trace})
    return records


def draw(runs: list[dict[str, Any]], swept: list[dict[str, Any]]) -> Figure:
    """The sweep; the variances by integrand; bias against noise for the categorical law."""
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name in ("pathwise", "score function"):
        points = [(run["ω"], run["variance"]) for run in swept if run["estimator"] == name]
        left.loglog(*zip(*points, strict=True), "o", markersize=4, label=name, alpha=0.7)
    left.set(title="sin ωx, one draw", xlabel="ω", ylabel="variance (trace)")
    left.legend()
    for place, name in enumerate(CONTINUOUS):
        mine = [run for run in runs if run["estimator"] == name and run["law"] == "Gaussian" and run["variance"] > 1e-6]
        middle.semilogy(
            [list(INTEGRANDS).index(run["integrand"]) + 0.12 * (place - 2.5) for run in mine],
            [run["variance"] for run in mine], "o", markersize=4, label=name, alpha=0.7,
        )  # fmt: skip
    middle.set_xticks(range(len(INTEGRANDS)), labels=list(INTEGRANDS))
    middle.set(title="x ~ N(0.3, 1.5²), four evaluations; none shown: exact, or 0", ylabel="variance (trace)")
    middle.legend(fontsize=7)
    noise_and_bias(right, [run for run in runs if run["law"] == "categorical"])
    return figure


def noise_and_bias(axis: Axes, runs: list[dict[str, Any]]) -> None:
    """Means over seeds; temperatures joined to curves."""
    families: dict[str, list[tuple[float, float]]] = {}
    for name in DISCRETE:
        mine = [run for run in runs if run["estimator"] == name]
        noise, bias = (sum(run[key] for run in mine) / len(mine) for key in ("variance", "error / |gradient|"))
        families.setdefault(name.split(", λ")[0], []).append((noise, bias))
    for name, points in families.items():
        axis.loglog(*zip(*points, strict=True), "o-", markersize=4, label=name)
    axis.set(title="8 choices, two evaluations; λ = 0.1 … 2", xlabel="variance (trace)", ylabel="error / |gradient|")
    axis.legend(fontsize=7)


def main(args: Args) -> None:
    """Run, print, write."""
    replicates, seeds = (200, (0,)) if args.smoke else (args.replicates, args.seeds)
    runs = []
    for seed in seeds:
        for integrand, f in INTEGRANDS.items():
            truth = exact_gradient(f)
            for name, (make, draws) in CONTINUOUS.items():
                measure = lambda m=make, d=draws, f=f, s=seed: gaussian(m(), d, f, replicates, s)  # noqa: E731
                runs.append(row("Gaussian", integrand, name, seed, measure, truth))
        truth = categorical(Enumerate(), 1, 2, seed).mean
        for name, (make, draws) in DISCRETE.items():
            measure = lambda m=make, d=draws, s=seed: categorical(m(), d, replicates, s)  # noqa: E731
            runs.append(row("categorical", "8 choices", name, seed, measure, truth))
    swept = sweep(replicates, seeds)
    record = {"runs": runs, "frequencies": swept}
    write(args.out, "gradient_integrands", (), table(runs, COLUMNS), record, draw(runs, swept))


if __name__ == "__main__":
    main(tyro.cli(Args))
