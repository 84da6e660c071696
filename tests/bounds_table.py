"""Small models of every kind of posterior and prior, their bounds and gradients without noise, and the estimators that
serve them.

One datum R times is R independent replicates: a row's gradient by its own inputs passes through the parameters of
decoder, prior and posterior.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

from latentrl import LatentModel
from latentrl.decoders import GaussianDecoder
from latentrl.distributions import Bernoullis, FlowLaw, Mixture, OneHots, choices
from latentrl.encoders import Encoder, TransitionEncoder
from latentrl.estimators import (
    DeltaMethod,
    DisArm,
    DReG,
    Enumerate,
    Estimator,
    GumbelSoftmax,
    ImportanceWeighted,
    LearnedBaseline,
    LeaveOneOut,
    MeasureValued,
    MuProp,
    OptimalBaseline,
    Pathwise,
    Rebar,
    Relax,
    RunningMean,
    ScoreFunction,
    StickingTheLanding,
    StraightThrough,
    Vimco,
)
from latentrl.nets import StateParameters
from latentrl.posteriors import (
    AmortizedPosterior,
    CategoricalPosterior,
    FlowPosterior,
    FullGaussianPosterior,
    GaussianPosterior,
    MixturePosterior,
)
from latentrl.priors import GaussianPrior, MixturePrior, Prior
from latentrl.types import Batch

O, A, T, R = 2, 2, 2, 4000  # noqa: E741  (the glossary's letters)
BETA, WEIGHT = 0.7, 1.5

# -- models -----------------------------------------------------------------------------------------


class BitsPosterior(AmortizedPosterior):
    """Independent bits."""

    def __init__(self, encoder: Encoder, latent_dim: int) -> None:
        super().__init__(encoder, latent_dim, latent_dim)

    def law_of(self, features: Tensor) -> Bernoullis:
        return Bernoullis(self.head(features))


class FinitePrior(Prior):
    """A law over a finite set, read off the state: a product, or a mixture of two, for which no closed form exists."""

    def __init__(self, latent_dim: int, sizes: tuple[int, ...] | None, mixed: bool) -> None:
        super().__init__(latent_dim)
        if sizes is not None:
            self.sizes = sizes
        self.mixed = mixed
        self.numbers = StateParameters(torch.randn(2 + 2 * latent_dim), O, (4,))

    def forward(self, observations: Tensor) -> Bernoullis | OneHots | Mixture:
        numbers = self.numbers(observations)
        each = numbers[..., 2:].unflatten(-1, (2, self.latent_dim))
        law = choices(each, self.sizes) if hasattr(self, "sizes") else Bernoullis(each)
        return Mixture(numbers[..., :2], law) if self.mixed else type(law)(each[..., 0, :], *_sizes(law))


def _sizes(law: Bernoullis | OneHots) -> tuple[tuple[int, ...], ...]:
    return (law.sizes,) if type(law) is OneHots else ()


def encoder() -> Encoder:
    return TransitionEncoder(O, A, (4,))


CONTINUOUS: dict[str, Callable[[int], AmortizedPosterior]] = {
    "gaussian": lambda z: GaussianPosterior(encoder(), z),
    "full": lambda z: FullGaussianPosterior(encoder(), z),
    "mixture": lambda z: MixturePosterior(encoder(), z, 2),
    "flow": lambda z: FlowPosterior(encoder(), z, transforms=1, bins=4),
}
FINITE: dict[str, Callable[[], AmortizedPosterior]] = {
    "one choice": lambda: CategoricalPosterior(encoder(), 4),
    "choices": lambda: CategoricalPosterior(encoder(), 4, factors=2),
    "bits": lambda: BitsPosterior(encoder(), 3),
}
POSTERIORS = (*CONTINUOUS, *FINITE)


def composed(posterior: str, closed_form: bool, latents: int = 2) -> LatentModel:
    """A small model in float64 whose gradients are not small, so that errors in them show."""
    torch.manual_seed(7)
    if posterior in CONTINUOUS:
        q = CONTINUOUS[posterior](latents)
        p: Prior = GaussianPrior(latents, O, (4,)) if closed_form else MixturePrior(latents, 2, True, O, (4,))
    else:
        q = FINITE[posterior]()
        p = FinitePrior(q.latent_dim, getattr(q, "sizes", None), not closed_form)
    model = LatentModel(q, p, GaussianDecoder(O, q.latent_dim, A, (6,))).double()
    with torch.no_grad():
        for module in (q.encoder, q.head, p, model.decoder):
            for parameter in module.parameters():
                parameter.mul_(1.5)
    return model


def batch_of(rows: int, steps: bool = True, weighted: bool = True) -> tuple[Batch, list[Tensor]]:
    """The datum ``rows`` times, and all inputs with a gradient: the decoder's observations, and the context."""
    generator = torch.Generator().manual_seed(11)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).expand(rows, *shape).contiguous()

    shape = (T,) if steps else ()
    seen = [draw(*shape, O).requires_grad_(), draw(O).requires_grad_(), draw(A).requires_grad_()]
    weight = torch.full((rows,), WEIGHT, dtype=torch.float64) if weighted else None
    return Batch(seen[0], draw(*shape, A), seen[1], seen[2], weight), seen


