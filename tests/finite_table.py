"""A small expectation over each kind of finite law, its exact gradient by enumeration, and how to measure estimators.

Nothing here uses the library's own enumeration.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from latentrl.distributions import Bernoullis, OneHot, OneHots
from latentrl.estimators import Estimator, LeaveOneOut
from latentrl.estimators.disarm import DisArm
from latentrl.estimators.enumerate import Enumerate
from latentrl.estimators.muprop import MuProp
from latentrl.estimators.rebar import Rebar, Relax
from latentrl.estimators.relaxed import GumbelSoftmax, StraightThrough
from latentrl.variance import GradientReport, gradient_variance
from tests.laws_table import draw

B, D = 2, 5
R = 10_000
SIZES = {"one choice": (5,), "choices": (2, 3), "bits": None}
PARAMETERS = {"logits": draw(B, D), "weight": draw(D, 3, seed=1), "target": draw(3, seed=2)}


def law(name: str, logits: Tensor) -> Bernoullis | OneHots:
    if name == "bits":
        return Bernoullis(logits)
    return OneHot(logits) if name == "one choice" else OneHots(logits, SIZES[name])


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(D, 6), nn.Tanh(), nn.Linear(6, 1)).double()


UNBIASED: dict[str, Callable[[], Estimator]] = {
    "rebar": Rebar,
    "rebar, sharp": lambda: Rebar(0.2, 0.6),
    "relax": lambda: Relax(network(), 0.4, 0.7),
    "muprop": MuProp,
    "muprop, leave one out": lambda: MuProp(LeaveOneOut()),
    "disarm": DisArm,
}
BIASED: dict[str, Callable[[], Estimator]] = {
    "gumbel": GumbelSoftmax,
    "hard gumbel": lambda: GumbelSoftmax(0.7, hard=True),
    "straight-through": StraightThrough,
}
EVERY = {**UNBIASED, **BIASED, "enumerate": Enumerate}
del EVERY["muprop, leave one out"]  # which needs two draws
CASES = [(name, member) for member in UNBIASED for name in SIZES if member != "disarm" or name == "bits"]


def cost(p: dict[str, Tensor], z: Tensor) -> Tensor:
    """f with parameters of its own; neither linear nor a sum over entries."""
    return ((z @ p["weight"]).tanh() - p["target"]).square().sum(-1)


def support(name: str) -> Tensor:
    if name == "bits":
        return torch.tensor(list(itertools.product((0.0, 1.0), repeat=D))).double()
    rows = itertools.product(*(torch.eye(size).double() for size in SIZES[name]))
    return torch.stack([torch.cat(row) for row in rows])


def masses(name: str, logits: Tensor) -> Tensor:
    """q of each value, (N, ...)."""
    values = support(name).reshape(-1, *(1 for _ in logits.shape[:-1]), D)
    if name == "bits":
        return torch.where(values > 0, logits.sigmoid(), 1 - logits.sigmoid()).prod(-1)
    p = torch.cat([part.softmax(-1) for part in logits.split(SIZES[name], -1)], -1)
    return torch.where(values > 0, p, 1.0).prod(-1)


def expectation(name: str, p: dict[str, Tensor], f: Callable = cost) -> Tensor:
    return (masses(name, p["logits"]) * f(p, support(name)).unsqueeze(-1)).sum(0).mean()


def flat_gradient(function: Callable[[dict[str, Tensor]], Tensor], p: dict[str, Tensor]) -> Tensor:
    return torch.cat([g.reshape(-1) for g in torch.func.grad(function)(p).values()])


def measure(
    name: str,
    estimator: Estimator,
    reference: Tensor | None = None,
    f: Callable = cost,
    samples: int = 2,
    seed: int = 0,
) -> GradientReport:
    def objective(p: dict[str, Tensor]) -> Tensor:
        return estimator(law(name, p["logits"]), lambda z: f(p, z), samples).surrogate.mean()

    return gradient_variance(objective, PARAMETERS, R, reference, chunk_size=R // 2, seed=seed, batch_size=samples)


# One bit, by quadrature

LOGIT = 0.8
Z = (torch.arange(-60_000, 60_000, dtype=torch.float64) + 0.5) * 1e-3  # midpoints around the jump of the bit at 0
WEIGHT = (Z - LOGIT).sigmoid() * (LOGIT - Z).sigmoid() * 1e-3  # logistic density


def bump(z: Tensor) -> Tensor:
    return (3 * z).sin() + z.square()


def bump_slope(z: Tensor) -> Tensor:
    return 3 * (3 * z).cos() + 2 * z
