"""Demonstrations as tensors on a device, cut into the segments over which a latent is held."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from latentrl.checks import LatentRLError
from latentrl.data.demonstrations import Demonstrations
from latentrl.spaces import features, raw
from latentrl.types import Batch


class Segments:
    """Device-resident segments with random access: the whole data path of training is a few gathers.

    With chunks of T actions a row is an observation and the T actions from there on, side by side (T·A). Only steps
    with T actions ahead of them are rows, in their episode and, for ``hold = k``, in the k steps; so a segment of n
    steps has n - T + 1 rows. A row is where a plan may start. n steps are played in n // T whole plans, so as many of
    the rows are counted: each action counts once, not T times, and β = 1 stays the evidence lower bound.

    :param demonstrations: the data
    :param hold: steps over which one latent is held; 0 is the whole episode
    :param context_length: rows of a segment that the posterior sees, evenly spaced; segments of ``hold`` steps
        that are shorter are seen whole
    :param device: where the tensors live
    :param chunk: T, actions planned from one observation
    :param pads: show the posterior the rows of a segment with fewer than that as they follow one another, and tell it
        how many there are, instead of spacing them evenly
    :param raw_observations: keep observations flat but raw, for a model with a trunk
    :raises LatentRLError: episodes shorter than ``hold`` or ``chunk``, or a ``hold`` shorter than ``chunk``
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        hold: int,
        context_length: int,
        device: torch.device | str = "cpu",
        *,
        chunk: int = 1,
        pads: bool = False,
        raw_observations: bool = False,
    ) -> None:
        data = demonstrations
        check_lengths(data.episode_lengths, hold, chunk)
        flatten = raw if raw_observations else features
        self.observations = flatten(data.observation_space, _tensors(data.observations, device))
        self.actions = features(data.action_space, _tensors(data.actions, device))
        if chunk > 1:
            rows = torch.as_tensor(_windows(data.episode_lengths, chunk), device=device)
            ahead = torch.arange(chunk, device=device)
            self.observations = _gather(self.observations, rows)
            self.actions = _gather(self.actions, rows[:, None] + ahead).flatten(1)
        starts, lengths = _cut(data.episode_lengths - chunk + 1, hold if hold < 2 else hold - chunk + 1)
        self.hold, self.chunk = hold, chunk
        self.starts = torch.as_tensor(starts, device=device)
        self.lengths = torch.as_tensor(lengths, device=device)
        self._context_rows: Tensor | None = None
        self._context_lengths: Tensor | None = None
        if hold != 1:
            size = context_length if hold == 0 else min(hold, context_length)
            self._context_rows = self._spaced(size)
            if pads and int(lengths.min()) < size:
                # Behind its end a segment shows its last row, which is no other segment's.
                in_turn = torch.minimum(torch.arange(size, device=device), self.lengths[:, None] - 1)
                short = self.lengths[:, None] < size
                self._context_rows = torch.where(short, self.starts[:, None] + in_turn, self._context_rows)
                self._context_lengths = self.lengths.clamp_max(size)

    def _spaced(self, size: int) -> Tensor:
        """``size`` rows of each segment, evenly spaced over it."""
        spread = torch.linspace(0.0, 1.0, size, dtype=torch.float64, device=self.starts.device)
        return self.starts[:, None] + (spread * (self.lengths[:, None] - 1)).round().long()

    def __len__(self) -> int:
        return len(self.starts)

    def context(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Observations and actions that the posterior sees of the given segments, padding included.

        (B, O) and (B, A) for ``hold = 1``, otherwise (B, T', O) and (B, T', A).
        """
        # With hold = 1 segments are rows.
        rows = index if self._context_rows is None else self._context_rows[index]
        return _gather(self.observations, rows), _gather(self.actions, rows)

    def batch(self, index: Tensor, steps: int | None = None) -> Batch:
        """The given segments for training: ``steps`` random rows of each, or all where they are equally long.

        Rows are drawn with replacement, independent of one another, so that their weighted sum is unbiased. All of
        them means with chunks those that are played one after another, every T-th.
        """
        context = self.context(index)
        if self.hold == 1:
            return Batch.full(*context, rows=index)
        lengths, weight = self.lengths[index], None
        if steps is None:
            ahead = torch.arange(0, self._common_length(lengths), self.chunk, device=lengths.device)
        else:
            ahead = (torch.rand(len(index), steps, device=lengths.device) * lengths[:, None]).long()
            weight = (lengths if self.chunk == 1 else (lengths + self.chunk - 1) // self.chunk) / steps
        rows = self.starts[index, None] + ahead
        seen = None if self._context_lengths is None else self._context_lengths[index]
        return Batch(_gather(self.observations, rows), _gather(self.actions, rows), *context, weight, seen, index)

    def _common_length(self, lengths: Tensor) -> int:
        if not bool((lengths == lengths[0]).all()):
            raise LatentRLError("these segments differ in length: give steps= to score a random subset of each")
        return int(lengths[0])

    def random_index(self, batch_size: int) -> Tensor:
        """Indices of ``batch_size`` random segments."""
        return torch.randint(len(self), (batch_size,), device=self.starts.device)


def _tensors(values: Any, device: torch.device | str) -> Any:
    if isinstance(values, Mapping):
        return {name: torch.as_tensor(part, device=device) for name, part in values.items()}
    return torch.as_tensor(values, device=device)


def _gather(values: Float[Tensor, "N D"], rows: Tensor) -> Float[Tensor, "*rows D"]:
    """values[rows], in half the time that advanced indexing takes."""
    picked = values.index_select(0, rows.flatten())
    return picked if rows.dim() == 1 else picked.unflatten(0, rows.shape)


def check_lengths(lengths: NDArray[np.int64], hold: int, chunk: int) -> None:
    """:raises LatentRLError: episodes shorter than ``hold`` or ``chunk``, or a ``hold`` shorter than ``chunk``"""
    if 1 < hold < chunk:
        raise LatentRLError(
            f"chunk={chunk} actions do not fit into hold={hold} steps: use a smaller chunk, hold 0 (per episode), or "
            "hold 1 (a plan at every step, of which the first action is played)"
        )
    for name, needed in (("hold", hold), ("chunk", chunk)):
        if (lengths < needed).any():
            where = int((lengths < needed).argmax())
            instead = ", or 0 (per episode)" if name == "hold" else ""
            raise LatentRLError(
                f"{name}={needed}, but episode {where} has only {lengths[where]} steps: use a smaller {name}{instead}"
            )


def _cut(lengths: NDArray[np.int64], hold: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start row and length of every segment; for ``hold = k`` a window starts at every row that leaves room."""
    if hold == 0:
        return lengths.cumsum() - lengths, lengths
    first = _windows(lengths, hold)
    return first, np.full(len(first), hold)


def _windows(lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """First row of every window of ``size`` rows that lies in one of the episodes."""
    windows = lengths - size + 1
    # Rows 0, 1, 2, … of all windows, moved by where each episode's windows begin.
    return np.arange(windows.sum()) + np.repeat(lengths.cumsum() - lengths - (windows.cumsum() - windows), windows)