# -- exact answers -----------------------------------------------------------------------------------------------


class Weighed(NamedTuple):
    """Values of z, or points of a grid, (N, 1, Z), with log q and the mass of each, (N, 1)."""

    z: Tensor
    log_q: Tensor
    mass: Tensor


def weighed(q: td.Distribution) -> Weighed:
    size = q.event_shape[0]
    if q.support.is_discrete:  # type: ignore[union-attr]
        sizes = getattr(q, "sizes", None)
        blocks = [torch.tensor([[0.0], [1.0]])] * size if sizes is None else [torch.eye(k) for k in sizes]
        z = torch.stack([torch.cat(rows) for rows in _product(blocks)]).double().unsqueeze(1)
        return Weighed(z, q.log_prob(z), q.log_prob(z).exp())
    line = torch.linspace(-7, 7, 141, dtype=torch.float64)
    grid, volume = torch.cartesian_prod(*[line] * size).reshape(-1, 1, size), float(line[1] - line[0]) ** size
    if not isinstance(q, FlowLaw):
        return Weighed(grid, q.log_prob(grid), volume * q.log_prob(grid).exp())
    # Where the density bends, its gradient jumps, which grids do not like: this one is over the Gaussian noise.
    log_noise = td.Normal(0.0, 1.0).log_prob(grid).sum(-1)
    bent, log_slope = q.transform.call_and_ladj(grid)
    return Weighed(q.loc + q.scale * bent, log_noise - log_slope - q.scale.log().sum(-1), volume * log_noise.exp())


def _product(blocks: list[Tensor]) -> list[list[Tensor]]:
    if not blocks:
        return [[]]
    return [[row, *rest] for row in blocks[0] for rest in _product(blocks[1:])]


class Exact(NamedTuple):
    log_likelihood: Tensor
    kl: Tensor
    gradient: Tensor


def flat(value: Tensor, inputs: list[Tensor]) -> Tensor:
    """Gradient by a row's inputs, (rows, P)."""
    return torch.cat([gradient.flatten(1) for gradient in torch.autograd.grad(value, inputs)], 1)


def exact_elbo(model: LatentModel) -> Exact:
    batch, inputs = batch_of(1)
    q, p, log_likelihood = model.parts(batch)
    z, log_q, mass = weighed(q)
    assert float(mass.detach().sum()) == pytest.approx(1.0, abs=1e-6)
    log_p, kl = (mass * log_likelihood(z)).sum(), (mass * (log_q - p.log_prob(z))).sum()
    return Exact(log_p.detach(), kl.detach(), flat(log_p - BETA * kl, inputs)[0])


