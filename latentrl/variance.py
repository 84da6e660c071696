"""The gradient-variance meter: how noisy an estimator is, what it costs, and whether the figure can be believed."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy  # loads a part such as scipy.stats (most of a second) when it is first used
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap

from latentrl.checks import LatentRLError, count
from latentrl.gradient_report import FEWEST, GradientReport, Ratio, variance_ratio
from latentrl.memory import Peak, enough_memory, peak_memory
from latentrl.moments import Moments, concentration, moments, streamed_moments, trace_interval
from latentrl.noise_tape import Player, numbers_for, record
from latentrl.output_jacobian import OutputJacobian

__all__ = ["GradientReport", "Objective", "Parameters", "Ratio", "SharedOutputs", "gradient_variance", "variance_ratio"]

Objective: TypeAlias = Callable[[dict[str, Tensor]], Tensor]
"""parameters -> scalar surrogate of one replicate, with noise from torch's global generator."""

Parameters: TypeAlias = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]

MOST_KEPT = 50_000_000
"""Numbers of all gradients, up to which they are kept: 400 MB in float64."""
MOST_AT_ONCE = 20_000_000
"""Numbers of one chunk's gradients, where the chunk is ours to choose."""
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class SharedOutputs:
    """An objective whose replicates share what a network says, and differ in what is drawn afterwards.

    The gradient by P parameters is then Jᵀ times that by D outputs: one Jacobian, and R gradients of D numbers, give
    the moments of R gradients of P; the Jacobian, once for all, is not part of the seconds and memory of one gradient.
    Without it each replicate goes back through the network on its own::

        outputs = lambda p: torch.cat(functional_call(encoder, p, (x,)))   # (2 Z,): the law of z for one x
        surrogate = lambda out: estimator(DiagonalNormal(*out.chunk(2, -1)), f).surrogate
        gradient_variance(SharedOutputs(outputs, surrogate), encoder.named_parameters(), replicates=4096)

    :param outputs: parameters -> tensor, without noise
    :param surrogate: that tensor -> scalar surrogate of one replicate
    """

    outputs: Callable[[dict[str, Tensor]], Tensor]
    surrogate: Callable[[Tensor], Tensor]

    def __call__(self, parameters: dict[str, Tensor]) -> Tensor:
        return self.surrogate(self.outputs(parameters))


