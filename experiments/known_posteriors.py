"""Posteriors over two latents whose truth is known, as a sum over a fine grid.

The data are one segment over which z is held, so p(data, z) is that of an ordinary ``LatentModel`` whose decoder is the
likelihood and whose prior is N(0, I).
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from latentrl.decoders import Decoder
from latentrl.distributions import Bernoullis, DiagonalNormal
from latentrl.encoders import Encoder
from latentrl.model import LatentModel
from latentrl.posteriors import FlowPosterior, FullGaussianPosterior, GaussianPosterior
from latentrl.priors import StandardNormalPrior
from latentrl.types import Batch

Law: TypeAlias = Callable[[Tensor, Tensor], Distribution]
"""x (1, T, O) and z (..., 1, Z) to the law of y (1, T, 1)."""
SIDE = 241
"""Grid points along each axis, from -6 to 6. The trapezoidal rule is exact to many digits where a density vanishes at
the rim and is wider than the step of 0.05."""
FAMILIES = {"mean field": GaussianPosterior, "full covariance": FullGaussianPosterior, "flow": FlowPosterior}
MOMENTS = ("mean z1", "mean z2", "sd z1", "sd z2", "correlation", "E f")


class Likelihood(Decoder):
    """A law without a network."""

    def __init__(self, law: Law) -> None:
        super().__init__()
        self.law = law

    def forward(self, observations: Tensor, z: Tensor) -> Distribution:
        return self.law(observations, z)


class OneDataSet(Encoder):
    """Reads nothing: of a single data set the posterior is a set of free numbers."""

    features_dim = 1

    def features(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return inputs.new_ones(len(inputs), 1)


class KnownPosterior:
    """p(z|data) on a grid of N points: ``log_p`` are log densities (N,), ``mass`` their shares of the whole.

    :param law: of y given x and z
    :param x: (T, O)
    :param y: (T, 1)
    :param f: (N, 2) -> (N,), the statistic whose expectation is asked for
    """

    def __init__(self, law: Law, x: Tensor, y: Tensor, f: Callable[[Tensor], Tensor]) -> None:
        self.likelihood, self.batch, self.f = Likelihood(law), Batch.full(x[None], y[None]), f
        self.joint = self.build("mean field")  # whatever its q
        axis = torch.linspace(-6.0, 6.0, SIDE, dtype=torch.float64)
        self.points, self.area = torch.cartesian_prod(axis, axis).unsqueeze(1), float(axis[1] - axis[0]) ** 2
        log_joint = self.log_joint(self.points)
        self.log_evidence = float(log_joint.logsumexp(0)) + math.log(self.area)
        self.log_p = log_joint - self.log_evidence
        self.mass = self.log_p.exp() * self.area
        self.truth = self.moments(self.points[:, 0], self.mass)

    def build(self, family: str) -> LatentModel:
        """An untrained q of one of the FAMILIES, in float64."""
        posterior = FAMILIES[family](OneDataSet(self.batch.observations.shape[-1], 1), 2)
        return LatentModel(posterior, StandardNormalPrior(2), self.likelihood).double()

    def log_joint(self, z: Float[Tensor, "N 1 2"]) -> Float[Tensor, " N"]:
        """log p(data, z)."""
        given = self.joint.log_likelihood_given(self.batch, z)
        return (given + self.joint.prior(self.batch.start).log_prob(z)).squeeze(-1)

    def moments(self, z: Float[Tensor, "N 2"], mass: Float[Tensor, " N"]) -> dict[str, float]:
        """MOMENTS of weighted points."""
        mean = mass @ z
        covariance = (z - mean).T @ ((z - mean) * mass[:, None])
        sd = covariance.diagonal().sqrt()
        values = [*mean, *sd, covariance[0, 1] / sd.prod(), mass @ self.f(z)]
        return dict(zip(MOMENTS, map(float, values), strict=True))

    def errors(self, moments: dict[str, float]) -> dict[str, float]:
        """Moments less the true ones; those of z in units of its true standard deviations."""
        units = {name: self.truth["sd" + name[-3:]] if name[-2:-1] == "z" else 1.0 for name in MOMENTS}
        return {name: (moments[name] - self.truth[name]) / units[name] for name in MOMENTS}


def known_posteriors() -> dict[str, KnownPosterior]:
    """Logistic regression with correlated inputs, nearly Gaussian; and a parabola seen through noise, a banana."""
    noise = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = noise[:, :2] @ noise.new_tensor([[2.0, 1.9], [0.0, 0.6]])  # correlation 0.95
    y = (torch.special.ndtr(noise[:, 2:3]) < (x @ x.new_tensor([[1.5], [-1.0]])).sigmoid()).double()
    heights = 1.0 + 0.5 * noise[:6, 3:]
    away = x.new_tensor([2.0, -2.0])  # an input unlike those seen: f is the chance of a one there

    def logistic(x: Tensor, z: Tensor) -> Bernoullis:
        return Bernoullis(x @ z.unsqueeze(-1))

    def parabola(x: Tensor, z: Tensor) -> DiagonalNormal:
        height = (z[..., 1:] + z[..., :1].square()).unsqueeze(-2)
        return DiagonalNormal(height.expand(*height.shape[:-2], x.shape[-2], 1), z.new_tensor([0.5]))

    return {
        "logistic": KnownPosterior(logistic, x, y, lambda z: (z @ away).sigmoid()),
        "banana": KnownPosterior(parabola, x[:6, :0], heights, lambda z: z[:, 0].square() * z[:, 1]),
    }
