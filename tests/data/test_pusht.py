"""Push-T's archive, made up and, where it is there, the real one."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentrl import Demonstrations, LatentRLError
from latentrl.data.pusht import BOARD
from tests.data.strategies import cut, same


def contents() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "state": generator.uniform(0, 512, (9, 5)).astype(np.float32),
        "keypoint": generator.uniform(0, 512, (9, 9, 2)).astype(np.float32),
        "action": generator.uniform(0, 512, (9, 2)).astype(np.float32),
        "episode_ends": np.array([4, 9]),
    }


def test_state_and_keypoints(tmp_path: Path) -> None:
    arrays = contents()
    np.savez(tmp_path / "pusht.npz", **arrays)
    data = Demonstrations.from_pusht(tmp_path / "pusht.npz")
    assert data.episode_lengths.tolist() == [4, 5]
    assert data.action_space == BOARD
    same(data.observations, arrays["state"])
    same(data.actions, arrays["action"])
    data = Demonstrations.from_pusht(tmp_path / "pusht.npz", "keypoints")
    assert data.observations[3].tolist() == [*arrays["keypoint"][3].ravel(), *arrays["state"][3, :2]]
    with pytest.raises(LatentRLError, match="unknown observations 'image': choose one of 'keypoints', 'state'"):
        Demonstrations.from_pusht(tmp_path / "pusht.npz", "image")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": None}, r"state is missing, but needs \(9, 5\)"),
        ({"keypoint": np.zeros((9, 9, 2), "M8[s]")}, "keypoint has dtype datetime64"),
        ({"keypoint": np.ones((9, 18))}, r"keypoint is of shape \(9, 18\), but needs \(9, 9, 2\)"),
        ({"action": np.ones((8, 2))}, "action is of shape"),
        ({"action": np.full((9, 2), 513.0)}, "9 of 9 actions lie outside"),
        ({"action": np.full((9, 2), np.nan)}, "actions holds NaN"),
        ({"episode_ends": None}, "lacks episode_ends"),
        ({"episode_ends": np.array([4, 4, 9])}, "do not increase from 1, first at episode 1"),
        ({"episode_ends": np.array([-1, 9])}, "do not increase from 1, first at episode 0"),
        ({"episode_ends": np.array([5, 10])}, r"state is of shape \(9, 5\), but needs \(10, 5\)"),
        ({"episode_ends": np.array([], int)}, "do not increase"),
        ({"episode_ends": np.array([[4, 9]])}, "do not increase"),
        ({"episode_ends": np.array([4.0, 9.0])}, "give integers"),
    ],
)
def test_bad_archives_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = {name: part for name, part in (contents() | change).items() if part is not None}
    np.savez(tmp_path / "pusht.npz", **arrays)
    with pytest.raises(LatentRLError, match=rf"(?s)pusht\.npz.*{message}"):
        Demonstrations.from_pusht(tmp_path / "pusht.npz", "keypoints")


def test_what_nobody_asked_for_is_not_looked_at(tmp_path: Path) -> None:
    unwanted = {"img": np.array([{}]), "keypoint": np.array([{}])}
    np.savez(tmp_path / "pusht.npz", **(contents() | unwanted))
    assert len(Demonstrations.from_pusht(tmp_path / "pusht.npz")) == 9
    with pytest.raises(LatentRLError, match=r"pusht\.npz.*keypoint"):
        Demonstrations.from_pusht(tmp_path / "pusht.npz", "keypoints")


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 0.9999))
def test_files_that_are_cut_off_are_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "pusht.npz"
    np.savez(path, **contents())
    cut(path, share)
    with pytest.raises(LatentRLError, match=str(path)):
        Demonstrations.from_pusht(path)


def test_what_people_did() -> None:
    path = os.environ.get("LATENTRL_PUSHT_NPZ")
    if path is None:
        pytest.skip("LATENTRL_PUSHT_NPZ does not name an archive of Push-T")
    data = Demonstrations.from_pusht(path)
    assert (data.num_episodes, len(data)) == (156, 19135)
    # The pusher goes where it is sent: within a few steps, more so than where it was.
    same_episode = np.setdiff1d(np.arange(len(data) - 1), data.episode_starts - 1)
    before, after = data.observations[same_episode, :2], data.observations[same_episode + 1, :2]
    nearer = np.linalg.norm(after - data.actions[same_episode], axis=1) < np.linalg.norm(
        before - data.actions[same_episode], axis=1
    )
    assert nearer.mean() > 0.9
    keypoints = Demonstrations.from_pusht(path, "keypoints").observations
    np.testing.assert_array_equal(keypoints[:, 18:], data.observations[:, :2])
