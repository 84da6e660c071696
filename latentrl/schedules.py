"""KL weights over training: functions ``(step, kl) -> weight``.

``step`` counts gradient updates from 0; ``kl`` is the batch's mean KL in nats, for schedules that react to it. It
comes as a detached tensor, so that reading it does not synchronise with the device; those that do not read it say so by
``reads_kl = False`` and are spared the mean. They are pure, but for a :class:`Multiplier`, which learns.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from torch import Tensor

from latentrl.checks import LatentRLError, at_least, count, instance, real

Schedule: TypeAlias = Callable[[int, Tensor | float], Tensor | float]


@dataclass(frozen=True)
class Constant:
    """β: 1 is the evidence lower bound itself (Higgins et al. 2017 for others)."""

    reads_kl: ClassVar[bool] = False

    beta: float = 1.0

    def __post_init__(self) -> None:
        at_least("beta", self.beta, 0.0)

    def __call__(self, step: int, kl: Tensor | float) -> float:  # noqa: ARG002
        return self.beta


@dataclass(frozen=True)
class LinearAnnealing:
    """From ``start`` to ``end`` over the first ``steps`` updates, then constant (Bowman et al. 2016)."""

    reads_kl: ClassVar[bool] = False

    steps: int
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        at_least("annealing steps", self.steps, 1)
        at_least("start", self.start, 0.0)
        at_least("end", self.end, 0.0)

    def __call__(self, step: int, kl: Tensor | float) -> float:  # noqa: ARG002
        return self.start + (self.end - self.start) * min(1.0, step / self.steps)


@dataclass(frozen=True)
class CyclicalAnnealing:
    """Rises from 0 to ``beta`` over the first ``rise`` of each cycle and stays there for the rest of it, again and
    again (Fu et al. 2019); after the last cycle it stays at ``beta``.

    :param steps: updates of all cycles together
    :param cycles: how many
    :param rise: share of a cycle spent rising
    """

    reads_kl: ClassVar[bool] = False

    steps: int
    cycles: int = 4
    rise: float = 0.5
    beta: float = 1.0

    def __post_init__(self) -> None:
        at_least("annealing steps", self.steps, 1)
        count("cycles", self.cycles, 1)
        at_least("beta", self.beta, 0.0)
        if not 0.0 < at_least("rise", self.rise, 0.0) <= 1.0:
            raise LatentRLError(f"rise is a share of a cycle, above 0 and at most 1, but {self.rise!r} was given")

    def __call__(self, step: int, kl: Tensor | float) -> float:  # noqa: ARG002
        if step >= self.steps:
            return self.beta
        position = step * self.cycles / self.steps % 1.0
        return self.beta * min(1.0, position / self.rise)


@dataclass(frozen=True)
class FreeBits:
    """No weight while the batch's mean KL is below ``nats``, ``beta`` above: that much information is free (Kingma et
    al. 2016, appendix C.8, with the whole latent as one group)."""

    reads_kl: ClassVar[bool] = True

    nats: float
    beta: float = 1.0

    def __post_init__(self) -> None:
        at_least("nats", self.nats, 0.0)
        at_least("beta", self.beta, 0.0)

    def __call__(self, step: int, kl: Tensor | float) -> Tensor | float:  # noqa: ARG002
        return self.beta * (kl > self.nats)


@dataclass(frozen=True)
class Capacity:
    """Weight with the gradient of γ|KL − C|, C growing from 0 to ``nats`` over ``steps`` (Burgess et al. 2018, eq. 8).

    It pulls the batch's mean KL to C from either side, so the weight is negative below C.
    """

    reads_kl: ClassVar[bool] = True

    nats: float
    steps: int
    gamma: float = 10.0

    def __post_init__(self) -> None:
        at_least("nats", self.nats, 0.0)
        at_least("capacity steps", self.steps, 1)
        at_least("gamma", self.gamma, 0.0)

    def __call__(self, step: int, kl: Tensor | float) -> Tensor | float:
        excess = kl - self.nats * min(1.0, step / self.steps)
        return self.gamma * (excess.sign() if isinstance(excess, Tensor) else math.copysign(1.0, excess))


class Multiplier:
    """A weight β = exp(λ) that learns from what it brings about: :meth:`observe` moves λ after each update.

    On an accelerator λ is a tensor, so that nothing waits for the device. Copies and saved files keep it.

    :param rate: of the change of λ per update, at an error as large as its scale
    :param initial: β at the start
    :param limits: smallest and largest β
    """

    reads_kl: ClassVar[bool] = False

    def __init__(self, rate: float, initial: float = 1.0, limits: tuple[float, float] = (1e-4, 1e4)) -> None:
        self.rate: float = at_least("rate", rate, 0.0)
        if not isinstance(limits, Sequence) or len(limits) != 2:
            raise LatentRLError(f"limits are the smallest and largest β, such as (0.1, 10), but {limits!r} was given")
        low = at_least("the smallest β", limits[0], 1e-30)
        self.limits: tuple[float, float] = low, at_least("the largest β", limits[1], low)
        self.initial: float = at_least("initial", initial, 1e-30)
        if not self.limits[0] <= self.initial <= self.limits[1]:
            raise LatentRLError(f"β stays within limits={limits!r}: give an initial one there, not initial={initial!r}")
        self._bounds = math.log(self.limits[0]), math.log(self.limits[1])
        self._log_beta: Tensor | float = math.log(self.initial)

    @property
    def beta(self) -> float:
        """The weight now; synchronises with the device."""
        return math.exp(float(self._log_beta))

    def __call__(self, step: int, kl: Tensor | float) -> Tensor | float:  # noqa: ARG002
        return self._log_beta.exp() if isinstance(self._log_beta, Tensor) else math.exp(self._log_beta)

    def observe(self, step: int, kl: Tensor, reconstruction: Tensor) -> None:
        """Move β, given the batch's mean KL and E_q[log p] under the present weight."""
        raise NotImplementedError

    def _move(self, error: Tensor | float) -> None:
        """Raise λ in proportion to an error, at most by ``rate``."""
        self._log_beta = _clip(self._log_beta + self.rate * _clip(error, -1.0, 1.0), *self._bounds)

    def __getstate__(self) -> dict[str, Any]:
        # A file written on a GPU must open without one. Still a tensor, or the next weights would be rounded otherwise.
        return {name: v.cpu() if isinstance(v, Tensor) else v for name, v in self.__dict__.items()}


