"""Moments of the gradients of single draws, at a small multiple of the price of their mean."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap

from latentrl.checks import LatentRLError, count
from latentrl.output_jacobian import OutputJacobian
from latentrl.variance import Objective, Parameters, SharedOutputs


@dataclass(frozen=True)
class SampleMoments:
    """Of the gradients of S single draws."""

    mean: Float[Tensor, " P"]
    """Gradient of the mean over all draws; the parameters flattened in their given order."""
    trace: Float[Tensor, ""]
    """tr Σ̂ of one draw's gradient; that of the mean over S is trace / S."""
    samples: int
    """S."""
    diagonal: Callable[[], Float[Tensor, " P"]]
    """What :attr:`variance` is computed by, when it is asked for."""

    @cached_property
    def variance(self) -> Float[Tensor, " P"]:
        """Of each coordinate of one draw's gradient."""
        return self.diagonal()

    @property
    def snr(self) -> Float[Tensor, ""]:
        """‖E g‖ / √(tr Σ / S) of the mean over all draws, debiased; 0 where the noise exceeds the signal."""
        noise = self.trace / self.samples
        return ((self.mean.square().sum() - noise).clamp_min(0.0) / noise).sqrt().nan_to_num(nan=0.0, posinf=math.inf)


def sample_moments(
    objective: Objective, parameters: Parameters, num_samples: int, chunk_size: int | None = None
) -> SampleMoments:
    """Mean and variance over S draws, with noise from torch's generators: for a look at each update.

    Where all draws share a network's outputs, :class:`SharedOutputs` costs one pass back from the outputs of all draws,
    and one through the network for each output. The surrogate is then called once, with outputs (S, *outputs), and
    returns (S,). Otherwise gradients are taken by ``vmap(grad(objective))`` and never kept. What the estimator is worth
    in all, tails and bias included, says :func:`latentrl.variance.gradient_variance`.

    :param objective: parameters -> scalar surrogate of one draw, or :class:`SharedOutputs`
    :param parameters: tensors by name, or ``module.named_parameters()``
    :param num_samples: S ≥ 2
    :param chunk_size: draws at a time where outputs are not shared; None for as many as hold 10⁶ numbers
    :raises LatentRLError: S < 2; outputs to be shared that draw noise, or a surrogate of them of another shape
    """
    count("num_samples", num_samples, 2)
    tensors = {name: tensor.detach() for name, tensor in dict(parameters).items()}
    if isinstance(objective, SharedOutputs):
        return _through_outputs(objective, tensors, num_samples)
    size = sum(tensor.numel() for tensor in tensors.values())
    return _streamed(objective, tensors, num_samples, chunk_size or max(1, 1_000_000 // size))


def _through_outputs(objective: SharedOutputs, tensors: dict[str, Tensor], samples: int) -> SampleMoments:
    jacobian = OutputJacobian(objective.outputs, tensors)
    leaf = jacobian.value.expand(samples, *jacobian.value.shape).contiguous().requires_grad_()
    with torch.enable_grad():
        surrogates = objective.surrogate(leaf)
        if surrogates.shape != (samples,):
            raise LatentRLError(
                f"the surrogate gets the outputs of all draws, {tuple(leaf.shape)}, and must return one number for "
                f"each, ({samples},), but returned {tuple(surrogates.shape)}: count dimensions from the last, as "
                "chunk(2, -1)"
            )
        (by_outputs,) = torch.autograd.grad(surrogates.sum(), leaf)
    by_outputs = by_outputs.reshape(samples, -1)
    mean = by_outputs.mean(0)
    deviations = by_outputs - mean
    covariance = deviations.T @ deviations / (samples - 1)
    trace = (covariance * jacobian.gram()).sum()
    return SampleMoments(jacobian.transposed(mean), trace, samples, lambda: jacobian.variance(covariance))


def _streamed(objective: Objective, tensors: dict[str, Tensor], samples: int, chunk: int) -> SampleMoments:
    names = list(tensors)

    def one(_: Tensor) -> tuple[Tensor, ...]:
        gradient = grad(objective)(tensors)
        return tuple(gradient[name] for name in names)

    device = tensors[names[0]].device
    shift: list[Tensor] = []
    first, second = [torch.zeros((), device=device)] * len(names), [torch.zeros((), device=device)] * len(names)
    with torch.no_grad():
        for start in range(0, samples, chunk):
            parts = vmap(one, randomness="different")(torch.empty(min(chunk, samples - start), device=device))
            # Around the first mean, so that nothing is lost where the mean is far larger than what varies.
            shift = shift or [part.mean(0) for part in parts]
            away = [part - middle for part, middle in zip(parts, shift, strict=True)]
            first = [total + part.sum(0) for total, part in zip(first, away, strict=True)]
            second = [total + part.square_().sum(0) for total, part in zip(second, away, strict=True)]
    means = [middle + total / samples for middle, total in zip(shift, first, strict=True)]
    variances = [(b - a.square() / samples) / (samples - 1) for a, b in zip(first, second, strict=True)]
    variance = _flat(variances)
    return SampleMoments(_flat(means), variance.sum(), samples, lambda: variance)


def _flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])
