"""Where the episodes to come start, drawn ahead for all rows at once."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


class Starts:
    """A store of each row's next starts, drawn anew before a row may find it empty.

    To draw for all rows costs little more than to draw for one. A store of one start per row is asked at each call
    whether a row needs its second. To ask would hold up an accelerator: a deeper store lasts for as many calls as it
    has starts per row, because no row begins two episodes in one call.

    Args:
        draw: from seeds int64 (N,) and episodes int64 (K, N), which count from 0, to starts (K, N, S).
        num_envs: number of rows N.
        depth: K, how many starts the store holds for each row.
        device: where the rows live.
    """

    def __init__(
        self, draw: Callable[[Tensor, Tensor], Tensor], num_envs: int, depth: int, device: torch.device
    ) -> None:
        self._draw = draw
        self._ask = depth == 1
        self._rows = torch.arange(num_envs, device=device)
        self._ahead = torch.arange(depth, device=device)[:, None]
        self._seeds = self._rows
        # By row: the number of the first episode in the store, and how many of the store's have begun.
        self._first = torch.zeros_like(self._rows)
        self._used = torch.zeros_like(self._rows, dtype=torch.bool if self._ask else torch.long)
        self._refill()

    def seed(self, seed: int, rows: Tensor) -> None:
        """Restart the random numbers of the rows of a bool mask (N,), row i from ``seed + i``."""
        self._seeds = torch.where(rows, self._rows + seed, self._seeds)
        self._first = (self._first + self._used).masked_fill(rows, 0)
        self._refill()

    def next(self, rows: Tensor) -> Tensor:
        """Return starts (N, S), and have the rows of a bool mask (N,) begin with theirs."""
        if np.count_nonzero((self._used & rows).numpy()) if self._ask else self._calls_left == 0:
            self._first = self._first + self._used
            self._refill()
        self._calls_left -= 1
        if self._ask:
            self._used = self._used | rows
            return self._store[0]
        by_feature = self._store.mT  # (K, S, N), so that features stay contiguous
        starts = by_feature.gather(0, self._used.expand(1, by_feature.shape[1], -1))[0].mT
        self._used = self._used + rows
        return starts

    def _refill(self) -> None:
        self._store, self._calls_left = self._draw(self._seeds, self._first + self._ahead), len(self._ahead)
        self._used = torch.zeros_like(self._used)
