"""Trajectories of the imitation library (Gleave et al. 2022).

``obs`` (T + 1, *shape), ``acts`` (T, *shape) and, where they are known, ``rews`` (T,). What its ``serialize.save``
writes is a folder of the package datasets: Arrow files, a row per trajectory, nested lists. Before 1.0 it was an
.npz: trajectories one after another, ``indices`` (E - 1,) the actions before each but the first. ``infos`` are pickled
there and are not opened. The observation after the last action is left out.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from latentrl.checks import LatentRLError, require
from latentrl.data.arrow import numbers
from latentrl.data.checks import as_integers, as_observations
from latentrl.data.npz import load_npz
from latentrl.data.reading import Episodes, reading

END = b"\xff\xff\xff\xff\0\0\0\0"
"""Of an Arrow file. Without it some trajectories may be missing."""


def trajectory_arguments(
    trajectories: str | Path | Sequence[Any],
    observation_space: spaces.Space[Any] | None,
    action_space: spaces.Space[Any] | None,
) -> dict[str, Any]:
    """Arguments of ``Demonstrations.from_arrays``; for parameters see ``Demonstrations.from_trajectories``."""
    if not isinstance(trajectories, str | Path):
        if not isinstance(trajectories, Iterable):
            raise LatentRLError(f"{type(trajectories).__name__} is no list of trajectories: give several, or a path")
        episodes = _of_objects(list(trajectories))
    elif Path(trajectories).expanduser().is_dir():
        episodes = _of_folder(Path(trajectories).expanduser())
    else:
        episodes = _of_npz(Path(trajectories).expanduser())
    return episodes.arguments(observation_space, action_space)


def _of_objects(trajectories: list[Any]) -> Episodes:
    lacking = [
        i
        for i, one in enumerate(trajectories)
        if getattr(one, "obs", None) is None or not hasattr(one, "acts") or not hasattr(one.acts, "__len__")
    ]
    if lacking or not trajectories:
        raise LatentRLError(
            f"trajectory {lacking[0]} has no obs and acts: give objects with both, as imitation's rollouts are"
            if lacking
            else "there are no trajectories: give at least one"
        )
    episodes = Episodes(sum(len(one.acts) for one in trajectories))
    for number, one in enumerate(trajectories):
        # imitation wraps Dict observations in a class of its own, which is no Mapping.
        seen = as_observations(dict(one.obs.items()) if hasattr(one.obs, "items") else one.obs)
        rewards = getattr(one, "rews", None)
        _add(episodes, f"trajectory {number}", seen, one.acts, rewards)
    return episodes


def _of_npz(path: Path) -> Episodes:
    arrays = load_npz(path, lambda names: [name for name in names if name != "infos"])
    with reading(path, "trajectories"):
        if missing := {"obs", "acts", "indices"} - arrays.keys():
            raise LatentRLError(f"lacks {', '.join(sorted(missing))}; it has {', '.join(sorted(arrays)) or 'nothing'}")
        obs, acts = arrays["obs"], arrays["acts"]
        # No trajectory but one has no indices, and an empty array no integers.
        inner = as_integers("indices", arrays["indices"]) if arrays["indices"].size else np.empty(0, np.int64)
        ends = np.append(inner, len(acts))
        lengths = np.diff(ends, prepend=0)
        if arrays["indices"].ndim != 1 or (lengths < 1).any():
            raise LatentRLError(f"indices do not increase to {len(acts)}, first at trajectory {(lengths < 1).argmax()}")
        if len(obs) != len(acts) + len(ends) or len(arrays.get("rews", acts)) != len(acts):
            raise LatentRLError(
                f"there are {len(obs)} obs for {len(acts)} acts of {len(ends)} trajectories: give one more than acts "
                "in each; and as many rews as acts"
            )
        episodes = Episodes(len(acts))
        for number, (end, length) in enumerate(zip(ends, lengths, strict=True)):
            rows, seen = slice(end - length, end), obs[end - length + number : end + number + 1]
            rewards = arrays["rews"][rows] if "rews" in arrays else None
            _add(episodes, f"trajectory {number}", seen, acts[rows], rewards)
        return episodes


def _of_folder(path: Path) -> Episodes:
    pa = require("pyarrow", "trajectories")
    ipc = require("pyarrow.ipc", "trajectories")
    with reading(path, "trajectories that imitation saved"):
        state = json.loads((path / "state.json").read_text())
        tables = []
        for entry in state["_data_files"]:
            file = path / entry["filename"]
            with reading(file, "an Arrow file"):
                mapped = pa.memory_map(str(file))
                if mapped.size() < len(END) or mapped.read_at(len(END), mapped.size() - len(END)) != END:
                    raise LatentRLError(f"{str(file)!r} is cut off: fetch or save it again")
                tables.append(ipc.open_stream(mapped).read_all())
        columns = [name for name in ("obs", "acts", "rews") if name in tables[0].column_names]
        if not {"obs", "acts"} <= set(columns):
            raise LatentRLError(f"has columns {', '.join(tables[0].column_names)}: it needs obs and acts")
        rows = [
            {name: batch.column(name)[i] for name in columns}
            for table in tables
            for batch in table.select(columns).to_batches()
            for i in range(len(batch))
        ]
        for number, row in enumerate(rows):
            for name, part in row.items():
                if not hasattr(part, "values") or part.values is None:
                    raise LatentRLError(f"trajectory {number} has no list in {name}: repair or remove it")
        episodes = Episodes(sum(len(row["acts"].values) for row in rows))
        for number, row in enumerate(rows):
            parts = {name: numbers(f"trajectory {number}: {name}", part.values) for name, part in row.items()}
            _add(episodes, f"trajectory {number}", parts["obs"], parts["acts"], parts.get("rews"))
        return episodes


def _add(episodes: Episodes, record: str, seen: Any, acts: NDArray[Any], rewards: Any) -> None:
    """A trajectory without the observation after its last action."""
    for name, part in (seen if isinstance(seen, dict) else {"obs": seen}).items():
        if len(part) != len(acts) + 1:
            raise LatentRLError(f"{record} has {len(part)} {name} for {len(acts)} acts: give one more than acts")
    parts = {name: part[:-1] for name, part in seen.items()} if isinstance(seen, dict) else seen[:-1]
    episodes.add(record, parts, acts, rewards)
