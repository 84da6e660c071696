"""Trajectories of the imitation library: in memory, as its versions before 1.0 wrote them, and as it writes them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentrl import Demonstrations, LatentRLError
from latentrl.data import mapped
from tests.data.strategies import cut, same

DRAWN = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rollouts(lengths: list[int], shape: tuple[int, ...] = (3,)) -> list[SimpleNamespace]:
    generator = np.random.default_rng(0)
    return [
        SimpleNamespace(
            obs=generator.normal(size=(steps + 1, *shape)).astype(np.float32),
            acts=generator.integers(0, 4, steps),
            infos=np.array([{"step": i} for i in range(steps)], dtype=object),
            terminal=True,
            rews=generator.normal(size=steps),
        )
        for steps in lengths
    ]


def check(data: Demonstrations, made: list[SimpleNamespace]) -> None:
    assert data.episode_lengths.tolist() == [len(one.acts) for one in made]
    same(data.observations, np.concatenate([one.obs[:-1] for one in made]))
    same(data.actions, np.concatenate([one.acts for one in made]))
    same(data.rewards, np.concatenate([one.rews for one in made]).astype(np.float32))


def save_old(path: Path, made: list[SimpleNamespace]) -> Path:
    """As ``imitation.data.types.save`` did before version 1.0."""
    np.savez_compressed(
        path,
        obs=np.concatenate([one.obs for one in made]),
        acts=np.concatenate([one.acts for one in made]),
        infos=np.concatenate([one.infos for one in made]),
        terminal=np.array([one.terminal for one in made]),
        rews=np.concatenate([one.rews for one in made]),
        indices=np.cumsum([len(one.acts) for one in made[:-1]]),
    )
    return path


@DRAWN
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.sampled_from([(), (1,), (2, 3)]))
def test_sequences_and_old_files(tmp_path: Path, lengths: list[int], shape: tuple[int, ...]) -> None:
    made = rollouts(lengths, shape)
    check(Demonstrations.from_trajectories(made), made)
    check(Demonstrations.from_trajectories(save_old(tmp_path / "old.npz", made)), made)


@pytest.mark.parametrize("form", ["objects", "old file", "folder"])
def test_pictures(form: str, tmp_path: Path) -> None:
    """Bytes stay bytes, and are taken for pictures."""
    made, generator = rollouts([3, 1]), np.random.default_rng(0)
    for one in made:
        one.obs = generator.integers(0, 256, (len(one.acts) + 1, 6, 5, 3), dtype=np.uint8)
    given: Any = made
    if form == "old file":
        given = save_old(tmp_path / "old.npz", made)
    if form == "folder":
        pa = pytest.importorskip("pyarrow", reason="the extra 'trajectories' is not installed")
        kind = pa.uint8()
        for _ in range(4):
            kind = pa.list_(kind)
        columns: Any = columns_of(made) | {"obs": pa.array([one.obs.tolist() for one in made], kind)}
        given = save_new(tmp_path / "rollouts", columns)
    data = Demonstrations.from_trajectories(given)
    check(data, made)
    assert data.observation_space == spaces.Box(0, 255, (6, 5, 3), np.uint8)


def test_old_files_that_are_too_large_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are compressed, always."""
    monkeypatch.setattr(mapped, "MAPPED_SHARE", 0.0)
    made = rollouts([3, 1, 4])
    data = Demonstrations.from_trajectories(save_old(tmp_path / "old.npz", made))
    check(data, made)
    assert mapped.is_mapped(data.observations)


def test_given_spaces_and_named_observations() -> None:
    made = rollouts([2, 3])
    named = [SimpleNamespace(obs={"a": one.obs, "b": one.obs[:, 0]}, acts=one.acts) for one in made]
    data = Demonstrations.from_trajectories(named, action_space=spaces.Discrete(9))
    assert data.action_space == spaces.Discrete(9)
    assert data.rewards is None
    assert data.observations["b"].shape == (5,)


