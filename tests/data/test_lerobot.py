"""LeRobotDatasets, laid out as their package does: features typed by its rules, one or several episodes per file."""

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentrl import Demonstrations, LatentRLError
from tests.data.strategies import cut, same

pa = pytest.importorskip("pyarrow", reason="the extra 'lerobot' is not installed")
pq = pytest.importorskip("pyarrow.parquet")
from PIL import Image  # noqa: E402

LENGTHS = [3, 4, 2]
SHAPES = {"observation.state": (2,), "observation.gripper": (1,), "observation.images.top": (6, 5, 3), "action": (2,)}


def contents() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    rows = sum(LENGTHS)
    return {
        "observation.state": generator.normal(size=(rows, 2)).astype(np.float32),
        "observation.gripper": generator.normal(size=(rows, 1)).astype(np.float32),
        "observation.images.top": generator.integers(0, 256, (rows, 6, 5, 3), dtype=np.uint8),
        "action": generator.normal(size=(rows, 2)).astype(np.float32),
        "next.reward": generator.normal(size=(rows, 1)).astype(np.float32),
        "episode_index": np.repeat(np.arange(3), LENGTHS),
        "frame_index": np.concatenate([np.arange(n) for n in LENGTHS]),
    }


def column(values: Any) -> Any:
    """As the package datasets stores a feature: plain for shape (1,), otherwise lists; PNG for pictures."""
    if not isinstance(values, np.ndarray):
        return pa.array(values)
    if values.ndim == 4:
        return pa.array([{"bytes": png(picture), "path": "frame.png"} for picture in values])
    if values.ndim == 1 or values.shape[1] == 1:
        return pa.array(values.ravel())
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def png(picture: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, arrays: dict[str, Any], split: bool = False, **description: Any) -> Path:
    """Version 3 with two files, or version 2 with one for each episode."""
    kinds = {name: "image" if part.ndim == 4 else str(part.dtype) for name, part in contents().items()}
    features = {name: {"dtype": kinds.get(name, "float32"), "shape": [*SHAPES.get(name, (1,))]} for name in arrays}
    features |= description.pop("features", {})
    ends = np.cumsum(LENGTHS)
    cuts = [0, *ends] if split else [0, ends[1], ends[2]]
    for number, (first, end) in enumerate(pairwise(cuts)):
        file = (
            folder / "data" / "chunk-000" / (f"episode_{number:06d}.parquet" if split else f"file-{number:03d}.parquet")
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({name: column(part[first:end]) for name, part in arrays.items()}), file)
    (folder / "meta").mkdir(exist_ok=True)
    info = {"codebase_version": "v3.0", "fps": 10, "total_frames": sum(LENGTHS), "features": features}
    (folder / "meta" / "info.json").write_text(json.dumps(info | description))
    return folder


@pytest.mark.parametrize("split", [False, True], ids=["version 3", "version 2"])
def test_all_of_it(tmp_path: Path, split: bool) -> None:
    arrays = contents()
    data = Demonstrations.from_lerobot(write(tmp_path, arrays, split))
    assert data.episode_lengths.tolist() == LENGTHS
    assert list(data.observations) == ["state", "gripper", "images/top"]
    for name in ("state", "gripper"):
        same(data.observations[name], arrays[f"observation.{name}"])
    same(data.observations["images/top"], arrays["observation.images.top"])
    same(data.actions, arrays["action"])
    same(data.rewards, arrays["next.reward"][:, 0])


def test_one_feature(tmp_path: Path) -> None:
    arrays = contents()
    data = Demonstrations.from_lerobot(write(tmp_path, arrays), "observation.images.top")
    same(data.observations, arrays["observation.images.top"])
    assert data.observation_space.dtype == np.uint8


def test_what_datasets_writes(tmp_path: Path) -> None:
    """The package with which LeRobot writes; a feature with two dimensions is of a type of its own there."""
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    arrays = contents()
    del arrays["next.reward"]
    arrays["observation.grid"] = np.arange(54, dtype=np.float32).reshape(9, 2, 3)
    features = datasets.Features(
        {
            "observation.state": datasets.Sequence(datasets.Value("float32"), length=2),
            "observation.gripper": datasets.Value("float32"),
            "observation.images.top": datasets.Image(),
            "observation.grid": datasets.Array2D((2, 3), "float32"),
            "action": datasets.Sequence(datasets.Value("float32"), length=2),
            "episode_index": datasets.Value("int64"),
            "frame_index": datasets.Value("int64"),
        }
    )
    plain = {name: part.ravel() if part.shape[1:] == (1,) else list(part) for name, part in arrays.items()}
    plain["observation.images.top"] = [Image.fromarray(one) for one in arrays["observation.images.top"]]
    write(tmp_path, {name: part for name, part in arrays.items() if np.ndim(part) < 3})
    (tmp_path / "data" / "chunk-000" / "file-001.parquet").unlink()
    datasets.Dataset.from_dict(plain, features=features).to_parquet(
        tmp_path / "data" / "chunk-000" / "file-000.parquet"
    )
    described = json.loads((tmp_path / "meta" / "info.json").read_text())
    described["features"] |= {
        "observation.images.top": {"dtype": "image", "shape": [3, 6, 5]},
        "observation.grid": {"dtype": "float32", "shape": [2, 3]},
    }
    (tmp_path / "meta" / "info.json").write_text(json.dumps(described))
    data = Demonstrations.from_lerobot(tmp_path)
    same(data.observations["grid"], arrays["observation.grid"])
    same(data.observations["images/top"], arrays["observation.images.top"])
    same(data.observations["gripper"], arrays["observation.gripper"])


