"""Gymnasium's spaces as feature vectors, and back; and as raw flat vectors, for trunks that read those."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from latentrl.checks import LatentRLError

SUPPORTED = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""Spaces whose values become features without a trunk; a Dict of them needs one."""


def size(what: str, space: spaces.Space[Any]) -> int:
    """Number of features of a space.

    :raises LatentRLError: a space that has no features of its own
    """
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return sum(choice_counts(space))
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return int(np.prod(space.shape))
    raise LatentRLError(
        f"{what} space {space} is not supported: use Box, Discrete, MultiDiscrete or MultiBinary"
        + (", or give a trunk that makes features of it" if isinstance(space, spaces.Dict) else "")
    )


def leaves(what: str, space: spaces.Space[Any], values: Any) -> list[tuple[str, spaces.Space[Any], Any]]:
    """(name, space, values) of every part of a Dict, in the space's order; of another space itself, without a name.

    :param what: what the values are, for the message
    :raises LatentRLError: where the values are no mapping with the names of the Dict, or one for another space
    """
    if not isinstance(space, spaces.Dict):
        if isinstance(values, Mapping):
            raise LatentRLError(f"{what} are a dict, but the space is {space}: make them agree")
        return [("", space, values)]
    if not isinstance(values, Mapping) or values.keys() != space.spaces.keys():
        given = f"named {', '.join(map(str, values))}" if isinstance(values, Mapping) else "no dict"
        raise LatentRLError(f"{what} are {given}, but the space is a Dict of {', '.join(space.spaces)}: give these")
    return [(name, leaf, values[name]) for name, leaf in space.spaces.items()]


def raw(space: spaces.Space[Any], values: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Values of a space (N, *shape), or of a Dict by name, as they are, flat and side by side: (N, O_raw).

    What an :class:`~latentrl.nets.ObservationTrunk` takes. Bytes where every part of the space is of bytes, so that
    pictures stay small; otherwise float32.

    :raises LatentRLError: parts that do not fit the space, or pictures in floating point
    """
    parts = leaves("observations", space, values)
    for name, leaf, part in parts:
        if leaf.dtype == np.uint8 and part.is_floating_point():
            raise LatentRLError(f"observations {name} have dtype {part.dtype}, but the space is {leaf}: give uint8")
    dtype = torch.uint8 if all(leaf.dtype == np.uint8 for _, leaf, _ in parts) else torch.float32
    flat = [part.reshape(part.shape[0], -1).to(dtype) for _, _, part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat, -1)


def choice_counts(space: spaces.Discrete | spaces.MultiDiscrete) -> tuple[int, ...]:
    """Number of options of each choice."""
    counts = [space.n] if isinstance(space, spaces.Discrete) else space.nvec.flatten()
    return tuple(int(n) for n in counts)


def features(space: spaces.Space[Any], values: Tensor) -> Float[Tensor, "N D"]:
    """Values of a space (N, *shape) as float features: numbers and bits are flattened, choices become one-hot."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        index = values.long().reshape(len(values), -1) - torch.as_tensor(space.start, device=values.device).flatten()
        parts = zip(index.unbind(-1), choice_counts(space), strict=True)
        return torch.cat([F.one_hot(part, n) for part, n in parts], -1).float()
    return values.float().flatten(1) if values.dim() > 1 else values.float().unsqueeze(1)


def from_features(space: spaces.Space[Any], values: Float[Tensor, "N D"]) -> NDArray[Any]:
    """Features back to values of an action space: one-hot to choices; for a Box clipped, and rounded to integers."""
    shape = (-1, *(space.shape or ()))
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        index = torch.stack([part.argmax(-1) for part in values.split(choice_counts(space), -1)], -1).cpu().numpy()
        return index.reshape(shape).astype(space.dtype) + space.start
    array = values.cpu().numpy().reshape(shape)
    if isinstance(space, spaces.Box):
        array = np.clip(array, space.low, space.high)
        if np.issubdtype(space.dtype, np.integer):
            array = np.rint(array)
    return array.astype(space.dtype)
