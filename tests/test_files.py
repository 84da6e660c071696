"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from latentrl import LatentRLError
from latentrl.files import output_folder, whole


def test_whole_replaces_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "result.json"
    with whole(target) as partial:
        partial.write_text("new")
        assert not target.exists()
        assert partial.suffix == ".json"
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["result.json"]


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")

    def fail() -> None:
        with whole(target) as partial:
            partial.write_text("torn")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


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
