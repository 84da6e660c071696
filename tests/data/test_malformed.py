"""Archives with one array replaced by any other, and other files with one byte: refused by an error that names the
file, or sound."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentrl import Demonstrations, LatentRLError
from tests.data.strategies import sound

GENERATOR = np.random.default_rng(0)
LENGTHS = np.array([3, 2, 4])
KINDS: dict[str, tuple[Callable[..., Demonstrations], dict[str, Any]]] = {
    "npz": (
        Demonstrations.from_npz,
        {
            "observations/a": GENERATOR.normal(size=(9, 3)),
            "observations/b": GENERATOR.integers(0, 9, (9, 2)),
            "actions": GENERATOR.normal(size=(9, 2)),
            "episode_lengths": LENGTHS,
            "rewards": GENERATOR.normal(size=9),
            "modes": np.array([0, 1, 1]),
            "action_space": np.array('{"type": "Box", "shape": [2], "dtype": "float32", "low": -9.0, "high": 9.0}'),
        },
    ),
    "trajectories": (
        Demonstrations.from_trajectories,
        {
            "obs": GENERATOR.normal(size=(12, 3)),
            "acts": GENERATOR.normal(size=(9, 2)),
            "rews": GENERATOR.normal(size=9),
            "indices": LENGTHS.cumsum()[:-1],
            "terminal": np.ones(3, bool),
        },
    ),
    "Push-T": (
        lambda path: Demonstrations.from_pusht(path, "keypoints"),
        {
            "state": GENERATOR.uniform(0, 512, (9, 5)),
            "keypoint": GENERATOR.uniform(0, 512, (9, 9, 2)),
            "action": GENERATOR.uniform(0, 512, (9, 2)),
            "episode_ends": LENGTHS.cumsum(),
        },
    ),
    "pedestrians": (
        lambda path: Demonstrations.from_pedestrians(path, None, 2, 2),
        {"scene": np.array([[10.0 * frame, 1, frame, frame] for frame in range(9)])},
    ),
    "LASA": (
        lambda path: Demonstrations.from_lasa(path, 5),
        {"names": np.array(["a", "b"]), "pos": GENERATOR.uniform(-4, 4, (2, 3, 2, 9))},
    ),
}


@st.composite
def arrays(draw: st.DrawFn, like: Any) -> Any:
    """None for a missing array; the same with other values, another shape, or another dtype."""
    how = draw(st.sampled_from(["missing", "values", "shape", "dtype", "all"]))
    if how == "missing":
        return None
    shape, dtype = like.shape, like.dtype
    if how in ("shape", "all"):
        shape = draw(st.one_of(st.just((9,)), st.lists(st.integers(0, 10), max_size=3).map(tuple)))
    if how in ("dtype", "all"):
        dtype = np.dtype(draw(st.sampled_from(["f8", "f2", "i8", "u8", "?", "c16", "U2", "S2", "M8[s]", "i4,f4"])))
    if dtype.kind not in "fiuc":
        return np.zeros(shape, dtype)
    extreme = draw(st.lists(st.sampled_from([-3, -1, 0, 1, 3, 2**62]), min_size=1, max_size=4))
    values = np.resize(np.array(extreme), shape)
    if dtype.kind in "fc" and draw(st.booleans()):
        values = np.where(values == 3, np.nan, values)
    return values.astype(dtype)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_array_in_place_of_another(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    read, good = KINDS[kind]
    name = data.draw(st.sampled_from(sorted(good)))
    replaced = {**good, name: data.draw(arrays(good[name]))}
    path = tmp_path / "some.npz"
    np.savez(path, **{key: value for key, value in replaced.items() if value is not None})
    try:
        made = read(path)
    except LatentRLError as error:
        assert str(path) in str(error)  # noqa: PT017  (either is right)
        return
    sound(made)


@pytest.mark.parametrize(("kind", "package"), [("hdf5", "h5py"), ("parquet", "pyarrow")])
def test_a_changed_byte_is_found_and_nothing_hangs(kind: str, package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    command = [sys.executable, "-m", "tests.data.flips", kind, str(tmp_path)]
    root = Path(__file__).parents[2]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