class KLConstraint(Multiplier):
    """max E_q[log p] subject to KL ≤ ε, as a saddle point: dual ascent in log β (Higgins et al. 2017, eq. 4 and 5).

    β ends where the KL is ε. Where even a free latent uses less, β falls to its lower limit. The further the rate
    lies above Adam's learning rate, the further β overshoots before it settles; one far too low is late.

    :param target: ε in nats
    """

    def __init__(
        self, target: float, rate: float = 0.05, initial: float = 1.0, limits: tuple[float, float] = (1e-4, 1e4)
    ) -> None:
        super().__init__(rate, initial, limits)
        self.target: float = at_least("target", target, 1e-6)

    def observe(self, step: int, kl: Tensor, reconstruction: Tensor) -> None:  # noqa: ARG002
        self._move(_number(kl) / self.target - 1.0)


class Geco(Multiplier):
    """min KL subject to E_q[log p] ≥ κ (Rezende & Viola 2018): the reconstruction is prescribed, the KL follows.

    Their multiplier of the reconstruction is 1/β. A batch's reconstruction is noisier than its KL, so the rate is lower
    than that of :class:`KLConstraint`.

    :param target: κ, nats of one element
    :param scale: error in nats at which λ moves by ``rate``
    """

    def __init__(
        self,
        target: float,
        scale: float = 1.0,
        rate: float = 0.01,
        initial: float = 1.0,
        limits: tuple[float, float] = (1e-4, 1e4),
    ) -> None:
        super().__init__(rate, initial, limits)
        self.target: float = real("target", target)
        self.scale: float = at_least("scale", scale, 1e-12)

    def observe(self, step: int, kl: Tensor, reconstruction: Tensor) -> None:  # noqa: ARG002
        self._move((_number(reconstruction) - self.target) / self.scale)


