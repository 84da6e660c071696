"""What metrics are given, checked at the door, and the mean of numbers with what is known of it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # loads a part such as scipy.stats (most of a second) when it is first used
from numpy.typing import NDArray

from latentrl.checks import LatentRLError, count

Array = NDArray[np.floating]
Integers = NDArray[np.integer]


@dataclass(frozen=True)
class Mean:
    """An average, and how well it is known."""

    value: float
    error: float
    """Standard error; infinite from one number alone."""
    ci: tuple[float, float]
    """95 % confidence interval."""


def mean(values: Any) -> Mean:
    """Mean of independent numbers (N,), with Student's t interval; of numbers that are not finite nothing is known.

    :raises LatentRLError: no numbers
    """
    values = as_numbers("values", values).astype(np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise LatentRLError(f"a mean needs at least one number (N,), but the shape is {values.shape}")
    if len(values) == 1 or not np.isfinite(values).all():
        return Mean(sum(values.tolist()) / len(values), math.inf, (-math.inf, math.inf))
    return around(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), len(values) - 1)


def around(value: float, error: float, freedom: float) -> Mean:
    """A value with Student's t interval of so many degrees of freedom."""
    half = float(scipy.stats.t.ppf(0.975, freedom)) * error
    return Mean(value, error, (value - half, value + half))


def share(successes: int, total: int) -> Mean:
    """Share of independent trials that succeed, with Wilson's interval, which has a width at 0 and 1, too.

    :raises LatentRLError: no trials
    """
    if count("total", total, 0) < 1:
        raise LatentRLError("a share needs at least one trial, but there is none: evaluate more episodes")
    if count("successes", successes, 0) > total:
        raise LatentRLError(f"{successes} successes are more than {total} trials: look at how they were counted")
    value = successes / total
    interval = scipy.stats.binomtest(successes, total).proportion_ci(method="wilson")
    return Mean(value, math.sqrt(value * (1 - value) / total), (float(interval.low), float(interval.high)))


def as_numbers(what: str, values: Any) -> NDArray[Any]:
    """Values as an array, if they are real numbers, of which none is NaN; otherwise raise."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or np.isnan(array).any():
        raise LatentRLError(f"{what} must be numbers, but {values!r} was given")
    return array


def finite(what: str, values: Any, shape: str) -> Array:
    """Values as float64, if they are numbers of the named shape, at least one, and all finite; otherwise raise.

    :param shape: names of the dimensions, such as "N T D"
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise LatentRLError(f"{what} must be one array ({_dimensions(shape)}) of numbers: {error}") from error
    if array.ndim != len(shape.split()) or 0 in array.shape:
        raise LatentRLError(
            f"{what} must be ({_dimensions(shape)}) with at least one of each, but the shape is {array.shape}"
        )
    if not np.isfinite(array).all():
        bad = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise LatentRLError(f"{what} are not finite, first at {bad}: leave out or repair what broke off")
    return array


def _dimensions(shape: str) -> str:
    names = shape.split()
    return ", ".join(names) + "," * (len(names) == 1)
