"""A linear autoencoder on Gaussian data, whose best rate and distortion are known.

With eigenvalues λ of the data's covariance and p(x|z) = N(Wz + b, s² I), a weight β of the KL puts the water level of
reverse water filling at θ = β s²: along each principal direction w² = (λ − θ)₊ and KL = ½ log(λ/θ)₊, at the expected
squared error min(λ, θ).
"""

import math

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from latentrl.decoders import Decoder
from latentrl.distributions import DiagonalNormal
from latentrl.encoders import Encoder
from latentrl.model import LatentModel
from latentrl.posteriors import GaussianPosterior
from latentrl.priors import StandardNormalPrior

EIGENVALUES = np.array([4.0, 2.0, 1.0, 0.5])
NOISE = 0.5
"""s², variance of the decoder's law."""
LOG_NORMALIZER = 0.5 * len(EIGENVALUES) * math.log(2.0 * math.pi * NOISE)


class Untouched(Encoder):
    """No network, so that the posterior's head is linear in the data."""

    def __init__(self, data_dim: int) -> None:
        super().__init__(0, data_dim)
        self.features_dim = data_dim

    def features(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return inputs


class LinearDecoder(Decoder):
    """N(Wz + b, s² I)."""

    sigma: Tensor

    def __init__(self, latent_dim: int, data_dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(latent_dim, data_dim)
        self.register_buffer("sigma", torch.full((data_dim,), NOISE**0.5))

    def forward(self, observations: Tensor, z: Tensor) -> DiagonalNormal:  # noqa: ARG002
        return DiagonalNormal(self.map(z), self.sigma)


def linear_autoencoder() -> LatentModel:
    """As many latents as data dimensions."""
    size = len(EIGENVALUES)
    posterior = GaussianPosterior(Untouched(size), size)
    return LatentModel(posterior, StandardNormalPrior(size), LinearDecoder(size, size))


def exact(level: float) -> tuple[float, float]:
    """KL in nats and expected squared error at the water level θ."""
    return float(0.5 * np.log(EIGENVALUES / level).clip(0.0).sum()), float(np.minimum(EIGENVALUES, level).sum())


def level_at(nats: float) -> float:
    """θ at which the KL is so large."""
    return float(brentq(lambda level: exact(level)[0] - nats, 1e-6, EIGENVALUES.max()))


def reconstruction_of(squared_error: float) -> float:
    """E_q[log p(x|z)] in nats."""
    return -0.5 * squared_error / NOISE - LOG_NORMALIZER


def squared_error_of(reconstruction: float) -> float:
    """The inverse of :func:`reconstruction_of`."""
    return -2.0 * NOISE * (reconstruction + LOG_NORMALIZER)


def gaussian_data(size: int = 10_000) -> Tensor:
    """Data whose own mean is 0 and whose own covariance has exactly the eigenvalues, in a random basis."""
    generator = torch.Generator().manual_seed(0)
    noise, basis = (torch.randn(n, len(EIGENVALUES), generator=generator) for n in (size, len(EIGENVALUES)))
    white = torch.linalg.qr(noise - noise.mean(0)).Q * size**0.5
    return white * torch.tensor(EIGENVALUES).float().sqrt() @ torch.linalg.qr(basis).Q
