"""LeRobotDatasets (Cadene et al. 2024) on this machine: version 3, and version 2 with its file per episode.

``meta/info.json`` describes features; ``data/chunk-*/*.parquet`` hold a row per frame, with ``episode_index`` and
``frame_index``. Observations of several features are named as in the file, without "observation." and with "/" for
further dots, because PyTorch's modules cannot have a dot in their names. Pictures are accepted where they stand in the
Parquet files (``"dtype": "image"``), as (H, W, C) of uint8. Those in videos are not: decode them first, or leave them
out. ``next.reward`` become rewards. https://huggingface.co/docs/lerobot/lerobot-dataset-v3
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from latentrl.checks import LatentRLError, require
from latentrl.data.arrow import numbers
from latentrl.data.reading import Episodes, chosen, reading

ACTION, REWARD, EPISODE, FRAME = "action", "next.reward", "episode_index", "frame_index"


def lerobot_arguments(
    folder: Path, keys: Any, observation_space: spaces.Space[Any] | None, action_space: spaces.Space[Any] | None
) -> dict[str, Any]:
    """Arguments of ``Demonstrations.from_arrays``; for parameters see ``Demonstrations.from_lerobot``."""
    pq = require("pyarrow.parquet", "lerobot")
    features, frames = _description(folder)
    with reading(folder, "a LeRobotDataset"):
        seen = [name for name in features if name.split(".")[0] == "observation"]
        names = chosen(seen if keys is None else features, keys)
        _refuse(features, [*names, ACTION])
        if len({_short(name) for name in names}) < len(names):
            raise LatentRLError(f"of {', '.join(names)} some have one name without 'observation.': choose by keys=")
        columns = [*names, ACTION, *([REWARD] if features.get(REWARD, {}).get("shape") == (1,) else []), EPISODE, FRAME]
        files = sorted((folder / "data").glob("chunk-*/*.parquet"))
        if not files:
            raise LatentRLError("has no data/chunk-*/*.parquet: give a folder with a whole dataset")
        steps = 0
        for file in files:
            with reading(file, "Parquet"):
                steps += pq.read_metadata(file).num_rows
        if steps != frames:
            raise LatentRLError(f"has {steps} frames in its files, but {frames} by meta/info.json: fetch it whole")
        episodes, last = Episodes(steps), -1
        for file in files:
            with reading(file, "Parquet of a LeRobotDataset"):
                last = _read(pq, file, columns, names, features, episodes, last)
        return episodes.arguments(observation_space, action_space)


def _description(folder: Path) -> tuple[dict[str, Any], int]:
    """dtype and shape of each feature, and how many frames there are."""
    info = folder / "meta" / "info.json"
    if not info.is_file():
        raise LatentRLError(f"there is no file {str(info)!r}: give the folder of a LeRobotDataset, which has one")
    with reading(info, "the description of a LeRobotDataset"):
        told = json.loads(info.read_text())
        described = told["features"].items()
        features = {name: {"dtype": one["dtype"], "shape": tuple(map(int, one["shape"]))} for name, one in described}
        return features, int(told["total_frames"])


def _refuse(features: dict[str, Any], names: list[str]) -> None:
    """:raises LatentRLError: names without a feature, or with one that is no array"""
    if ACTION not in features:
        raise LatentRLError(f"has no feature {ACTION!r}, only {', '.join(features)}")
    for name in names:
        dtype = features[name]["dtype"]
        if dtype in ("video", "string", "language"):
            others = [key for key in names if key != ACTION and features[key]["dtype"] != dtype]
            raise LatentRLError(
                f"feature {name!r} is {dtype}, which is not read: leave it out with keys={others or '[…]'}"
                + (", or have it stored as images in the Parquet files" if dtype == "video" else "")
            )


def _read(
    pq: Any, file: Path, columns: list[str], names: tuple[str, ...], features: Any, episodes: Episodes, last: int
) -> int:
    """Add the episodes of a file, which follow number ``last``; return the number of the last of them."""
    table = pq.read_table(file, columns=columns, page_checksum_verification=True)  # where there are checksums
    index, frames = (numbers(name, table.column(name).combine_chunks()) for name in (EPISODE, FRAME))
    cuts = np.flatnonzero(np.diff(index)) + 1
    for first, end in zip([0, *cuts], [*cuts, len(index)], strict=True):
        number = int(index[first])
        record = f"episode {number}"
        if number <= last or (frames[first:end] != np.arange(end - first)).any():
            raise LatentRLError(f"{record} is not whole, or not in order: its frames must be numbered from 0")
        rows = {name: table.column(name).slice(first, end - first).combine_chunks() for name in columns}
        arrays = {name: _array(f"{record}: {name}", rows[name], features[name]) for name in columns[:-2]}
        rewards = arrays[REWARD][:, 0] if REWARD in arrays else None
        short = {_short(name): arrays[name] for name in names}
        episodes.add(record, short if len(names) > 1 else arrays[names[0]], arrays[ACTION], rewards)
        last = number
    return last


def _short(name: str) -> str:
    return name.removeprefix("observation.").replace(".", "/")


def _array(what: str, column: Any, feature: dict[str, Any]) -> NDArray[Any]:
    """Values of a feature: (T, *shape), of shape (1,) alike where the file has plain numbers."""
    if feature["dtype"] == "image":
        cells = enumerate(column.to_pylist())
        return np.stack([_picture(f"{what}, row {row}", cell, feature["shape"]) for row, cell in cells])
    values = numbers(what, column)
    shape = (len(values), *feature["shape"])
    if values.size != np.prod(shape):
        raise LatentRLError(f"{what} has shape {values.shape[1:]}, but meta/info.json says {feature['shape']}")
    return values.reshape(shape)


def _picture(what: str, cell: Any, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """(H, W, C); descriptions may put the channels first."""
    from PIL import Image  # comes with matplotlib

    if not isinstance(cell, dict) or not cell.get("bytes"):
        raise LatentRLError(f"{what} has no picture in it: only those that are stored in the Parquet files are read")
    with reading(what, "a picture"), Image.open(io.BytesIO(cell["bytes"])) as picture:
        if picture.mode not in ("L", "RGB", "RGBA"):
            raise LatentRLError(f"{what} is a picture of mode {picture.mode}: give 8 bits of gray or colours")
        values = np.asarray(picture)
    values = values if values.ndim == 3 else values[..., None]
    if values.shape not in (shape, (*shape[1:], *shape[:1])):
        raise LatentRLError(f"{what} is a picture of shape {values.shape}, but meta/info.json says {shape}")
    return values
