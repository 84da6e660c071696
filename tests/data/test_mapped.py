"""Rows of mapped arrays are as those of arrays in memory."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentrl import Demonstrations, LatentRLError
from latentrl.data import mapped
from latentrl.data.mapped import Rows, is_mapped, room, take
from latentrl.data.reading import Episodes
from latentrl.training.parallel import dumps


@pytest.fixture
def source(tmp_path: Path) -> Any:
    np.save(tmp_path / "a.npy", np.arange(120.0).reshape(20, 3, 2))
    return np.load(tmp_path / "a.npy", mmap_mode="r")


KEYS: list[Any] = [
    3, np.int64(-1), slice(2, 7, 2), [4, 4, 0], np.arange(10) % 3 == 0, np.array([[1, 2], [3, 0]]), ...,
    (2, 1), (slice(None), 0), ([1, 5], slice(1), 1), (4, slice(None), 1), (..., 0), (slice(3), ..., 1),
    ([1, 5], ..., 0), (slice(None), [0, 2]), (4, [0, 2]), (..., slice(None), [1, 0]), (2, ..., 1, 0),
    (slice(2), None, 1),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indexing(source: Any, key: Any) -> None:
    rows = np.random.default_rng(0).integers(0, 20, 10)
    some, expected = take(source, rows), np.array(source)[rows]
    read = some[key]
    np.testing.assert_array_equal(read, expected[key], strict=True)
    assert not is_mapped(read)
    again = take(some, np.array([7, 7, 2]))
    assert isinstance(again, Rows)
    np.testing.assert_array_equal(np.asarray(again), expected[[7, 7, 2]], strict=True)
    assert (some.shape, some.ndim, len(some), some.nbytes) == (expected.shape, 3, 10, expected.nbytes)


@pytest.mark.parametrize(
    "key", [([0, 1], [2, 1]), ([0, 1], slice(None), [1, 0]), (None, 3), (2, slice(None), [1, 0])], ids=str
)
def test_keys_that_numpy_takes_otherwise_are_refused(source: Any, key: Any) -> None:
    with pytest.raises(IndexError, match="rows of a mapped array are taken by one list of them"):
        take(source, np.arange(4))[key]


def test_what_is_mapped(source: Any) -> None:
    assert is_mapped(source)
    assert is_mapped(source[2:5].view(np.int64))
    assert not is_mapped(source[[2, 5]])
    assert not is_mapped([1.0])
    assert isinstance(take(np.ones(3), np.array([0])), np.ndarray)


def test_truth_values_stay_in_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "MAPPED_SHARE", 0.0)
    np.savez(tmp_path / "a.npz", observations=np.eye(4) > 0, actions=np.zeros((4, 1)), episode_lengths=[4])
    data = Demonstrations.from_npz(tmp_path / "a.npz")
    assert is_mapped(data.observations)
    assert data.observations.tolist() == np.eye(4, dtype=int).tolist()


def test_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mapped, "MAPPED_SHARE", 0.0)
    array = room((3, 2), np.dtype(np.float32))
    array[:] = 7
    assert is_mapped(array)
    assert array.sum() == 42
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(LatentRLError, match=r"temporary file of .* \(No space left on device\): let .* TMPDIR name"):
        room((3, 2), np.dtype(np.float32))


READ = "import pickle, sys; print(int(pickle.load(sys.stdin.buffer)[1:, ::2].sum()))"


@pytest.mark.parametrize("known", [True, False], ids=["open here", "with a name"])
def test_other_processes_read_the_temporary_file(known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It travels by how it is found, not by what is in it, and goes with the last view of it."""
    monkeypatch.setattr(mapped, "MAPPED_SHARE", 0.0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(mapped.tempfile, "tempdir", None)
    if known and not mapped.PROCESSES.exists():
        pytest.skip("the system does not show what a process has open")
    if not known:
        monkeypatch.setattr(mapped, "PROCESSES", tmp_path / "none")
    array: Any = room((1000, 50), np.dtype(np.int64))
    array[:] = np.arange(50_000).reshape(1000, 50)
    place, expected = Path(array.filename), int(array[1:, ::2].sum())
    assert len(list(tmp_path.iterdir())) == (not known)
    view = np.asarray(array)[:]
    del array
    packed = dumps(view)
    assert len(packed) < 2000
    run = subprocess.run([sys.executable, "-c", READ], input=packed, capture_output=True, check=True)
    assert int(run.stdout) == expected
    assert place.exists()
    del view
    assert not place.exists()


def test_an_array_of_nothing_needs_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "MAPPED_SHARE", 0.0)
    assert room((3, 0), np.dtype(np.float32), taken=8).shape == (3, 0)


def test_what_fits_alone_need_not_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts of 400 bytes where 1000 may be taken: one is mapped."""
    monkeypatch.setattr(mapped, "available_memory", lambda: int(1000 / mapped.MAPPED_SHARE))
    episodes = Episodes(100)
    parts = {name: np.zeros((1, 1), np.float32) for name in "abc"}
    episodes.add("one", parts, np.zeros((1, 1), np.int8))
    assert sum(is_mapped(array) for array in episodes._arrays.values()) == 1
    assert list(episodes._arrays) == ["observations/a", "observations/b", "observations/c", "actions"]
