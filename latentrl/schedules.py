"""KL weights over training: pure functions ``(step, kl) -> weight``.

``step`` counts gradient updates from 0; ``kl`` is the last batch's KL in nats, for schedules that react to it. It
comes as a tensor, so that reading it does not synchronise with the device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from latentrl.checks import LatentRLError, at_least

Schedule: TypeAlias = Callable[[int, Tensor | float], Tensor | float]


@dataclass(frozen=True)
class Constant:
    """β: 1 is the evidence lower bound itself (Higgins et al. 2017 for others)."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        at_least("beta", self.beta, 0.0)

    def __call__(self, step: int, kl: Tensor | float) -> float:  # noqa: ARG002
        return self.beta


@dataclass(frozen=True)
class LinearAnnealing:
    """From ``start`` to ``end`` over the first ``steps`` updates, then constant (Bowman et al. 2016)."""

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
class FadeIn:
    """Another schedule, multiplied by a factor that grows from 0 to 1 over the first ``steps`` updates."""

    schedule: Schedule
    steps: int

    def __call__(self, step: int, kl: Tensor | float) -> Tensor | float:
        return self.schedule(step, kl) * (min(1.0, step / self.steps) if self.steps else 1.0)


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

    def __call__(self, progress_remaining: float) -> float:
        return self.initial * 0.5 * (1.0 - math.cos(math.pi * progress_remaining))