def exact_bound(model: LatentModel) -> tuple[Tensor, Tensor]:
    """Importance bound of two draws: a sum over all pairs of values. Value and gradient."""
    batch, inputs = batch_of(1, steps=False, weighted=False)
    q, p, log_likelihood = model.parts(batch)
    z, log_q, mass = weighed(q)
    log_w, mass = (log_likelihood(z) + p.log_prob(z) - log_q).squeeze(1), mass.squeeze(1)
    bound = mass @ (torch.logaddexp(log_w, log_w.unsqueeze(1)) - math.log(2)) @ mass
    return bound.detach(), flat(bound, inputs)[0]


def off(draws: Tensor, exact: Tensor, rounding: float = 1e-6) -> float:
    """Largest distance of means over rows from the exact numbers, in standard errors."""
    error = draws.std(0) / math.sqrt(len(draws)) + rounding
    return float(((draws.mean(0) - exact).abs() / error).max())


@cache
def model_and_elbo(posterior: str, closed_form: bool) -> tuple[LatentModel, Exact]:
    """A model that tests share, and do not change, with its exact ELBO."""
    model = composed(posterior, closed_form)
    return model, exact_elbo(model)


# -- estimators --------------------------------------------------------------------------------------------------


def linear(inputs: int) -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(inputs, 1).double()


def parameters_of(posterior: str) -> int:
    """How many numbers a learned baseline reads."""
    return 2 * 2 if posterior in CONTINUOUS else 3 if posterior == "bits" else 4


class Member(NamedTuple):
    make: Callable[[str], Estimator]
    serves: tuple[str, ...]


MEMBERS: dict[str, Member] = {
    "pathwise": Member(lambda _: Pathwise(), tuple(CONTINUOUS)),
    "score": Member(lambda _: ScoreFunction(), POSTERIORS),
    "score, running mean": Member(lambda _: ScoreFunction(RunningMean()), POSTERIORS),
    "score, leave one out": Member(lambda _: ScoreFunction(LeaveOneOut()), POSTERIORS),
    "score, learned": Member(
        lambda name: ScoreFunction(LearnedBaseline(linear(parameters_of(name)))),
        tuple(name for name in POSTERIORS if name != "flow"),
    ),
    "score, optimal": Member(lambda _: ScoreFunction(OptimalBaseline()), ("gaussian", *FINITE)),
    "measure-valued": Member(lambda _: MeasureValued(), ("gaussian",)),
    "delta method": Member(lambda _: DeltaMethod(), ("gaussian", "full")),
    "gumbel": Member(lambda _: GumbelSoftmax(0.5), tuple(FINITE)),
    "hard gumbel": Member(lambda _: GumbelSoftmax(0.5, hard=True), tuple(FINITE)),
    "straight-through": Member(lambda _: StraightThrough(), tuple(FINITE)),
    "rebar": Member(lambda _: Rebar(), tuple(FINITE)),
    "relax": Member(lambda name: Relax(linear(parameters_of(name))), tuple(FINITE)),
    "muprop": Member(lambda _: MuProp(), tuple(FINITE)),
    "disarm": Member(lambda _: DisArm(), ("bits",)),
    "enumerate": Member(lambda _: Enumerate(), tuple(FINITE)),
}
MULTI: dict[str, Member] = {
    "default": Member(lambda _: None, POSTERIORS),  # type: ignore[arg-type, return-value]
    "importance-weighted": Member(lambda _: ImportanceWeighted(), tuple(CONTINUOUS)),
    "sticking the landing": Member(lambda _: StickingTheLanding(), tuple(CONTINUOUS)),
    "dreg": Member(lambda _: DReG(), tuple(CONTINUOUS)),
    "vimco": Member(lambda _: Vimco(), POSTERIORS),
    "vimco, arithmetic": Member(lambda _: Vimco("arithmetic"), POSTERIORS),
}
