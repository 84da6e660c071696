"""robomimic's HDF5 files, laid out as its documentation says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentrl import Demonstrations, LatentRLError
from latentrl.data import mapped
from tests.data.strategies import cut, same

h5py = pytest.importorskip("h5py", reason="the extra 'hdf5' is not installed")
LENGTHS = {"demo_0": 3, "demo_1": 5, "demo_2": 4, "demo_10": 2}


def contents() -> dict[str, dict[str, Any]]:
    generator = np.random.default_rng(0)
    return {
        demo: {
            "actions": generator.uniform(-1, 1, (steps, 7)),
            "rewards": generator.normal(size=steps),
            "dones": np.arange(steps) == steps - 1,
            "states": generator.normal(size=(steps, 30)),
            "obs/robot0_eef_pos": generator.normal(size=(steps, 3)),
            "obs/agentview_image": generator.integers(0, 256, (steps, 8, 8, 3), dtype=np.uint8),
            "next_obs/robot0_eef_pos": generator.normal(size=(steps, 3)),
        }
        for demo, steps in LENGTHS.items()
    }


def write(path: Path, demos: dict[str, dict[str, Any]]) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(LENGTHS.values())
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_type": 1, "env_kwargs": {}})
        for demo, arrays in demos.items():
            group = data.create_group(demo)
            group.attrs["num_samples"] = len(arrays["actions"])
            group.attrs["model_file"] = "<mujoco/>"
            for name, array in arrays.items():
                group.create_dataset(name, data=array, compression="gzip" if "image" in name else None)
        masks = {"train": ["demo_10", "demo_1"], "valid": ["demo_0"], "lost": ["demo_7"], "none": []}
        for name, listed in masks.items():
            file.create_dataset(f"mask/{name}", data=np.array(listed, dtype="S"))
    return path


@pytest.mark.parametrize("share", [0.1, 0.0], ids=["in memory", "in a temporary file"])
def test_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(mapped, "MAPPED_SHARE", share)
    demos = contents()
    data = Demonstrations.from_hdf5(write(tmp_path / "lift.hdf5", demos))
    assert data.episode_lengths.tolist() == [3, 5, 4, 2]
    assert mapped.is_mapped(data.observations["agentview_image"]) == (share == 0.0)
    for name in ("robot0_eef_pos", "agentview_image"):
        joined = np.concatenate([demo[f"obs/{name}"] for demo in demos.values()])
        same(np.asarray(data.observations[name]), joined)
    same(np.asarray(data.actions), np.concatenate([demo["actions"] for demo in demos.values()]))
    joined = np.concatenate([demo["rewards"] for demo in demos.values()]).astype(np.float32)
    same(data.rewards, joined)
    assert isinstance(data.observation_space, spaces.Dict)
    assert data.observation_space["agentview_image"] == spaces.Box(0, 255, (8, 8, 3), np.uint8)


def test_observations_may_be_called_as_other_arrays_are(tmp_path: Path) -> None:
    demos = contents()
    for demo in demos.values():
        demo["obs/actions"], demo["obs/rewards"] = demo["actions"] + 5.0, np.stack([demo["rewards"]] * 2, 1)
    data = Demonstrations.from_hdf5(write(tmp_path / "lift.hdf5", demos), ["actions", "rewards"])
    same(data.observations["actions"], np.concatenate([demo["obs/actions"] for demo in demos.values()]))
    assert data.observations["rewards"].shape[1:] == (2,)
    same(data.actions, np.concatenate([demo["actions"] for demo in demos.values()]))


def test_parts_of_it(tmp_path: Path) -> None:
    demos = contents()
    path = write(tmp_path / "lift.hdf5", demos)
    data = Demonstrations.from_hdf5(path, "robot0_eef_pos", "train", action_space=spaces.Box(-1, 1, (7,)))
    joined = np.concatenate([demos[demo]["obs/robot0_eef_pos"] for demo in ("demo_1", "demo_10")])
    same(data.observations, joined)
    assert data.action_space == spaces.Box(-1, 1, (7,))
    assert data.observation_space == Demonstrations.from_hdf5(path, ["robot0_eef_pos"]).observation_space


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keys": "gripper"}, r"named agentview_image, robot0_eef_pos, but gripper was asked for: give keys="),
        ({"keys": []}, "but none was asked for"),
        ({"mask": "test"}, "unknown mask 'test': choose one of 'lost', 'none', 'train', 'valid'"),
        ({"mask": "lost"}, "mask 'lost' lists demo_7, which the file does not have"),
        ({"mask": "none"}, "there are no demonstrations"),
        ({"action_space": spaces.Box(-0.1, 0.1, (7,))}, "actions lie outside"),
    ],
)
def test_what_is_not_there(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "lift.hdf5", contents())
    with pytest.raises(LatentRLError, match=message) as caught:
        Demonstrations.from_hdf5(path, **arguments)
    assert str(path) in str(caught.value)


BAD = {
    "actions": [None, np.ones((5, 6)), np.ones((4, 7)), np.full((5, 7), np.inf), np.ones((0, 7)), np.float64(1)],
    "rewards": [None, np.ones(4), np.full(5, np.nan)],
    "obs/robot0_eef_pos": [None, np.ones((6, 3)), np.ones((5, 2)), np.full((5, 3), np.nan), np.full((5, 3), b"a")],
    "obs/agentview_image": [None, np.ones((5, 8, 8, 3))],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values], ids=str
)
def test_bad_demonstrations_are_named(tmp_path: Path, name: str, value: Any) -> None:
    demos = contents()
    demos["demo_1"] = {key: array for key, array in demos["demo_1"].items() if key != name}
    if value is not None:
        demos["demo_1"][name] = value
    path = tmp_path / "lift.hdf5"
    demos["demo_1"].setdefault("actions", np.ones((5, 7))) if name != "actions" else None
    with h5py.File(path, "w") as file:
        for demo, arrays in demos.items():
            for key, array in arrays.items():
                file[f"data/{demo}/{key}"] = array
    with pytest.raises(LatentRLError, match=r"lift\.hdf5.*demo_1\b"):
        Demonstrations.from_hdf5(path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(LatentRLError, match="there is no file"):
        Demonstrations.from_hdf5(tmp_path / "no.hdf5")
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["numbers"] = [1, 2]
    with pytest.raises(LatentRLError, match=r"other\.hdf5.*no group 'data', only numbers"):
        Demonstrations.from_hdf5(tmp_path / "other.hdf5")
    with h5py.File(tmp_path / "raw.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.ones((3, 2))
    with pytest.raises(LatentRLError, match=r"raw\.hdf5.*no group 'data/demo_0/obs'"):
        Demonstrations.from_hdf5(tmp_path / "raw.hdf5")


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 0.9999))
def test_files_that_are_cut_off_are_refused(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "lift.hdf5", contents())
    cut(path, share)
    with pytest.raises(LatentRLError, match=str(path)):
        Demonstrations.from_hdf5(path)


def test_a_damaged_picture_names_its_demonstration(tmp_path: Path) -> None:
    path = write(tmp_path / "lift.hdf5", contents())
    with h5py.File(path, "r") as file:
        place = file["data/demo_1/obs/agentview_image"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    for where in range(place + 20, place + 40):
        content[where] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(LatentRLError, match=r"lift\.hdf5': 'data/demo_1' cannot be read as a demonstration \(OSError"):
        Demonstrations.from_hdf5(path)
    assert len(Demonstrations.from_hdf5(path, "robot0_eef_pos")) == 14


@pytest.mark.parametrize("without", ["demo_0", "demo_2"])
def test_rewards_are_there_for_all_or_none(tmp_path: Path, without: str) -> None:
    demos = contents()
    del demos[without]["rewards"]
    with pytest.raises(LatentRLError, match=f"{without} has no array 'rewards'"):
        Demonstrations.from_hdf5(write(tmp_path / "a.hdf5", demos))
