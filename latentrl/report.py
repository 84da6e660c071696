"""Where a result came from: versions and hardware, to be stored beside every number."""

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

PACKAGES = ("torch", "gymnasium", "stable-baselines3", "numpy", "scipy")


def environment(device: str) -> dict[str, Any]:
    """Versions of Python and the packages that matter, processor, cores, and the accelerator if one was used."""
    record: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": device,
        **{name: version(name) for name in PACKAGES},
    }
    if device.startswith("cuda"):
        record["gpu"] = torch.cuda.get_device_name(device)
    return record


def _processor() -> str:
    """The processor's name; Linux keeps it in /proc, elsewhere platform knows it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
