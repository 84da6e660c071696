"""The folder of a training run that may be killed: its settings, its last state, and batches that broke it."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentrl.checks import LatentRLError
from latentrl.files import whole
from latentrl.training.finite import NonFiniteLossError
from latentrl.training.state import State


class RunFolder:
    """``settings.json``, ``last.pt``, and what others put beside them. Every file is written whole or not at all.

    ``last.pt`` holds tensors and plain values, and is read as such (``torch.load(weights_only=True)``): a file that
    a stranger wrote runs no code.

    :param folder: made where it is not there
    :param settings: all that the result depends on, by name
    :raises LatentRLError: the folder cannot be written, or is of a run with other settings or data
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        settings = json.loads(json.dumps(settings))
        path = self.folder / "settings.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
            for leftover in self.folder.glob(".*.part*"):  # of a write during which the run was killed
                leftover.unlink(missing_ok=True)
            if not path.exists():
                self._check_new()
                with whole(path) as partial:
                    partial.write_text(json.dumps(settings, indent=1) + "\n")
        except OSError as error:
            raise LatentRLError(
                f"checkpoint folder {str(folder)!r} cannot be written ({error.strerror}): give another"
            ) from error
        before = json.loads(path.read_text())
        if other := sorted(name for name in {**settings, **before} if settings.get(name) != before.get(name)):
            named = "; ".join(
                f"{name}: {_short(before.get(name))} there, {_short(settings.get(name))} now" for name in other
            )
            raise LatentRLError(
                f"checkpoint folder {str(folder)!r} is of another run ({named}): give another folder, or the settings "
                "and data of that run to go on with it"
            )

    def _check_new(self) -> None:
        if (self.folder / "last.pt").exists():
            raise LatentRLError(f"checkpoint folder {str(self.folder)!r} has no settings.json: give another folder")

    def read(self, device: torch.device) -> State | None:
        """The last state, on a device; None before the first.

        :raises LatentRLError: the file is damaged
        """
        path = self.folder / "last.pt"
        if not path.exists():
            return None
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except Exception as error:
            raise LatentRLError(
                f"{str(path)!r} is no checkpoint of this library, or damaged: remove it to start anew"
            ) from error

    def write(self, state: State) -> None:
        """Keep a state as the last."""
        with whole(self.folder / "last.pt") as partial:
            torch.save(state, partial)

    def keep_batch(self, error: NonFiniteLossError) -> None:
        """Write down the batch of a loss that is not finite, and say so in the error."""
        path = self.folder / f"non_finite_{error.update}.npz"
        with whole(path) as partial:
            np.savez(partial, **error.arrays())
        error.where = f"The batch is in {str(path)!r}; the last good weights are in {str(self.folder / 'last.pt')!r}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
