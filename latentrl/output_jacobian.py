"""The Jacobian of a network's outputs by its parameters, for one input, without its largest blocks.

Where a linear layer sees one vector h, the gradient by its weights is an outer product δ hᵀ. So the block of the
Jacobian is known from ∂outputs/∂(W h + b) and h, which are smaller by the width of the layer.
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from latentrl.checks import LatentRLError
from latentrl.noise_tape import Recorder, generator_state


class _Call(NamedTuple):
    """One linear layer at work."""

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    result: Tensor
    versions: tuple[int, int]
    """Of inputs and result when the layer ran: they differ later where something wrote into them."""


class _Watch(Recorder):
    """Notes linear layers, and how often each tensor is used by anything, besides what is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.uses: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        self.uses.update(id(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        if func is F.linear and not kwargs:
            inputs, weight, *bias = args
            self.calls.append(_Call(inputs, weight, bias[0] if bias else None, result, _versions(inputs, result)))
        return result


class _Outer(NamedTuple):
    """A block of rows δ_d hᵀ, or δ_d where h is None."""

    rows: Float[Tensor, "D out"]
    inputs: Float[Tensor, " in"] | None


class OutputJacobian:
    """J of D outputs by P parameters, which are flattened in their given order.

    :param outputs: parameters -> tensor, without noise
    :param parameters: tensors by name
    :raises LatentRLError: the outputs are no tensor, or draw noise
    """

    value: Tensor
    """The outputs."""

    def __init__(self, outputs: Callable[[dict[str, Tensor]], Tensor], parameters: Mapping[str, Tensor]) -> None:
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
        devices = [leaf.device for leaf in leaves.values()]
        before = generator_state(devices)
        with _Watch() as watch, torch.enable_grad():
            said = outputs(leaves)
        if watch.draws or not torch.equal(before, generator_state(devices)):
            raise LatentRLError("outputs that replicates share must not draw noise: draw it in the surrogate")
        if not isinstance(said, Tensor):
            raise LatentRLError(f"outputs must return one tensor, not {type(said).__name__}: join them by torch.cat")
        self.value = said.detach()
        factored = {id(tensor): call for call in watch.calls for tensor in _own(call, watch.uses)}
        asked = [factored[id(leaf)].result if id(leaf) in factored else leaf for leaf in leaves.values()]
        once = {id(tensor): tensor for tensor in asked}  # a layer's weight and bias ask for the same
        flat = said.reshape(-1)
        identity = torch.eye(flat.numel(), dtype=flat.dtype, device=flat.device)
        blocks = torch.autograd.grad(flat, list(once.values()), identity, is_grads_batched=True, allow_unused=True)
        found = dict(zip(once, blocks, strict=True))
        self._blocks: list[_Outer] = []
        for leaf, by in zip(leaves.values(), asked, strict=True):
            call, block, size = factored.get(id(leaf)), found[id(by)], by.numel()
            rows = flat.new_zeros(flat.numel(), size) if block is None else block.reshape(flat.numel(), size)
            inputs = call.inputs.detach().reshape(-1) if call and leaf is call.weight else None
            self._blocks.append(_Outer(rows, inputs))

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "OutputJacobian":
        """A copy elsewhere."""
        moved = copy.copy(self)
        moved._blocks = [
            _Outer(rows.to(device, dtype), None if inputs is None else inputs.to(device, dtype))
            for rows, inputs in self._blocks
        ]
        return moved

    def gram(self) -> Float[Tensor, "D D"]:
        """J Jᵀ."""
        lengths = [1.0 if block.inputs is None else block.inputs.square().sum() for block in self._blocks]
        products = [length * (block.rows @ block.rows.T) for length, block in zip(lengths, self._blocks, strict=True)]
        return torch.stack(products).sum(0)

    def transposed(self, by_outputs: Float[Tensor, " D"]) -> Float[Tensor, " P"]:
        """Jᵀ v, the gradient by the parameters from that by the outputs."""
        return self._joined([(by_outputs @ block.rows, block.inputs) for block in self._blocks])

    def variance(self, covariance: Float[Tensor, "D D"]) -> Float[Tensor, " P"]:
        """Diagonal of Jᵀ C J, the variance of each parameter's gradient."""
        blocks = self._blocks
        # Below 0 by rounding, for parameters that the outputs do not move.
        diagonals = [((covariance @ block.rows) * block.rows).sum(0).clamp_min(0.0) for block in blocks]
        squares = [None if block.inputs is None else block.inputs.square() for block in blocks]
        return self._joined(list(zip(diagonals, squares, strict=True)))

    @staticmethod
    def _joined(parts: list[tuple[Tensor, Tensor | None]]) -> Float[Tensor, " P"]:
        return torch.cat([a if b is None else torch.outer(a, b).reshape(-1) for a, b in parts])


def _own(call: _Call, uses: Counter[int]) -> list[Tensor]:
    """The layer's parameters, if it saw one vector, nothing was written into it, and they serve nothing else."""
    single = call.inputs.numel() == call.inputs.shape[-1] and _versions(call.inputs, call.result) == call.versions
    return [tensor for tensor in (call.weight, call.bias) if single and tensor is not None and uses[id(tensor)] == 1]


def _versions(inputs: Tensor, result: Tensor) -> tuple[int, int]:
    return inputs._version, result._version
