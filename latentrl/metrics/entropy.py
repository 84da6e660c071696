"""How evenly behaviour is spread over modes: coverage and entropy of counts."""

from dataclasses import dataclass

import numpy as np
import scipy  # loads a part such as scipy.stats (most of a second) when it is first used

from latentrl.checks import LatentRLError, at_least
from latentrl.metrics.arrays import Integers, around, as_numbers, mean


@dataclass(frozen=True)
class Entropy:
    """Entropy of a distribution over modes in units of log(number of modes): 0 one mode, 1 all alike."""

    value: float
    ci: tuple[float, float]
    """95 % confidence interval."""


def behaviour_entropy(counts: Integers, confidence: float = 0.95) -> Entropy:
    """Entropy of observed mode counts (M,), to the base of the number of modes M, bias-corrected.

    The plug-in estimate is biased low by about (M' − 1) / 2N nats, M' the modes seen and N the rollouts; the
    Miller–Madow correction adds that back. The interval is normal with the delta-method variance plus the
    second-order term (M' − 1) / 2N², which is what is left where all modes are alike. Both are clipped to [0, 1].
    Its upper end is higher by (M − M') / 2N nats, as if all modes were there, and at least that of as large a share of
    the unseen modes, alike, as modes were seen once (Good 1953). Where all rollouts show one mode, it is that of as
    large a share of all others, alike, as N − 1 rollouts may miss, as the first but names the mode:
    1 − (1 − confidence)^(1/(N − 1)). With fewer rollouts than about three for each mode the value is too low.

    :param counts: (M,) rollouts that showed each mode; zeros count as modes
    :raises LatentRLError: with fewer than two modes, negative counts, or shares in their place
    """
    counts = _whole(counts)
    if counts.ndim != 1 or len(counts) < 2 or (counts < 0).any():
        raise LatentRLError("counts must be one number ≥ 0 per mode, for at least two modes")
    if not 0.0 < at_least("confidence", confidence, 0.0) < 1.0:
        raise LatentRLError(f"confidence must lie between 0 and 1, but {confidence!r} was given: give 0.95 for 95 %")
    if not counts.sum():
        return Entropy(0.0, (0.0, 1.0))
    corrected, variance = _corrected(counts)
    if corrected == 0.0:  # no other mode was seen to estimate a variance from
        return Entropy(0.0, (0.0, _unseen(len(counts), int(counts.sum()), confidence)))
    half = scipy.stats.norm.ppf(0.5 + confidence / 2) * np.sqrt(variance)
    upper = max(corrected + _uncorrected(counts), _with_unseen(counts)) + half
    low, value, high = np.clip(np.array([corrected - half, corrected, upper]) / np.log(len(counts)), 0.0, 1.0)
    return Entropy(float(value), (float(low), float(high)))


