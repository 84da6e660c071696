"""Training that may be killed: the same command goes on with it, to the same result."""

import time
from collections.abc import Callable, Mapping
from multiprocessing import current_process
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from latentrl.cells import Record
from latentrl.randomness import random_state, seed_of, set_random_state
from latentrl.schedules import Schedule
from latentrl.training.checkpoints import RunFolder
from latentrl.training.state import load_schedule_state, schedule_state


class HasState(Protocol):
    """What a run is made of: models, optimisers, learning rates."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


class Minibatches:
    """Rows of each update: all data once in each epoch, in a new order, which follows from the seed and the epoch.

    :param number: of data; what is left behind the last whole batch of an epoch is not seen in it
    """

    def __init__(self, number: int, batch_size: int, seed: int, device: torch.device) -> None:
        self.number, self.batch_size, self.seed, self.device = number, batch_size, seed, device
        self.per_epoch = number // batch_size
        self._epoch = -1

    def __call__(self, step: int) -> Tensor:
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.number, generator=generator).to(self.device)
        return self._order[place * self.batch_size :][: self.batch_size]


class Best:
    """The best state of a model so far, by a number that falls."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.value, self.epoch = model, float("inf"), 0
        self.weights = self._copy()

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def __call__(self, value: float, epoch: int) -> int:
        """Compare, and keep; how many epochs ago the best was."""
        if value < self.value:
            self.value, self.epoch, self.weights = value, epoch, self._copy()
        return epoch - self.epoch

    def restore(self) -> None:
        """Give the model its best weights."""
        self.model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value, self.epoch, self.weights = (state_dict[name] for name in ("value", "epoch", "weights"))


class ScheduleState:
    """The numbers that a KL weight keeps, such as a multiplier's β."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def state_dict(self) -> dict[str, Any]:
        return schedule_state(self.schedule)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        load_schedule_state(self.schedule, state_dict)


class Training:
    """Updates of one run, whose state is kept in a folder after each epoch; TensorBoard reads the folder.

    :param folder: of this run alone
    :param settings: all that the result depends on
    :param parts: all that changes in an update but the global random numbers, by name
    :param device: where they lie
    :raises LatentRLError: the folder is of another run, or cannot be written
    """

    def __init__(self, folder: Path, settings: Record, parts: Mapping[str, HasState], device: torch.device) -> None:
        self.folder, self.parts, self.device = RunFolder(folder, settings), parts, device
        self.step, self.history = 0, list[Record]()
        state = self.folder.read(device)
        if state is not None:
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.step, self.history = state["step"], state["history"]
            set_random_state(state["random"], device)

    def run(
        self,
        epochs: int,
        per_epoch: int,
        update: Callable[[int], Any],
        look: Callable[[int], Record],
    ) -> list[Record]:
        """Train; what was seen after each epoch, with the seconds that its updates took (of a CPU its own).

        :param update: makes one update, given how many were before
        :param look: numbers for the log after an epoch, given how many are over; training ends early where "stop" is
            among them, and true
        """
        worker = (current_process()._identity or (0,))[-1]
        bar = tqdm(total=epochs, initial=len(self.history), desc=self.folder.folder.name, position=worker, leave=False)
        clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        with bar, SummaryWriter(str(self.folder.folder), purge_step=len(self.history) + 1) as writer:
            while len(self.history) < epochs and not (self.history and self.history[-1].get("stop")):
                start = clock()
                for _ in range(per_epoch):
                    update(self.step)
                    self.step += 1
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                seconds = clock() - start
                seen = {**look(len(self.history) + 1), "seconds": seconds}
                self.history.append(seen)
                for name, value in seen.items():
                    writer.add_scalar(name, value, len(self.history))
                self._save()
                bar.update()
                bar.set_postfix({name: f"{value:.5g}" for name, value in seen.items()})
        return self.history

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        random = random_state(self.device)
        self.folder.write({**state, "step": self.step, "history": self.history, "random": random})
