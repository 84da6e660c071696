"""Errors at the door: what was given, what is accepted, what to do."""

import importlib
import math
from collections.abc import Collection
from numbers import Integral, Real
from types import ModuleType
from typing import Any

import numpy as np
import torch

LARGEST = 2**24
"""Most units of a layer or dimensions of a vector: what is larger is a mistake, and would not fit into memory."""


class LatentRLError(ValueError):
    """Bad input from the user. The command line prints it in one line and exits with status 2."""


def one_of(what: str, given: str, choices: Collection[str]) -> str:
    """Return ``given`` if it is one of ``choices``; otherwise raise an error that lists them."""
    if not isinstance(given, str) or given not in choices:
        raise LatentRLError(f"unknown {what} {given!r}: choose one of {', '.join(map(repr, sorted(choices)))}")
    return given


def at_least(what: str, given: float, minimum: float, infinite: bool = False) -> Any:
    """Return a number ≥ ``minimum``, which is finite unless ``infinite`` says that it need not be; raise for others."""
    if isinstance(given, bool) or not isinstance(given, Real) or not given >= minimum:
        raise LatentRLError(f"{what} must be a number of at least {minimum}, but {given!r} was given")
    return as_python(given) if infinite else real(what, given)


def real(what: str, given: float) -> Any:
    """Return a finite number; raise for others."""
    if isinstance(given, bool) or not isinstance(given, Real) or not -math.inf < given < math.inf:
        raise LatentRLError(f"{what} must be a finite number, but {given!r} was given")
    return as_python(given)


def as_python(given: Any) -> Any:
    """A number of NumPy's as Python's, which every file can hold; anything else as it is."""
    return given.item() if isinstance(given, np.generic) else given


def count(what: str, given: Any, minimum: int) -> int:
    """Return ``given`` as an int if it is a whole number ≥ ``minimum`` (NumPy's too); otherwise raise."""
    if isinstance(given, bool) or not isinstance(given, Integral) or not int(given) >= minimum:
        raise LatentRLError(f"{what} must be a whole number of at least {minimum}, but {given!r} was given")
    return int(given)


def finite(what: str, values: Any) -> None:
    """:raises LatentRLError: what an environment gave holds NaN or infinite numbers"""
    if not np.isfinite(values).all():
        raise LatentRLError(
            f"{what} hold NaN or infinite values: look at the environment; with stable-baselines3's VecCheckNan around "
            "it, the step is found at which they arise"
        )


def dimension(what: str, given: Any, minimum: int = 1) -> int:
    """Return ``given`` as an int if it is a whole number ≥ ``minimum`` that memory can hold; otherwise raise."""
    if count(what, given, minimum) > LARGEST:
        raise LatentRLError(f"{what} must be at most {LARGEST}, but {given!r} was given")
    return int(given)


def for_prior(what: str, given: Any, default: int, prior: str, *priors: str) -> int | None:
    """Return a dimension, or the default for None; where the prior is none of those that have it, None alone passes."""
    if prior in priors:
        return dimension(what, default if given is None else given)
    if given is not None:
        raise LatentRLError(
            f"{what} is for prior={' or '.join(map(repr, priors))}, but prior={prior!r} is chosen: leave it out, or "
            "choose a prior that has it"
        )
    return None


def layer_sizes(what: str, given: Any) -> tuple[int, ...]:
    """Return sizes of layers, of which there may be none; raise for anything else."""
    try:
        return tuple(dimension(what, size) for size in given)
    except (TypeError, LatentRLError) as error:
        raise LatentRLError(
            f"{what} must be positive layer sizes such as (128, 128), but {given!r} was given"
        ) from error


def instance(what: str, given: Any, kind: Any) -> Any:
    """Return ``given`` if it is of a kind; otherwise raise an error that names the kind."""
    if not isinstance(given, kind):
        raise LatentRLError(f"{what} must be a {kind.__name__}, but {given!r} was given")
    return given


def function(what: str, given: Any) -> Any:
    """Return ``given`` if it can be called; otherwise raise."""
    if not callable(given):
        raise LatentRLError(f"{what} must be a function, but {given!r} was given")
    return given


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LatentRLError(
            f"this needs the package {module!r}, which is not installed: pip install 'latentrl[{extra}]'"
        ) from error


def resolve_device(device: str | torch.device) -> torch.device:
    """``"auto"`` is the first CUDA device where there is one, else the CPU. An absent device is an error."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise LatentRLError(
            f"device {str(device)!r} is not available here ({str(error).splitlines()[0]}): use 'auto' or 'cpu'"
        ) from error
    return resolved