@pytest.mark.filterwarnings("ignore")  # of old code
@pytest.mark.parametrize(("lengths", "shape"), [([3, 5, 1], (3,)), ([4], (2, 2))])
def test_what_imitation_itself_writes(tmp_path: Path, lengths: list[int], shape: tuple[int, ...]) -> None:
    serialize = pytest.importorskip("imitation.data.serialize", reason="imitation is not installed")
    types = pytest.importorskip("imitation.data.types")
    made = rollouts(lengths, shape)
    theirs = [types.TrajectoryWithRew(**vars(one)) for one in made]
    check(Demonstrations.from_trajectories(theirs), made)
    serialize.save(tmp_path / "rollouts", theirs)
    check(Demonstrations.from_trajectories(tmp_path / "rollouts"), made)
    # It still reads what it wrote before; so our tests write that as it did.
    for one, loaded in zip(made, serialize.load(save_old(tmp_path / "old.npz", made)), strict=True):
        same(loaded.obs, one.obs)
        same(loaded.acts, one.acts)
    named = [types.Trajectory(types.DictObs({"a": one.obs}), one.acts, None, terminal=True) for one in made]
    same(Demonstrations.from_trajectories(named).observations["a"], np.concatenate([one.obs[:-1] for one in made]))


def save_new(path: Path, columns: dict[str, list[Any]]) -> Path:
    """What ``datasets.Dataset.from_dict(columns).save_to_disk(path)`` writes, as far as it is read."""
    pa = pytest.importorskip("pyarrow", reason="the extra 'trajectories' is not installed")
    path.mkdir(exist_ok=True)
    table = pa.table(columns)
    with pa.OSFile(str(path / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return path


def columns_of(made: list[SimpleNamespace]) -> dict[str, list[Any]]:
    return {
        "obs": [one.obs.tolist() for one in made],
        "acts": [one.acts.tolist() for one in made],
        "rews": [one.rews.tolist() for one in made],
        "infos": [["{}"] * len(one.acts) for one in made],
    }


def test_new_files(tmp_path: Path) -> None:
    made = rollouts([3, 1, 4])
    for one in made:
        one.obs = one.obs.astype(np.float64)
    check(Demonstrations.from_trajectories(save_new(tmp_path / "rollouts", columns_of(made))), made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs": None}, "it needs obs and acts"),
        ({"acts": [[0, 1, 2], [], [0, 1, 2, 3]]}, "trajectory 1 has 2 obs for 0 acts"),
        ({"acts": [[0, 1, 2], [0], None]}, "trajectory 2 has no list in acts"),
        ({"acts": [[0, 1, 2], [0], [0, 1, 2, None]]}, "trajectory 2: acts lacks 1 of 4 values"),
        ({"acts": [["a"] * 3, ["a"], ["a"] * 4]}, "trajectory 0: acts are of type string: give numbers"),
        ({"rews": [[0.0] * 3, [0.0], [0.0] * 3]}, "trajectory 2 has 3 rewards for 4 actions"),
        ({"rews": [[0.0] * 3, [0.0], [0.0, float("nan")] * 2]}, "trajectory 2: rewards holds NaN"),
        ({"obs": [[[1.0, 2.0]] * 4, [[1.0]] * 2, [[1.0]] * 5]}, r"trajectory 1: observations are .* of shape \(1,\)"),
        ({"obs": [[[1.0]] * 4, [[1.0]] * 2, [[1.0]] * 4 + [[1.0, 2.0]]]}, "trajectory 2: obs are lists of 1 to 2"),
    ],
)
def test_bad_folders_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    columns = {name: part for name, part in (columns_of(rollouts([3, 1, 4])) | change).items() if part is not None}
    with pytest.raises(LatentRLError, match=rf"(?s)rollouts.*{message}"):
        Demonstrations.from_trajectories(save_new(tmp_path / "rollouts", columns))


@DRAWN
@given(st.floats(0, 0.9999), st.sampled_from(["data.arrow", "state.json", "old.npz"]))
def test_files_that_are_cut_off_are_refused(tmp_path: Path, share: float, name: str) -> None:
    made = rollouts([3, 1, 4])
    path = save_new(tmp_path / "rollouts", columns_of(made))
    save_old(path / "old.npz", made)
    cut(path / name, share)
    with pytest.raises(LatentRLError, match=str(path)):
        Demonstrations.from_trajectories(path / name if name == "old.npz" else path)


def test_whole_batches_that_are_missing_are_noticed(tmp_path: Path) -> None:
    """Cut between two batches of trajectories, an Arrow file reads as a shorter one."""
    path = save_new(tmp_path / "rollouts", columns_of(rollouts([1, 1, 1])))
    content = (path / "data.arrow").read_bytes()
    for size in range(0, len(content), 8):
        (path / "data.arrow").write_bytes(content[:size])
        with pytest.raises(LatentRLError, match=r"data\.arrow"):
            Demonstrations.from_trajectories(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs": np.zeros((9, 3))}, "9 obs for 8 acts of 3 trajectories"),
        ({"indices": np.array([3, 3])}, "indices do not increase to 8, first at trajectory 1"),
        ({"indices": np.array([-1, 4])}, "indices do not increase to 8, first at trajectory 0"),
        ({"indices": np.array([3, 9])}, "indices do not increase to 8, first at trajectory 2"),
        ({"indices": np.array([3.0, 4.0])}, "indices has dtype float64: give integers"),
        ({"indices": np.array([[3], [4]])}, "indices do not increase to 8"),
        ({"rews": np.zeros(7)}, "as many rews as acts"),
        ({"acts": np.full(8, np.nan)}, "trajectory 0: actions holds NaN"),
        ({"acts": np.array([{"run": "code"}] * 8)}, "acts.npy' cannot be read as a plain array"),
    ],
)
def test_bad_old_files_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = save_old(tmp_path / "old.npz", rollouts([3, 1, 4]))
    with np.load(path, allow_pickle=True) as archive:
        arrays = {**archive, **change}
    np.savez(path, **arrays)
    with pytest.raises(LatentRLError, match=rf"old\.npz.*{message}"):
        Demonstrations.from_trajectories(path)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "there are no trajectories"),
        ([SimpleNamespace(obs=np.ones((3, 2)))], "trajectory 0 has no obs and acts"),
        ([SimpleNamespace(obs=np.ones((3, 2)), acts=np.ones(3))], "trajectory 0 has 3 obs for 3 acts: give one more"),
        ([SimpleNamespace(obs={}, acts=np.ones(3))], "empty dict"),
        ([SimpleNamespace(obs=[[1.0], [1.0, 2.0]], acts=np.ones(1))], "ragged"),
        (
            [*rollouts([2]), SimpleNamespace(obs=np.ones((3, 3)), acts=np.ones(2))],
            "trajectory 1 has observations, actions,",
        ),
        ([*rollouts([2]), SimpleNamespace(obs=np.ones((3, 4)), acts=np.ones(2), rews=np.ones(2))], "trajectory 1: obs"),
        (
            [*rollouts([2]), SimpleNamespace(obs=np.ones((3, 3)), acts=np.ones(2), rews=np.ones(2))],
            "actions are float64",
        ),
    ],
)
def test_bad_sequences(made: list[Any], message: str) -> None:
    with pytest.raises(LatentRLError, match=message):
        Demonstrations.from_trajectories(made)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "rollouts.pkl").write_bytes(pickle.dumps(rollouts([2])))
    with pytest.raises(LatentRLError, match=r"rollouts\.pkl' cannot be read"):
        Demonstrations.from_trajectories(tmp_path / "rollouts.pkl")
