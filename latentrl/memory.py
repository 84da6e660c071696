"""How much memory there is, how much a piece of work takes at its peak, and what to do where it is too much."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from latentrl.checks import LatentRLError

PEAK, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MACHINE, GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


class Peak:
    """Filled in when the block of :func:`peak_memory` ends."""

    bytes: int | None = None
    """Beyond what was held before; None where the system does not tell."""


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the block's peak: on CUDA by torch's allocator, on the CPU by the process' resident set (Linux).

    The resident set grows by pages and keeps what the allocator has not given back, so that small blocks read 0.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    start = _resident("VmRSS") if _forget() else None
    yield peak
    if start is not None:
        peak.bytes = max(_resident("VmHWM") - start, 0)


def _forget() -> bool:
    """Let the kernel's high-water mark start anew; False where there is none."""
    try:
        RESET.write_text("5")
    except OSError:
        return False
    return True


def _resident(field: str) -> int:
    line = next(line for line in PEAK.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def resident_memory() -> int:
    """Bytes that this process holds in memory (Linux)."""
    return _resident("VmRSS")


def available_memory() -> int | None:
    """Bytes that can be taken without swapping: what the machine has left or, if less, its control group (Linux).

    None where the system does not tell.
    """
    try:
        line = next(line for line in MACHINE.read_text().splitlines() if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    free = int(line.split()[1]) * 1024
    try:
        limit, used = ((GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, max(int(limit) - int(used), 0))


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Say what helps where a device runs out of memory in the block.

    :raises LatentRLError: it did
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise LatentRLError(
            f"the device ran out of memory: {advice} ({' '.join(str(error).split('. ')[0].split())})"
        ) from error
