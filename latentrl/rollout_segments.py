"""The gradient of a rollout from segments that are computed anew: little memory, and code that compiles.

Backpropagation through T steps keeps what every step computed. Here only the state at the start of each segment and the
random numbers are kept; going back, one segment at a time is played again and pulled back (Chen et al. 2016).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.func import vjp
from torch.fx.experimental.proxy_tensor import make_fx

from latentrl.checks import LatentRLError
from latentrl.noise_tape import Draw, Player
from latentrl.rollout_core import Core
from latentrl.tasks import precision_on

COMPILED_SEGMENT = 5
"""Steps that are compiled together where nobody says how many."""

# Fused with their neighbours these cost less than the library calls: the bias of a layer need not be copied first, and
# the compiler's own tanh takes three times as long as one by way of exp. Good to an ulp of 1.
DECOMPOSITIONS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.tanh.default: lambda x: 1.0 - 2.0 / (1.0 + (2.0 * x).exp()),
    torch.ops.aten.addmm.default: lambda bias, a, b, beta=1, alpha=1: beta * bias + alpha * (a @ b),
}


@dataclass(frozen=True)
class Segments:
    """A rollout in segments: what is the same on the way forth and on the way back.

    :param core: whose steps they are
    :param cuts: steps at which segments begin, and T
    :param breaks: those of them that no gradient crosses
    :param names: of the parameters
    :param draws: of one step
    :param compile: whether segments are compiled
    """

    core: Core
    cuts: list[int]
    breaks: set[int]
    names: tuple[str, ...]
    draws: tuple[Draw, ...]
    compile: bool

    def play(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Play a segment of K steps from (parameters, state, random numbers (K, ...)).

        Returns the last state and K observations, rewards, whether the episode was going on, and log π where it counts.
        """
        parameters, (state, *numbers) = tensors[: len(self.names)], tensors[len(self.names) :]
        named, observation = dict(zip(self.names, parameters, strict=True)), self.core.observe(state)
        moments = []
        for row in zip(*(column.unbind(0) for column in numbers), strict=True):
            moment = self.core.step(named, state, observation, Player(self.draws, row))
            state, observation = moment.state, moment.observation
            moments.append(moment)
        columns = list(zip(*(moment[1:] for moment in moments), strict=True))
        if not self._scores:
            del columns[-1]
        return (state.contiguous(), *(torch.stack(column) for column in columns))

    @property
    def _scores(self) -> bool:
        """Whether the gradient flows through log π, not through the dynamics."""
        return not self.core.estimator.needs_rsample

    def _carriers(self, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Those outputs of ``play`` through which the gradient flows: log π, or state, observations and rewards."""
        return (outputs[4],) if self._scores else tuple(outputs[:3])

    def pull(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Gradients by the parameters and, through dynamics, by the first state, with ``torch.func``.

        Takes what ``play`` takes, then the gradients by its carriers.
        """
        wanted, rest, weights = self._parted(tensors)
        back = vjp(lambda *inputs: self._carriers(self.play([*inputs, *rest])), *wanted)[1]
        return tuple(gradient.contiguous() for gradient in back(tuple(weights)))

    def pull_eagerly(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The same by autograd itself, which takes two thirds of the time but works under no transform."""
        first, rest, weights = self._parted(tensors)
        with torch.enable_grad():
            wanted = [tensor.detach().requires_grad_() for tensor in first]
            carriers = self._carriers(self.play([*wanted, *rest]))
        reached = [i for i, carrier in enumerate(carriers) if carrier.requires_grad]
        if not reached:
            return tuple(torch.zeros_like(tensor) for tensor in wanted)
        outputs, weights = [carriers[i] for i in reached], [weights[i] for i in reached]
        return torch.autograd.grad(outputs, wanted, weights, allow_unused=True, materialize_grads=True)

    def _parted(self, tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        """What ``pull`` takes: what is differentiated by, the rest of what ``play`` takes, and the gradients."""
        first, last = (len(self.names), -1) if self._scores else (len(self.names) + 1, -3)
        return tensors[:first], tensors[first:last], tensors[last:]

    def forth(self, state: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The states at the starts of segments, then what ``play`` returns, for T steps."""
        starts, parts = [], []
        for start, end in pairwise(self.cuts):
            starts.append(state.contiguous())
            inputs = self._inputs(tensors, starts[-1], start, end)
            state, *part = self._fused(self.play, inputs) if self.compile else self.play(inputs)
            parts.append(part)
        return (torch.stack(starts), *(torch.cat(column) for column in zip(*parts, strict=True)))

    def back(self, starts: Tensor, tensors: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor]:
        """Gradients by the parameters, from those by what ``forth`` returned."""
        total: list[Tensor] = []
        adjoint = torch.zeros_like(starts[0])
        for index, (start, end) in reversed(list(enumerate(pairwise(self.cuts)))):
            inputs = self._inputs(tensors, starts[index], start, end)
            weights = [cotangent[start:end].contiguous() for cotangent in self._carriers(cotangents)]
            if not self._scores:
                weights[0] = torch.zeros_like(adjoint) if end in self.breaks else adjoint
            if self.compile:
                gradients = self._fused(self.pull, [*inputs, *weights])
            else:
                pull = self.pull if is_functorch_wrapped_tensor(starts) else self.pull_eagerly
                gradients = pull([*inputs, *weights])
            adjoint, parts = gradients[-1], gradients[: len(self.names)]
            total = [sum_ + part for sum_, part in zip(total, parts, strict=True)] if total else list(parts)
        return total

    def _inputs(self, tensors: Sequence[Tensor], state: Tensor, start: int, end: int) -> list[Tensor]:
        """What ``play`` takes, from parameters and the random numbers of all steps."""
        split = len(self.names)
        return [*tensors[:split], state, *(column[start:end] for column in tensors[split:])]

    def _fused(self, function: Callable[[Sequence[Tensor]], tuple[Tensor, ...]], tensors: list[Tensor]) -> Any:
        """``function(tensors)``, compiled for their shapes, types and layouts."""
        tensors = [tensor.detach() for tensor in tensors]
        kinds = tuple((tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in tensors)
        precision = precision_on(tensors[0].device)
        key = function.__name__, type(self.core.estimator), self.names, self.draws, kinds, precision
        if key not in self.core.compiled:
            self.core.compiled[key] = fused(lambda *flat: function(flat), tensors)
        return self.core.compiled[key](*tensors)


def _precision(device: torch.device, precision: tuple[bool, torch.dtype | None]) -> AbstractContextManager[Any]:
    """As :func:`latentrl.tasks.precision_on` found it."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, precision[1], precision[0])


def fused(function: Callable[..., tuple[Tensor, ...]], examples: Sequence[Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """Compile a function for tensors like the examples.

    :raises LatentRLError: there is no compiler, or the function cannot be traced
    """
    try:
        with torch.no_grad():
            graph = make_fx(function, DECOMPOSITIONS)(*examples)
            with _precision(examples[0].device, (False, None)):  # what autocast casts is in the graph
                return torch._inductor.compile(graph, [*examples])
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LatentRLError(
            f"the rollout could not be compiled ({reason}): compiled=True needs a C++ compiler, and a task and a "
            "policy that do not branch on values of tensors; leave it out, or take segment alone"
        ) from error


class Recomputed(torch.autograd.Function):
    """(segments, first state, parameters, random numbers) -> what :meth:`Segments.forth` returns."""

    generate_vmap_rule = True

    @staticmethod
    def forward(segments: Segments, state: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return segments.forth(state, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.segments, ctx.precision = inputs[0], precision_on(inputs[1].device)
        ctx.mark_non_differentiable(output[0], output[3])
        ctx.save_for_backward(output[0], *inputs[2:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        starts, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled() and not is_functorch_wrapped_tensor(starts):
            raise LatentRLError(
                "a rollout in segments has no second derivatives by autograd: leave segment and compiled out"
            )
        with _precision(starts.device, ctx.precision):  # as it was played, wherever this is called
            gradients = ctx.segments.back(starts, tensors, cotangents)
        return None, None, *gradients, *[None] * (len(tensors) - len(gradients))
