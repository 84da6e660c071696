"""HDF5 files of robomimic (Mandlekar et al. 2021), and of what writes the same layout (robosuite, MimicGen, LIBERO).

``data/demo_K`` holds ``actions`` (T, A), ``obs/NAME`` (T, *shape) and perhaps ``rewards`` (T,); ``mask/NAME`` lists
demonstrations. What comes after an action (``next_obs``, ``dones``) and what describes the task is not needed.
https://robomimic.github.io/docs/datasets/overview.html
"""

import re
from pathlib import Path
from typing import Any

from gymnasium import spaces

from latentrl.checks import LatentRLError, one_of, require
from latentrl.data.reading import Episodes, chosen, reading

DEMO = "a demonstration"


def hdf5_arguments(
    path: Path,
    keys: Any,
    mask: str | None,
    observation_space: spaces.Space[Any] | None,
    action_space: spaces.Space[Any] | None,
) -> dict[str, Any]:
    """Arguments of ``Demonstrations.from_arrays``; for parameters see ``Demonstrations.from_hdf5``."""
    h5py = require("h5py", "hdf5")
    if not path.is_file():
        raise LatentRLError(f"there is no file {str(path)!r}: give the path of an HDF5 file")
    with reading(path, "HDF5 of robomimic"), h5py.File(path, "r") as file:
        demos = _demos(file, mask)
        with reading(demos[0], DEMO):
            names = chosen(_group(h5py, file, f"{demos[0]}/obs"), keys)
        rewards = any(_has_rewards(file, demo) for demo in demos)
        wanted = [*(f"obs/{name}" for name in names), "actions", *(["rewards"] if rewards else [])]
        read = {demo: _datasets(h5py, file, demo, wanted) for demo in demos}
        episodes = Episodes(sum(len(datasets["actions"]) for datasets in read.values()))
        for demo, datasets in read.items():
            with reading(demo, DEMO):
                # Only one demonstration at a time is in memory.
                arrays = {place.removeprefix("obs/"): datasets[place][()] for place in wanted if place[:4] == "obs/"}
                actions, gains = datasets["actions"][()], datasets["rewards"][()] if rewards else None
                episodes.add(demo, arrays if len(names) > 1 else arrays[names[0]], actions, gains)
        return episodes.arguments(observation_space, action_space)


def _demos(file: Any, mask: str | None) -> list[str]:
    """Paths of the demonstrations, by number: demo_10 after demo_9."""
    if "data" not in file:
        raise LatentRLError(f"there is no group 'data', only {', '.join(file) or 'nothing'}: give a file of robomimic")
    names = list(file["data"])
    if mask is not None:
        masks = file.get("mask", {})
        listed = {name.decode() for name in masks[one_of("mask", mask, list(masks))][()]}
        if missing := listed - set(names):
            raise LatentRLError(f"mask {mask!r} lists {', '.join(sorted(missing))}, which the file does not have")
        names = [name for name in names if name in listed]
    if not names:
        raise LatentRLError("there are no demonstrations: give a file, or a mask, with at least one")
    return [f"data/{name}" for name in sorted(names, key=_number)]


def _number(name: str) -> tuple[int, str]:
    found = re.search(r"\d+$", name)
    return (int(found[0]) if found else -1, name)


def _group(h5py: Any, file: Any, name: str) -> Any:
    if not isinstance(file.get(name), h5py.Group):
        raise LatentRLError(f"there is no group {name!r}: give a file with observations, such as robomimic's low_dim")
    return file[name]


def _has_rewards(file: Any, demo: str) -> bool:
    with reading(demo, DEMO):
        return "rewards" in file[demo]


def _datasets(h5py: Any, file: Any, demo: str, wanted: list[str]) -> dict[str, Any]:
    """The arrays of a demonstration by their places in it, not read yet."""
    with reading(demo, DEMO):
        datasets = {place: file.get(f"{demo}/{place}") for place in wanted}
    for place in wanted:
        if not isinstance(datasets[place], h5py.Dataset) or not datasets[place].shape:
            raise LatentRLError(
                f"{demo} has no array {place!r}: leave it out by a mask, or what has no arrays of that name by keys="
            )
    return datasets
