"""Laws that torch lacks, or that it validates, synchronises or draws in ways that hot paths cannot afford.

Every class is a ``torch.distributions.Distribution`` with ``batch_shape`` (..., B) and ``event_shape`` (Z,) or (A,).
Arguments are not validated here: modules that build these laws make them valid by construction.
Gaussian noise is drawn out of place with ``torch.randn``, so that ``torch.func.vmap(..., randomness="different")``
works; torch's own ``Normal.rsample`` fails there.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl
from torch.nn import functional as F

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class DiagonalNormal(Distribution):
    """N(loc, diag(scale²)) over vectors.

    :param loc: mean, (..., D)
    :param scale: standard deviation per dimension, positive, (..., D), broadcastable to ``loc``
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch's own convention)
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc
        # Batch dimensions may broadcast, as log_prob sums the dimensions of a shared scale only once.
        self.scale = scale if scale.shape[-1:] == loc.shape[-1:] else scale.expand(loc.shape)
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def stddev(self) -> Tensor:
        return self.scale.expand(self.loc.shape)

    @property
    def variance(self) -> Tensor:
        return self.stddev.square()

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiagonalNormal":
        shape = torch.Size(batch_shape) + self.event_shape
        return DiagonalNormal(self.loc.expand(shape), self.scale.expand(shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        loc = self.loc.expand(self._extended_shape(sample_shape)) if sample_shape else self.loc
        return torch.addcmul(loc, self.scale, torch.randn_like(loc))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        squares = ((value - self.loc) / self.scale).square().sum(-1)
        # Summed apart, a scale shared by the batch costs D logarithms rather than B·D, forward and backward.
        return -0.5 * squares - (self.scale.log().sum(-1) + HALF_LOG_2PI * self.event_shape[0])

    def entropy(self) -> Tensor:
        return (self.scale.log() + (0.5 + HALF_LOG_2PI)).expand(self.loc.shape).sum(-1)


class StandardNormal(DiagonalNormal):
    """N(0, I): the same law, with a cheaper KL.

    :param zeros: (..., D), for shape, dtype and device
    :param ones: the like
    """

    def __init__(self, zeros: Tensor, ones: Tensor) -> None:
        super().__init__(zeros, ones)


class TanhNormal(Distribution):
    """The law of ``center + half_width · tanh(u)`` with u ~ N(loc, diag(scale²)): a Gaussian squashed into a box.

    The log-determinant uses log(1 − tanh²u) = 2(log 2 − u − softplus(−2u)), exact far into the tails where
    1 − tanh² underflows.

    :param loc: mean of u, (..., D)
    :param scale: standard deviation of u, (..., D)
    :param low: lower corner of the box, (D,)
    :param high: upper corner of the box, (D,)
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> None:
        self.base = DiagonalNormal(loc, scale)
        self.low, self.high = low, high
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

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
        """Map the real line into the box."""
        return self.center + self.half_width * u.tanh()

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

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.squash(self.base.rsample(sample_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        u = self.unsquash(value)
        log_slope = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u)) + self.half_width.log()
        return self.base.log_prob(u) - log_slope.sum(-1)


class GaussianMixture(Distribution):
    """Σ_k softmax(logits)_k N(loc_k, diag(scale_k²)).

    :param logits: unnormalised log weights, (..., K)
    :param loc: component means, (..., K, D)
    :param scale: component standard deviations, broadcastable to ``loc``
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.log_weights = logits.log_softmax(-1)
        self.loc, self.scale = loc, scale
        batch_shape = torch.broadcast_shapes(logits.shape[:-1], loc.shape[:-2])
        super().__init__(batch_shape, loc.shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def mean(self) -> Tensor:
        return (self.log_weights.exp().unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        weights = self.log_weights.exp().unsqueeze(-1)
        return (weights * (self.scale.square() + self.loc.square())).sum(-2) - self.mean.square()

    @property
    def mode(self) -> Tensor:
        """Mean of the heaviest component."""
        return self._pick(self.log_weights.argmax(-1).expand(self.batch_shape), self.loc)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "GaussianMixture":
        shape = torch.Size(batch_shape)
        components, event = self.loc.shape[-2:]
        scale = self.scale.expand(self.loc.shape)
        return GaussianMixture(
            self.log_weights.expand(*shape, components),
            self.loc.expand(*shape, components, event),
            scale.expand(*shape, components, event),
        )

    def component_log_prob(self, value: Tensor) -> Tensor:
        """log N(value; loc_k, scale_k) for every component, (..., K)."""
        return DiagonalNormal(self.loc, self.scale).log_prob(value.unsqueeze(-2))

    def log_prob(self, value: Tensor) -> Tensor:
        return (self.log_weights + self.component_log_prob(value)).logsumexp(-1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            # The Gumbel-max trick: no multinomial, which neither vmap nor CUDA graphs like.
            uniform = torch.rand(shape + self.log_weights.shape[-1:], dtype=self.loc.dtype, device=self.loc.device)
            index = (self.log_weights - (-uniform.clamp_min(1e-20).log()).log()).argmax(-1)
            loc, scale = self._pick(index, self.loc), self._pick(index, self.scale.expand(self.loc.shape))
            return loc + scale * torch.randn(loc.shape, dtype=loc.dtype, device=loc.device)

    @staticmethod
    def _pick(index: Tensor, values: Tensor) -> Tensor:
        """values (..., K, D) at index (S..., B...) -> (S..., B..., D)."""
        if values.dim() == 2:
            return values[index]
        values = values.expand(*index.shape, *values.shape[-2:])
        return values.gather(-2, index[..., None, None].expand(*index.shape, 1, values.shape[-1])).squeeze(-2)


class OneHot(Distribution):
    """Categorical law over one-hot vectors of length K: a finite latent that decoders read as features.

    ``torch.distributions.OneHotCategorical`` scatters in place, which ``vmap`` refuses; this one does not.

    :param logits: unnormalised log probabilities, (..., K)
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = False
    has_enumerate_support = True

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.log_softmax(-1)
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.one_hot

    @property
    def probs(self) -> Tensor:
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        return self._one_hot(self.logits.argmax(-1))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "OneHot":
        return OneHot(self.logits.expand(torch.Size(batch_shape) + self.event_shape))

    def _one_hot(self, index: Tensor) -> Tensor:
        classes = torch.arange(self.event_shape[0], device=self.logits.device)
        return (index.unsqueeze(-1) == classes).to(self.logits.dtype)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
            return self._one_hot((self.logits - (-uniform.clamp_min(1e-20).log()).log()).argmax(-1))

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.logits).sum(-1)

    def entropy(self) -> Tensor:
        return -(self.probs * self.logits).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All K one-hot vectors, (K, *batch, K)."""
        size = self.event_shape[0]
        values = torch.eye(size, dtype=self.logits.dtype, device=self.logits.device)
        values = values.reshape(size, *(1 for _ in self.batch_shape), size)
        return values.expand(size, *self.batch_shape, size) if expand else values


def _kl_diagonal_normal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    ratio = (q.scale / p.scale).square()
    shift = ((q.loc - p.loc) / p.scale).square()
    return 0.5 * (ratio + shift - 1.0 - ratio.log()).sum(-1)


def _kl_standard_normal(q: DiagonalNormal, p: StandardNormal) -> Tensor:  # noqa: ARG001
    return (0.5 * (q.scale.square() + q.loc.square() - 1.0) - q.scale.log()).sum(-1)


def _kl_one_hot(q: OneHot, p: OneHot) -> Tensor:
    return (q.probs * (q.logits - p.logits)).sum(-1)


ANALYTIC_KL: dict[tuple[type[Distribution], type[Distribution]], Callable[..., Tensor]] = {
    (DiagonalNormal, DiagonalNormal): _kl_diagonal_normal,
    (DiagonalNormal, StandardNormal): _kl_standard_normal,
    (OneHot, OneHot): _kl_one_hot,
}
"""KL(q ‖ p) for exact types of q and p; ``torch.distributions.kl_divergence`` knows them too."""
for (_q, _p), _kl in ANALYTIC_KL.items():
    register_kl(_q, _p)(_kl)
