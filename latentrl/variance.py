"""The gradient-variance meter: how noisy an estimator is, what it costs, and whether the figure can be believed."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor
from torch.func import grad, vmap

from latentrl.checks import LatentRLError, count
from latentrl.noise_tape import Player, numbers_for, record

Objective: TypeAlias = Callable[[dict[str, Tensor]], Tensor]
"""parameters -> scalar surrogate of one replicate, with noise from torch's global generator."""

MAX_ELEMENTS = 50_000_000  # of the (R, P) matrix of gradients: 400 MB in float64
BOOTSTRAP_DRAWS = 1000
BOOTSTRAP_BLOCK = 4_000_000  # counts held at a time: 32 MB


@dataclasses.dataclass(frozen=True, eq=False)
class GradientReport:
    """Moments of R independent gradients g_r of P numbers, with d_r = ‖g_r − ḡ‖². A replicate is one objective call."""

    mean: Float[Tensor, " P"]
    """ḡ, the parameters flattened in their given order; float64 on the CPU."""
    mean_se: Float[Tensor, " P"]
    """Standard error of each coordinate of ``mean``."""
    trace: float
    """tr Σ̂ = Σ d_r / (R − 1)."""
    trace_ci: tuple[float, float]
    """95 % percentile bootstrap over replicates. Too narrow where the report is not ``trustworthy``."""
    snr_squared: float
    """(‖ḡ‖² − tr Σ̂/R) / tr Σ̂, signed: its expectation is near 0 where the true mean is 0."""
    kurtosis: float
    """κ = mean(d²) / mean(d)²; for P = 1 the usual kurtosis. Between 1 and R; 1 where all gradients are equal."""
    tail_share: float
    """Share of Σ d_r² that the largest replicate carries alone."""
    seconds_per_gradient: float
    """Wall time of one replicate within its chunk, without the first chunk, which warms up."""
    env_steps_per_gradient: int
    """Environment steps of one replicate."""
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
    """p-value of ``bias_z`` after Bonferroni, from Student's t. Small means biased; it trusts ``mean_se``."""

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
        """Whether R supports the trace: ``log_trace_se`` ≤ 0.2 and ``tail_share`` ≤ max(1/3, 6/√R).

        The first: the trace is known to a factor of 1.5 with 95 % confidence. That is not enough, since with heavy
        tails κ itself comes out far too low. Hence the second, the maximum-to-sum ratio (Embrechts et al. 1997,
        §6.2.6), which tends to 0 if and only if κ is finite; 6/√R lets a Gaussian pass in 995 of 1000 runs at R = 100.
        At R = 640 a Gaussian always passes, a product of two Gaussians in 8 of 10 runs, Student's t with 2.5 degrees
        of freedom in 1 of 4, a log-normal with σ = 3 never: False asks for more replicates, True is no proof.
        """
        return self.log_trace_se <= 0.2 and self.tail_share <= max(1 / 3, 6 / math.sqrt(self.replicates))

    @property
    def trace_per_sample(self) -> float:
        """trace × batch_size: the variance from one sample, with the 1/(batch_size − 1) of a leave-one-out baseline."""
        return self.trace * self.batch_size

    @property
    def cost_normalized(self) -> float:
        """trace × seconds_per_gradient: the variance left after averaging for one second."""
        return self.trace * self.seconds_per_gradient

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON, without the two vectors; None for what is not finite."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        derived = ("snr", "log_trace_se", "trustworthy", "trace_per_sample", "cost_normalized")
        fields.update({name: getattr(self, name) for name in derived}, trace_ci=list(self.trace_ci))
        numbers = {name: value for name, value in fields.items() if not isinstance(value, Tensor)}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in numbers.items()}


class Ratio(NamedTuple):
    """A ratio of two traces."""

    value: float
    ci: tuple[float, float]
    """95 %, by the delta method on the logarithm."""
    trustworthy: bool
    """Both reports are."""


def variance_ratio(a: GradientReport, b: GradientReport) -> Ratio:
    """tr Σ_a / tr Σ_b of two reports with different seeds, CI exp(log ratio ± 1.96 √(se_a² + se_b²)).

    :raises LatentRLError: different batch sizes, or a trace of 0
    """
    if a.batch_size != b.batch_size:
        raise LatentRLError(f"compare traces at one batch_size, not {a.batch_size} and {b.batch_size}")
    if not (a.trace > 0 and b.trace > 0):
        raise LatentRLError("an estimator without variance has no variance ratio: compare the traces themselves")
    value, factor = a.trace / b.trace, math.exp(1.96 * math.hypot(a.log_trace_se, b.log_trace_se))
    return Ratio(value, (value / factor, value * factor), a.trustworthy and b.trustworthy)