def gradient_variance(
    objective: Objective,
    parameters: Parameters,
    replicates: int,
    reference: Tensor | GradientReport | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
    batch_size: int = 1,
    env_steps: int = 0,
) -> GradientReport:
    """Draw R independent gradients at frozen parameters and report their mean, variance and cost.

    Replicates run in parallel under ``vmap(grad(objective))``. Each has random numbers of its own, given by ``seed``
    and its place, for what the objective draws with ``torch.rand``, ``torch.randn`` and ``torch.randint``: the same
    seed gives the identical report, times and memory aside, whatever the chunks. What else it draws comes from torch's
    generators, seeded for each report; the caller's random state is left as it was. Modules go in through
    ``functional_call``, in eval mode if they keep running statistics::

        model = nn.Linear(3, 1)
        loss = lambda p: functional_call(model, p, (torch.randn(8, 3),)).square().mean()
        gradient_variance(loss, model.named_parameters(), replicates=1000, batch_size=8)

    Up to 5·10⁷ numbers of all gradients are kept; more than that are drawn twice instead, for the mean and for what
    lies around it.

    :param objective: parameters -> scalar surrogate of one replicate; it is called once more than there are chunks, to
        see what it draws. Under ``vmap`` ``torch.distributions.Normal`` cannot draw; :mod:`latentrl.distributions` can.
        Where all replicates share a network's outputs, :class:`SharedOutputs` is far faster
    :param parameters: tensors by name, or ``module.named_parameters()``
    :param replicates: R ≥ 2
    :param reference: what ``mean`` is compared with: the exact gradient, flat, or a report with another seed
    :param chunk_size: replicates at a time, which bounds the memory; None for 256, or fewer where gradients are long.
        At most half of R is taken, as the first chunk warms up and only the others are timed
    :param batch_size: samples that one replicate averages, for ``trace_per_sample``
    :param env_steps: environment steps that one replicate takes
    :raises LatentRLError: R < 2; other numbers out of range; no or non-floating parameters; an objective that is not a
        scalar, does not depend on the parameters, draws other shapes from call to call, or has gradients that are not
        finite; outputs to be shared that draw noise; a reference of another size or with the same seed; a device that
        runs out of memory
    """
    check_plan(replicates, reference, chunk_size, seed, batch_size)
    replicates, batch_size, seed = int(replicates), int(batch_size), int(seed)
    env_steps = count("env_steps", env_steps, 0)
    tensors = _checked(parameters)
    size = sum(tensor.numel() for tensor in tensors.values())
    known = None if reference is None else _independent(reference, size, seed)
    jacobian: OutputJacobian | None = None
    inner, inputs = objective, tensors
    if isinstance(objective, SharedOutputs):
        shared = OutputJacobian(objective.outputs, tensors)
        jacobian, surrogate = shared.to("cpu", torch.float64), objective.surrogate
        inner, inputs = lambda given: surrogate(given["outputs"]), {"outputs": shared.value}
    draws = _Gradients(inner, inputs, replicates, chunk_size, seed)
    advice = f"give a chunk_size below {draws.chunk}, or rollouts in shorter segments"
    with enough_memory(advice), peak_memory(draws.device) as peak:
        found = draws.moments(jacobian)
    return _report(found, draws, tensors, peak, known, batch_size, env_steps)


def check_plan(replicates: int, reference: Any, chunk_size: int | None, seed: int, batch_size: int) -> None:
    """:raises LatentRLError: replicates below 2, sizes below 1, a negative seed, a reference that is none"""
    count("replicates", replicates, 2)
    if chunk_size is not None:
        count("chunk_size", chunk_size, 1)
    count("seed", seed, 0)
    count("batch_size", batch_size, 1)
    if reference is not None and not isinstance(reference, Tensor | GradientReport):
        raise LatentRLError(
            f"the reference must be a flat tensor or a report of gradient_variance, but {reference!r} was given"
        )


