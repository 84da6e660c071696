"""Demonstrations: what people or agents did, as flat arrays with episode lengths."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from latentrl.checks import LatentRLError, at_least, count
from latentrl.data.checks import (
    as_array,
    as_integers,
    as_observations,
    check_finite,
    check_lengths,
    check_space,
    guess_action_space,
    guess_observation_space,
    named,
    one_integer,
)
from latentrl.data.mapped import Rows, take
from latentrl.data.minari import write_minari
from latentrl.data.npz import load_npz, save_npz
from latentrl.data.readers import Readers
from latentrl.data.reading import reading
from latentrl.data.space_json import from_json, to_json

FIELDS = {"observations", "actions", "episode_lengths", "rewards", "modes", "observation_space", "action_space"}
"""Of an archive; others are not looked at."""


@dataclass(frozen=True, eq=False, repr=False)
class Demonstrations(Readers):
    """N transitions of E episodes, one after another.

    Build it with :meth:`from_arrays` or a reader; the constructor validates too, so an instance is always sound.
    Arrays that are too large for memory stay in their file (``numpy.memmap``), or are rows of such an array, which are
    read when they are indexed (:class:`~latentrl.data.mapped.Rows`).
    """

    observations: Any
    """(N, *observation shape), or for a Dict space a dict of such arrays: what was seen before each action; the state
    after the last action is not kept."""
    actions: NDArray[Any]
    """(N, *action shape)"""
    episode_lengths: NDArray[np.int64]
    """(E,): steps of each episode; sums to N."""
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    rewards: NDArray[np.float32] | None = None
    """(N,), kept for reports; cloning does not use them."""
    modes: NDArray[np.int64] | None = None
    """(E,): which behaviour each episode shows. Metrics read it; training never does."""

    def __post_init__(self) -> None:
        self._check_arrays()
        check_lengths(self.episode_lengths)
        total = sum(self.episode_lengths.tolist())  # of Python's integers, which do not overflow
        arrays = named("observations", self.observations) | named("actions", self.actions)
        arrays |= named("rewards", self.rewards)
        for name, array in arrays.items():
            if len(array) != total:
                raise LatentRLError(
                    f"episode_lengths sum to {total}, but there are {len(array)} {name} of shape {array.shape[1:]}: "
                    "give one row per transition, episodes one behind the other (of an array by episode and step, "
                    ".reshape(-1, size)), without the observation after an episode's last action"
                )
        for name, array in (named("rewards", self.rewards) | named("modes", self.modes)).items():
            if array.ndim != 1:
                raise LatentRLError(f"{name} have shape {array.shape}: give one number each, in a flat array")
        if self.modes is not None and len(self.modes) != len(self.episode_lengths):
            raise LatentRLError(
                f"there are {len(self.modes)} modes for {len(self.episode_lengths)} episodes: give one per episode"
            )
        for name, array in arrays.items():
            check_finite(name, array, self.episode_lengths)
        check_space("observation", self.observations, self.observation_space, self.episode_lengths)
        check_space("action", self.actions, self.action_space, self.episode_lengths)

    def _check_arrays(self) -> None:
        """Take what is given as arrays that torch knows.

        :raises LatentRLError: something that is no array
        """
        given = {name: getattr(self, name) for name in ("actions", "episode_lengths", "rewards", "modes")}
        several = self.observations if isinstance(self.observations, Mapping) else {"": self.observations}
        for name, array in {**given, **{f"observations/{part}": array for part, array in several.items()}}.items():
            missing = array is None and name in ("rewards", "modes")
            if not missing and not isinstance(array, np.ndarray | Rows):
                raise LatentRLError(
                    f"{name.rstrip('/')} must be an array, but {type(array).__name__} was given: take from_arrays"
                )
        known = {
            "observations": as_observations(self.observations),
            "actions": as_array("actions", self.actions),
            "episode_lengths": as_integers("episode_lengths", self.episode_lengths),
            "rewards": None if self.rewards is None else as_array("rewards", self.rewards),
            "modes": None if self.modes is None else as_integers("modes", self.modes),
        }
        for name, values in known.items():
            object.__setattr__(self, name, values)

    def __repr__(self) -> str:
        modes = "" if self.modes is None else f", {len(np.unique(self.modes))} modes"
        return (
            f"Demonstrations({self.num_episodes} episodes of {len(self)} transitions{modes}; observations "
            f"{self.observation_space}, actions {self.action_space})"
        )

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.actions)

    @property
    def num_episodes(self) -> int:
        return len(self.episode_lengths)

    @property
    def episode_starts(self) -> NDArray[np.int64]:
        """(E,): row of each episode's first transition."""
        return np.concatenate([[0], np.cumsum(self.episode_lengths)[:-1]]).astype(np.int64)

    # -- arrays and files ----------------------------------------------------------------------------------------------

    @classmethod
    def from_arrays(
        cls,
        observations: Any,
        actions: Any,
        episode_lengths: Any,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        rewards: Any = None,
        modes: Any = None,
    ) -> "Demonstrations":
        """From array-likes of flat transitions.

        :param observations: (N, *shape), or a dict of such arrays
        :param observation_space: by default an unbounded Box of the observations' shape, for (N, H, W, C) or
            (N, C, H, W) of uint8 that of pictures; for a dict the Dict of these
        :param action_space: by default a Box spanning the actions, or Discrete where each is one integer
        :raises LatentRLError: on mismatched lengths, NaN or infinite values, choices or actions outside the space,
            empty data
        """
        observations, actions = as_observations(observations), as_array("actions", actions)
        if any(len(array) == 0 for array in [*named("observations", observations).values(), actions]):
            raise LatentRLError("demonstrations are empty: give at least one episode of at least one transition")
        actions = one_integer(actions, action_space)
        return cls(
            observations=observations,
            actions=actions,
            episode_lengths=as_integers("episode_lengths", episode_lengths),
            observation_space=guess_observation_space(observations) if observation_space is None else observation_space,
            action_space=guess_action_space(actions) if action_space is None else action_space,
            rewards=None if rewards is None else as_array("rewards", rewards).astype(np.float32),
            modes=None if modes is None else as_integers("modes", modes),
        )

    @classmethod
    def from_npz(
        cls,
        path: str | Path,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
    ) -> "Demonstrations":
        """From a NumPy archive: ``observations``, ``actions``, ``episode_lengths``; ``rewards``, ``modes`` if there.

        Or from a folder of such .npy files. Observations of a Dict space stand there one by one, as
        ``observations/NAME``. What :meth:`save` wrote tells its spaces. Pickled arrays are refused: a file from a
        stranger cannot run code. Arrays that are too large for memory are mapped; compressed ones in a temporary file.

        :param observation_space: by default that of the file, or else as in :meth:`from_arrays`; so ``action_space``
        :raises LatentRLError: on files that are missing, damaged or lack something, and as :meth:`from_arrays` does
        """
        file = Path(path).expanduser()
        arrays: dict[str, Any] = load_npz(file, lambda names: [n for n in names if n.split("/")[0] in FIELDS])
        prefix = "observations/"
        parts = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
        if parts and "observations" in arrays:
            raise LatentRLError(
                f"{path} has 'observations' and {', '.join(map(repr, (prefix + name for name in parts)))}: keep one of "
                "them, the one array or those of a dict"
            )
        if parts:
            arrays["observations"] = parts
        missing = {"observations", "actions", "episode_lengths"} - arrays.keys()
        if missing:
            raise LatentRLError(
                f"{path} lacks {', '.join(sorted(missing))}; it has {', '.join(sorted(arrays)) or 'nothing'}: save it "
                "with numpy.savez(path, observations=…, actions=…, episode_lengths=…)"
            )
        with reading(path, "demonstrations"):
            return cls.from_arrays(
                arrays["observations"],
                arrays["actions"],
                arrays["episode_lengths"],
                _told(arrays, "observation_space") if observation_space is None else observation_space,
                _told(arrays, "action_space") if action_space is None else action_space,
                rewards=arrays.get("rewards"),
                modes=arrays.get("modes"),
            )

    def save(self, path: str | Path) -> None:
        """Write all of it to an .npz archive that :meth:`from_npz` reads back exactly; whole or not at all.

        Not compressed, so that it can be mapped. Spaces are JSON; there is no pickle in it.

        :raises LatentRLError: a path that does not end in .npz
        """
        if Path(path).suffix != ".npz":
            raise LatentRLError(f"demonstrations are saved as .npz, but {str(path)!r} was given: end the path in .npz")
        arrays = named("observations", self.observations) | named("actions", self.actions)
        arrays |= named("rewards", self.rewards) | named("modes", self.modes)
        arrays |= {"episode_lengths": self.episode_lengths}
        for name, space in (("observation_space", self.observation_space), ("action_space", self.action_space)):
            arrays[name] = np.array(to_json(space))
        save_npz(Path(path).expanduser(), arrays)

    def to_minari(self, dataset_id: str, **about: Any) -> Any:
        """Write all of it as a Minari dataset on this machine, which :meth:`from_minari` reads back exactly.

        Minari wants three things that demonstrations do not know: the observation after an episode's last action is
        that before it once more, episodes are truncated, not terminated, and rewards are 0 where there are none.

        :param dataset_id: such as ``"maze/human-v0"``
        :param about: what Minari warns of where it is not told, and more that ``minari.create_dataset_from_buffers``
            takes: ``author``, ``author_email``, ``code_permalink``, ``algorithm_name``, ``description``, ``env``, …
        :return: the ``minari.MinariDataset``
        :raises LatentRLError: without the package (``latentrl[minari]``), or where the dataset exists already
        """
        return write_minari(self, dataset_id, about)

    # -- parts -------------------------------------------------------------------------------------------------

    def select(self, episodes: Any) -> "Demonstrations":
        """Episodes by indices, a slice or a boolean mask, in the given order. Of mapped arrays nothing is copied."""
        wanted: Any = episodes if isinstance(episodes, slice) else np.atleast_1d(episodes)
        if not isinstance(wanted, slice) and wanted.ndim > 1:
            raise LatentRLError(f"episodes have shape {wanted.shape}: give one flat list of indices")
        try:
            index = np.arange(self.num_episodes)[wanted if np.size(wanted) else []]
        except IndexError as error:
            raise LatentRLError(f"there are {self.num_episodes} episodes: {error}") from error
        if not len(index):
            raise LatentRLError("no episode was selected: give at least one index")
        starts = self.episode_starts[index]
        lengths = self.episode_lengths[index]
        rows = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
        part = copy(self)  # not built anew: what was validated stays sound
        changes = {
            "observations": take(self.observations, rows),
            "actions": take(self.actions, rows),
            "episode_lengths": lengths,
            "rewards": None if self.rewards is None else self.rewards[rows],
            "modes": None if self.modes is None else self.modes[index],
        }
        for name, values in changes.items():
            object.__setattr__(part, name, values)
        return part

    def split(self, fraction: float, seed: int = 0) -> "tuple[Demonstrations, Demonstrations]":
        """Two disjoint parts by episodes, the first with ``fraction`` of them, rounded; none is empty.

        Where modes are known, each mode is split alike, as far as whole episodes allow, so that both parts show every
        behaviour of which there are several.

        :raises LatentRLError: a fraction outside of (0, 1), or a single episode
        """
        if not 0.0 < at_least("fraction", fraction, 0.0) < 1.0:
            raise LatentRLError(f"fraction must lie between 0 and 1, but {fraction!r} was given")
        generator = np.random.default_rng(count("seed", seed, 0))
        if self.num_episodes == 1:
            raise LatentRLError("there is one episode, which cannot be split: give more")
        modes = np.zeros(self.num_episodes, dtype=np.int64) if self.modes is None else self.modes
        members = [generator.permutation(np.flatnonzero(modes == mode)) for mode in np.unique(modes)]
        sizes = np.array([len(part) for part in members])
        total = min(max(round(fraction * self.num_episodes), 1), self.num_episodes - 1)
        taken = np.floor(fraction * sizes).astype(np.int64)
        # What is left goes to those modes whose shares were rounded down the most, those alike by chance.
        order = np.lexsort([generator.random(len(sizes)), taken - fraction * sizes])
        left = total - int(taken.sum())
        taken[order[: max(left, 0)]] += 1
        taken[order[len(order) + min(left, 0) :]] -= 1
        first = np.zeros(self.num_episodes, dtype=bool)
        for part, number in zip(members, taken, strict=True):
            first[part[:number]] = True
        return self.select(first), self.select(~first)


def _told(arrays: dict[str, Any], name: str) -> spaces.Space[Any] | None:
    return from_json(str(arrays[name])) if name in arrays else None
