"""Files are written whole or not at all."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from latentrl import LatentRLError
from latentrl.cells import Cells
from latentrl.files import output_folder, read_settings, whole
from latentrl.training.checkpoints import RunFolder


def test_whole_replaces_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "result.json"
    with whole(target) as partial:
        partial.write_text("new")
        assert not target.exists()
        assert partial.suffix == ".json"
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["result.json"]


def test_links_lead_to_what_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "result.json", tmp_path / "latest.json"
    target.write_text("old")
    link.symlink_to(target)
    with whole(link) as partial:
        partial.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    (tmp_path / "latest.npy").symlink_to(tmp_path / "there" / "0f3a")  # as caches name what they keep
    with whole(tmp_path / "latest.npy") as partial:
        np.save(partial, np.ones(3))
    assert np.load(tmp_path / "latest.npy").tolist() == [1, 1, 1]


def test_what_cannot_even_be_looked_at(tmp_path: Path) -> None:
    with pytest.raises(LatentRLError, match="cannot be written"), whole(tmp_path / ("x" * 300)) as partial:
        partial.write_text("new")


def test_the_standard_output_is_a_file_too(tmp_path: Path) -> None:
    """By a link such as /dev/stdout is, which a test that fails would replace."""
    link = tmp_path / "stdout"
    link.symlink_to("/proc/self/fd/1")
    code = f"from latentrl.files import whole\nwith whole({str(link)!r}) as file: file.write_text('written')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"written"
    assert link.is_symlink()


def test_devices_and_pipes_stay(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with whole(pipe) as partial:
        partial.write_text("written")
    assert os.read(reader, 100) == b"written"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")

    def fail(error: Exception) -> None:
        with whole(target) as partial:
            partial.write_text("torn")
            raise error

    with pytest.raises(LatentRLError, match=r"result.json' cannot be written \(No space left\): make room"):
        fail(OSError(28, "No space left"))
    with pytest.raises(RuntimeError, match="other"):
        fail(RuntimeError("other"))
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from latentrl import LatentRLError
from latentrl.cells import Cells
from latentrl.training.checkpoints import RunFolder

folder = Path(sys.argv[1])
run, cells = RunFolder(folder / "run", {}), Cells(folder / "study", {})
run.write({"weights": torch.zeros(10)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # no file may grow beyond 10 kB, as if the disk were full
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for work in (lambda: run.write({"weights": torch.zeros(10_000)}), lambda: cells("a", lambda: {"text": 20_000 * "a"})):
    try:
        work()
    except LatentRLError as error:
        print(error)
print(run.read(torch.device("cpu"))["weights"].tolist() == 10 * [0.0], "a" in cells)
print([path.name for path in folder.rglob("*.part*")])
"""


def test_a_full_disk(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    run = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    checkpoint, cell, kept, leftovers = run.stdout.splitlines()
    assert "last.pt' cannot be written (File too large): make room, or give another place" in checkpoint
    assert ".json' cannot be written (File too large)" in cell
    assert kept == "True False"
    assert leftovers == "[]"


def test_settings_that_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    (tmp_path / "last.pt").touch()
    for text in ("", "{", "[1]"):
        path.write_text(text)
        for kind in (Cells, RunFolder):
            with pytest.raises(LatentRLError, match=r"settings.json' is damaged: remove it"):
                kind(tmp_path, {})


def test_output_folder(tmp_path: Path) -> None:
    made = output_folder(tmp_path / "a" / "b")
    assert made.is_dir()
    assert output_folder(made) == made
    (made / "x").touch()
    with pytest.raises(LatentRLError, match=r"not empty: give another folder, or --overwrite"):
        output_folder(made)
    assert output_folder(made, overwrite=True) == made
    assert [path.name for path in made.iterdir()] == ["x"]
    with pytest.raises(LatentRLError, match="is a file"):
        output_folder(made / "x")


def test_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(LatentRLError, match="cannot be written"):
        output_folder(tmp_path / "locked")


def test_the_new_file_takes_the_place_by_a_rename(tmp_path: Path) -> None:
    """Whoever has the old file open goes on reading it whole: nothing is ever written into it."""
    target = tmp_path / "result.json"
    target.write_text("old")
    with target.open() as reader:
        with whole(target) as partial:
            partial.write_text("new")
        assert reader.read() == "old"
    assert target.read_text() == "new"


def test_keys_of_any_length_have_cells(tmp_path: Path) -> None:
    cells, keys = Cells(tmp_path, {}), ["x" * 300 + end for end in "ab"]
    for key in keys:
        assert cells(key, lambda key=key: {"key": key}) == {"key": key}
    assert [cells.read(key)["key"] for key in keys] == keys


def test_an_error_of_the_block_is_not_taken_for_one_of_the_disk(tmp_path: Path) -> None:
    """Though one was handled when it began."""
    try:
        raise FileNotFoundError("before")
    except OSError:
        with pytest.raises(ValueError, match="invalid literal"), whole(tmp_path / "a.txt"):
            int("bad value")


def test_threads_do_not_write_to_one_temporary_file(tmp_path: Path) -> None:
    with whole(tmp_path / "a.txt") as one, whole(tmp_path / "a.txt") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a.txt").read_text() == "one"


def test_settings_that_cannot_be_read_are_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "settings.json").mkdir()
    with pytest.raises(LatentRLError, match="cannot be read"):
        read_settings(tmp_path / "settings.json")
