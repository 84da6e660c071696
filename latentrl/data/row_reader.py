"""Random rows of arrays that are files in memory, read without the process growing."""

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrl.data.mapped import pages

BLOCK = 2**26
"""Bytes after which a mapped file's pages are given back."""
AROUND = 2**16
"""Bytes that Linux maps around what is read."""


class Reader:
    """Random rows of an array. Those of a file are read without the file growing into the process' memory.

    A mapped file's pages count as the process' own until they are needed elsewhere. So that a process under a memory
    limit is not stopped for them, they are given back after each :data:`BLOCK`; and as rows are read in random order,
    the system is told not to read ahead.

    :param array: (N, *shape)
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        self._pages = pages(array)
        each = array.nbytes // max(1, len(array))
        self._part = max(1, BLOCK // max(each, AROUND))
        self._left = self._part
        if self._pages is not None:
            self._pages.madvise(mmap.MADV_RANDOM)

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """(len(rows), *shape), a copy whose rows lie one after another."""
        if self._pages is None:
            return np.ascontiguousarray(self._array[rows])
        found = np.empty((len(rows), *self._array.shape[1:]), self._array.dtype)
        start = 0
        while start < len(rows):
            stop = start + self._left
            found[start:stop] = self._array[rows[start:stop]]
            self._left -= min(stop, len(rows)) - start
            start = stop
            if self._left <= 0:
                self._pages.madvise(mmap.MADV_DONTNEED)
                self._left = self._part
        return found
