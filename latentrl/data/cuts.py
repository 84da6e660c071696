"""Demonstrations cut into the segments over which a latent is held: which rows belong to which, and batches of them."""

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

from latentrl.checks import LatentRLError
from latentrl.types import Batch


class Cuts:
    """What segments share, wherever their values lie: the rows of each, and batches of them.

    With chunks of T actions a row is an observation and the T actions from there on, side by side (T·A). Only steps
    with T actions ahead of them are rows, in their episode and, for ``hold = k``, in the k steps; so a segment of n
    steps has n - T + 1 rows. A row is where a plan may start. n steps are played in n // T whole plans, so as many of
    the rows are counted: each action counts once, not T times, and β = 1 stays the evidence lower bound.

    :param episode_lengths: (E,)
    :param hold: steps over which one latent is held; 0 is the whole episode
    :param context_length: rows of a segment that the posterior sees, evenly spaced; segments of ``hold`` steps
        that are shorter are seen whole
    :param device: where rows are counted and random numbers drawn
    :param chunk: T, actions planned from one observation
    :param pads: show the posterior the rows of a segment with fewer than that as they follow one another, and tell it
        how many there are, instead of spacing them evenly
    :param history: H, observations that the policy sees side by side; an episode's first stands for those before it
    :param memory: lengths of the stretches that a history does not reach beyond; None for the episodes
    :raises LatentRLError: episodes shorter than ``hold`` or ``chunk``, or a ``hold`` shorter than ``chunk``
    """

    observation_dim: int
    """Features of one observation, of which the model reads H."""
    action_dim: int
    """A, or T·A."""
    device: torch.device
    """Where batches come to lie."""

    def __init__(
        self,
        episode_lengths: NDArray[np.int64],
        hold: int,
        context_length: int,
        device: torch.device | str,
        chunk: int,
        pads: bool,
        history: int = 1,
        memory: NDArray[np.int64] | None = None,
    ) -> None:
        check_lengths(episode_lengths, hold, chunk)
        starts, lengths = _cut(episode_lengths - chunk + 1, hold if hold < 2 else hold - chunk + 1)
        self.hold: int = hold
        self.chunk: int = chunk
        self.history: int = history
        self.starts: Tensor = torch.as_tensor(starts, device=device)
        self.lengths: Tensor = torch.as_tensor(lengths, device=device)
        self._context_size: int = context_length if hold == 0 else min(hold, context_length)
        self._pads: bool = pads and hold != 1 and int(lengths.min()) < self._context_size
        # Where values lie for each row; None where they lie row by row.
        self._place = torch.as_tensor(windows(episode_lengths, chunk), device=device) if chunk > 1 else None
        if history > 1:
            stretches = episode_lengths if memory is None else memory
            self._ago = torch.arange(history - 1, -1, -1, device=device)
            self._first = torch.as_tensor((stretches.cumsum() - stretches).repeat(stretches), device=device)

    def _context_rows(self, index: Tensor) -> Tensor:
        """Rows of each segment, evenly spaced over it, (B, T'); of all at once they would take more than the data."""
        starts, lengths = self.starts[index, None], self.lengths[index, None]
        spread = torch.linspace(0.0, 1.0, self._context_size, dtype=torch.float64, device=starts.device)
        ahead = (spread * (lengths - 1)).round().long()
        if self._pads:
            # Behind its end a segment shows its last row, which is no other segment's.
            in_turn = torch.minimum(torch.arange(self._context_size, device=starts.device), lengths - 1)
            ahead = torch.where(lengths < self._context_size, in_turn, ahead)
        return starts + ahead

    def __len__(self) -> int:
        return len(self.starts)

    def _observations_at(self, places: Tensor) -> Shaped[Tensor, "*places O"]:
        raise NotImplementedError

    def _seen_at(self, rows: Tensor) -> Shaped[Tensor, "*rows HO"]:
        """What the policy sees at rows: the observation, behind those before it."""
        places = rows if self._place is None else self._place[rows]
        if self.history == 1:
            return self._observations_at(places)
        past = torch.maximum(places.unsqueeze(-1) - self._ago, self._first[places].unsqueeze(-1))
        return self._observations_at(past).flatten(-2)

    def _actions_at(self, rows: Tensor) -> Shaped[Tensor, "*rows A"]:
        raise NotImplementedError

    def sample_rows(self) -> tuple[Tensor, Tensor]:
        """Single observations (N, O) and actions (N, A) to fit standardisation to."""
        raise NotImplementedError

    def context(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Observations and actions that the posterior sees of the given segments, padding included.

        (B, O) and (B, A) for ``hold = 1``, otherwise (B, T', O) and (B, T', A).
        """
        # With hold = 1 segments are rows.
        rows = index if self.hold == 1 else self._context_rows(index)
        return self._seen_at(rows), self._actions_at(rows)

    def batch(self, index: Tensor, steps: int | None = None, generator: torch.Generator | None = None) -> Batch:
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
            shares = torch.rand(len(index), steps, device=lengths.device, generator=generator)
            ahead = (shares * lengths[:, None]).long()
            weight = (lengths if self.chunk == 1 else (lengths + self.chunk - 1) // self.chunk) / steps
        rows = self.starts[index, None] + ahead
        seen = lengths.clamp_max(self._context_size) if self._pads else None
        return Batch(self._seen_at(rows), self._actions_at(rows), *context, weight, seen, index)

    def _common_length(self, lengths: Tensor) -> int:
        if not bool((lengths == lengths[0]).all()):
            raise LatentRLError("these segments differ in length: give steps= to score a random subset of each")
        return int(lengths[0])

    def random_index(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Indices of ``batch_size`` random segments."""
        return torch.randint(len(self), (batch_size,), device=self.starts.device, generator=generator)


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
    first = windows(lengths, hold)
    return first, np.full(len(first), hold)


def windows(lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """First row of every window of ``size`` rows that lies in one of the episodes."""
    fitting = lengths - size + 1
    # Rows 0, 1, 2, … of all windows, moved by where each episode's windows begin.
    return np.arange(fitting.sum()) + np.repeat(lengths.cumsum() - lengths - (fitting.cumsum() - fitting), fitting)
