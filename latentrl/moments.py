"""Moments of independent gradients: from a matrix of them, from a stream, or from those by a network's outputs."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from latentrl.checks import LatentRLError
from latentrl.output_jacobian import OutputJacobian

BOOTSTRAP_DRAWS = 1000
BOOTSTRAP_BLOCK = 4_000_000  # counts held at a time: 32 MB
ROWS = 256
"""Whose inner products are held at a time."""


class Moments(NamedTuple):
    """Of R gradients g_r of P numbers, in float64."""

    mean: Float[Tensor, " P"]
    variance: Float[Tensor, " P"]
    """Of each coordinate, with R − 1."""
    squared: Float[Tensor, " R"]
    """d_r = ‖g_r − ḡ‖²."""
    deviations: Float[Tensor, "R D"] | None
    """Vectors with the inner products of the g_r − ḡ; None where they were too many to keep."""

    @property
    def trace(self) -> float:
        """tr Σ̂ = Σ d_r / (R − 1)."""
        return float(self.squared.sum()) / (len(self.squared) - 1)

    @property
    def snr_squared(self) -> float:
        """(‖ḡ‖² − tr Σ̂/R) / tr Σ̂: without bias by the noise in ḡ."""
        trace = self.trace
        return (float(self.mean.square().sum()) - trace / len(self.squared)) / trace if trace > 0 else math.inf

    @property
    def kurtosis(self) -> float:
        """mean(d²) / mean(d)²."""
        fourth = float(self.squared.square().sum())
        return len(self.squared) * fourth / float(self.squared.sum()) ** 2 if fourth > 0 else 1.0

    @property
    def concentration(self) -> float:
        """tr Σ² / (tr Σ)², 1 where all noise lies in one direction: from inner products of different replicates.

        Without deviations, what it would be of Gaussian gradients with this kurtosis, (κ − 1)/2.
        """
        if self.deviations is None or self.trace == 0.0:
            return concentration(self.variance, self.kurtosis)
        number = len(self.squared)
        rows = self.deviations if self.deviations.shape[1] > number else self.deviations.T
        total = sum(float((part @ rows.T).square().sum()) for part in rows.split(ROWS))
        return max(0.0, total - float(self.squared.square().sum())) / (number * (number - 1)) / self.trace**2

    @property
    def tail_share(self) -> float:
        """Share of Σ d_r² that the largest replicate carries alone."""
        fourth = float(self.squared.square().sum())
        return float(self.squared.max()) ** 2 / fourth if fourth > 0 else 1 / len(self.squared)


def concentration(variance: Float[Tensor, " P"], kurtosis: float) -> float:
    """tr Σ² / (tr Σ)² of Gaussian gradients: (κ − 1)/2, but from that of uncorrelated coordinates to 1."""
    trace = float(variance.sum())
    least = float((variance / trace).square().sum()) if trace > 0.0 else 0.0
    return min(1.0, max(least, (kurtosis - 1.0) / 2.0))


def moments(gradients: Float[Tensor, "R D"], jacobian: OutputJacobian | None = None) -> Moments:
    """Moments of the rows, or of rows times a Jacobian without ever forming these products.

    Where all gradients go through the same D outputs, g_r = Jᵀ v_r, so that d_r = (v_r − v̄)ᵀ J Jᵀ (v_r − v̄) takes a
    (D, D) matrix in place of R gradients of P numbers.

    :param gradients: overwritten by their deviations from the mean
    :raises LatentRLError: gradients that are not finite, or all 0
    """
    _finite(gradients)
    mean = gradients.mean(0)
    if not gradients.any():
        raise _still(len(gradients))
    deviations = gradients.sub_(mean)  # in place: the matrix may be large
    if jacobian is None:
        variance = deviations.square().sum(0) / (len(deviations) - 1)
    else:
        variance = jacobian.variance(deviations.T @ deviations / (len(deviations) - 1))
        mean = jacobian.transposed(mean)
        values, vectors = torch.linalg.eigh(jacobian.gram())
        deviations = deviations @ (vectors * values.clamp_min(0.0).sqrt())
    return Moments(mean, variance, torch.linalg.vector_norm(deviations, dim=1) ** 2, deviations)


def streamed_moments(chunks: Callable[[], Iterator[Float[Tensor, "C P"]]]) -> Moments:
    """Moments of gradients too many to keep: they are drawn twice, for the mean and for what lies around it.

    Sums run row by row, so that they do not depend on the chunks.

    :param chunks: gives the same gradients each time
    :raises LatentRLError: as :func:`moments`
    """
    total, number = torch.zeros(()), 0
    for chunk in chunks():
        _finite(chunk)
        for row in chunk:
            total = total + row
        number += len(chunk)
    mean = total / number
    spread, squared = torch.zeros_like(mean), []
    for chunk in chunks():
        for row in chunk - mean:
            spread += row.square()
            squared.append(torch.linalg.vector_norm(row) ** 2)
    distances = torch.stack(squared)
    if not (mean.any() or distances.any()):
        raise _still(number)
    return Moments(mean, spread / (number - 1), distances, None)


def _finite(gradients: Float[Tensor, "R P"]) -> None:
    if bad := int((~gradients.isfinite().all(1)).sum()):
        raise LatentRLError(f"{bad} of {len(gradients)} gradients are not finite: they have no variance")


def _still(number: int) -> LatentRLError:
    return LatentRLError(
        f"all {number} gradients are exactly 0: no parameter affects the surrogate "
        "(is it detached, or is a pathwise gradient taken through a step?)"
    )


def trace_interval(found: Moments, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap of tr* = (Σ w_r d_r − R‖Σ w_r c_r / R‖²) / (R − 1), w the counts of a resample.

    Without the deviations c_r the second term is taken for what it is on average: a share of about 1/R.
    """
    squared, deviations = found.squared, found.deviations
    replicates = len(squared)
    generator = torch.Generator().manual_seed(seed)
    block = max(1, min(BOOTSTRAP_DRAWS, BOOTSTRAP_BLOCK // replicates))
    gram = deviations @ deviations.T if deviations is not None and deviations.shape[1] > replicates else None
    traces = []
    for start in range(0, BOOTSTRAP_DRAWS, block):
        shape = (min(block, BOOTSTRAP_DRAWS - start), replicates)
        index = torch.randint(replicates, shape, generator=generator)
        counts = torch.zeros(shape, dtype=torch.float64).scatter_add_(1, index, torch.ones(shape, dtype=torch.float64))
        if deviations is None:
            moved = counts @ squared
        else:
            # ‖Σ w c‖², through the smaller of the two matrices
            moved = (counts @ deviations).square().sum(1) if gram is None else ((counts @ gram) * counts).sum(1)
        traces.append((counts @ squared - moved / replicates) / (replicates - 1))
    low, high = torch.cat(traces).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
