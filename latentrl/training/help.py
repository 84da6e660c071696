"""What a helper process does while the first one trains: the same updates."""

from collections.abc import Callable

import torch

from latentrl.data.cuts import Cuts
from latentrl.training.parallel import Processes
from latentrl.training.trainer import ElboTrainer


def follow(
    trainer: ElboTrainer,
    segments_on: Callable[[torch.device], Cuts],
    learning_rate: Callable[[float], float],
    start: int,
    stop: int,
    processes: Processes,
) -> None:
    """Train along, from update ``start`` to ``stop``.

    :param trainer: a copy of the first process' own
    :param segments_on: makes the segments on a device
    :param learning_rate: of the share of training that remains
    """
    trainer.model.to(processes.device).train()
    if trainer.estimator is not None:
        trainer.estimator.to(processes.device)
    trainer.optimizer.load_state_dict(trainer.optimizer.state_dict())  # its numbers go to where the weights are
    trainer.settle(segments_on(processes.device), processes)
    for step in range(start, stop):
        if not processes.goes_on():
            return
        for group in trainer.optimizer.param_groups:
            group["lr"] = learning_rate(1.0 - step / stop)
        trainer.update(step)
