"""The log of ``latentrl train``: CSV, and TensorBoard where it is installed."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import Logger, make_output_format

from latentrl.checks import LatentRLError


class RunLog(Logger):
    """Lines of a run; one that goes on has its own CSV file, as the old would be lost.

    :raises LatentRLError: here and later, where the log cannot be written
    """

    def __init__(self, folder: Path) -> None:
        number = len(list(folder.glob("progress*.csv")))
        with _writing(folder):
            outputs = [make_output_format("csv", str(folder), f"_{number}" if number else "")]
            if find_spec("tensorboard") is not None:
                outputs.append(make_output_format("tensorboard", str(folder)))
        super().__init__(str(folder), outputs)

    def dump(self, step: int = 0) -> None:
        with _writing(self.dir):
            super().dump(step)

    def close(self) -> None:
        with _writing(self.dir), ExitStack() as all_of_them:
            for output in self.output_formats:
                all_of_them.callback(output.close)


@contextmanager
def run_log(folder: Path) -> Iterator[RunLog]:
    """A log that is closed after the block.

    :raises LatentRLError: it cannot be written
    """
    before = threading.excepthook

    def others(told: Any) -> None:
        # What TensorBoard's thread cannot write it also raises at the next line of the log.
        if not isinstance(told.exc_value, OSError):
            before(told)

    threading.excepthook = others
    try:
        log = RunLog(folder)
        try:
            yield log
        finally:
            log.close()
    finally:
        threading.excepthook = before


@contextmanager
def _writing(folder: Any) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LatentRLError(
            f"the log in {str(folder)!r} cannot be written ({error.strerror or error}): make room, and the same "
            "command goes on from the last checkpoint"
        ) from error
