"""Batches made ahead of time on a side thread, for data that lie on the host."""

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from latentrl.data.host_segments import HostSegments
from latentrl.randomness import seed_of
from latentrl.types import Batch

AHEAD = 2
"""Batches that are made before they are asked for."""


class Ahead:
    """The batches of updates, each from random numbers of its own, so that it does not matter when it is made.

    On a GPU they are copied on a stream of their own, while the last update still runs.

    :param segments: the data
    :param batch_size: segments per batch
    :param steps: random rows of each
    :param seeds: what the random numbers follow from, together with the update
    """

    def __init__(self, segments: HostSegments, batch_size: int, steps: int | None, seeds: tuple[int, ...]) -> None:
        self._segments, self._size, self._steps, self._seeds = segments, batch_size, steps, seeds
        self._pool = ThreadPoolExecutor(1, "latentrl-batches")
        self._made: dict[int, Future[tuple[Batch, torch.cuda.Event | None]]] = {}
        self._stream = torch.cuda.Stream(segments.device) if segments.device.type == "cuda" else None

    def __call__(self, step: int) -> Batch:
        """The batch of an update."""
        if step not in self._made:  # the first of all, or training was continued elsewhere
            self._made = {step: self._pool.submit(self._make, step)}
        for later in range(step + 1, step + 1 + AHEAD):
            if later not in self._made:
                self._made[later] = self._pool.submit(self._make, later)
        batch, copied = self._made.pop(step).result()
        if copied is not None:
            now = torch.cuda.current_stream(self._segments.device)
            now.wait_event(copied)
            for part in batch:
                if part is not None:
                    part.record_stream(now)  # or its memory could be given away while it is read
        return batch

    def _make(self, step: int) -> tuple[Batch, torch.cuda.Event | None]:
        generator = torch.Generator().manual_seed(seed_of(*self._seeds, step))
        index = self._segments.random_index(self._size, generator)
        if self._stream is None:
            return self._segments.batch(index, self._steps, generator), None
        with torch.cuda.stream(self._stream):
            batch = self._segments.batch(index, self._steps, generator)
            return batch, self._stream.record_event()

    def close(self) -> None:
        """Stop making batches."""
        self._pool.shutdown(cancel_futures=True)