def gradient_variance(
    objective: Objective,
    parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    replicates: int,
    reference: Tensor | GradientReport | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
    batch_size: int = 1,
    env_steps: int = 0,
) -> GradientReport:
    """Draw R independent gradients at frozen parameters and report their mean, variance and cost.

    Replicates run in parallel under ``vmap(grad(objective), randomness="different")``. The caller's random state is
    left as it was. The same seed and ``chunk_size`` give the identical report, times aside; another ``chunk_size``
    gives other noise. Modules go in through ``functional_call``, in eval mode if they keep running statistics::

        model = nn.Linear(3, 1)
        loss = lambda p: functional_call(model, p, (torch.randn(8, 3),)).square().mean()
        gradient_variance(loss, model.named_parameters(), replicates=1000, batch_size=8)

    :param objective: parameters -> scalar surrogate of one replicate; draws its own noise from torch's global
        generator. Under ``vmap`` ``torch.distributions.Normal`` cannot draw; :mod:`latentrl.distributions` can
    :param parameters: tensors by name, or ``module.named_parameters()``
    :param replicates: R ≥ 2
    :param reference: what ``mean`` is compared with: the exact gradient, flat, or a report with another seed
    :param chunk_size: replicates at a time, which bounds the memory; None for 256. At most half of R is taken, as the
        first chunk warms up and only the others are timed
    :param batch_size: samples that one replicate averages, for ``trace_per_sample``
    :param env_steps: environment steps that one replicate takes
    :raises LatentRLError: R < 2; no or non-floating parameters; R·P above 5·10⁷; an objective that is not a scalar,
        does not depend on the parameters, or has gradients that are not finite; a reference of another size or with
        the same seed
    """
    count("replicates", replicates, 2)
    if chunk_size is not None:
        count("chunk_size", chunk_size, 1)
    tensors = _checked(parameters, replicates)
    chunk = min(chunk_size or 256, math.ceil(replicates / 2))
    size = sum(tensor.numel() for tensor in tensors.values())
    known = None if reference is None else _independent(reference, size, seed)
    gradients, seconds = _draw(objective, tensors, (replicates, size), chunk, seed)
    mean = gradients.mean(0)
    deviations = gradients.sub_(mean)  # in place: the matrix may be large
    squared = torch.linalg.vector_norm(deviations, dim=1) ** 2
    trace = float(squared.sum()) / (replicates - 1)
    mean_se = torch.linalg.vector_norm(deviations, dim=0) / math.sqrt(replicates * (replicates - 1))
    fourth = float(squared.square().sum())
    return GradientReport(
        mean=mean,
        mean_se=mean_se,
        trace=trace,
        trace_ci=_bootstrap(deviations, squared, seed),
        snr_squared=(float(mean.square().sum()) - trace / replicates) / trace if trace > 0 else math.inf,
        kurtosis=replicates * fourth / float(squared.sum()) ** 2 if fourth > 0 else 1.0,
        tail_share=float(squared.max()) ** 2 / fourth if fourth > 0 else 1 / replicates,
        seconds_per_gradient=seconds,
        env_steps_per_gradient=env_steps,
        replicates=replicates,
        batch_size=batch_size,
        seed=seed,
        **(_compare(mean, mean_se, replicates - 1, known) if known else {}),
    )


