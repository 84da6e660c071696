"""Laws over finite sets: choices as one-hot vectors, bits, and intervals of a box."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from latentrl.distributions.law import Law


def log_exponential(like: Tensor, shape: torch.Size) -> Tensor:
    """Logarithms of draws from the standard exponential law, of the given shape: Gumbel noise with the other sign.

    :param like: a tensor of the wanted type and device
    """
    uniform = torch.rand(shape, dtype=like.dtype, device=like.device)
    return (-uniform.clamp_min(1e-20).log()).log()


def gumbel_argmax(logits: Tensor, shape: torch.Size) -> Tensor:
    """Draw indices of the given shape from logits (..., K) by the Gumbel-max trick.

    No multinomial, which neither vmap nor CUDA graphs like.
    """
    return (logits - log_exponential(logits, shape + logits.shape[-1:])).argmax(-1)


def one_hot(index: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """One-hot vectors; ``F.one_hot`` looks at the values, which synchronises, and ``vmap`` refuses its scatter."""
    return (index.unsqueeze(-1) == torch.arange(size, device=index.device)).to(dtype)


class Discrete(Law):
    """What laws over vectors of zeros and ones share: ``logits`` (..., D) and the mean ``probs``."""

    has_rsample = False
    has_enumerate_support = True
    logits: Tensor

    @property
    def probs(self) -> Tensor:
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def variance(self) -> Tensor:
        return self.probs * (1.0 - self.probs)

    @property
    def support_size(self) -> int:
        """Number of values, which may be far too many to list."""
        raise NotImplementedError

    def _support(self) -> Tensor:
        """All values, (N, D)."""
        raise NotImplementedError

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All N values, (N, *batch, D)."""
        values = self._support()
        values = values.reshape(len(values), *(1 for _ in self.batch_shape), -1)
        return values.expand(len(values), *self.batch_shape, -1) if expand else values


class OneHots(Discrete):
    """Several independent choices, as one-hot vectors side by side.

    :param logits: unnormalised log probabilities side by side, (..., ΣK)
    :param sizes: K of each choice
    """

    def __init__(self, logits: Tensor, sizes: Sequence[int]) -> None:
        self.sizes: tuple[int, ...] = tuple(int(size) for size in sizes)  # NumPy's would wrap round in products
        # An option that is ruled out by −∞ is as good as impossible, and 0 · −∞ would be no number; nor may several
        # choices of such options add up to −∞.
        least = torch.finfo(logits.dtype).min / (4 * len(self.sizes))
        self.logits: Tensor = self.each_choice(logits, lambda part: part.log_softmax(-1)).clamp_min(least)
        super().__init__(logits.shape[:-1], logits.shape[-1:])

    def each_choice(self, values: Tensor, function: Any) -> Tensor:
        """A function of each choice's entries (..., K), joined again."""
        if len(self.sizes) == 1:
            return function(values)
        if len(set(self.sizes)) == 1:
            return function(values.unflatten(-1, (len(self.sizes), -1))).flatten(-2)
        return torch.cat([function(part) for part in values.split(self.sizes, -1)], -1)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.one_hot if len(self.sizes) == 1 else constraints.independent(constraints.boolean, 1)

    @property
    def probs(self) -> Tensor:
        return self.logits.exp()

    @property
    def mode(self) -> Tensor:
        return self.each_choice(self.logits, lambda part: one_hot(part.argmax(-1), part.shape[-1], part.dtype))

    @property
    def support_size(self) -> int:
        return math.prod(self.sizes)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "OneHots":
        return OneHots(self.logits.expand(torch.Size(batch_shape) + self.event_shape), self.sizes)

    def tempered(self, temperature: float) -> "OneHots":
        return choices(self.logits / temperature, self.sizes)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            logits = self.logits.expand(self._extended_shape(sample_shape))
            return self.each_choice(logits, _draw_one_hot)

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.logits).sum(-1)

    def entropy(self) -> Tensor:
        return -(self.probs * self.logits).sum(-1)

    def _support(self) -> Tensor:
        parts = [torch.eye(size, dtype=self.logits.dtype, device=self.logits.device) for size in self.sizes]
        return torch.stack([torch.cat(rows) for rows in itertools.product(*parts)])


def _draw_one_hot(logits: Tensor) -> Tensor:
    return one_hot(gumbel_argmax(logits, logits.shape[:-1]), logits.shape[-1], logits.dtype)


