"""Files that are written whole or not at all, and output folders checked before any work is done."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentrl.checks import LatentRLError


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes the place of ``path`` if the block ends well.

    A block that raises, or a process that is killed, leaves what stood at ``path`` untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last, because writers such as matplotlib choose the format by it.
    partial = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def output_folder(path: str | Path, overwrite: bool = False) -> Path:
    """Make sure that ``path`` is an empty, writable folder.

    A folder that holds something is refused unless ``overwrite``; nothing in it is deleted.

    :raises LatentRLError: if ``path`` is a file, not empty, or cannot be written
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise LatentRLError(f"output folder {str(folder)!r} is a file: give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not overwrite:
            raise LatentRLError(f"output folder {str(folder)!r} is not empty: give another folder, or --overwrite")
        probe = folder / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise LatentRLError(
            f"output folder {str(folder)!r} cannot be written ({error.strerror}): give another"
        ) from error
    return folder
