"""Gaussians over vectors: with diagonal and with full covariance."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from latentrl.distributions.law import Law, common_shape

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class Gaussian(Law):
    """What both kinds share: the mean is the mode."""

    has_rsample = True
    loc: Tensor

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc


class DiagonalNormal(Gaussian):
    """N(loc, diag(scale²)) over vectors.

    :param loc: mean, (..., D)
    :param scale: standard deviation per dimension, positive, (..., D); batch dimensions broadcast
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        # Batch dimensions may broadcast, as log_prob sums the dimensions of a shared scale only once.
        self.scale: Tensor = scale if scale.shape[-1:] == loc.shape[-1:] else scale.expand(loc.shape)
        more = loc.dim() - scale.dim()
        if more < 0 or (scale.dim() > 1 and scale.shape != loc.shape[more:]):  # or all would have the noise of one
            loc = loc.expand(torch.broadcast_shapes(loc.shape[:-1], self.scale.shape[:-1]) + loc.shape[-1:])
        self.loc = loc
        super().__init__(loc.shape[:-1], loc.shape[-1:])

    @property
    def stddev(self) -> Tensor:
        return self.scale.expand(self.loc.shape)

    @property
    def variance(self) -> Tensor:
        return self.stddev.square()

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiagonalNormal":
        shape = torch.Size(batch_shape) + self.event_shape
        return DiagonalNormal(self.loc.expand(shape), self.scale.expand(shape))

    def tempered(self, temperature: float) -> "DiagonalNormal":
        return DiagonalNormal(self.loc, self.scale * temperature)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        loc = self.loc.expand(self._extended_shape(sample_shape)) if sample_shape else self.loc
        return torch.addcmul(loc, self.scale, torch.randn_like(loc))

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Tensor, Tensor]:
        loc = self.loc.expand(self._extended_shape(sample_shape)) if sample_shape else self.loc
        noise = torch.randn_like(loc)
        return torch.addcmul(loc, self.scale, noise), self._density(noise)

    def log_prob(self, value: Tensor) -> Tensor:
        # The inverse of a scale that the batch shares is few divisions, and its gradient few operations.
        return self._density((value - self.loc) * self.scale.reciprocal())

    def _density(self, whitened: Tensor) -> Tensor:
        # Summed apart, a scale shared by the batch costs D logarithms rather than B·D, forward and backward.
        return _density(whitened, self.scale.log().sum(-1))

    def entropy(self) -> Tensor:
        return (self.scale.log() + (0.5 + HALF_LOG_2PI)).expand(self.loc.shape).sum(-1)


class StandardNormal(DiagonalNormal):
    """N(0, I): the same law, with a cheaper KL.

    :param zeros: (..., D), for shape, dtype and device
    :param ones: the like
    """

    def __init__(self, zeros: Tensor, ones: Tensor) -> None:
        super().__init__(zeros, ones)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "StandardNormal":
        shape = torch.Size(batch_shape) + self.event_shape
        return StandardNormal(self.loc.expand(shape), self.scale.expand(shape))


class FullNormal(Gaussian):
    """N(loc, L Lᵀ) with any covariance.

    :param loc: mean, (..., D)
    :param scale_tril: L, lower triangular with a positive diagonal, (..., D, D)
    """

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        batch_shape = common_shape(loc.shape[:-1], scale_tril.shape[:-2])
        self.loc: Tensor = loc if loc.shape[:-1] == batch_shape else loc.expand(batch_shape + loc.shape[-1:])
        self.scale_tril = scale_tril
        super().__init__(batch_shape, loc.shape[-1:])

    @property
    def covariance_matrix(self) -> Tensor:
        return self.scale_tril @ self.scale_tril.mT

    @property
    def variance(self) -> Tensor:
        return self.scale_tril.square().sum(-1).expand(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FullNormal":
        shape = torch.Size(batch_shape) + self.event_shape
        return FullNormal(self.loc.expand(shape), self.scale_tril.expand(shape + self.event_shape))

    def tempered(self, temperature: float) -> "FullNormal":
        return FullNormal(self.loc, self.scale_tril * temperature)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self._bent(self._noise(sample_shape))

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Tensor, Tensor]:
        noise = self._noise(sample_shape)
        return self._bent(noise), self._density(noise)

    def _noise(self, sample_shape: Any) -> Tensor:
        return torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)

    def _bent(self, noise: Tensor) -> Tensor:
        return self.loc + (self.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)

    def whiten(self, value: Tensor) -> Tensor:
        """L⁻¹ (value − loc), (..., D)."""
        return solve(self.scale_tril, value - self.loc)

    def log_scale(self) -> Tensor:
        """Log of the diagonal of L, (..., D): of each dimension's standard deviation given those before it."""
        return self.scale_tril.diagonal(dim1=-2, dim2=-1).log()

    def log_prob(self, value: Tensor) -> Tensor:
        return self._density(self.whiten(value))

    def _density(self, whitened: Tensor) -> Tensor:
        return _density(whitened, self.log_scale().sum(-1))

    def entropy(self) -> Tensor:
        return (self.log_scale() + (0.5 + HALF_LOG_2PI)).sum(-1).expand(self.batch_shape)


def _density(whitened: Tensor, log_volume: Tensor) -> Tensor:
    """Log density from the whitened value, (..., D), and the log determinant of what whitened it."""
    squares = torch.add(log_volume, whitened.square().sum(-1), alpha=0.5)
    return -HALF_LOG_2PI * whitened.shape[-1] - squares


def solve(scale_tril: Tensor, value: Tensor) -> Tensor:
    """L⁻¹ value for vectors (..., D), whose dimensions broadcast with those of L (..., D, D)."""
    return torch.linalg.solve_triangular(scale_tril, value.unsqueeze(-1), upper=False).squeeze(-1)
