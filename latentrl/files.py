"""Files that are written whole or not at all, and output folders checked before any work is done."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from latentrl.checks import LatentRLError

LOCK = ".lock"


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes the place of ``path`` if the block ends well.

    A block that raises, or a process that is killed, leaves what stood at ``path`` untouched. Of a link it is what that
    points to; a device or a pipe is written to as it is.

    :raises LatentRLError: it cannot be written: a full disk, a folder that may only be read
    """
    given, partial, handled = Path(path).expanduser(), None, sys.exception()
    try:
        if given.exists() and not given.is_file() and not given.is_dir():
            yield given
            return
        target = Path(os.path.realpath(given))
        # The suffix stays last, because writers such as matplotlib choose the format by it. Threads, and processes of
        # other machines, may write to the same place.
        partial = target.with_name(f".{target.stem}.{os.getpid()}-{uuid4().hex[:8]}.part{given.suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb") as file:  # a machine that loses power after the next line has it on its disk
            os.fsync(file.fileno())
        partial.replace(target)
    except LatentRLError:
        raise
    except Exception as error:
        # Of a full disk, torch and zipfile tell in errors of their own.
        cause: BaseException = error
        while not isinstance(cause, OSError):
            if cause.__context__ in (None, handled):  # what was handled before the block has nothing to do with it
                raise
            cause = cause.__context__
        raise LatentRLError(
            f"{str(path)!r} cannot be written ({cause.strerror or cause}): make room, or give another place; "
            "what was there before still is"
        ) from error
    finally:
        if partial is not None:
            with suppress(OSError):
                partial.unlink()


@contextmanager
def locked(folder: str | Path, wait: float = 0.0) -> Iterator[None]:
    """Keep other processes from writing to ``folder`` for as long as the block runs; its file is ``.lock``.

    The system lets go of the lock where a process is killed. The process that holds it may take it again.

    :param wait: seconds to wait for another process
    :raises LatentRLError: another process holds it, or the folder cannot be written
    """
    try:
        place = Path(folder).expanduser()
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place.resolve() / LOCK, is_singleton=True)
        lock.acquire(timeout=wait)
    except Timeout as error:
        raise LatentRLError(
            f"another process is writing to {str(folder)!r}: wait until it has ended, or give another folder"
        ) from error
    except OSError as error:
        raise LatentRLError(
            f"output folder {str(folder)!r} cannot be written ({error.strerror}): give another"
        ) from error
    try:
        yield
    finally:
        lock.release()


def read_settings(path: Path) -> dict[str, Any]:
    """What a folder's settings.json holds.

    :raises LatentRLError: it is damaged, or cannot be read
    """
    try:
        settings = json.loads(path.read_text())
    except OSError as error:
        raise LatentRLError(f"{str(path)!r} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        settings = error
    if not isinstance(settings, dict):
        raise LatentRLError(f"{str(path)!r} is damaged: remove it and what belongs to it, or give another folder")
    return settings


def output_folder(path: str | Path, overwrite: bool = False) -> Path:
    """Make sure that ``path`` is an empty, writable folder.

    A folder that holds something is refused unless ``overwrite``; nothing in it is deleted.

    :raises LatentRLError: if ``path`` is a file, not empty, or cannot be written
    """
    folder = Path(path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise LatentRLError(f"output folder {str(folder)!r} is a file: give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not overwrite and any(path.name != LOCK for path in folder.iterdir()):
            raise LatentRLError(f"output folder {str(folder)!r} is not empty: give another folder, or --overwrite")
        probe = folder / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise LatentRLError(
            f"output folder {str(folder)!r} cannot be written ({error.strerror}): give another"
        ) from error
    return folder
