"""The folder of a training run that may be killed: its settings, its last states, and batches that broke it."""

import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentrl.checks import LatentRLError
from latentrl.files import output_folder, read_settings, whole
from latentrl.training.finite import NonFiniteLossError
from latentrl.training.state import State

LAST, PREVIOUS, DAMAGED = "last.pt", "previous.pt", "damaged.pt"


class RunFolder:
    """``settings.json``, ``last.pt``, ``previous.pt``, and what others put beside them.

    Every file is written whole or not at all. States are tensors and plain values, and are read as such
    (``torch.load(weights_only=True)``): a file that a stranger wrote runs no code.

    :param folder: made where it is not there
    :param settings: all that the result depends on, by name; those of a run that never kept a state are replaced
    :raises LatentRLError: the folder cannot be written, is of a run with other settings or data, or of a study
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        self.folder: Path = Path(folder).expanduser()
        settings = json.loads(json.dumps(settings))
        path = self.folder / "settings.json"
        refuse_study(folder)
        output_folder(folder, overwrite=True)
        for leftover in self.folder.glob(".*.part*"):  # of a write during which the run was killed
            leftover.unlink(missing_ok=True)
        if not path.exists() or not self._states():
            self._check_new(path)
            with whole(path) as partial:
                partial.write_text(json.dumps(settings, indent=1) + "\n")
        before = read_settings(path)
        if other := sorted(name for name in {**settings, **before} if settings.get(name) != before.get(name)):
            named = "; ".join(
                f"{name}: {_short(before.get(name))} there, {_short(settings.get(name))} now" for name in other
            )
            raise LatentRLError(
                f"checkpoint folder {str(folder)!r} is of another run ({named}): give another folder, or the settings "
                "and data of that run to go on with it"
            )

    def _check_new(self, path: Path) -> None:
        if self._states() and not path.exists():
            raise LatentRLError(f"checkpoint folder {str(self.folder)!r} has no settings.json: give another folder")

    def read(self, device: torch.device) -> State | None:
        """The last state, on a device; the one before, with a warning, where that is damaged; None before the first.

        :raises LatentRLError: both are damaged
        :raises PermissionError: it may not be read
        """
        for path in (found := self._states()):
            try:
                if zipfile.ZipFile(path).testzip() is not None:  # torch would read flipped bits as they are
                    continue
                state = torch.load(path, map_location=device, weights_only=True)
            except (MemoryError, torch.OutOfMemoryError, PermissionError):
                raise  # the file may be whole
            except Exception:
                continue
            if path != found[0]:
                found[0].replace(self.folder / DAMAGED)  # or it would be the next previous one
                warnings.warn(
                    f"{str(found[0])!r} is damaged: going on from {path.name!r}; it is kept as {DAMAGED!r}",
                    stacklevel=2,
                )
            return state
        if found:
            raise LatentRLError(
                f"{' and '.join(repr(str(path)) for path in found)}: no checkpoint of this library, or damaged; "
                "remove to start anew"
            )
        return None

    def _states(self) -> list[Path]:
        """The files with states, the last first."""
        return has_states(self.folder)

    def write(self, state: State) -> None:
        """Keep a state as the last, and the one that was.

        :raises LatentRLError: a state of other things than tensors and plain values
        """
        with whole(self.folder / LAST) as partial:
            with partial.open("wb") as file:
                torch.save(state, file)
            _readable(partial)
            # A process that is killed between this and the next rename goes on from the previous state.
            if (self.folder / LAST).exists():
                (self.folder / LAST).replace(self.folder / PREVIOUS)

    def keep_batch(self, error: NonFiniteLossError) -> None:
        """Write down the batch of a loss that is not finite, and say so in the error."""
        path = self.folder / f"non_finite_{error.update}.npz"
        with whole(path) as partial:
            np.savez(partial, **error.arrays())
        kept = f"; the last good weights are in {str(self.folder / LAST)!r}" if (self.folder / LAST).exists() else ""
        error.where = f"The batch is in {str(path)!r}{kept}"


def _readable(path: Path) -> None:
    """:raises LatentRLError: a state that could not be read again, and would be taken for a damaged one"""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = next((line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), str(error))
        raise LatentRLError(
            "a checkpoint holds tensors and Python's own numbers and strings, but an optimizer's option, or the "
            f"state_dict of a callback or estimator, holds something else ({what.strip()}): convert it"
        ) from error


def has_states(folder: str | Path) -> list[Path]:
    """The files with states in a folder, the last first; none where no run has got to its first checkpoint."""
    return [path for name in (LAST, PREVIOUS) if (path := Path(folder).expanduser() / name).exists()]


def refuse_study(folder: str | Path) -> None:
    """:raises LatentRLError: the folder holds the results of a study, which go with the settings that lie there"""
    place = Path(folder).expanduser()
    if (place / "cells").is_dir() and (place / "settings.json").exists() and not has_states(place):
        raise LatentRLError(
            f"{str(folder)!r} holds the results of a study, such as one of latentrl gradients or sweep, whose settings "
            "stay as they are: give another folder"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
