"""What demonstrations must be: arrays of numbers, finite, of their spaces' shapes, inside them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from latentrl.checks import LatentRLError
from latentrl.data.mapped import blocks, is_mapped
from latentrl.spaces import SUPPORTED, leaves

LARGEST = float(np.finfo(np.float32).max)


def as_array(name: str, values: Any) -> NDArray[Any]:
    """An array of numbers, in its file if it is mapped; truth values become 0 and 1."""
    if np.ma.is_masked(values):
        raise LatentRLError(f"{name} is masked in places: fill them, or leave these transitions out")
    try:
        array = values if is_mapped(values) else np.asarray(values)
    except ValueError as error:
        raise LatentRLError(f"{name} is ragged: give one flat array of transitions and episode_lengths") from error
    if array.ndim == 0 and array.dtype.kind in "biuf":
        raise LatentRLError(f"{name} is a single number: give an array with one row per transition")
    if array.dtype == bool:
        return np.asarray(array).view(np.int8)
    if array.dtype.kind not in "iuf":
        raise LatentRLError(f"{name} has dtype {array.dtype}: give real numbers, one flat array of transitions")
    if any(stride % array.dtype.itemsize for stride in getattr(array, "strides", ())):  # fields of packed records
        array = np.array(array, order="C")
    if not array.dtype.isnative or array.dtype.itemsize > 8:  # torch knows neither other byte orders nor long doubles
        kind = np.dtype(np.float64) if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
        return np.asarray(array).astype(kind)
    return array


def as_integers(name: str, values: Any) -> NDArray[np.int64]:
    array = as_array(name, values)
    if not np.issubdtype(array.dtype, np.integer):
        raise LatentRLError(f"{name} has dtype {array.dtype}: give integers")
    return array.astype(np.int64)


def as_observations(values: Any) -> Any:
    """An array of numbers, or a dict of them."""
    if isinstance(values, Mapping):
        if not values:
            raise LatentRLError("observations are an empty dict: give at least one array in it")
        return {str(name): as_array(f"observations/{name}", part) for name, part in values.items()}
    return as_array("observations", values)


def named(name: str, values: Any) -> dict[str, NDArray[Any]]:
    """The arrays in a field by name: "observations/NAME" for those of a dict."""
    if isinstance(values, Mapping):
        return {f"{name}/{part}": array for part, array in values.items()}
    return {} if values is None else {name: values}


def guess_observation_space(values: Any) -> spaces.Space[Any]:
    """An unbounded Box of the values' shape, that of pictures for three-dimensional bytes, or a Dict of these."""
    if isinstance(values, Mapping):
        return spaces.Dict({name: guess_observation_space(part) for name, part in values.items()})
    if values.dtype == np.uint8 and values.ndim == 4:
        return spaces.Box(0, 255, values.shape[1:], np.uint8)
    return spaces.Box(-np.inf, np.inf, values.shape[1:], np.float32)


def guess_action_space(actions: NDArray[Any]) -> spaces.Space[Any]:
    """A Box that spans the actions, or Discrete for one integer each."""
    actions = np.asarray(actions)
    if np.issubdtype(actions.dtype, np.integer) and actions.ndim == 1:
        start = min(0, int(actions.min()))
        return spaces.Discrete(int(actions.max()) - start + 1, start=start)
    low, high = (np.asarray(bound, dtype=np.float32) for bound in (actions.min(0), actions.max(0)))
    return spaces.Box(low, high, actions.shape[1:], np.float32)


def one_integer(actions: NDArray[Any], space: spaces.Space[Any] | None) -> NDArray[Any]:
    """Choices (N, 1) as (N,), where the space is Discrete or yet to be guessed: some files know no other shape."""
    alone = actions.ndim == 2 and actions.shape[1] == 1 and np.issubdtype(actions.dtype, np.integer)
    return actions[:, 0] if alone and (space is None or isinstance(space, spaces.Discrete)) else actions


def check_finite(name: str, array: NDArray[Any], lengths: NDArray[np.int64] | None = None) -> None:
    """:param lengths: of episodes, to name the one in which a row is
    :raises LatentRLError: NaN or infinite values, in 32 bits too
    """
    if not np.issubdtype(array.dtype, np.floating):
        return
    bad = bad_rows(array, np.isfinite)
    if len(bad):
        raise LatentRLError(
            f"{name} holds NaN or infinite values in {len(bad)} of {len(array)} rows, first in "
            f"{_place(bad[0], lengths)}: remove or repair these transitions"
        )
    if array.dtype.itemsize > 4 and len(large := bad_rows(array, lambda rows: np.abs(rows) <= LARGEST)):
        raise LatentRLError(
            f"{name} holds numbers beyond {LARGEST:.1e} in {len(large)} of {len(array)} rows, first in "
            f"{_place(large[0], lengths)}, infinite to networks of 32 bits: remove or repair these transitions"
        )


