"""Demonstrations as tensors on a device, cut into the segments over which a latent is held."""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from latentrl.checks import LatentRLError
from latentrl.data.demonstrations import Demonstrations
from latentrl.spaces import features
from latentrl.types import Batch


class Segments:
    """Device-resident segments with random access: the whole data path of training is two gathers.

    :param demonstrations: the data
    :param hold: steps over which one latent is held; 0 is the whole episode
    :param context_length: steps of a segment that the posterior sees, evenly spaced; segments of ``hold`` steps
        that are shorter are seen whole
    :param device: where the tensors live
    """

    def __init__(
        self, demonstrations: Demonstrations, hold: int, context_length: int, device: torch.device | str = "cpu"
    ) -> None:
        data = demonstrations
        self.observations = features(data.observation_space, torch.as_tensor(data.observations, device=device))
        self.actions = features(data.action_space, torch.as_tensor(data.actions, device=device))
        starts, lengths = _cut(demonstrations, hold)
        self.hold = hold
        self.starts = torch.as_tensor(starts, device=device)
        self.lengths = torch.as_tensor(lengths, device=device)
        self._context_rows: Tensor | None = None
        if hold != 1:
            size = context_length if hold == 0 else min(hold, context_length)
            spread = torch.linspace(0.0, 1.0, size, dtype=torch.float64, device=device)
            self._context_rows = self.starts[:, None] + (spread * (self.lengths[:, None] - 1)).round().long()

    def __len__(self) -> int:
        return len(self.starts)

    def context(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Observations and actions that the posterior sees of the given segments: (B, O) or (B, T', O) and alike."""
        # With hold = 1 segments are rows.
        rows = index if self._context_rows is None else self._context_rows[index]
        return _gather(self.observations, rows), _gather(self.actions, rows)

    def batch(self, index: Tensor, steps: int | None = None) -> Batch:
        """The given segments for training: ``steps`` random steps of each, or all where they are equally long.

        Steps are drawn with replacement, independent of one another, so that their weighted sum is unbiased.
        """
        context = self.context(index)
        if self.hold == 1:
            return Batch.full(*context)
        lengths = self.lengths[index]
        if steps is None:
            rows = self.starts[index, None] + torch.arange(self._common_length(lengths), device=lengths.device)
            return Batch(_gather(self.observations, rows), _gather(self.actions, rows), *context)
        uniform = torch.rand(len(index), steps, device=lengths.device)
        rows = self.starts[index, None] + (uniform * lengths[:, None]).long()
        return Batch(_gather(self.observations, rows), _gather(self.actions, rows), *context, weight=lengths / steps)

    def _common_length(self, lengths: Tensor) -> int:
        if not bool((lengths == lengths[0]).all()):
            raise LatentRLError("these segments differ in length: give steps= to score a random subset of each")
        return int(lengths[0])

    def random_index(self, batch_size: int) -> Tensor:
        """Indices of ``batch_size`` random segments."""
        return torch.randint(len(self), (batch_size,), device=self.starts.device)


def _gather(values: Float[Tensor, "N D"], rows: Tensor) -> Float[Tensor, "*rows D"]:
    """values[rows], in half the time that advanced indexing takes."""
    picked = values.index_select(0, rows.flatten())
    return picked if rows.dim() == 1 else picked.unflatten(0, rows.shape)


def _cut(demonstrations: Demonstrations, hold: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start row and length of every segment; for ``hold = k`` a window starts at every step that leaves room."""
    starts, lengths = demonstrations.episode_starts, demonstrations.episode_lengths
    if hold == 0:
        return starts, lengths
    if (lengths < hold).any():
        where = int((lengths < hold).argmax())
        raise LatentRLError(
            f"hold={hold}, but episode {where} has only {lengths[where]} steps: use a smaller hold, or 0 (per episode)"
        )
    windows = lengths - hold + 1
    # Rows 0, 1, 2, … of all windows, moved by where each episode's windows begin.
    first = np.arange(windows.sum()) + np.repeat(starts - (windows.cumsum() - windows), windows)
    return first, np.full(len(first), hold)
