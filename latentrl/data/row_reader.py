"""Arrays that are files in memory (``numpy.memmap`` and views of it): found, read without keeping what was read."""

import mmap
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 2**26
"""Bytes that are read at once, and after which a mapped file's pages are given back."""


def root(array: Any) -> "np.memmap[Any, Any] | None":
    """The file in memory of which an array is a view, or from which it takes rows (``.source``); None elsewhere."""
    found = None
    while array is not None:
        if isinstance(array, np.memmap):
            found = array
        array = array.base if isinstance(array, np.ndarray) else getattr(array, "source", None)
    return found


def is_mapped(values: Any) -> bool:
    """Whether an array, or one of a dict of them, is a file in memory."""
    parts = values.values() if isinstance(values, Mapping) else [values]
    return any(root(part) is not None for part in parts)


def blocks(array: NDArray[Any]) -> Iterator[slice]:
    """Rows of an array in parts of about :data:`BLOCK` bytes."""
    size = max(1, BLOCK // max(1, array.nbytes // max(1, len(array))))
    return (slice(start, start + size) for start in range(0, len(array), size))


class Reader:
    """Random rows of an array. Those of a file are read without the file growing into the process' memory.

    A mapped file's pages count as the process' own until they are needed elsewhere. So that a process under a memory
    limit is not stopped for them, they are given back after each :data:`BLOCK`; and as rows are read in random order,
    the system is told not to read ahead.

    :param array: (N, *shape)
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        self._pages = _pages(array)
        self._read = 0
        if self._pages is not None:
            self._pages.madvise(mmap.MADV_RANDOM)

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """(len(rows), *shape), a copy whose rows lie one after another."""
        found = np.ascontiguousarray(self._array[rows])
        if self._pages is not None:
            self._read += found.nbytes
            if self._read > BLOCK:
                self._pages.madvise(mmap.MADV_DONTNEED)
                self._read = 0
        return found


def _pages(array: NDArray[Any]) -> mmap.mmap | None:
    """The mapping whose pages may be given back: None where there is none, or where that would lose changes."""
    file = root(array)
    if file is None or file.mode == "c" or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    return file.base if isinstance(file.base, mmap.mmap) else None