class KLRange(Multiplier):
    """β = 1, the evidence lower bound, as long as the KL stays between two bounds; where it would leave them, β moves
    until it is back at the bound.

    Each bound has a multiplier of its own that cannot fall below 0 (projected dual ascent), β = exp(λ_high − λ_low).

    :param low: nats below which the latent would collapse; 0 lets it
    :param high: nats above which it would only memorise
    """

    def __init__(self, low: float, high: float, rate: float = 0.05) -> None:
        super().__init__(rate)
        self.low: float = at_least("low", low, 0.0)
        self.high: float = at_least("high", high, max(low, 1e-6), infinite=True)
        self._above: Tensor | float = 0.0
        self._below: Tensor | float = 0.0

    def observe(self, step: int, kl: Tensor, reconstruction: Tensor) -> None:  # noqa: ARG002
        limit, nats = self._bounds[1], _number(kl)
        self._above = _clip(self._above + self.rate * _clip(nats / self.high - 1.0, -1.0, 1.0), 0.0, limit)
        if self.low > 0.0:
            self._below = _clip(self._below + self.rate * _clip(1.0 - nats / self.low, -1.0, 1.0), 0.0, limit)
        self._log_beta = self._above - self._below


def _number(value: Tensor) -> Tensor | float:
    """A tensor as a number, where to ask for it costs nothing."""
    return value if value.is_cuda else float(value)


def _clip(value: Tensor | float, low: float, high: float) -> Tensor | float:
    return value.clamp(low, high) if isinstance(value, Tensor) else min(max(value, low), high)


@dataclass(frozen=True)
class FadeIn:
    """Another schedule, multiplied by a factor that grows from 0 to 1 over the first ``steps`` updates.

    Until then a :class:`Multiplier` learns nothing: the KL is not yet what its weight brings about.
    """

    schedule: Schedule
    steps: int

    def __post_init__(self) -> None:
        instance("schedule", self.schedule, Callable)
        at_least("steps", self.steps, 0)

    @property
    def reads_kl(self) -> bool:
        return getattr(self.schedule, "reads_kl", True)

    def __call__(self, step: int, kl: Tensor | float) -> Tensor | float:
        return self.schedule(step, kl) * (min(1.0, step / self.steps) if self.steps else 1.0)

    def observe(self, step: int, kl: Tensor, reconstruction: Tensor) -> None:
        """Pass on what a multiplier learns from."""
        if step >= self.steps:
            self.schedule.observe(step, kl, reconstruction)  # type: ignore[attr-defined]

    @property
    def observes(self) -> bool:
        """Whether there is anything to pass on."""
        return getattr(self.schedule, "observes", hasattr(self.schedule, "observe"))


def as_schedule(weight: float | Schedule) -> Schedule:
    """A number is a constant β; a callable is used as it is."""
    if callable(weight):
        return weight
    if isinstance(weight, (int, float)):
        return Constant(float(weight))
    raise LatentRLError(f"the KL weight must be a number or a schedule (step, kl) -> weight, but {weight!r} was given")


@dataclass(frozen=True)
class Cosine:
    """Learning rate from ``initial`` to 0 along half a cosine, as stable-baselines3 asks: a function of the share of
    training that remains, from 1 to 0."""

    initial: float

    def __post_init__(self) -> None:
        at_least("initial", self.initial, 0.0)

    def __call__(self, progress_remaining: float) -> float:
        return self.initial * 0.5 * (1.0 - math.cos(math.pi * progress_remaining))
