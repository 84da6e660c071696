"""Losses that stop being finite: found without waiting for the device at each update, with the batch that did it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentrl.randomness import same_randomness
from latentrl.types import Batch

EVERY = 64
"""Updates on a GPU between two looks at their losses."""


class NonFiniteLossError(FloatingPointError):
    """The loss stopped being finite.

    :param update: which, counted from 1
    :param loss: NaN or ±∞
    :param batch: what it was computed on, on the CPU
    :param before: the batch of the update before, whose loss was finite but whose gradient may not have been; None
        where there was none
    """

    def __init__(self, update: int, loss: float, batch: Batch, before: Batch | None = None) -> None:
        super().__init__(update, loss, batch, before)  # all of them, so that it can go from process to process
        self.update: int = update
        self.loss: float = loss
        self.batch: Batch = batch
        self.before: Batch | None = before
        self.where = (
            "The batch is in this error's .batch; learn(checkpoint=FOLDER) writes it to a file and keeps the last good "
            "weights"
        )

    def __str__(self) -> str:
        return (
            f"the loss is {self.loss} at update {self.update}: lower the learning rate, set max_grad_norm, or look for "
            f"extreme values in the data, of this update or of the one before. {self.where}"
        )

    def arrays(self) -> dict[str, Any]:
        """The batch by the names of its fields, the one before with "before_" ahead of them, for ``numpy.savez``."""
        fields = self.batch._asdict()
        if self.before is not None:
            fields |= {f"before_{name}": part for name, part in self.before._asdict().items()}
        return {name: np.asarray(part.float()) for name, part in fields.items() if part is not None}


class FiniteWatch:
    """Looks at every loss: at once where that costs nothing, else at :data:`EVERY` of them together.

    The batch of an earlier update is made again from the random numbers of then.

    :param device: of the losses
    :param make_batch: the batch of an update, from the global random numbers
    """

    def __init__(self, device: torch.device, make_batch: Callable[[int], Batch]) -> None:
        self._device, self._make_batch = device, make_batch
        self.waits: bool = device.type != "cpu"
        self._recent: list[tuple[int, Tensor, dict[str, Any]]] = []
        self._before: dict[str, Any] = {}
        self._last_batch: Batch | None = None

    def begin(self) -> None:
        """Note the random numbers that an update starts from."""
        if self.waits:
            self._before = {"torch": torch.get_rng_state()}
            if self._device.type == "cuda":
                self._before["cuda"] = torch.cuda.get_rng_state(self._device)

    def saw(self, step: int, loss: Tensor, batch: Batch) -> None:
        """:raises NonFiniteLossError: where it is known that a loss is not finite"""
        if not self.waits:
            value = loss.item()
            if not -np.inf < value < np.inf:
                raise NonFiniteLossError(step + 1, value, batch, self._last_batch)
            self._last_batch = batch
            return
        self._recent.append((step, loss.detach(), self._before))
        if len(self._recent) > EVERY:
            self.check()

    def check(self) -> None:
        """Look at the losses that were not looked at.

        :raises NonFiniteLossError: the first that is not finite
        """
        recent, self._recent = self._recent, self._recent[-1:]  # the last one again, as the one before the next
        if not recent:
            return
        finite = torch.stack([loss for _, loss, _ in recent]).isfinite()
        if bool(finite.all()):
            return
        first = int((~finite).int().argmax())
        step, loss, _ = recent[first]
        before = self._made_again(*recent[first - 1]) if first else None
        raise NonFiniteLossError(step + 1, float(loss), self._made_again(*recent[first]), before)

    def _made_again(self, step: int, _: Tensor, random: dict[str, Any]) -> Batch:
        """The batch of an update, on the CPU."""
        with same_randomness(self._device):
            torch.set_rng_state(random["torch"])
            if "cuda" in random:
                torch.cuda.set_rng_state(random["cuda"], self._device)
            parts: list[Any] = [None if part is None else part.detach().cpu() for part in self._make_batch(step)]
            return Batch(*parts)
