"""Segments whose values stay in the host's memory or in files, for data that a device cannot hold."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from latentrl.data.cuts import Cuts
from latentrl.data.demonstrations import Demonstrations
from latentrl.data.mapped import is_mapped
from latentrl.data.row_reader import Reader
from latentrl.data.segments import Segments
from latentrl.memory import available_memory
from latentrl.nets import TRUNK_ROWS, evenly
from latentrl.spaces import features, leaves, raw, size
from latentrl.types import Batch

SHARE = 0.5
"""Share of the free memory of the device, or of the host for files, up to which data are kept there whole."""
MOMENTS = 2**16
"""Most rows to which standardisation is fitted."""
UNKNOWN = 2**32
"""Bytes taken as free where the system does not tell."""


class HostSegments(Cuts):
    """The twin of :class:`Segments` that gathers each batch on the host and moves only that to the device.

    Values are converted batch by batch: files are read row by row, pictures stay bytes.

    :param demonstrations: the data, of arrays or of files in memory (``numpy.memmap``)
    :param device: where batches go; from pinned memory where that is a GPU, without waiting for it

    The other parameters are those of :class:`Segments`, and so are the batches for the same random numbers.
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
        history: int = 1,
        memory: NDArray[np.int64] | None = None,
    ) -> None:
        data = demonstrations
        super().__init__(data.episode_lengths, hold, context_length, "cpu", chunk, pads, history, memory)
        self.device: torch.device = torch.device(device)
        self._flatten = raw if raw_observations else features
        self._observation_space, self._action_space = data.observation_space, data.action_space
        parts = leaves("observations", data.observation_space, data.observations)
        self._readers = {name: Reader(values) for name, _, values in parts}
        self._actions = Reader(data.actions)
        one = torch.zeros(1, dtype=torch.int64)
        self.observation_dim: int = self._observations_at(one).shape[1]
        self.action_dim: int = self._actions_at(one).shape[1]

    def _observations_at(self, places: Tensor) -> Tensor:
        flat = places.flatten().numpy()
        parts = {name: torch.from_numpy(reader(flat)) for name, reader in self._readers.items()}
        values: Any = parts.get("", parts)
        return self._flatten(self._observation_space, values).unflatten(0, places.shape)

    def _actions_at(self, rows: Tensor) -> Tensor:
        if self._place is not None:
            rows = self._place[rows].unsqueeze(-1) + torch.arange(self.chunk)
        picked = features(self._action_space, torch.from_numpy(self._actions(rows.flatten().numpy())))
        picked = picked.unflatten(0, rows.shape)
        return picked if self._place is None else picked.flatten(-2)

    def sample_rows(self) -> tuple[Tensor, Tensor]:
        """Up to :data:`MOMENTS` of them, evenly spaced; for a trunk fewer observations, as many as count."""
        count = int(self.lengths.sum()) if self.hold == 0 else int(self.starts[-1] + self.lengths[-1])
        rows = evenly(count, MOMENTS)
        seen = rows[evenly(len(rows), TRUNK_ROWS)] if self._flatten is raw else rows
        places = seen if self._place is None else self._place[seen]
        return self._observations_at(places).to(self.device), self._actions_at(rows).to(self.device)

    def batch(self, index: Tensor, steps: int | None = None, generator: torch.Generator | None = None) -> Batch:
        """As of :class:`Segments`, on the device."""
        made = super().batch(index, steps, generator)
        # With hold = 1 two fields are one tensor, which is moved once.
        moved = {id(part): self._moved(part) for part in made if part is not None}
        parts: list[Any] = [None if part is None else moved[id(part)] for part in made]
        return Batch(*parts)

    def _moved(self, part: Tensor) -> Tensor:
        if self.device.type == "cpu":
            return part
        return part.pin_memory().to(self.device, non_blocking=True)


def make_segments(
    demonstrations: Demonstrations,
    hold: int,
    context_length: int,
    device: torch.device | str = "cpu",
    *,
    resident: bool | None = None,
    **options: Any,
) -> Cuts:
    """:class:`Segments` where the data fit on the device, else :class:`HostSegments`.

    Arrays that lie in the host's memory stay there when that is the device, whatever their size.

    :param resident: choose; None keeps data on the device up to :data:`SHARE` of its free memory
    :param options: of both
    """
    device = torch.device(device)
    if resident is None:
        resident = fits(demonstrations, device, options.get("chunk", 1), options.get("raw_observations", False))
    kind = Segments if resident else HostSegments
    return kind(demonstrations, hold, context_length, device, **options)


def fits(demonstrations: Demonstrations, device: torch.device, chunk: int = 1, raw_observations: bool = False) -> bool:
    """Whether the data, as the model reads them, and what they are made from take at most :data:`SHARE` of the device's
    free memory."""
    data = demonstrations
    mapped = is_mapped(data.observations) or is_mapped(data.actions)
    if device.type == "cpu" and not mapped:
        return True
    parts = leaves("observations", data.observation_space, data.observations)
    kept = 1 if raw_observations and all(leaf.dtype == np.uint8 for _, leaf, _ in parts) else 4
    each = sum(_bytes_each("observation", leaf, part, raw_observations, kept) for _, leaf, part in parts)
    actions = _bytes_each("action", data.action_space, data.actions, False, 4)
    needed = len(data) * (each + actions + (chunk - 1) * size("action", data.action_space) * 4)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    return needed <= SHARE * (UNKNOWN if free is None else free)


def _bytes_each(what: str, space: Any, values: Any, is_raw: bool, kept: int) -> int:
    """Of one row on the device at the most: until it is made of ``kept`` bytes a number, what came is beside it, and
    choices are beside their one-hot integers."""
    if not is_raw and isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return size(what, space) * (kept + 2 * 8)
    came = 0 if values.dtype in (np.float32, np.uint8) and values.dtype.itemsize == kept else values.dtype.itemsize
    return int(np.prod(space.shape or ())) * (kept + came)