def _checked(parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], replicates: int) -> dict[str, Tensor]:
    try:
        tensors = {name: tensor.detach() for name, tensor in dict(parameters).items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise LatentRLError("parameters must be tensors by name: a dict or module.named_parameters()") from error
    if not tensors:
        raise LatentRLError("there are no parameters to take a gradient for")
    if wrong := [name for name, tensor in tensors.items() if not tensor.is_floating_point()]:
        raise LatentRLError(f"parameters must be floating-point tensors, and these are not: {', '.join(wrong)}")
    size = sum(tensor.numel() for tensor in tensors.values())
    if replicates * size > MAX_ELEMENTS:
        raise LatentRLError(
            f"{replicates} gradients of {size} numbers exceed the {MAX_ELEMENTS} that are kept in memory: "
            f"take at most {MAX_ELEMENTS // size} replicates, or measure fewer parameters, such as one layer"
        )
    return tensors


@contextmanager
def _private_noise(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators that an objective on ``device`` draws from; afterwards they are as before."""
    cuda = [device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # Not torch.manual_seed, which would also seed devices that fork_rng does not restore.
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


def _draw(
    objective: Objective, parameters: dict[str, Tensor], shape: tuple[int, int], chunk: int, seed: int
) -> tuple[Float[Tensor, "R P"], float]:
    """All gradients, flat, in float64 on the CPU, and the seconds that one took."""

    def scalar(tensors: dict[str, Tensor]) -> Tensor:
        surrogate = objective(tensors)
        if not isinstance(surrogate, Tensor) or surrogate.dim() != 0:
            given = tuple(surrogate.shape) if isinstance(surrogate, Tensor) else type(surrogate).__name__
            raise LatentRLError(f"the objective must return a scalar tensor such as surrogate.mean(), not {given}")
        return surrogate

    def flat_gradient() -> Tensor:
        return torch.cat([g.reshape(-1) for g in grad(scalar)(parameters).values()])

    def replicate(_: Tensor, numbers: list[Tensor]) -> Tensor:
        with Player(draws, numbers):
            return flat_gradient()

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    device = next(iter(parameters.values())).device
    gradients, seconds = torch.empty(shape, dtype=torch.float64), 0.0
    # no_grad keeps parameters that the objective closes over from recording a graph; grad() is not affected by it.
    with _private_noise(seed, device), torch.no_grad():
        draws = record(flat_gradient)
        for start in range(0, len(gradients), chunk):
            rows = gradients[start : start + chunk]
            numbers = numbers_for(draws, seed, range(start, start + len(rows)))
            begin = clock()
            drawn = vmap(replicate, randomness="different")(torch.empty(len(rows), device=device), numbers)
            seconds += clock() - begin if start else 0.0
            rows.copy_(drawn)
    if bad := int((~gradients.isfinite().all(1)).sum()):
        raise LatentRLError(f"{bad} of {len(gradients)} gradients are not finite: they have no variance")
    if not gradients.any():
        raise LatentRLError(
            f"all {len(gradients)} gradients are exactly 0: no parameter affects the surrogate "
            "(is it detached, or is a pathwise gradient taken through a step?)"
        )
    return gradients, seconds / (len(gradients) - chunk)


_Known: TypeAlias = tuple[Tensor, Tensor | float, float]
"""Mean, standard error and degrees of freedom of a reference."""


def _independent(reference: Tensor | GradientReport, size: int, seed: int) -> _Known:
    if not isinstance(reference, GradientReport):
        known: _Known = reference.detach().cpu().double(), 0.0, math.inf
    elif reference.seed == seed:
        raise LatentRLError(f"the reference was drawn with the same seed {seed}, so it is not independent")
    else:
        known = reference.mean, reference.mean_se, reference.replicates - 1
    if known[0].shape != (size,):
        raise LatentRLError(f"the reference must be flat with {size} numbers, not of shape {tuple(known[0].shape)}")
    return known


def _compare(mean: Tensor, mean_se: Tensor, freedom: int, known: _Known) -> dict[str, float | None]:
    """Cosine, largest |z| and its Bonferroni-corrected p-value, with the reference's own error."""
    exact, error, known_freedom = known
    # Where there is (next to) no noise, a difference within float32's rounding is no bias.
    rounding = 4 * torch.finfo(torch.float32).eps * torch.maximum(mean.abs().max(), exact.abs().max())
    spread = (mean_se**2 + error**2 + rounding**2).sqrt()
    z = float(((mean - exact).abs() / spread.clamp_min(torch.finfo(torch.float64).tiny)).max())
    p = min(1.0, 2 * len(mean) * float(stats.t.sf(z, min(freedom, known_freedom))))
    norms = float(mean.norm() * exact.norm())
    return {"cosine": float(mean @ exact) / norms if norms > 0 else None, "bias_z": z, "bias_p": p}


def _bootstrap(deviations: Float[Tensor, "R P"], squared: Float[Tensor, " R"], seed: int) -> tuple[float, float]:
    """95 % percentile interval of tr* = (Σ w_r d_r − R‖Σ w_r c_r / R‖²) / (R − 1), w the counts of a resample."""
    replicates, size = deviations.shape
    generator = torch.Generator().manual_seed(seed)
    block = max(1, min(BOOTSTRAP_DRAWS, BOOTSTRAP_BLOCK // replicates))
    gram = deviations @ deviations.T if size > replicates else None
    traces = []
    for start in range(0, BOOTSTRAP_DRAWS, block):
        shape = (min(block, BOOTSTRAP_DRAWS - start), replicates)
        index = torch.randint(replicates, shape, generator=generator)
        counts = torch.zeros(shape, dtype=torch.float64).scatter_add_(1, index, torch.ones(shape, dtype=torch.float64))
        # ‖Σ w c‖², through the smaller of the two matrices
        moved = (counts @ deviations).square().sum(1) if gram is None else ((counts @ gram) * counts).sum(1)
        traces.append((counts @ squared - moved / replicates) / (replicates - 1))
    low, high = torch.cat(traces).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
