"""What a training run depends on, in words: settings by name, data by their hash."""

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from inspect import getclosurevars
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from latentrl.data.checks import named
from latentrl.data.demonstrations import Demonstrations

WHOLE = 2**26
"""Bytes up to which an array is hashed whole; of larger ones, :data:`ROWS` rows are."""
ROWS = 1024


def describe(value: Any) -> Any:
    """A value as JSON: equal for equal settings, whatever object holds them.

    Objects are their class and what they hold, but for names with an underscore, which is what they have learned.
    Functions are their name and code, with what they close over, their defaults and the numbers they find outside.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): describe(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [describe(part) for part in (sorted(value, key=repr) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, np.ndarray | torch.Tensor):
        return _hash(np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value))
    if isinstance(value, partial):
        return ["functools.partial", describe(value.func), describe(value.args), describe(value.keywords)]
    if isinstance(value, MethodType):
        return [describe(value.__func__), describe(value.__self__)]
    if isinstance(value, FunctionType):
        return _function(value)
    if isinstance(value, type | BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, spaces.Space | torch.device | torch.dtype | np.generic):
        return str(value)
    return _object(value)


def _function(function: FunctionType) -> list[Any]:
    """Its name, and what it computes with: code, what it closes over, defaults, and numbers outside of it."""
    seen = getclosurevars(function)
    plain = {name: value for name, value in seen.globals.items() if isinstance(value, bool | int | float | str)}
    kept = [list(seen.nonlocals.values()), function.__defaults__, function.__kwdefaults__, plain]
    return [f"{function.__module__}.{function.__qualname__}", _code(function.__code__), describe(kept)]


def _code(code: CodeType) -> str:
    inside = [_constant(part) for part in code.co_consts]
    return hashlib.sha256(code.co_code + repr((code.co_names, inside)).encode()).hexdigest()[:12]


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return _code(value)
    if isinstance(value, tuple | frozenset):  # a set has another order in each process
        parts = [_constant(part) for part in value]
        return repr(parts if isinstance(value, tuple) else sorted(parts))
    return repr(value)


def _object(value: Any) -> Any:
    if isinstance(value, torch.nn.Module):
        held = _module(value)
    elif is_dataclass(value):
        held = {field.name: getattr(value, field.name) for field in fields(value)}
    else:
        held = getattr(value, "__dict__", {})
    public = {name: part for name, part in held.items() if not name.startswith("_")}
    return {"class": f"{type(value).__module__}.{type(value).__qualname__}", **describe(public)}


def _module(module: torch.nn.Module) -> dict[str, Any]:
    """What a module was made with, as far as it shows: plain attributes, single numbers, and parts."""
    plain = {name: kept for name, kept in vars(module).items() if isinstance(kept, bool | int | float | str | tuple)}
    plain.pop("training")
    numbers = {name: float(kept) for name, kept in module.named_parameters(recurse=False) if kept.dim() == 0}
    return {**plain, **numbers, **dict(module.named_children())}


def digest(data: Demonstrations) -> dict[str, Any]:
    """Demonstrations by the hashes of their arrays and their spaces."""
    arrays = named("observations", data.observations) | named("actions", data.actions)
    return {
        **{name: _hash(array) for name, array in arrays.items()},
        "episode_lengths": _hash(data.episode_lengths),
        "spaces": [str(data.observation_space), str(data.action_space)],
    }


def _hash(array: NDArray[Any]) -> str:
    """dtype, shape and a hash of the values, or of evenly spaced rows where they are many."""
    found = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    if array.nbytes > WHOLE:
        array = array[np.linspace(0, len(array) - 1, ROWS).astype(np.int64)]
    found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]