class OneHot(OneHots):
    """Categorical law over one-hot vectors of length K: a finite latent that decoders read as features.

    ``torch.distributions.OneHotCategorical`` scatters in place, which ``vmap`` refuses; this one does not.

    :param logits: unnormalised log probabilities, (..., K)
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits, logits.shape[-1:])

    def expand(self, batch_shape: Any, _instance: Any = None) -> "OneHot":
        return OneHot(self.logits.expand(torch.Size(batch_shape) + self.event_shape))


def choices(logits: Tensor, sizes: Sequence[int]) -> OneHots:
    """The law of one choice or of several, from logits side by side."""
    return OneHot(logits) if len(sizes) == 1 else OneHots(logits, sizes)


class Bernoullis(Discrete):
    """Independent bits.

    :param logits: log odds of a one, (..., D)
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-1], logits.shape[-1:])

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.boolean, 1)

    @property
    def probs(self) -> Tensor:
        return self.logits.sigmoid()

    @property
    def mode(self) -> Tensor:
        return (self.logits > 0).to(self.logits.dtype)

    @property
    def support_size(self) -> int:
        return 2 ** self.event_shape[0]

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Bernoullis":
        return Bernoullis(self.logits.expand(torch.Size(batch_shape) + self.event_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
            return (uniform < self.probs).to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.logits - F.softplus(self.logits)).sum(-1)

    def entropy(self) -> Tensor:
        return (F.softplus(self.logits) - self.probs * self.logits).sum(-1)

    def _support(self) -> Tensor:
        bits = list(itertools.product((0.0, 1.0), repeat=self.event_shape[0]))
        return torch.tensor(bits, dtype=self.logits.dtype, device=self.logits.device)


class DiscretizedLogistic(Law):
    """A logistic law per dimension, seen only through ``bins`` equal intervals of a box (Salimans et al. 2017, eq. 2).

    Inside an interval the density is constant, so that values stay comparable, in nats, with those of continuous laws;
    where intervals are one unit wide (pixel values from 0 to 256) it is the mass of the interval. The outermost
    intervals take the tails, so nothing lies outside of the box, and its edges can hold much: where actions are clipped
    or saturate, this law fits and a Gaussian does not.

    :param loc: location, (..., D)
    :param scale: scale of the logistic law (its standard deviation is 1.81 times that), (..., D)
    :param low: lower corner of the box, (D,)
    :param high: upper corner of the box, (D,)
    :param bins: number of intervals, at least 2
    """

    has_rsample = False

    def __init__(self, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor, bins: int = 256) -> None:
        self.loc: Tensor = loc
        self.scale: Tensor = scale.expand(loc.shape)
        self.low: Tensor = low
        self.high: Tensor = high
        self.bins: int = bins
        self.width: Tensor = (high - low) / bins
        super().__init__(loc.shape[:-1], loc.shape[-1:])

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.interval(self.low, self.high), 1)

    def index(self, value: Tensor) -> Tensor:
        """Which interval holds a value, as a float; values outside of the box count to the outermost."""
        return ((value - self.low) / self.width).floor().clamp(0, self.bins - 1)

    def _log_mass(self, index: Tensor) -> Tensor:
        """Log probability of an interval, exact where the difference of two distribution functions would cancel."""
        left = (self.low + index * self.width - self.loc) / self.scale
        step = self.width / self.scale
        right = left + step
        inside = F.logsigmoid(right) + F.logsigmoid(-left) + (-torch.expm1(-step)).log()
        mass = torch.where(index == 0, F.logsigmoid(right), inside)
        return torch.where(index == self.bins - 1, F.logsigmoid(-left), mass)

    def log_prob(self, value: Tensor) -> Tensor:
        return (self._log_mass(self.index(value)) - self.width.log()).sum(-1)

    @property
    def mode(self) -> Tensor:
        """Middle of the likeliest interval: the one that holds loc, or an outermost one with its tail."""
        inner = self.index(self.loc)
        choices = torch.stack([inner, torch.zeros_like(inner), torch.full_like(inner, self.bins - 1)])
        best = torch.stack([self._log_mass(choice) for choice in choices]).argmax(0, keepdim=True)
        return self.low + (choices.gather(0, best).squeeze(0) + 0.5) * self.width

    @property
    def mean(self) -> Tensor:
        """The law's mean has no short closed form; its mode stands for it, as with other squashed laws."""
        return self.mode

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretizedLogistic":
        shape = torch.Size(batch_shape) + self.event_shape
        return DiscretizedLogistic(self.loc.expand(shape), self.scale.expand(shape), self.low, self.high, self.bins)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            uniform, place = torch.rand((2, *shape), dtype=self.loc.dtype, device=self.loc.device)
            # The logit of 0 is −∞, which counts to the first interval.
            value = self.low + (self.index(self.loc + self.scale * uniform.logit()) + place) * self.width
            return torch.minimum(value, self.high)  # which rounding may pass
