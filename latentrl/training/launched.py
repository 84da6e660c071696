"""Processes that ``torchrun`` started, on one machine or several: each runs the whole script, and they train together.

The first one has callbacks, logs and files, as where :mod:`latentrl.training.parallel` starts helpers. The others wait
in ``learn`` for what there is to do, and leave it with the policy that the first one made.
"""

import os
import pickle
from functools import cache
from typing import Any

import torch

from latentrl.checks import LatentRLError
from latentrl.training.parallel import Precision, Processes, dumps


class Launched(Processes):
    """This process among those of ``torchrun``."""

    def __init__(self, device: torch.device, precision: Precision) -> None:
        super().__init__(device, precision, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), port=None)

    def tell(self, value: Any = None) -> Any:
        """What the first process says, everywhere."""
        box: list[Any] = [dumps(value) if self.rank == 0 else None]
        torch.distributed.broadcast_object_list(box, 0, device=self.device)
        return value if self.rank == 0 else pickle.loads(box[0])

    def goes_on(self, more: bool = True) -> bool:
        # Nobody ends the others, as it is done with helpers of one's own.
        flag = torch.tensor([float(more)], device=self.device)
        torch.distributed.broadcast(flag, 0)
        return bool(flag)


def launched(devices: int, precision: Precision, device: torch.device) -> Launched | None:
    """This process among those of ``torchrun``; None where that did not start it, or each is to train by itself.

    :raises LatentRLError: it started another number of processes
    """
    if devices == 1 or not _by_torchrun():
        return None
    if devices != (size := int(os.environ["WORLD_SIZE"])):
        raise LatentRLError(
            f"devices={devices}, but torchrun started {size} processes: give devices={size}, those of all machines "
            "together, or devices=1 for each to train by itself"
        )
    return _joined(device, precision)


# A group cannot be left and joined again under the same address, so it lasts as long as the process.
_joined = cache(Launched)


def devices_here(devices: int) -> int:
    """How many of the devices are on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _by_torchrun() else devices


def _by_torchrun() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