def test_videos_are_refused_by_name(tmp_path: Path) -> None:
    features = {"observation.images.wrist": {"dtype": "video", "shape": [6, 5, 3]}}
    write(tmp_path, contents(), features=features)
    with pytest.raises(
        LatentRLError, match=r"'observation\.images\.wrist' is video.*keys=\['observation\.state'"
    ) as caught:
        Demonstrations.from_lerobot(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert len(Demonstrations.from_lerobot(tmp_path, ["observation.state", "observation.images.top"])) == 9


def changed(name: str, row: int, value: Any) -> dict[str, Any]:
    arrays = contents()
    if value is None:
        arrays[name] = list(arrays[name].tolist())
        arrays[name][row] = None
    else:
        arrays[name][row] = value
    return arrays


@pytest.mark.parametrize(
    ("arrays", "description", "message"),
    [
        (contents(), {"total_frames": 10}, r"has 9 frames in its files, but 10 by meta/info\.json"),
        (
            contents(),
            {"features": {"action": {"dtype": "float32", "shape": [3]}}},
            r"episode 0: action has shape \(2,\)",
        ),
        (
            contents(),
            {"features": {"observation.images.top": {"dtype": "image", "shape": [9, 9, 3]}}},
            "row 0 is a picture",
        ),
        (contents(), {"features": {"observation.x": {"dtype": "float32", "shape": [1]}}}, "cannot be read as Parquet"),
        (contents(), {"features": {}, "total_frames": "many"}, r"info\.json' cannot be read"),
        (changed("frame_index", 4, 5), {}, r"file-000\.parquet.*episode 1 is not whole, or not in order"),
        (changed("episode_index", slice(7, 9), 1), {}, r"file-001\.parquet.*episode 1 is not whole"),
        (changed("action", 8, np.nan), {}, r"file-001\.parquet.*episode 2: actions holds NaN .* first in row 1"),
        (changed("observation.gripper", 3, None), {}, r"observation\.gripper"),
        (changed("observation.state", 3, None), {}, r"episode 1: observation\.state lacks 1 of 4"),
        ({name: part for name, part in contents().items() if name != "action"}, {}, "has no feature 'action'"),
    ],
)
def test_bad_datasets_are_named(tmp_path: Path, arrays: dict[str, Any], description: Any, message: str) -> None:
    with pytest.raises(LatentRLError, match=message) as caught:
        Demonstrations.from_lerobot(write(tmp_path, arrays, **description))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("damage", ["cut off", "a byte", "no picture"])
def test_damaged_pictures_are_named(tmp_path: Path, damage: str) -> None:
    file = write(tmp_path, contents()) / "data" / "chunk-000" / "file-000.parquet"
    table, name = pq.read_table(file), "observation.images.top"
    cells = table[name].to_pylist()
    good = cells[4]["bytes"]
    middle = good.index(b"IDAT") + 12
    changed = good[:middle] + bytes([good[middle] ^ 0xFF]) + good[middle + 1 :]
    cells[4]["bytes"] = {"cut off": good[:60], "a byte": changed, "no picture": b"none"}[damage]
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(cells)), file)
    where = r"file-000\.parquet.*'episode 1: observation\.images\.top, row 1' cannot be read as a picture"
    with pytest.raises(LatentRLError, match=where):
        Demonstrations.from_lerobot(tmp_path)


def test_checksums_are_looked_at_where_there_are_any(tmp_path: Path) -> None:
    file = write(tmp_path, contents()) / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pq.read_table(file), file, write_page_checksum=True, compression="none", use_dictionary=False)
    group = pq.read_metadata(file).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    actions = next(one for one in columns if one.path_in_schema.startswith("action"))
    content = bytearray(file.read_bytes())
    content[actions.data_page_offset + actions.total_compressed_size - 1] ^= 1
    file.write_bytes(content)
    with pytest.raises(LatentRLError, match=r"file-000\.parquet' cannot be read as Parquet"):
        Demonstrations.from_lerobot(tmp_path)


def test_other_folders(tmp_path: Path) -> None:
    with pytest.raises(LatentRLError, match=r"there is no file .*info\.json"):
        Demonstrations.from_lerobot(tmp_path)
    write(tmp_path, contents())
    with pytest.raises(LatentRLError, match=r"named observation\.state, .*, but state was asked for"):
        Demonstrations.from_lerobot(tmp_path, "state")
    for file in (tmp_path / "data").rglob("*.parquet"):
        file.unlink()
    with pytest.raises(LatentRLError, match="has no data/chunk"):
        Demonstrations.from_lerobot(tmp_path)


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 0.9999), st.sampled_from(["data/chunk-000/file-001.parquet", "meta/info.json"]))
def test_files_that_are_cut_off_are_refused(tmp_path: Path, share: float, name: str) -> None:
    write(tmp_path, contents())
    cut(tmp_path / name, share)
    with pytest.raises(LatentRLError, match=name.split("/")[-1]):
        Demonstrations.from_lerobot(tmp_path)


def test_features_of_one_short_name_are_refused(tmp_path: Path) -> None:
    """Observations are called by what stands behind "observation."; here one would take the other's place."""
    arrays = contents() | {"state": contents()["observation.gripper"]}
    write(tmp_path, arrays)
    with pytest.raises(LatentRLError, match=r"of observation\.state, state some have one name"):
        Demonstrations.from_lerobot(tmp_path, keys=["observation.state", "state"])
