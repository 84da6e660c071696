"""Windows of pedestrians' tracks: by a second, slower definition, and on the real tracks where they are there."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentrl import Demonstrations, LatentRLError
from tests.data.strategies import cut

DRAWN = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def scene(seed: int, people: int = 4, frames: int = 12, gone: float = 0.15) -> np.ndarray:
    """Random walks with gaps, in random order."""
    generator = np.random.default_rng(seed)
    rows = [
        (10.0 * frame, who, *place)
        for who in range(1, people + 1)
        for frame, place in enumerate(generator.uniform(-1, 1, (frames, 2)).cumsum(0))
        if generator.random() > gone
    ]
    return generator.permutation(np.array(rows))


def windows(rows: np.ndarray, observe: int, predict: int) -> list[tuple[float, float, np.ndarray]]:
    """(pedestrian, first frame, positions) of everyone in all frames of each window, one window after another."""
    place = {(frame, who): (x, y) for frame, who, x, y in rows}
    found = []
    for who in np.unique(rows[:, 1]):
        for first in np.arange(rows[:, 0].min(), rows[:, 0].max() + 1, 10):
            frames = first + 10 * np.arange(observe + predict)
            if all((frame, who) in place for frame in frames):
                found.append((who, first, np.array([place[frame, who] for frame in frames])))
    return found


@DRAWN
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4))
def test_windows(tmp_path: Path, seed: int, observe: int, predict: int) -> None:
    scenes = {"first": scene(seed), "second": scene(seed + 1)}
    np.savez(tmp_path / "people.npz", **scenes)
    expected = [(name, *one) for name, rows in scenes.items() for one in windows(rows, observe, predict)]
    if not expected:
        with pytest.raises(LatentRLError, match="nobody is in"):
            Demonstrations.from_pedestrians(tmp_path / "people.npz", None, observe, predict)
        return
    data = Demonstrations.from_pedestrians(tmp_path / "people.npz", None, observe, predict)
    assert len(data) == len(expected)
    for seen, done, (*_, places) in zip(data.observations, data.actions, expected, strict=True):
        now = places[observe - 1]
        np.testing.assert_allclose(seen, places[:observe] - now, atol=1e-5)
        np.testing.assert_allclose(done.cumsum(0), places[observe:] - now, atol=1e-5)
    # Windows of one episode follow one another; the next episode is of somebody else, or after a gap.
    starts = set(data.episode_starts.tolist())
    for row in range(1, len(data)):
        (*who, first, _), (*before, first_before, _) = expected[row], expected[row - 1]
        assert (row not in starts) == (who == before and first == first_before + 10)


def test_scenes_can_be_chosen(tmp_path: Path) -> None:
    """Others are not looked at."""
    np.savez(tmp_path / "people.npz", a=scene(0), b=scene(1), c=np.array([{}]))
    parts = [Demonstrations.from_pedestrians(tmp_path / "people.npz", name, 2, 3) for name in ("a", "b")]
    both = Demonstrations.from_pedestrians(tmp_path / "people.npz", ["b", "a"], 2, 3)
    np.testing.assert_array_equal(both.actions, np.concatenate([parts[1].actions, parts[0].actions]))
    assert parts[0].action_space == parts[1].action_space
    with pytest.raises(LatentRLError, match=r"people\.npz.*named a, b, c, but zoo was asked for: give scenes="):
        Demonstrations.from_pedestrians(tmp_path / "people.npz", "zoo")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((9, 3)), r"a has shape \(9, 3\): give rows of frame"),
        (np.array([["a"] * 4]), "a has dtype"),
        (np.where(np.arange(48).reshape(-1, 4) == 6, np.nan, 1.0), "a holds NaN .* first in row 1"),
        (np.concatenate([scene(0), scene(0)[:1]]), "a has pedestrian . twice in frame"),
        (np.empty((0, 4)), "nobody is in 5 annotated frames"),
        (scene(0) * [1, 1, 90, 90], "actions lie outside"),
    ],
)
def test_bad_scenes_are_named(tmp_path: Path, rows: Any, message: str) -> None:
    np.savez(tmp_path / "people.npz", a=rows)
    with pytest.raises(LatentRLError, match=rf"people\.npz.*{message}"):
        Demonstrations.from_pedestrians(tmp_path / "people.npz", None, 2, 3)


@DRAWN
@given(st.floats(0, 0.9999))
def test_files_that_are_cut_off_are_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "people.npz"
    np.savez_compressed(path, a=scene(0))
    cut(path, share)
    with pytest.raises(LatentRLError, match=str(path)):
        Demonstrations.from_pedestrians(path, None, 2, 3)


@pytest.mark.parametrize(
    ("scenes", "ade", "fde"),
    [(["students001", "students003"], 0.52, 1.17), ("crowds_zara01", 0.43, 0.95), ("crowds_zara02", 0.32, 0.72)],
)
def test_constant_velocity_errs_as_is_known(scenes: Any, ade: float, fde: float) -> None:
    """Of the protocol on the real tracks, as reported for this baseline (Schöller et al. 2020)."""
    path = os.environ.get("LATENTRL_PEDESTRIANS_NPZ")
    if path is None:
        pytest.skip("LATENTRL_PEDESTRIANS_NPZ does not name an archive of tracks")
    data = Demonstrations.from_pedestrians(path, scenes)
    ahead = -data.observations[:, -2][:, None] * np.arange(1, 13)[:, None]
    error = np.linalg.norm(ahead - data.actions.cumsum(1), axis=-1)
    assert error.mean() == pytest.approx(ade, abs=0.006)
    assert error[:, -1].mean() == pytest.approx(fde, abs=0.006)
