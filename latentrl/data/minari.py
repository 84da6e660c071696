"""Minari's datasets (Farama Foundation), read and written through the package itself.

An episode has one observation more than actions: the one after the last action is left out. Nested Dict observations
become one Dict, a part named "outer/inner". https://minari.farama.org
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from numbers import Integral
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
from gymnasium import spaces

from latentrl.checks import LatentRLError, require
from latentrl.data.mapped import take
from latentrl.data.reading import Episodes, chosen, reading
from latentrl.spaces import SUPPORTED

MODE = "mode"
"""Where :func:`write_minari` keeps the mode of an episode: in its metadata."""


def minari_arguments(dataset: Any, episodes: Sequence[int] | None, keys: Any, download: bool) -> dict[str, Any]:
    """Arguments of ``Demonstrations.from_arrays``; for parameters see ``Demonstrations.from_minari``."""
    minari = require("minari", "minari")
    if isinstance(dataset, str):
        dataset = _load(minari, dataset, download)
    if not isinstance(dataset, minari.MinariDataset):
        raise LatentRLError(f"{type(dataset).__name__} is no Minari dataset: give a minari.MinariDataset or an id")
    with reading(f"Minari dataset {dataset.id}", "demonstrations"):
        indices = dataset.episode_indices[_places(episodes, len(dataset.episode_indices))]
        flat = _flat(dataset.observation_space)
        if "" in flat and keys is not None:
            raise LatentRLError(f"observations are {flat['']} without names: leave out keys=")
        names = chosen(flat, keys)
        for name in names:
            if not isinstance(flat[name], SUPPORTED):
                raise LatentRLError(
                    f"observation space {flat[name]} of {name or 'it'} is not supported: choose by keys="
                )
        alone = "" in flat or (keys is not None and len(names) == 1)
        space = flat[names[0]] if alone else spaces.Dict([(name, flat[name]) for name in names])
        about = list(dataset.storage.get_episode_metadata(indices))
        read = Episodes(sum(int(one["total_steps"]) for one in about))
        for index, episode in zip(indices, dataset.iterate_episodes(indices), strict=True):
            parts = _flat(episode.observations)
            seen = {name: _before_actions(f"episode {index}", parts[name], episode) for name in names}
            read.add(f"episode {index}", seen[names[0]] if alone else seen, episode.actions, episode.rewards)
        # Other people's may be words, or shares.
        modes = [one[MODE] for one in about if isinstance(one.get(MODE), Integral)]
        arguments = read.arguments(space, dataset.action_space)
        return arguments | ({"modes": np.array(modes)} if len(modes) == len(about) else {})


def _before_actions(record: str, values: Any, episode: Any) -> Any:
    if len(values) != len(episode.rewards) + 1:
        raise LatentRLError(
            f"{record} has {len(values)} observations for {len(episode.rewards)} steps: one more is due"
        )
    return values[:-1]


def _load(minari: Any, name: str, download: bool) -> Any:
    try:
        return minari.load_dataset(name, download=download)
    except FileNotFoundError as error:
        raise LatentRLError(
            f"there is no Minari dataset {name!r} on this machine: give download=True, fetch it with `minari download "
            f"{name}`, or give one of {', '.join(minari.list_local_datasets()) or 'none so far'}"
        ) from error
    except Exception as error:  # a damaged dataset, a bad id, no network: minari raises many kinds
        raise LatentRLError(f"Minari dataset {name!r} cannot be loaded ({type(error).__name__}: {error})") from error


def _places(episodes: Sequence[int] | None, number: int) -> Any:
    if episodes is None:
        return slice(None)
    places = np.asarray(episodes)
    if places.ndim != 1 or not len(places) or places.dtype.kind not in "iu":
        raise LatentRLError(f"episodes must be a list of whole numbers, but {episodes!r} was given")
    if places.min() < 0 or places.max() >= number:
        raise LatentRLError(
            f"there are episodes 0 to {number - 1}, but {places.min()} to {places.max()} were asked for"
        )
    return places


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by name."""
    if not isinstance(values, Mapping | spaces.Dict):
        return {prefix.removesuffix("/"): values}
    leaves: dict[str, Any] = {}
    for name, part in values.items():
        leaves |= _flat(part, f"{prefix}{name}/")
    return leaves


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`_flat` makes the leaves of: files of HDF5 take "/" in a name for a group.

    :raises LatentRLError: a leaf with others below it
    """
    made: dict[str, Any] = {}
    for name, leaf in leaves.items():
        if below := [other for other in leaves if other.startswith(f"{name}/")]:
            raise LatentRLError(f"Minari cannot hold observations {name!r} beside {below[0]!r}: give one another name")
        *groups, last = name.split("/")
        place = made
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = leaf
    return made


def _nested_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The same of a Dict; others as they are."""

    def made(parts: Any) -> spaces.Space[Any]:
        return spaces.Dict({n: made(part) for n, part in parts.items()}) if isinstance(parts, dict) else parts

    return made(_nested(space.spaces)) if isinstance(space, spaces.Dict) else space


def write_minari(data: Any, dataset_id: str, about: dict[str, Any]) -> Any:
    """A Minari dataset of demonstrations, whole or not at all; see ``Demonstrations.to_minari``."""
    minari = require("minari", "minari")
    folder = Path(import_module("minari.storage.datasets_root_dir").get_dataset_path(dataset_id))
    if folder.exists():
        raise LatentRLError(
            f"there is a Minari dataset {dataset_id!r} already: give another name or version; or delete it, if a write "
            "that was killed has left it unfinished"
        )
    try:
        dataset = minari.create_dataset_from_buffers(
            dataset_id,
            _buffers(data, import_module("minari.data_collector").EpisodeBuffer),
            **{
                "observation_space": _nested_space(data.observation_space),
                "action_space": data.action_space,
                "jpeg_encoding": False,  # which would change pictures
                **about,
            },
        )
        if data.modes is not None:
            dataset.storage.update_episode_metadata([{MODE: int(mode)} for mode in data.modes])
    except LatentRLError:
        raise  # before anything was written
    except BaseException as error:
        rmtree(folder, ignore_errors=True)
        if not isinstance(error, Exception):
            raise  # interrupted
        raise LatentRLError(
            f"Minari dataset {dataset_id!r} cannot be written ({type(error).__name__}: {error})"
        ) from error
    return dataset


def _buffers(data: Any, made: Any) -> Iterator[Any]:
    """Episodes one by one, so that large data are never in memory as a whole."""
    for first, length in zip(data.episode_starts, data.episode_lengths, strict=True):
        rows = np.arange(first, first + length)
        # Minari wants what came after the last action, too. It is not known, and the reader leaves it out.
        seen = take(data.observations, np.append(rows, rows[-1]))
        yield made(
            observations=_nested({n: np.asarray(part) for n, part in seen.items()})
            if isinstance(seen, dict)
            else np.asarray(seen),
            actions=np.asarray(data.actions[rows]),
            rewards=np.zeros(length, np.float32) if data.rewards is None else data.rewards[rows],
            terminations=np.zeros(length, bool),
            truncations=np.arange(length) == length - 1,
        )
