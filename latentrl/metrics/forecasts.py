"""How good several forecasts of what happened are: samples (K, N, T, D) of N truths (N, T, D), in their unit.

All give one number per truth (N,), so that means, errors and paired comparisons are the reader's.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy  # loads a part such as scipy.stats (most of a second) when it is first used

from latentrl.checks import LatentRLError, at_least, real
from latentrl.metrics.arrays import Array, finite

FLOOR = -20.0
"""Nats below which a log density counts as this much, as one miss would outweigh everything (Trajectron++'s)."""


class BestOfK(NamedTuple):
    """Displacements of the best of K forecasts, the best by each measure for itself."""

    ade: Array
    """(N,) least mean distance over time."""
    fde: Array
    """(N,) least distance at the last time."""


def best_of_k(samples: Any, truths: Any) -> BestOfK:
    """Least average and least final displacement among K forecasts, as the ETH/UCY protocol takes them (its K is 20).

    The protocol's numbers are the means over agents. They reward spread: whoever scatters forecasts widely enough has
    one near the truth, so put :func:`energy_score` or :func:`kde_nll` beside them.

    :raises LatentRLError: shapes that do not fit, nothing, values that are not finite
    """
    samples, truths = _checked(samples, truths, 1)
    apart = np.linalg.norm(samples - truths, axis=-1)
    return BestOfK(apart.mean(-1).min(0), apart[..., -1].min(0))


def energy_score(samples: Any, truths: Any) -> Array:
    """E‖X − y‖ − ½ E‖X − X'‖ of each truth y, (N,): a proper score, the lower the better (Gneiting & Raftery
    2007, sec. 4.3).

    ‖·‖ is the root-mean-square distance over time, a Hilbert norm, as in :func:`energy_distance`. Pairs of a forecast
    with itself are left out, so that its mean is that of the law of forecasts whatever K is; one value may be negative.

    :raises LatentRLError: fewer than two samples, shapes that do not fit, values that are not finite
    """
    samples, truths = _checked(samples, truths, 2)
    number = len(samples)
    miss = _rms(samples - truths).mean(0)
    # One sample against those after it: all pairs at once would be K times the data.
    pairs = sum(_rms(samples[k + 1 :] - samples[k]).sum(0) for k in range(number - 1))
    return miss - pairs / (number * (number - 1))


def kde_nll(samples: Any, truths: Any, floor: float = FLOOR, resolution: float = 0.0) -> Array:
    """Negative log density of each truth under a Gaussian kernel estimate from K forecasts, mean over time, (N,) nats.

    At each time the kernel is the forecasts' own covariance times the square of Scott's factor, K^(−1/(D+4)), and the
    log density is cut off at ``floor`` (Ivanovic & Pavone 2019; Salzmann et al. 2020, Trajectron++).

    :param resolution: standard deviation by which each kernel is blurred: how exactly truths were measured. Above 0,
        forecasts that all agree have a density, too
    :raises LatentRLError: forecasts that lie on one point, line or plane, where there is no density; fewer than two;
        shapes that do not fit, values that are not finite; a negative resolution
    """
    samples, truths = _checked(samples, truths, 2)
    at_least("resolution", resolution, 0.0)
    real("floor", floor)
    number, dims = len(samples), truths.shape[-1]
    points = np.moveaxis(samples, 0, -2)  # (N, T, K, D)
    centred = points - points.mean(-2, keepdims=True)
    scott = number ** (-1.0 / (dims + 4))
    covariance = scott**2 * (np.swapaxes(centred, -1, -2) @ centred) / (number - 1) + resolution**2 * np.eye(dims)
    # Of the correlations, so that features may have units of their own; a feature without spread has none.
    scale = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    scale = np.where(scale > 0, scale, 1.0)
    spread = np.linalg.eigvalsh(covariance / (scale[..., :, None] * scale[..., None, :]))
    flat = spread[..., 0] <= 1e-12 * spread[..., -1]
    if flat.any():
        agent, time = (int(i) for i in np.argwhere(flat)[0])
        raise LatentRLError(
            f"the {number} forecasts of truth {agent} at time {time} have no density in {dims} dimensions: draw more "
            f"than {dims}, that differ, or give a resolution; a policy without randomness has no density of its own"
        )
    lower = np.linalg.cholesky(covariance)
    white = np.linalg.solve(lower, np.swapaxes(truths[..., None, :] - points, -1, -2))
    log_volume = np.log(np.diagonal(lower, axis1=-2, axis2=-1)).sum(-1) + 0.5 * dims * np.log(2 * np.pi)
    log_density = scipy.special.logsumexp(-0.5 * (white**2).sum(-2), axis=-1) - np.log(number) - log_volume
    return -np.maximum(log_density, floor).mean(-1)


def _rms(differences: Array) -> Array:
    """Root over time and features of differences (..., T, D): (...)."""
    return np.sqrt((differences**2).sum((-1, -2)) / differences.shape[-2])


def _checked(samples: Any, truths: Any, least: int) -> tuple[Array, Array]:
    samples, truths = finite("samples", samples, "K N T D"), finite("truths", truths, "N T D")
    if samples.shape[1:] != truths.shape or len(samples) < least:
        raise LatentRLError(
            f"samples must be (K, N, T, D), K ≥ {least}, for truths (N, T, D), but they are {samples.shape} for "
            f"{truths.shape}"
        )
    return samples, truths
