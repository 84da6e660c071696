"""What a vector environment accepts: actions, modes, number types and devices, each checked at the door."""

import math
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from torch import Tensor


def checked_actions(
    actions: Tensor | np.ndarray, space: Box | Discrete, n: int, dtype: torch.dtype, device: torch.device, look: bool
) -> Tensor:
    """Return the actions of ``n`` rows as a tensor of ``dtype``, or int64 where they are discrete.

    It is contiguous and not lazily negated, as compiled code takes it.

    Args:
        actions: (n, *space.shape); an array, or a tensor on ``device``.
        space: of one row.
        n: number of rows.
        dtype: of actions that are not discrete.
        device: where they must live.
        look: whether to look at the values, which waits for an accelerator.

    Raises:
        ValueError: another shape, kind or device; with ``look``, values that are not finite or none of the choices.
    """
    shape = (n, *(space.shape or ()))
    if isinstance(actions, Tensor):
        if actions.device != device:
            raise ValueError(f"actions live on {actions.device}, the environment on {device}: move them there")
        action = actions
    else:
        action = as_tensor("actions", actions, device)
    if action.shape != shape:
        raise ValueError(f"actions must have shape {shape}, got {tuple(action.shape)}")
    if isinstance(space, Discrete):
        if action.is_floating_point() or action.dtype == torch.bool:
            raise ValueError(f"actions must be integers, got {action.dtype}")
        action = action.long()
        if look:
            low, high = torch.aminmax(action)
            if int(low) < 0 or int(high) >= space.n:
                rows = where((action < 0).logical_or(action >= int(space.n)))
                raise ValueError(f"actions must be from 0 to {space.n - 1}, but those of rows {rows} are not")
        return action.contiguous().resolve_neg()
    if not action.is_floating_point():
        raise ValueError(f"actions must be floating-point numbers, got {action.dtype}")
    action = action.to(dtype)
    # The sum is finite unless a number is not, or numbers are so large that it overflows: a cheap first look.
    if look and not math.isfinite(action.sum()) and not action.isfinite().all():
        raise ValueError(f"actions must be finite, but those of rows {where(~action.isfinite().all(-1))} are not")
    return action.contiguous().resolve_neg()


def as_tensor(name: str, values: Any, device: torch.device) -> Tensor:
    """Return a tensor as it is, anything else as a copy on the device.

    Raises:
        ValueError: there is no tensor in the values.
    """
    if isinstance(values, Tensor):
        return values.to(device)
    try:
        return torch.tensor(np.array(values, order="C") if isinstance(values, np.ndarray) else values, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array or a tensor of numbers, got {values!r}") from error


def where(mask: Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()


def checked_mode(autoreset_mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(autoreset_mode)
    except ValueError:
        choices = ", ".join(repr(mode.value) for mode in AutoresetMode)
        raise ValueError(f"autoreset_mode must be an AutoresetMode or {choices}, got {autoreset_mode!r}") from None


def float_dtypes(dtype: torch.dtype | str) -> tuple[torch.dtype, type[np.floating]]:
    name = str(dtype).removeprefix("torch.")
    if name == "float32":
        return torch.float32, np.float32
    if name == "float64":
        return torch.float64, np.float64
    raise ValueError(f"dtype must be torch.float32 or torch.float64, or its name, got {dtype!r}")


def present_device(device: str | torch.device) -> torch.device:
    """Return the device, with its index; "auto" is a GPU if there is one."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # each backend refuses in its own way
        raise ValueError(f"device {str(device)!r} is not to be had here: take 'cpu' or 'auto'. ({error})") from error
    if device.type == "meta":
        raise ValueError("device 'meta' holds no numbers: take 'cpu' or 'auto'")
    return device


def may_ask(device: torch.device) -> bool:
    """Return whether to look at values is cheap: on an accelerator it waits until all work so far is done."""
    return device.type == "cpu"
