"""What the gradient-variance meter says of one estimator, and the ratio of two such reports."""

import dataclasses
import math
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from latentrl.checks import LatentRLError


@dataclasses.dataclass(frozen=True, eq=False)
class GradientReport:
    """Moments of R independent gradients g_r of P numbers, with d_r = ‖g_r − ḡ‖². A replicate is one objective call."""

    mean: Float[Tensor, " P"]
    """ḡ, the parameters flattened in their given order; float64 on the CPU."""
    mean_se: Float[Tensor, " P"]
    """Standard error of each coordinate of ``mean``; times √R, a coordinate's standard deviation."""
    trace: float
    """tr Σ̂ = Σ d_r / (R − 1)."""
    trace_ci: tuple[float, float]
    """95 % percentile bootstrap over replicates. Too narrow where the report is not ``trustworthy``."""
    layer_traces: dict[str, float]
    """Share of each parameter tensor in the trace, by name; they add up to ``trace``."""
    snr_squared: float
    """(‖ḡ‖² − tr Σ̂/R) / tr Σ̂, signed: its expectation is near 0 where the true mean is 0."""
    kurtosis: float
    """κ = mean(d²) / mean(d)²; for P = 1 the usual kurtosis. Between 1 and R; 1 where all gradients are equal."""
    tail_share: float
    """Share of Σ d_r² that the largest replicate carries alone."""
    seconds_per_gradient: float
    """Wall time of one replicate within its chunk, noise at hand; without the first chunk, which warms up."""
    env_steps_per_gradient: int
    """Environment steps of one replicate."""
    peak_memory: int | None
    """Bytes that the largest chunk took beyond what was held before it: the allocator's count on a GPU, growth of the
    resident set on Linux, which tells megabytes but not kilobytes; None elsewhere."""
    replicates: int
    """R."""
    batch_size: int
    """Samples averaged in one replicate."""
    seed: int
    """Of the noise."""
    cosine: float | None = None
    """Cosine between ``mean`` and the reference; None without reference or where one of them is 0."""
    bias_z: float | None = None
    """Largest |z| over coordinates of ``mean`` minus reference; None without reference."""
    bias_p: float | None = None
    """p-value of ``bias_z`` after Bonferroni, from Student's t. Small means biased; it trusts ``mean_se``, which is too
    small for a coordinate that few replicates reach, such as a weight behind a ReLU that seldom opens."""
    bias_norm_p: float | None = None
    """p-value of ‖ḡ − reference‖² over its expectation, by Fisher's F with its variance (Satterthwaite 1946).
    Blunter than ``bias_p`` where one coordinate is off, without its false alarms; None below 30 replicates, of which
    the variance is not known."""

    @property
    def snr(self) -> float:
        """‖E g‖ / √tr Σ, debiased; 0 where the noise exceeds the signal."""
        return math.sqrt(max(self.snr_squared, 0.0))

    @property
    def log_trace_se(self) -> float:
        """Standard error of log trace, √((κ − 1)/R)."""
        return math.sqrt(max(self.kurtosis - 1.0, 0.0) / self.replicates)

    @property
    def trustworthy(self) -> bool:
        """Whether R supports the trace: R ≥ 30, ``log_trace_se`` ≤ 0.2 and ``tail_share`` ≤ max(1/3, 6/√R).

        The first: the trace is known to a factor of 1.5 with 95 % confidence. That is not enough, since with heavy
        tails κ itself comes out far too low. Hence the second, the maximum-to-sum ratio (Embrechts et al. 1997,
        §6.2.6), which tends to 0 if and only if κ is finite; 6/√R lets a Gaussian pass in 995 of 1000 runs at R = 100.
        At R = 640 a Gaussian always passes, a product of two Gaussians in 8 of 10 runs, Student's t with 2.5 degrees
        of freedom in 1 of 4, a log-normal with σ = 3 never: False asks for more replicates, True is no proof. Of few
        replicates κ says nothing: of two it is always 1.
        """
        largest = max(1 / 3, 6 / math.sqrt(self.replicates))
        return self.replicates >= FEWEST and self.log_trace_se <= 0.2 and self.tail_share <= largest

    @property
    def trace_per_sample(self) -> float:
        """trace × batch_size: the variance from one sample, with the 1/(batch_size − 1) of a leave-one-out baseline."""
        return self.trace * self.batch_size

    @property
    def cost_normalized(self) -> float:
        """trace × seconds_per_gradient: the variance left after averaging for one second."""
        return self.trace * self.seconds_per_gradient

    @property
    def cost_normalized_env_steps(self) -> float:
        """trace × env_steps_per_gradient: the variance left after averaging for one environment step."""
        return self.trace * self.env_steps_per_gradient

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON, without the two vectors; None for what is not finite."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields.update({name: getattr(self, name) for name in DERIVED}, trace_ci=list(self.trace_ci))
        numbers = {name: value for name, value in fields.items() if not isinstance(value, Tensor)}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in numbers.items()}


FEWEST = 30
"""Replicates from which a kurtosis can be told."""
DERIVED = ("snr", "log_trace_se", "trustworthy", "trace_per_sample", "cost_normalized", "cost_normalized_env_steps")


class Ratio(NamedTuple):
    """A ratio of two traces."""

    value: float
    ci: tuple[float, float]
    """95 %, by the delta method on the logarithm."""
    trustworthy: bool
    """Both reports are."""


def variance_ratio(a: GradientReport, b: GradientReport) -> Ratio:
    """tr Σ_a / tr Σ_b of two reports, CI exp(log ratio ± 1.96 √(se_a² + se_b²)).

    They need different seeds: the same draw the same noise, and the interval is of independent reports.

    :raises LatentRLError: different batch sizes, or a trace of 0
    """
    if a.batch_size != b.batch_size:
        raise LatentRLError(f"compare traces at one batch_size, not {a.batch_size} and {b.batch_size}")
    if not (a.trace > 0 and b.trace > 0):
        raise LatentRLError("an estimator without variance has no variance ratio: compare the traces themselves")
    value, factor = a.trace / b.trace, math.exp(1.96 * math.hypot(a.log_trace_se, b.log_trace_se))
    return Ratio(value, (value / factor, value * factor), a.trustworthy and b.trustworthy)
