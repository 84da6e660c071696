"""Gradients as differences of the cost under two other laws, the parts of the law's weak derivative."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from latentrl.checks import LatentRLError
from latentrl.distributions.gaussian import DiagonalNormal
from latentrl.estimators.base import Estimator, Integrand, draw_count, evaluate
from latentrl.types import Estimate


class MeasureValued(Estimator):
    """Weak derivatives of a diagonal Gaussian, one coordinate at a time (Mohamed et al. 2020, section 6).

    ∂/∂μ E f = (E f(μ + σW) − E f(μ − σW')) / (σ√2π), with W Rayleigh (a Weibull law), and
    ∂/∂σ E f = (E f(μ + σM) − E f(μ + σε)) / σ, with M double-sided Maxwell, of density m² N(m; 0, 1), and ε ~ N(0, 1).
    The other coordinates are drawn from q.

    f may be a black box with jumps. A call evaluates it at (3Z + 1)·S points, in two calls: 3Z·S without gradient, and
    S draws from q, which serve the value, f's own parameters and the negative part of ∂/∂σ.

    :param coupled: both halves of a difference share their noise, W = W' and ε = MU with U uniform in (0, 1) (Rosca et
        al. 2019), which lowers the variance if f is smooth; otherwise they are independent
    """

    unbiased: ClassVar[bool] = True
    needs_rsample: ClassVar[bool] = False
    needs_differentiable_f: ClassVar[bool] = False
    discrete: ClassVar[bool] = False

    def __init__(self, coupled: bool = True) -> None:
        super().__init__()
        self.coupled = coupled

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        """:raises LatentRLError: q is no diagonal Gaussian, f returns another shape than (S, ..., B), or
        num_samples < 1.
        """
        if not isinstance(q, DiagonalNormal):
            nearest = "Pathwise" if q.has_rsample else "ScoreFunction"
            raise LatentRLError(
                f"MeasureValued knows the weak derivatives of DiagonalNormal only, not those of {type(q).__name__}: "
                f"use {nearest}"
            )
        draws = draw_count(num_samples)
        with torch.no_grad():
            z, perturbed = self._points(q, draws)
            costs = evaluate(f, perturbed.flatten(0, 2), q).unflatten(0, perturbed.shape[:3])
        cost = evaluate(f, z, q)  # last: an f that keeps its last result keeps that of draws from q
        constant = cost.detach()
        scale = q.stddev.detach()
        above, below, wide = costs.mean(2).movedim(1, -1)
        by_loc = (above - below) / (scale * math.sqrt(2.0 * math.pi))
        by_scale = (wide - constant.mean(0).unsqueeze(-1)) / scale
        surrogate = (by_loc * q.loc + by_scale * q.stddev).sum(-1) + cost.mean(0)
        return Estimate(constant.mean(0), surrogate)

    def _points(self, q: DiagonalNormal, draws: int) -> tuple[Float[Tensor, "S *batch Z"], Tensor]:
        """Draws from q, and (3, Z, S, ..., B, Z): the draws with coordinate d (dimension 1) replaced.

        Three normals hold all the noise. Seen as a vector in space they have a uniform height e₁/‖e‖ (Archimedes), so
        that e₁ = MU with M = ±‖e‖ of double-sided Maxwell law and U uniform; √(e₂² + e₃²) is Rayleigh.
        """
        shape = (3, draws, *q.loc.shape)
        noise = torch.randn(shape, dtype=q.loc.dtype, device=q.loc.device)
        other = noise if self.coupled else torch.randn_like(noise)
        away = torch.stack([noise[1:].norm(dim=0), -other[1:].norm(dim=0), other.norm(dim=0).copysign(other[0])])
        z, moved = q.loc + q.stddev * noise[0], q.loc + q.stddev * away
        size = q.loc.shape[-1]
        chosen = torch.eye(size, dtype=torch.bool, device=z.device).reshape(size, *[1] * (z.dim() - 1), size)
        return z, torch.where(chosen, moved.unsqueeze(1), z)