def _place(row: int, lengths: NDArray[np.int64] | None) -> str:
    """A row and, where episodes are known, which step of which it is."""
    if lengths is None:
        return f"row {row}"
    episode = int(np.searchsorted(lengths.cumsum(), row, "right"))
    return f"row {row} (step {row - lengths[:episode].sum()} of episode {episode})"


def bad_rows(array: Any, good: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Rows with a value that is not good."""
    found = [first + np.flatnonzero(~good(rows).all(axis=tuple(range(1, rows.ndim)))) for first, rows in blocks(array)]
    return np.concatenate([np.empty(0, np.int64), *found])


def check_space(what: str, values: Any, space: spaces.Space[Any], lengths: NDArray[np.int64]) -> None:
    """Dtypes and shapes must fit, choices and actions must lie inside their space.

    Observations of numbers may exceed theirs, as recorded ones do.

    :param lengths: of episodes
    :raises LatentRLError: where they do not
    """
    if isinstance(space, spaces.Dict) and what == "action":
        raise LatentRLError(f"action space {space} is not supported: {_accepted()}")
    for name, leaf, array in leaves(f"{what}s", space, values):
        if not isinstance(leaf, SUPPORTED):
            nested = " inside a Dict" if name else ""
            raise LatentRLError(f"{what} space {leaf}{nested} is not supported: {_accepted()}")
        _check_leaf(what, f"{what}s/{name}" if name else f"{what}s", array, leaf, lengths)


def _accepted() -> str:
    return f"use {', '.join(space.__name__ for space in SUPPORTED)}, or for observations a Dict of these"


def _check_leaf(
    what: str, name: str, values: NDArray[Any], space: spaces.Space[Any], lengths: NDArray[np.int64]
) -> None:
    if values.shape[1:] != space.shape:
        raise LatentRLError(f"{name} have shape {values.shape[1:]} each, but the space is {space}: make them agree")
    numbers = isinstance(space, spaces.Box)
    picture = numbers and what == "observation" and space.dtype == np.uint8
    if (picture or not numbers) and not np.issubdtype(values.dtype, np.integer):
        raise LatentRLError(f"{name} have dtype {values.dtype}, but the space is {space}: give integers")
    # Numbers that were seen may lie outside, but as bytes they would wrap around.
    if numbers and what == "observation" and not (picture and values.dtype != np.uint8):
        return
    low, high = _bounds(space)
    outside = bad_rows(values, lambda rows: (rows >= low) & (rows <= high))
    if len(outside):
        first = outside[0]
        shown = f": {values[first]}" if values[first].size <= 16 else ""
        raise LatentRLError(
            f"{len(outside)} of {len(values)} {name} lie outside {space}, first in {_place(first, lengths)}{shown}; "
            "clip or rescale them, or widen the space"
        )


def _bounds(space: Any) -> tuple[Any, Any]:
    """Smallest and largest value; a little beyond the bounds of real numbers, for those that were rounded."""
    if isinstance(space, spaces.MultiBinary):
        return 0, 1
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        low = np.asarray(space.start, dtype=np.int64)
        return low, low + (space.n if isinstance(space, spaces.Discrete) else space.nvec) - 1
    if np.issubdtype(space.dtype, np.integer):
        return space.low, space.high
    return space.low - _slack(space.low), space.high + _slack(space.high)


def _slack(bound: Any) -> Any:
    return 1e-5 * np.maximum(1.0, np.abs(np.where(np.isfinite(bound), bound, 0.0)))


def check_lengths(lengths: NDArray[np.int64]) -> None:
    """:raises LatentRLError: lengths that cannot be those of episodes"""
    if lengths.ndim > 1:
        raise LatentRLError(f"episode_lengths have shape {lengths.shape}: give one number per episode")
    if lengths.ndim != 1 or len(lengths) == 0 or not lengths.any():
        raise LatentRLError("demonstrations are empty: give at least one episode of at least one transition")
    if (lengths < 1).any():
        where = int(np.flatnonzero(lengths < 1)[0])
        raise LatentRLError(f"episode {where} has length {lengths[where]}: every length must be ≥ 1")
