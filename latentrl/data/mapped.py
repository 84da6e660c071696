"""Arrays that are too large for memory: they stay in a file, and what is asked for is read.

Pages that were read count as memory of the process until the system wants them back, which costs it nothing. Where all
of an array is looked at, they are given back on the way (:func:`blocks`); where rows are drawn, they stay for the next
time.

Which arrays those are is decided in one place, :func:`too_large`. All else is as for other arrays: ``shape``,
``dtype``, ``len`` and indexing by rows; what is read are NumPy arrays in memory.
"""

import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrl.checks import LatentRLError
from latentrl.memory import available_memory

MAPPED_SHARE = 0.1
"""Arrays that would take a larger share of the available memory stay in their file."""
BLOCK = 16 * 2**20
"""Bytes that are read at a time where all of an array is looked at."""
PROCESSES = Path("/proc")
"""Where Linux shows what files a process has open."""


class Rows:
    """Some rows of a mapped array, in some order: only the row numbers are kept in memory.

    Indexing reads; ``numpy.asarray`` reads all. PyTorch does not know this class: hand it what was read.

    :param source: (M, *shape)
    :param rows: (N,) rows of it
    """

    def __init__(self, source: "NDArray[Any]", rows: NDArray[np.int64]) -> None:
        self.source: NDArray[Any] = source
        self.rows: NDArray[np.int64] = rows
        self.shape: tuple[int, ...] = (len(rows), *source.shape[1:])
        self.dtype: np.dtype[Any] = source.dtype
        self.ndim: int = source.ndim
        self.size: int = int(np.prod(self.shape))
        self.nbytes: int = self.size * source.dtype.itemsize

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        """As of an array; reads the rows that the first part of the key takes.

        :raises IndexError: a key that does not begin with rows, or of several lists, which NumPy would take in pairs
        """
        parts = key if isinstance(key, tuple) else (key,)
        for place in [index for index, part in enumerate(parts) if part is Ellipsis][:1]:
            rest = self.ndim - sum(part is not None for part in parts) + 1
            parts = (*parts[:place], *[slice(None)] * rest, *parts[place + 1 :])
        first, *others = parts
        lists = [index for index, part in enumerate(parts) if not isinstance(part, slice | None) and np.ndim(part)]
        apart = bool(lists) and isinstance(first, Integral) and any(isinstance(p, slice) for p in parts[: lists[0]])
        if first is None or len(lists) > 1 or apart:
            raise IndexError(f"rows of a mapped array are taken by one list of them, not by {key!r}: read them before")
        rows = self.rows[first]
        single = np.ndim(rows) == 0
        taken = np.array(self.source[rows]) if single else self.source[rows]
        return taken[tuple(others) if single else (slice(None), *others)] if others else taken

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of them in memory."""
        if copy is False:
            raise ValueError("rows of a mapped array are read, which is a copy")
        values = self[:]
        return values if dtype is None else values.astype(dtype, copy=False)


def root(values: Any) -> "np.memmap[Any, Any] | None":
    """The file in memory of which an array is a view, or :class:`Rows` are rows; None elsewhere."""
    found = None
    while values is not None:
        if isinstance(values, np.memmap):
            found = values
        values = values.source if isinstance(values, Rows) else getattr(values, "base", None)
    return found


def is_mapped(values: Any) -> bool:
    """Whether an array, or one of those in a dict, stays in its file."""
    parts = values.values() if isinstance(values, Mapping) else [values]
    return any(root(part) is not None for part in parts)


def pages(values: Any) -> mmap.mmap | None:
    """The mapping whose pages may be given back: None where there is none, or where that would lose changes."""
    file = root(values)
    if file is None or file.mode == "c" or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    return file.base if isinstance(file.base, mmap.mmap) else None


def too_large(nbytes: int) -> bool:
    """Whether an array of so many bytes stays in its file."""
    free = available_memory()
    return free is not None and nbytes > MAPPED_SHARE * free


def room(shape: tuple[int, ...], dtype: np.dtype[Any], taken: int = 0) -> NDArray[Any]:
    """An array to be filled: in memory, or where it is too large for that in a temporary file.

    The file goes with the array; the environment variable TMPDIR says on which disk it lies. Under Linux it has no name
    there, so that nothing is left of it when the process is killed. ``filename`` is then what this process has open:
    others of this machine can read it for as long as the array is there.

    :param taken: bytes of other arrays that belong to it
    :raises LatentRLError: where that disk is full
    """
    nbytes = int(np.prod(shape)) * dtype.itemsize
    if not nbytes or not too_large(nbytes + taken):
        return np.empty(shape, dtype)
    opened = PROCESSES / str(os.getpid()) / "fd"
    kind: Any = tempfile.TemporaryFile if opened.exists() else tempfile.NamedTemporaryFile
    try:
        with ExitStack() as stack:
            file = stack.enter_context(kind())
            if hasattr(os, "posix_fallocate"):
                # Without it a full disk would end the process when pages are written, not raise here.
                os.posix_fallocate(file.fileno(), 0, nbytes)
            array = np.memmap(file, dtype, "w+", shape=shape)
            if array.filename is None:
                array.filename = str(opened / str(file.fileno()))
            weakref.finalize(array, stack.pop_all().close)
            return array
    except OSError as error:
        raise LatentRLError(
            f"a temporary file of {nbytes / 1e9:.1f} GB cannot be written to {tempfile.gettempdir()!r} "
            f"({error.strerror}): let the environment variable TMPDIR name a folder with more room"
        ) from error


def blocks(values: Any) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first row, rows) of an array from first to last: all of it at once in memory, a mapped one bit by bit."""
    if not is_mapped(values):
        yield 0, values
        return
    step = max(1, BLOCK // max(1, values.nbytes // max(1, len(values))))
    for first in range(0, len(values), step):
        yield first, values[first : first + step]
        release(values)


def release(values: Any) -> None:
    """Give back the memory that mapped pages take; they are read again when they are asked for."""
    if (mapping := pages(values)) is not None:
        mapping.madvise(mmap.MADV_DONTNEED)


def take(values: Any, rows: NDArray[np.int64]) -> Any:
    """Rows of an array, or of each in a dict: a copy in memory, :class:`Rows` of a mapped one."""
    if isinstance(values, Mapping):
        return {name: take(part, rows) for name, part in values.items()}
    if isinstance(values, Rows):
        return Rows(values.source, values.rows[rows])
    return Rows(values, rows) if is_mapped(values) else values[rows]
