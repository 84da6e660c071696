"""Laws whose "draws" are all values at once, each with its probability: expectations of an estimator without noise.

An estimator draws S times from a law with batch_shape (N,); row n of these draws is one of N joint outcomes of S
independent draws. Summed with the outcomes' probabilities, anything computed row by row is its exact expectation.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentrl.distributions import Bernoullis, DiagonalNormal, OneHot
from latentrl.distributions.discrete import Discrete
from latentrl.estimators.base import Estimator
from latentrl.types import Estimate

Parameters = dict[str, Tensor]


class Quadrature(DiagonalNormal):
    """N(loc, scale²) on a line; S independent draws are the points of an S-dimensional Gauss-Hermite grid."""

    def __init__(self, loc: Tensor, scale: Tensor, draws: int, points: int) -> None:
        nodes, weights = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(points))
        self.noise = torch.cartesian_prod(*[nodes] * draws).reshape(-1, draws).T.unsqueeze(-1)
        self.weight = torch.cartesian_prod(*[weights / weights.sum()] * draws).reshape(-1, draws).prod(-1)
        super().__init__(loc.expand(len(self.weight), 1), scale.expand(len(self.weight), 1))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        assert tuple(sample_shape) == self.noise.shape[:1]
        return self.loc + self.scale * self.noise

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        z = self.rsample(sample_shape)
        return z, self.log_prob(z)


class _AllTuples(Discrete):
    """S independent draws from a finite support take each S-tuple of its values once."""

    def list_tuples(self, draws: int) -> None:
        values = self._support()
        index = torch.tensor([*itertools.product(range(len(values)), repeat=draws)]).T
        self.tuples = values[index]
        self.weight = self.log_prob(self.tuples).sum(0).exp().detach()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        assert tuple(sample_shape) == self.tuples.shape[:1]
        return self.tuples


class AllChoices(_AllTuples, OneHot):
    def __init__(self, logits: Tensor, draws: int) -> None:
        super().__init__(logits.expand(logits.shape[-1] ** draws, -1))
        self.list_tuples(draws)


class AllBits(_AllTuples, Bernoullis):
    def __init__(self, logits: Tensor, draws: int) -> None:
        super().__init__(logits.expand(2 ** (logits.shape[-1] * draws), -1))
        self.list_tuples(draws)


def expected_gradient(estimate: Callable[[Parameters], tuple[Any, Estimate]], parameters: Parameters) -> Tensor:
    """Expectation of the gradient of a surrogate, flat.

    :param estimate: parameters -> one of the laws above, and what an estimator made of it
    """

    def objective(p: Parameters) -> Tensor:
        q, (_, surrogate) = estimate(p)
        return (q.weight * surrogate).sum()

    return torch.cat(list(torch.func.grad(objective)(parameters).values()))


LINE = {name: torch.tensor([value]).double() for name, value in (("mu", 0.3), ("sigma", 0.8), ("k", -0.5))}


def wave(z: Tensor, p: Parameters) -> Tensor:
    """No polynomial; with a parameter of its own, k, and reading one of q's, σ."""
    return (torch.sin(2 * z + p["k"]) + 0.3 * p["sigma"] * (z * p["k"]) ** 2).sum(-1)


def wave_gradient() -> Tensor:
    """Of E wave(z), z ~ N(μ, σ²), by (μ, σ, k)."""

    def exact(p: Parameters) -> Tensor:
        q = Quadrature(p["mu"], p["sigma"], 1, 60)
        return (q.weight * wave(q.rsample((1,)), p)).sum()

    return torch.cat(list(torch.func.grad(exact)(LINE).values()))


def estimated_wave_gradient(estimator: Estimator, samples: int) -> Tensor:
    """What the estimator gives for it on average."""

    def estimate(p: Parameters) -> tuple[Quadrature, Estimate]:
        q = Quadrature(p["mu"], p["sigma"], samples, 60 if samples == 1 else 30)
        return q, estimator(q, lambda z: wave(z, p), samples)

    return expected_gradient(estimate, LINE)
