"""A Gaussian squashed into a box."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from latentrl.distributions.gaussian import DiagonalNormal
from latentrl.distributions.law import Law


class TanhNormal(Law):
    """The law of ``center + half_width · tanh(u)`` with u ~ N(loc, diag(scale²)): a Gaussian squashed into a box.

    The log-determinant uses log(1 − tanh²u) = 2(log 2 − u − softplus(−2u)), exact far into the tails where
    1 − tanh² underflows.

    :param loc: mean of u, (..., D)
    :param scale: standard deviation of u, (..., D)
    :param low: lower corner of the box, (D,)
    :param high: upper corner of the box, (D,)
    """

    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> None:
        self.base: DiagonalNormal = DiagonalNormal(loc, scale)
        self.low: Tensor = low
        self.high: Tensor = high
        self._drawn: tuple[Tensor | None, int, Tensor] = None, 0, loc
        super().__init__(self.base.batch_shape, self.base.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.interval(self.low, self.high), 1)

    @property
    def center(self) -> Tensor:
        return 0.5 * (self.high + self.low)

    @property
    def half_width(self) -> Tensor:
        return 0.5 * (self.high - self.low)

    def squash(self, u: Tensor) -> Tensor:
        """Map the real line into the box: (1 + tanh u) / 2 of the way from corner to corner, which cannot overshoot."""
        return torch.lerp(self.low, self.high, (2.0 * u).sigmoid().to(self.low.dtype))

    def unsquash(self, value: Tensor) -> Tensor:
        """Inverse of :meth:`squash`; values on the edge are moved inside by one part in 10⁶."""
        return ((value - self.center) / self.half_width).clamp(-1 + 1e-6, 1 - 1e-6).atanh()

    @property
    def mode(self) -> Tensor:
        """Image of the Gaussian's mean: the median of the law and what a deterministic policy plays."""
        return self.squash(self.base.loc)

    @property
    def mean(self) -> Tensor:
        """The law's mean has no closed form; as in stable-baselines3 the image of the Gaussian's mean stands for it."""
        return self.mode

    def expand(self, batch_shape: Any, _instance: Any = None) -> "TanhNormal":
        base = self.base.expand(batch_shape)
        return TanhNormal(base.loc, base.scale, self.low, self.high)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Keeps u of the last draw, so that the score of a draw at the edge is its own."""
        with torch.no_grad():
            u = self.base.rsample(sample_shape)
            value = self.squash(u)
        self._drawn = value, value._version, u
        return value

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.squash(self.base.rsample(sample_shape))

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Tensor, Tensor]:
        """Knows u, which a draw at the edge does not tell."""
        u = self.base.rsample(sample_shape)
        return self.squash(u), self._log_prob(u)

    def log_prob(self, value: Tensor) -> Tensor:
        drawn, version, u = self._drawn
        # What was changed since, or made a leaf, is another value.
        same = value is drawn and value._version == version and not value.requires_grad
        return self._log_prob(u if same else self.unsquash(value))

    def _log_prob(self, u: Tensor) -> Tensor:
        log_slope = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u)) + self.half_width.log()
        return self.base.log_prob(u) - log_slope.sum(-1)
