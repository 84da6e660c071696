"""What all laws of the library have in common."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution


class Law(Distribution):
    """A ``torch.distributions.Distribution`` over vectors whose arguments are not validated.

    Modules that build laws make the arguments valid by construction; to look at them at each step would cost 6-8 % of
    a training step on a CPU and a synchronisation on a GPU.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch's own convention)

    def __init__(self, batch_shape: torch.Size, event_shape: torch.Size) -> None:
        super().__init__(batch_shape, event_shape, validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)
