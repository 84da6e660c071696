"""How much memory there is, how much a piece of work takes at its peak, and what to do where it is too much."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from latentrl.checks import LatentRLError

PEAK, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MACHINE, GROUP, OWN_GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
LAYOUTS = {
    ("", ""): ("memory.max", "memory.current", "inactive_file"),
    ("memory", "memory"): ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of control groups, versions 2 and 1: (folder, name in a process' list); what limit, use, and files that were read are
called."""


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
    lefts = [_left(group, names) for layout, names in LAYOUTS.items() for group in _groups(*layout)]
    return min([free, *(left for left in lefts if left is not None)])


def _groups(folder: str, controller: str) -> list[Path]:
    """Folders of the control groups that the process is in, from its own up to the root's."""
    root = GROUP / folder
    try:
        lines = [line.split(":", 2) for line in OWN_GROUP.read_text().splitlines()]
        own = next(path for _, controllers, path in lines if controller in controllers.split(","))
    except (OSError, StopIteration, ValueError):
        own = "/"
    inside = root / own.strip().lstrip("/")
    return [inside, *(path for path in inside.parents if path == root or root in path.parents)]


def _left(group: Path, names: tuple[str, str, str]) -> int | None:
    """Bytes below a control group's limit; what it keeps of files that were read can be taken back at any time."""
    try:
        limit, used = ((group / name).read_text().strip() for name in names[:2])
        if limit == "max":
            return None
        kept = [line.split()[1] for line in _lines(group / "memory.stat") if line.startswith(f"{names[2]} ")]
        return max(int(limit) - int(used) + sum(map(int, kept)), 0)
    except (OSError, ValueError):
        return None


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


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
