"""The only place that imports lightning-fabric: which device and precision a process works in, and its group."""

import logging
import os
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import ClusterEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy

# It tells of each process that it exists.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


class Local(ClusterEnvironment):
    """Processes of one machine that were started by ourselves: they are told who they are."""

    def __init__(self, rank: int, size: int, port: int) -> None:
        self._rank, self._size, self._port = rank, size, port

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return self._port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._size

    def set_world_size(self, size: int) -> None:
        """It is as it was told."""

    def global_rank(self) -> int:
        return self._rank

    def set_global_rank(self, rank: int) -> None:
        """It is as it was told."""

    def local_rank(self) -> int:
        return self._rank

    def node_rank(self) -> int:
        return 0


def make_fabric(device: torch.device, precision: Any, rank: int = 0, size: int = 1, port: int | None = 0) -> Fabric:
    """One process, in its group where there are several; waits there until all have come.

    :param port: None where ``torchrun`` started the processes, which tells the rest
    """
    accelerator = "cuda" if device.type == "cuda" else "cpu"
    if size == 1:
        return Fabric(accelerator=accelerator, devices=1, precision=precision)
    # While the first process evaluates, the others wait, for as long as it takes.
    strategy = DDPStrategy(timeout=timedelta(days=7))
    where = TorchElasticEnvironment() if port is None else Local(rank, size, port)
    here = size if port is not None else int(os.environ["LOCAL_WORLD_SIZE"])
    fabric = Fabric(
        accelerator=accelerator,
        devices=here,
        num_nodes=size // here,
        strategy=strategy,
        precision=precision,
        plugins=[where],
    )
    fabric.launch()
    return fabric
