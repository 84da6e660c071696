"""Mixtures: of Gaussians, whose draws carry gradients, and of any other laws."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from latentrl.distributions.discrete import gumbel_argmax
from latentrl.distributions.gaussian import HALF_LOG_2PI, DiagonalNormal, FullNormal
from latentrl.distributions.law import Law, common_shape
from latentrl.distributions.pairs import bhattacharyya


class Mixture(Law):
    """Σ_k softmax(logits)_k p_k for any laws p_k.

    :param logits: unnormalised log weights, (..., K)
    :param components: the p_k, one law with batch_shape (..., K)
    """

    has_rsample = False

    def __init__(self, logits: Tensor, components: Distribution) -> None:
        self.log_weights: Tensor = logits.log_softmax(-1)
        self.components = components
        batch_shape = common_shape(logits.shape[:-1], components.batch_shape[:-1])
        super().__init__(batch_shape, components.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        return self.components.support  # type: ignore[return-value]

    @property
    def _weights(self) -> Tensor:
        return self.log_weights.exp().unsqueeze(-1)

    @property
    def mean(self) -> Tensor:
        return (self._weights * self.components.mean).sum(-2)

    @property
    def variance(self) -> Tensor:
        spread = (self.components.mean - self.mean.unsqueeze(-2)).square()
        return (self._weights * (self.components.variance + spread)).sum(-2)

    @property
    def mode(self) -> Tensor:
        """Mode of the heaviest component."""
        return self._pick(self.log_weights.argmax(-1).expand(self.batch_shape), self.components.mode)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Mixture":
        shape = (*batch_shape, self.log_weights.shape[-1])
        return Mixture(self.log_weights.expand(shape), self.components.expand(shape))

    def tempered(self, temperature: float) -> "Mixture":
        """Of its components; the weights stay."""
        assert isinstance(self.components, Law)
        return Mixture(self.log_weights, self.components.tempered(temperature))

    def sample_mode(self) -> Tensor:
        index = gumbel_argmax(self.log_weights, self.batch_shape)
        return self._pick(index, self.components.mode)

    def component_log_prob(self, value: Tensor) -> Tensor:
        """log p_k(value) for every component, (..., K)."""
        return self.components.log_prob(value.unsqueeze(-2))

    def log_prob(self, value: Tensor) -> Tensor:
        return (self.log_weights + self.component_log_prob(value)).logsumexp(-1)

    def responsibilities(self, value: Tensor) -> Tensor:
        """p(k | value), (..., K)."""
        return (self.log_weights + self.component_log_prob(value)).softmax(-1)

    def entropy_lower_bound(self) -> Tensor:
        """At most the entropy, in nats; exact for components apart or alike (Kolchinsky & Tracey 2017, eq. 10).

        Σ_i w_i H(p_i) − Σ_i w_i log Σ_j w_j exp(−D_ij) with the Bhattacharyya distance D. Without noise, and
        differentiable in everything.

        :raises LatentRLError: components whose overlap has no closed form
        """
        overlaps = (self.log_weights.unsqueeze(-2) - bhattacharyya(self.components)).logsumexp(-1)
        return (self.log_weights.exp() * (self.components.entropy() - overlaps)).sum(-1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            return self._draw(gumbel_argmax(self.log_weights, shape))

    def _draw(self, index: Tensor) -> Tensor:
        """One draw from each of the components at index (S..., B...)."""
        components = self.components.expand((*self.batch_shape, self.log_weights.shape[-1]))
        return self._pick(index, components.sample(index.shape[: index.dim() - len(self.batch_shape)]))

    @staticmethod
    def _pick(index: Tensor, values: Tensor, event_dims: int = 1) -> Tensor:
        """values (..., K, *event) at index (S..., B...) -> (S..., B..., *event)."""
        event = values.shape[values.dim() - event_dims :]
        if values.dim() == 1 + event_dims:
            return values[index]
        values = values.expand(*index.shape, *values.shape[-1 - event_dims :])
        place = index.reshape(*index.shape, *[1] * (1 + event_dims)).expand(*index.shape, 1, *event)
        return values.gather(index.dim(), place).squeeze(index.dim())


class GaussianMixture(Mixture):
    """Σ_k softmax(logits)_k N(loc_k, diag(scale_k²)).

    ``rsample`` carries gradients to weights, means and scales by implicit reparameterization (Figurnov et al. 2018,
    section 3 and appendix A); gradients of second order are wrong.

    :param logits: unnormalised log weights, (..., K)
    :param loc: component means, (..., K, D)
    :param scale: component standard deviations, broadcastable to ``loc``
    """

    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.loc: Tensor = loc
        self.scale: Tensor = scale
        super().__init__(logits, DiagonalNormal(loc, scale))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "GaussianMixture":
        shape = (*batch_shape, *self.loc.shape[-2:])
        scale = self.scale.expand(self.loc.shape)
        return GaussianMixture(self.log_weights.expand(shape[:-1]), self.loc.expand(shape), scale.expand(shape))

    def tempered(self, temperature: float) -> "GaussianMixture":
        return GaussianMixture(self.log_weights, self.loc, self.scale * temperature)

    def _draw(self, index: Tensor) -> Tensor:
        loc, scale = self._pick(index, self.loc), self._pick(index, self.scale.expand(self.loc.shape))
        return loc + scale * torch.randn_like(loc)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        z = self.sample(sample_shape)
        scale = self.scale.expand(self.loc.shape)
        whitened = (z.unsqueeze(-2) - self.loc) / scale

        def jacobian(density: Tensor, spread: Tensor) -> Tensor:
            inverse = 1.0 / scale
            # Of the log weights of dimension d by each z_j before it.
            by_weights = -spread.mT @ (whitened * inverse)
            return by_weights.tril(-1) + torch.diag_embed((density * inverse).sum(-2))

        return _implicit(z, self.log_weights, whitened, scale.log(), jacobian)


class NearestComponent(GaussianMixture):
    """A Gaussian mixture whose density is told by one component alone: that of the center nearest to the value.

    log π_k + log N(value; loc_k, scale²) with k = argmin ‖(value − center_k) / unit‖, at most the mixture's density.

    :param logits: unnormalised log weights, (..., K)
    :param loc: component means, (..., K, D)
    :param scale: standard deviations that all components share, (D,) or (..., 1, D)
    :param centers: (K, D)
    :param unit: (D,)
    """

    has_rsample = False

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, centers: Tensor, unit: Tensor) -> None:
        self.centers: Tensor = centers
        self.unit: Tensor = unit
        super().__init__(logits, loc, scale)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "NearestComponent":
        wide = super().expand(batch_shape)
        return NearestComponent(wide.log_weights, wide.loc, wide.scale, self.centers, self.unit)

    def tempered(self, temperature: float) -> "NearestComponent":
        return NearestComponent(self.log_weights, self.loc, self.scale * temperature, self.centers, self.unit)

    def log_prob(self, value: Tensor) -> Tensor:
        # Not by a matrix product, which cancels where actions lie far from 0.
        exactly = "donot_use_mm_for_euclid_dist"
        apart = torch.cdist(value / self.unit, self.centers / self.unit, compute_mode=exactly)
        nearest = apart.argmin(-1, keepdim=True)
        joint = self.log_weights + self.component_log_prob(value)
        return joint.gather(-1, nearest.expand(*joint.shape[:-1], 1)).squeeze(-1)


class FullGaussianMixture(Mixture):
    """Σ_k softmax(logits)_k N(loc_k, L_k L_kᵀ); ``rsample`` as in :class:`GaussianMixture`.

    :param logits: unnormalised log weights, (..., K)
    :param loc: component means, (..., K, D)
    :param scale_tril: L_k, lower triangular with positive diagonals, (..., K, D, D)
    """

    has_rsample = True
    components: FullNormal

    def __init__(self, logits: Tensor, loc: Tensor, scale_tril: Tensor) -> None:
        super().__init__(logits, FullNormal(loc, scale_tril))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FullGaussianMixture":
        components = self.components.expand((*batch_shape, self.log_weights.shape[-1]))
        log_weights = self.log_weights.expand(components.batch_shape)
        return FullGaussianMixture(log_weights, components.loc, components.scale_tril)

    def tempered(self, temperature: float) -> "FullGaussianMixture":
        return FullGaussianMixture(self.log_weights, self.components.loc, self.components.scale_tril * temperature)

    def _draw(self, index: Tensor) -> Tensor:
        loc = self._pick(index, self.components.loc)
        scale_tril = self._pick(index, self.components.scale_tril, event_dims=2)
        return loc + (scale_tril @ torch.randn_like(loc).unsqueeze(-1)).squeeze(-1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        z = self.sample(sample_shape)
        scale_tril = self.components.scale_tril
        whitened = self.components.whiten(z.unsqueeze(-2))

        def jacobian(density: Tensor, spread: Tensor) -> Tensor:
            eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
            inverse = torch.linalg.solve_triangular(scale_tril, eye.expand(scale_tril.shape), upper=False)
            # ∂/∂z_j of the log density of the dimensions before d under component k, (..., K, D, D).
            slopes = -whitened.unsqueeze(-1) * inverse
            slopes = F.pad(slopes[..., :-1, :].cumsum(-2), (0, 0, 1, 0))
            return (density.unsqueeze(-1) * inverse + spread.unsqueeze(-1) * slopes).sum(-3)

        return _implicit(z, self.log_weights, whitened, self.components.log_scale(), jacobian)


def _normal_cdf(x: Tensor) -> Tensor:
    """Φ with all its digits in the lower tail, where ``torch.special.ndtr``, 1 + erf, has none left."""
    return 0.5 * torch.erfc(x * -math.sqrt(0.5))


def _implicit(
    z: Tensor,
    log_weights: Tensor,
    whitened: Tensor,
    log_scale: Tensor,
    jacobian: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """z itself, but with the gradient of a draw from a Gaussian mixture, dz/dφ = −(∂S/∂z)⁻¹ ∂S/∂φ.

    S_d(z, φ) = Σ_k w_kd Φ(e_kd) is the distribution function of z_d given z_1 … z_{d−1}: e = L⁻¹(z − μ), and w_kd is
    the weight of component k after the dimensions before d were seen. ∂S/∂z is lower triangular.

    :param z: draws without gradient, (..., D)
    :param log_weights: (..., K)
    :param whitened: e as a function of the parameters, (..., K, D)
    :param log_scale: log of the diagonal of L, (..., K, D)
    :param jacobian: ∂S/∂z, (..., D, D), from w_kd times the density of e_kd, and from w_kd (Φ(e_kd) − S_d), both (...,
        K, D): z_j moves Φ through e_kd, and the weights of the dimensions behind it
    """
    log_density = -0.5 * whitened.square() - log_scale  # up to a constant, which cancels in the weights
    # Of the dimensions before d: summed alone, as one far component would drown them in a difference of sums.
    seen = F.pad(log_density[..., :-1].cumsum(-1), (1, 0))
    weights = (log_weights.unsqueeze(-1) + seen).softmax(-2)
    # Where S is above one half, S − 1 from the upper tail has the same gradient and keeps its digits.
    with torch.no_grad():
        sign = torch.where((weights * _normal_cdf(whitened)).sum(-2, keepdim=True) > 0.5, -1.0, 1.0)
    mass = sign * _normal_cdf(sign * whitened)
    function = (weights * mass).sum(-2)
    with torch.no_grad():
        density = (-0.5 * whitened.square() - HALF_LOG_2PI).exp()
        by_z = jacobian(weights * density, weights * (mass - function.unsqueeze(-2)))
    moved = torch.linalg.solve_triangular(by_z, (function - function.detach()).unsqueeze(-1), upper=False)
    return z - moved.squeeze(-1)