class _Gradients:
    """R gradients of an objective, chunk by chunk; the same ones each time."""

    def __init__(
        self, objective: Objective, inputs: dict[str, Tensor], replicates: int, chunk_size: int | None, seed: int
    ) -> None:
        self.objective, self.inputs, self.replicates, self.seed = objective, inputs, replicates, seed
        self.size = sum(tensor.numel() for tensor in inputs.values())
        chosen = chunk_size or min(256, max(1, MOST_AT_ONCE // self.size))
        self.chunk = min(chosen, math.ceil(replicates / 2))
        self.device = next(iter(inputs.values())).device
        self.seconds: float | None = None
        """Of one gradient; known once all were drawn."""

    def moments(self, jacobian: OutputJacobian | None) -> Moments:
        if jacobian is None and self.replicates * self.size > MOST_KEPT:
            return streamed_moments(self.chunks)
        kept, start = torch.empty((self.replicates, self.size), dtype=torch.float64), 0
        for chunk in self.chunks():
            kept[start : start + len(chunk)] = chunk
            start += len(chunk)
        return moments(kept, jacobian)

    def chunks(self) -> Iterator[Float[Tensor, "C P"]]:
        """Gradients (C, P) in float64 on the CPU, in order."""
        with _private_noise((self.seed,), self.device):
            draws = record(self._flat)
        seconds = 0.0
        for start in range(0, self.replicates, self.chunk):
            rows = range(start, min(start + self.chunk, self.replicates))
            numbers = numbers_for(draws, self.seed, rows)
            with _private_noise((self.seed, start), self.device):
                begin = self._clock()
                drawn = vmap(partial(self._replicate, draws), randomness="different")(
                    torch.empty(len(rows), device=self.device), numbers
                )
                seconds += self._clock() - begin if start else 0.0
            yield drawn.to("cpu", torch.float64)
        if self.seconds is None:
            self.seconds = seconds / (self.replicates - self.chunk)

    def _replicate(self, draws: list, _: Tensor, numbers: list[Tensor]) -> Tensor:
        with Player(draws, numbers):
            return self._flat()

    def _flat(self) -> Float[Tensor, " P"]:
        return torch.cat([g.reshape(-1) for g in grad(self._scalar)(self.inputs).values()])

    def _scalar(self, tensors: dict[str, Tensor]) -> Tensor:
        surrogate = self.objective(tensors)
        if not isinstance(surrogate, Tensor) or surrogate.dim() != 0:
            given = tuple(surrogate.shape) if isinstance(surrogate, Tensor) else type(surrogate).__name__
            raise LatentRLError(f"the objective must return a scalar tensor such as surrogate.mean(), not {given}")
        return surrogate

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _report(
    found: Moments,
    draws: _Gradients,
    tensors: dict[str, Tensor],
    peak: Peak,
    known: "_Known | None",
    batch_size: int,
    env_steps: int,
) -> GradientReport:
    replicates, mean = draws.replicates, found.mean
    mean_se = (found.variance / replicates).sqrt()
    parts = found.variance.split([tensor.numel() for tensor in tensors.values()])
    return GradientReport(
        mean=mean,
        mean_se=mean_se,
        trace=found.trace,
        trace_ci=trace_interval(found, draws.seed),
        layer_traces={name: float(part.sum()) for name, part in zip(tensors, parts, strict=True)},
        snr_squared=found.snr_squared,
        kurtosis=found.kurtosis,
        tail_share=found.tail_share,
        seconds_per_gradient=draws.seconds or 0.0,
        env_steps_per_gradient=env_steps,
        peak_memory=peak.bytes,
        replicates=replicates,
        batch_size=batch_size,
        seed=draws.seed,
        **(_compare(found, mean_se, known, _rounding(tensors, mean, known)) if known else {}),
    )


def _checked(parameters: Parameters) -> dict[str, Tensor]:
    try:
        tensors = {name: tensor.detach() for name, tensor in dict(parameters).items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise LatentRLError("parameters must be tensors by name: a dict or module.named_parameters()") from error
    if not tensors:
        raise LatentRLError("there are no parameters to take a gradient for")
    if wrong := [name for name, tensor in tensors.items() if not tensor.is_floating_point()]:
        raise LatentRLError(f"parameters must be floating-point tensors, and these are not: {', '.join(wrong)}")
    return tensors


@contextmanager
def _private_noise(source: Sequence[int], device: torch.device) -> Iterator[None]:
    """Seed the generators that an objective on ``device`` draws from; afterwards they are as before.

    Nothing in the block records a graph for what the objective closes over; ``grad()`` is not affected by that.
    """
    cuda = [device.index] if device.type == "cuda" else []
    seed = int(np.random.SeedSequence(source).generate_state(1)[0])
    with torch.random.fork_rng(devices=cuda), torch.no_grad():
        # Not torch.manual_seed, which would also seed devices that fork_rng does not restore.
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


class _Known(NamedTuple):
    """A reference."""

    mean: Tensor
    error: Tensor | float
    """Standard error of each coordinate."""
    freedom: float
    noise: float
    """E ‖mean − truth‖²."""
    unevenness: float
    """Relative variance of ‖mean − truth‖²."""
    precision: float = 0.0
    """ε of the numbers that it was given in."""


def _independent(reference: Tensor | GradientReport, size: int, seed: int) -> _Known:
    if not isinstance(reference, GradientReport):
        precision = torch.finfo(reference.dtype).eps if reference.is_floating_point() else 0.0
        known = _Known(reference.detach().cpu().double(), 0.0, math.inf, 0.0, 0.0, precision)
    elif reference.seed == seed:
        raise LatentRLError(f"the reference was drawn with the same seed {seed}, so it is not independent")
    else:
        replicates, noise = reference.replicates, reference.trace / reference.replicates
        spread = concentration(reference.mean_se.square(), reference.kurtosis)
        uneven = _unevenness(reference.kurtosis, spread, replicates)
        known = _Known(reference.mean, reference.mean_se, replicates - 1, noise, uneven)
    if known.mean.shape != (size,):
        raise LatentRLError(f"the reference must be flat with {size} numbers, not of shape {tuple(known.mean.shape)}")
    if not known.mean.isfinite().all():
        raise LatentRLError("the reference holds NaN or infinite numbers: nothing can be compared to it")
    return known


def _unevenness(kurtosis: float, concentration: float, replicates: int) -> float:
    """Relative variance of R‖ḡ − μ‖² over the trace that was measured with it.

    R‖ḡ − μ‖² = (Σ_r d_r + Σ_{r≠s} (g_r − μ)·(g_s − μ)) / R, whose parts are uncorrelated; the first one's relative
    variance, (κ − 1)/R, is that of the trace, too.
    """
    return 2.0 * (kurtosis - 1.0) / replicates + 2.0 * (1.0 - 1.0 / replicates) * concentration


def _rounding(tensors: dict[str, Tensor], mean: Tensor, known: _Known) -> Tensor:
    """What rounding may do to each coordinate: where there is (next to) no noise, a difference within it is no bias.

    In units of its tensor's largest, and of the largest of all, as a small gradient may be what is left of large terms.
    """
    parts = torch.maximum(mean.abs(), known.mean.abs()).split([tensor.numel() for tensor in tensors.values()])
    precisions = [max(torch.finfo(tensor.dtype).eps, known.precision) for tensor in tensors.values()]
    largest = max(float(part.max()) for part in parts if len(part))
    of_each = [(eps, part) for eps, part in zip(precisions, parts, strict=True) if len(part)]
    return torch.cat([(eps * (4 * part.max()).clamp_min(largest)).expand(len(part)) for eps, part in of_each])


def _compare(found: Moments, mean_se: Tensor, known: _Known, rounding: Tensor) -> dict[str, float | None]:
    """Cosine, largest |z| with its Bonferroni-corrected p-value, that of the norm; with the reference's own error."""
    mean, exact, replicates = found.mean, known.mean, len(found.squared)
    spread = (mean_se**2 + known.error**2 + rounding**2).sqrt()
    z = float(((mean - exact).abs() / spread.clamp_min(TINY)).max())
    freedom = min(replicates - 1, known.freedom)
    p = min(1.0, 2 * len(mean) * float(scipy.stats.t.sf(z, freedom)))
    own, rounded = found.trace / replicates, float(rounding.square().sum())
    noise = own + known.noise + rounded
    # The relative deviation of a sum of noises is at most the mean of theirs; of rounding's it is taken for √2.
    parts = ((own, _unevenness(found.kurtosis, found.concentration, replicates)), (known.noise, known.unevenness))
    deviation = sum(size * math.sqrt(uneven) for size, uneven in (*parts, (rounded, 2.0))) / max(noise, TINY)
    # Of a sum of squares over its own estimate: Fisher's F, whose degrees of freedom are those of each.
    squares = 2.0 / max(deviation**2, 1e-6)
    distance = float((mean - exact).square().sum()) / max(noise, TINY)
    norm_p = float(scipy.stats.f.sf(distance, squares, squares * freedom)) if freedom + 1 >= FEWEST else None
    norms = float(mean.norm() * exact.norm())
    return {
        "cosine": float(mean @ exact) / norms if norms > 0 else None,
        "bias_z": z,
        "bias_p": p,
        "bias_norm_p": norm_p,
    }
