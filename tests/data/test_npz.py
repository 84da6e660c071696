"""What ``save`` writes comes back exactly; what is damaged is refused; what is large stays in its file."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentrl import Demonstrations, LatentRLError
from latentrl.data import mapped
from latentrl.data import npz as npz_files
from latentrl.data.npz import load_npz, save_npz
from latentrl.memory import PEAK, available_memory, peak_memory
from tests.data.strategies import CHOICES, OBSERVATIONS, boxes, cut, same, values

DRAWN = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MB = 2**20


@pytest.fixture
def everything_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """All arrays are too large for memory."""
    monkeypatch.setattr(mapped, "MAPPED_SHARE", 0.0)


@DRAWN
@given(
    OBSERVATIONS,
    st.one_of(boxes(), CHOICES),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_round_trip(
    tmp_path: Path, seen: spaces.Space[Any], done: spaces.Space[Any], lengths: list[int], labelled: bool, stays: bool
) -> None:
    rows = sum(lengths)
    more: dict[str, Any] = {"rewards": np.arange(rows) / 7, "modes": np.arange(len(lengths))} if labelled else {}
    data = Demonstrations.from_arrays(values(seen, rows, 1), values(done, rows, 2), lengths, seen, done, **more)
    data.save(tmp_path / "demos.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "MAPPED_SHARE", 0.0 if stays else 0.1)
        again = Demonstrations.from_npz(tmp_path / "demos.npz")
    assert mapped.is_mapped(again.actions) == stays
    assert again.observation_space == seen
    assert again.action_space == done
    for name in ("observations", "actions", "episode_lengths", "rewards", "modes"):
        if getattr(data, name) is None:
            assert getattr(again, name) is None
        else:
            same(getattr(again, name), getattr(data, name))


def saved(path: Path) -> Demonstrations:
    generator = np.random.default_rng(0)
    observations = {"a": generator.normal(size=(30, 4)), "b": generator.integers(0, 9, (30, 2, 2))}
    data = Demonstrations.from_arrays(observations, generator.normal(size=(30, 2)), [10, 20], rewards=np.ones(30))
    data.save(path)
    return data


@DRAWN
@given(st.floats(0, 0.9999), st.booleans())
def test_files_that_are_cut_off_are_refused(tmp_path: Path, share: float, stays: bool) -> None:
    path = tmp_path / "demos.npz"
    saved(path)
    cut(path, share)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "MAPPED_SHARE", 0.0 if stays else 0.1)
        with pytest.raises(LatentRLError, match=str(path)):
            Demonstrations.from_npz(path)


@DRAWN
@given(st.integers(0, 10**9), st.integers(1, 255))
def test_a_changed_byte_is_found_or_does_not_matter(tmp_path: Path, where: int, by: int) -> None:
    path = tmp_path / "demos.npz"
    data = saved(path)
    content = bytearray(path.read_bytes())
    content[where % len(content)] ^= by
    path.write_bytes(content)
    try:
        again = Demonstrations.from_npz(path)
    except LatentRLError:
        return
    same(again.observations, data.observations)
    same(again.actions, data.actions)


def test_saving_is_whole_or_not_at_all(tmp_path: Path, two_ways: Demonstrations) -> None:
    path = tmp_path / "demos.npz"
    two_ways.save(path)
    before = path.read_bytes()

    with pytest.raises(AttributeError):
        save_npz(path, {"a": np.ones(3), "b": "no array"})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(LatentRLError, match=r"end the path in \.npz"):
        two_ways.save(tmp_path / "demos.npy")


def test_folder_of_files(tmp_path: Path) -> None:
    data = saved(tmp_path / "demos.npz")
    folder = tmp_path / "demos"
    for name, array in load_npz(tmp_path / "demos.npz").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", array)
    same(Demonstrations.from_npz(folder).observations, data.observations)
    cut(folder / "observations" / "b.npy", 0.7)
    with pytest.raises(LatentRLError, match=r"observations/b\.npy' cannot be read"):
        Demonstrations.from_npz(folder)
    np.save(folder / "observations" / "b.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(LatentRLError, match=r"observations/b\.npy' cannot be read"):
        Demonstrations.from_npz(folder)


@pytest.mark.usefixtures("everything_stays")
def test_what_cannot_be_mapped(tmp_path: Path) -> None:
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "pickled.npz", actions=np.array([{"run": "code"}], dtype=object))
        with pytest.raises(LatentRLError, match=r"pickled\.npz.*actions\.npy.*never opened"):
            load_npz(tmp_path / "pickled.npz")
    np.savez(tmp_path / "fortran.npz", a=np.asfortranarray(np.arange(6.0).reshape(2, 3)), b=np.ones(()))
    read = load_npz(tmp_path / "fortran.npz")
    assert isinstance(read["a"], np.memmap)
    assert read["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    np.save(tmp_path / "a.npy", np.ones(9))
    for packed in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "short.npz", "w", packed) as archive:
            archive.writestr("a.npy", (tmp_path / "a.npy").read_bytes()[:-8])
        with pytest.raises(LatentRLError, match=r"short\.npz.*a\.npy.*another size than its shape"):
            load_npz(tmp_path / "short.npz")
    # The table of contents says that nothing is missing.
    content = bytearray((tmp_path / "short.npz").read_bytes())
    content[content.index(b"PK\1\2") + 24] += 8
    (tmp_path / "short.npz").write_bytes(content)
    with pytest.raises(LatentRLError, match=r"short\.npz.*a\.npy.*ends before its shape says"):
        load_npz(tmp_path / "short.npz")


@pytest.mark.usefixtures("everything_stays")
def test_compressed_arrays_go_to_a_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_files, "BLOCK", 100)
    numbers = np.arange(60.0).reshape(5, 4, 3)
    arrays = {
        "usual": numbers,
        "turned": np.asfortranarray(numbers),
        "backwards": numbers.astype(">f4"),
        "bytes": numbers.astype(np.uint8),
        "one": np.ones(()),
        "none": np.ones((0, 3)),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    read = load_npz(tmp_path / "a.npz")
    for name, array in arrays.items():
        same(np.asarray(read[name]), array)
        assert mapped.is_mapped(read[name]) == (name != "none")
    made = {"observations": numbers, "actions": numbers[:, 0], "episode_lengths": [2, 3]}
    np.savez_compressed(tmp_path / "demos.npz", **made)
    data = Demonstrations.from_npz(tmp_path / "demos.npz")
    assert mapped.is_mapped(data.observations)
    same(np.asarray(data.observations), numbers)


@pytest.mark.parametrize("stays", [True, False], ids=["mapped", "in memory"])
def test_what_is_wrong_in_a_compressed_array_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    """Each byte of one is changed: it is noticed, or the array is as it was."""
    monkeypatch.setattr(mapped, "MAPPED_SHARE", 0.0 if stays else 0.1)
    path, array = tmp_path / "demos.npz", np.random.default_rng(0).integers(0, 9, 150)
    np.savez_compressed(path, a=array)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        last = archive.start_dir
    noticed = []
    for where in range(60, last):
        path.write_bytes(content[:where] + bytes([content[where] ^ 0x55]) + content[where + 1 :])
        try:
            same(np.asarray(load_npz(path)["a"]), array)
        except LatentRLError as error:
            noticed.append(str(error))
    assert all(str(path) in said and "a.npy" in said for said in noticed)
    assert len(noticed) > 0.9 * (last - 60)


def test_an_array_that_is_longer_than_it_says_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(9))
    with zipfile.ZipFile(tmp_path / "long.npz", "w") as archive:
        archive.writestr("a.npy", (tmp_path / "a.npy").read_bytes() + bytes(8))
    with pytest.raises(LatentRLError, match=r"long\.npz'.*is longer than its shape \(9,\) says"):
        load_npz(tmp_path / "long.npz")


def test_wrong_values_in_a_file_name_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "demos.npz", observations=np.full((3, 2), np.nan), actions=np.ones((3, 1)), episode_lengths=[3])
    with pytest.raises(LatentRLError, match=r"demos\.npz': observations holds NaN .* in 3 of 3 rows"):
        Demonstrations.from_npz(tmp_path / "demos.npz")


def anonymous() -> int:
    """Bytes of the process that are in no file."""
    line = next(line for line in PEAK.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_large_data_stay_in_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """96 MB are opened, validated, split, written, and read in batches, in a third of that."""
    free = available_memory()
    if free is None:
        pytest.skip("the system does not tell how much memory there is")
    monkeypatch.setattr(mapped, "MAPPED_SHARE", 4 * MB / free)
    monkeypatch.setattr(mapped, "BLOCK", 4 * MB)
    rows, folder = 600, tmp_path / "demos"
    (folder / "observations").mkdir(parents=True)
    pictures, numbers = (
        np.lib.format.open_memmap(folder / "observations" / f"{name}.npy", "w+", dtype, (rows, size))
        for name, dtype, size in (("pictures", np.uint8, 80 * 1024), ("numbers", np.float32, 20 * 1024))
    )
    pictures[:], numbers[:] = (np.arange(rows) % 251)[:, None], np.arange(rows)[:, None]
    np.save(folder / "actions.npy", np.arange(rows, dtype=np.float32)[:, None])
    np.save(folder / "episode_lengths.npy", np.full(10, 60))
    mapped.release(pictures), mapped.release(numbers)
    with peak_memory(torch.device("cpu")) as peak:
        data = Demonstrations.from_npz(folder)
        data.save(tmp_path / "demos.npz")
        data = Demonstrations.from_npz(tmp_path / "demos.npz")
        parts = [*data.split(0.5, seed=1), data.split(0.5, seed=1)[0].split(0.4)[0]]
    if peak.bytes is not None:
        assert peak.bytes < 32 * MB
    before = anonymous()
    for part in parts:
        chosen = np.random.default_rng(0).integers(0, len(part), 16)
        expected = part.actions[chosen, 0]
        assert all(mapped.is_mapped(array) for array in part.observations.values())
        assert (part.observations["numbers"][chosen] == expected[:, None]).all()
        assert (part.observations["pictures"][chosen, :3] == expected[:, None] % 251).all()
    assert anonymous() - before < 8 * MB
    numbers[400, 3] = np.nan
    with pytest.raises(LatentRLError, match=r"observations/numbers holds NaN .* in 1 of 600 rows, first in row 400"):
        Demonstrations.from_npz(folder)