def conditional_entropy(counts: Integers) -> Entropy:
    """Mean over contexts of the entropy of behaviour in each, to the base of the number of modes M, bias-corrected.

    H = −(1/C) Σ_c Σ_b π(b|c) log_M π(b|c) over successful rollouts (Jia et al. 2024, D3IL), with the correction of
    :func:`behaviour_entropy` in each context; a context without success counts as 0. A policy that does one thing in
    each context, and other things in others, has 0 here and may have 1 there. The correction needs about three times as
    many successes in each context as there are modes; with fewer the value is still too low, and of many contexts the
    interval misses the truth, if by little.

    The interval is for contexts like these: Student's t over them, whose spread holds both how contexts differ and
    how few rollouts each has; or, where contexts came out more alike than that, the rollouts' own error. Its upper end
    is higher by what contexts may lack, on average: (M − M') / 2N nats, the correction's rest if all modes were there,
    or, of a context with one mode, the entropy of what N − 1 rollouts miss half of the time. Where each context shows
    one mode alone, it is the mean of those of :func:`behaviour_entropy`, as is that of one context alone.

    :param counts: (C, M) successful rollouts of each context that showed each mode; zeros count as modes
    :raises LatentRLError: without contexts, with fewer than two modes or negative counts
    """
    counts = _whole(counts)
    if counts.ndim != 2 or not len(counts) or counts.shape[1] < 2 or (counts < 0).any():
        raise LatentRLError(
            "counts must be (contexts, modes), numbers ≥ 0 for at least one context and two modes, but "
            f"{'some are negative' if counts.size and (counts < 0).any() else f'the shape is {counts.shape}'}"
        )
    if len(counts) == 1:
        return behaviour_entropy(counts[0])
    # Clipped only as a mean, or what one context has too much would be lost and the others' lack not.
    corrected = np.array([_corrected(row) if row.sum() else (0.0, 0.0) for row in counts])
    entropies, variances = corrected[:, 0] / np.log(counts.shape[1]), corrected[:, 1] / np.log(counts.shape[1]) ** 2
    if not entropies.any():
        most = [_unseen(counts.shape[1], int(number), 0.95) for number in counts.sum(1) if number]
        return Entropy(0.0, (0.0, float(np.sum(most)) / len(counts) if most else 1.0))
    found = mean(entropies)
    found = around(found.value, max(found.error, np.sqrt(variances.sum()) / len(counts)), len(counts) - 1)
    more = np.mean([_missing(row) for row in counts if row.any()] + [0.0] * int((counts.sum(1) == 0).sum()))
    low, value, high = np.clip([found.ci[0], found.value, found.ci[1] + more], 0.0, 1.0)
    return Entropy(float(value), (float(low), float(high)))


def _missing(counts: Integers) -> float:
    """What the entropy of counts (M,), to the base of M, may lack: where one mode was seen, that of as large a share of
    the others as is missed half of the time."""
    if (counts > 0).sum() == 1:
        return _unseen(len(counts), int(counts.sum()), 0.5)
    return _uncorrected(counts) / float(np.log(len(counts)))


def _unseen(modes: int, rollouts: int, confidence: float) -> float:
    """Entropy, to the base of the number of modes, where one has been all that was seen."""
    missed = 1.0 if rollouts == 1 else 1.0 - (1.0 - confidence) ** (1.0 / (rollouts - 1))
    others = min(missed, 1.0 - 1.0 / modes)
    shares = np.array([1.0 - others, *[others / (modes - 1)] * (modes - 1)])
    return float(-scipy.special.xlogy(shares, shares).sum() / np.log(modes))


def _with_unseen(counts: Integers) -> float:
    """Entropy of counts (M,) in nats where modes that were not seen share what those that were seen once had."""
    unseen = counts == 0
    share = (counts == 1).sum() / counts.sum() if unseen.any() else 0.0
    p = np.where(unseen, share / max(unseen.sum(), 1), (1.0 - share) * counts / counts.sum())
    return float(-scipy.special.xlogy(p, p).sum())


def _uncorrected(counts: Integers) -> float:
    """What the correction of counts (M,) would add, in nats, if the modes that were not seen were there."""
    return float((counts == 0).sum() / (2 * counts.sum())) if counts.any() else 0.0


def _whole(counts: Integers) -> Integers:
    """Counts, whatever their dtype; otherwise raise."""
    numbers = as_numbers("counts", counts)
    if not (np.isfinite(numbers) & (numbers == np.floor(numbers))).all():
        raise LatentRLError(
            "counts must be whole numbers of rollouts, not shares: how many there were decides how sure an entropy is"
        )
    return numbers


def _corrected(counts: Integers) -> tuple[float, float]:
    """Miller–Madow entropy of counts (M,) in nats and its variance; at least one count is not 0."""
    total = int(counts.sum())
    p = counts / total
    seen = int((counts > 0).sum())
    plug_in = -scipy.special.xlogy(p, p).sum()
    variance = max(0.0, (scipy.special.xlogy(p, p) * np.log(np.where(p > 0, p, 1.0))).sum() - plug_in**2) / total
    return plug_in + (seen - 1) / (2 * total), variance + (seen - 1) / (2 * total**2)


def modes_covered(counts: Integers, minimum: int = 5) -> int:
    """Modes shown by at least ``minimum`` successful rollouts."""
    return int((as_numbers("counts", counts) >= at_least("minimum", minimum, 0)).sum())
