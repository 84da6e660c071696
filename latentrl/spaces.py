"""Gymnasium's spaces as feature vectors, and back."""

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
"""Spaces whose values become features without a trunk."""


def size(what: str, space: spaces.Space[Any]) -> int:
    """Number of features of a space.

    :raises LatentRLError: a space that has no features of its own
    """
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return sum(choice_counts(space))
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return int(np.prod(space.shape))
    raise LatentRLError(f"{what} space {space} is not supported: use Box, Discrete, MultiDiscrete or MultiBinary")


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
    """Features back to values of an action space: one-hot to choices, flat and clipped to Box."""
    shape = (-1, *(space.shape or ()))
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        index = torch.stack([part.argmax(-1) for part in values.split(choice_counts(space), -1)], -1).cpu().numpy()
        return index.reshape(shape).astype(space.dtype) + space.start
    array = values.cpu().numpy().reshape(shape)
    if isinstance(space, spaces.Box):
        array = np.clip(array, space.low, space.high)
    return array.astype(space.dtype)
