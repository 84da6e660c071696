"""What readers have in common: errors that name the file, and episodes that are put one after another."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from latentrl.checks import LatentRLError
from latentrl.data.checks import as_array, check_finite
from latentrl.data.mapped import release, room


@contextmanager
def reading(path: str | Path, kind: str) -> Iterator[None]:
    """Whatever goes wrong in the block becomes an error that names the file and what it should be."""
    try:
        yield
    except LatentRLError as error:
        if str(path) in str(error):
            raise
        raise LatentRLError(f"{str(path)!r}: {error}") from error
    except Exception as error:  # libraries raise many kinds for damaged or foreign files
        raise LatentRLError(f"{str(path)!r} cannot be read as {kind} ({type(error).__name__}: {error})") from error


class Episodes:
    """Episodes, added one by one, as the arrays of ``Demonstrations.from_arrays``.

    Each is checked when it comes, so that an error names it. Arrays are kept in memory, or in a temporary file where
    they are too large for that, see :func:`~latentrl.data.mapped.room`.

    :param steps: of all episodes together
    """

    def __init__(self, steps: int) -> None:
        self.steps: int = steps
        self.lengths: list[int] = list[int]()
        self._arrays: dict[str, NDArray[Any]] = {}
        self._row = 0

    def add(self, record: str, observations: Any, actions: Any, rewards: Any = None) -> None:
        """One more episode of T steps.

        :param record: what the file calls it
        :param observations: (T, *shape), or by name
        :param actions: (T, *shape)
        :param rewards: (T,), or None
        :raises LatentRLError: arrays that are no finite numbers, or of other lengths, shapes or kinds than before
        """
        fields = (
            {f"observations/{name}": part for name, part in observations.items()}
            if isinstance(observations, Mapping)
            else {"observations": observations}
        )
        fields |= {"actions": actions} | ({} if rewards is None else {"rewards": rewards})
        parts = {name: as_array(f"{record}: {name}", values) for name, values in fields.items()}
        length = len(parts["actions"])
        if length == 0:
            raise LatentRLError(f"{record} has no steps: leave it out")
        if self._row + length > self.steps:
            raise LatentRLError(f"{record} goes beyond the {self.steps} steps that there should be")
        if not self._arrays:
            self._arrays = self._rooms(parts)
        if parts.keys() != self._arrays.keys():
            raise LatentRLError(f"{record} has {', '.join(parts)}, but those before have {', '.join(self._arrays)}")
        for name, part in parts.items():
            self._fill(record, name, part, length)
        self._row += length
        self.lengths.append(length)

    def _rooms(self, parts: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Room for all steps of each part; what memory the smaller ones take is not there for the larger ones."""
        made, taken = {}, 0
        for name in sorted(parts, key=lambda name: parts[name][:1].nbytes):
            made[name] = room((self.steps, *parts[name].shape[1:]), parts[name].dtype, taken)
            taken += made[name].nbytes
        return {name: made[name] for name in parts}

    def _fill(self, record: str, name: str, part: NDArray[Any], length: int) -> None:
        joined = self._arrays[name]
        if len(part) != length:
            raise LatentRLError(f"{record} has {len(part)} {name} for {length} actions: give one for each")
        if part.shape[1:] != joined.shape[1:] or not _fits(part.dtype, joined.dtype):
            raise LatentRLError(
                f"{record}: {name} are {part.dtype} of shape {part.shape[1:]}, but those before are {joined.dtype} of "
                f"shape {joined.shape[1:]}"
            )
        check_finite(f"{record}: {name}", part)
        joined[self._row : self._row + length] = part
        release(joined)

    def arguments(
        self, observation_space: spaces.Space[Any] | None = None, action_space: spaces.Space[Any] | None = None
    ) -> dict[str, Any]:
        """Arguments of ``Demonstrations.from_arrays``.

        :raises LatentRLError: without an episode, or with fewer steps than there should be
        """
        if self._row != self.steps or not self.lengths:
            raise LatentRLError(f"there are {self._row} of {self.steps} steps: give at least one whole episode")
        arrays, prefix = dict(self._arrays), "observations/"
        named = {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}
        return {
            "observations": named or arrays.pop("observations"),
            **arrays,
            "episode_lengths": self.lengths,
            "observation_space": observation_space,
            "action_space": action_space,
        }


def chosen(available: Iterable[str], keys: Any, what: str = "observations", by: str = "keys") -> tuple[str, ...]:
    """The names that were asked for, or all.

    :param what: has these names
    :param by: the parameter that asks

    :raises LatentRLError: names that there are not, or none
    """
    names = tuple(available)
    wanted = names if keys is None else (keys,) if isinstance(keys, str) else tuple(dict.fromkeys(keys))
    missing = [str(name) for name in wanted if name not in names]
    if missing or not wanted:
        raise LatentRLError(
            f"{what} are named {', '.join(names) or 'nothing'}, but {', '.join(missing) or 'none'} was asked for: give "
            f"{by}= some of these names"
        )
    return wanted


def _fits(given: np.dtype[Any], kept: np.dtype[Any]) -> bool:
    """Whether nothing is lost but digits of real numbers."""
    return np.can_cast(given, kept, "same_kind" if given.kind == kept.kind == "f" else "safe")
