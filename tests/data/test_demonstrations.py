"""Demonstrations are validated once, at the door."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from latentrl import Demonstrations, LatentRLError

GOOD: dict[str, Any] = {
    "observations": np.arange(12, dtype=np.float32).reshape(6, 2),
    "actions": np.linspace(-1, 1, 6, dtype=np.float32).reshape(6, 1),
    "episode_lengths": [2, 4],
}


def test_from_arrays_guesses_spaces() -> None:
    data = Demonstrations.from_arrays(**GOOD)
    assert (len(data), data.num_episodes) == (6, 2)
    assert data.observation_space.shape == (2,)
    assert data.action_space == spaces.Box(-1.0, 1.0, (1,))
    assert data.episode_starts.tolist() == [0, 2]
    discrete = Demonstrations.from_arrays(GOOD["observations"], [0, 1, 2, 0, 1, 2], [6])
    assert discrete.action_space == spaces.Discrete(3)
    signed = Demonstrations.from_arrays(GOOD["observations"], [-1, 0, 1, 0, -1, 1], [6])
    assert signed.action_space == spaces.Discrete(3, start=-1)
    scalars = Demonstrations.from_arrays(np.arange(6.0), np.arange(6.0), [6])
    assert (scalars.observation_space.shape, scalars.action_space.shape) == ((), ())


def changed(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


NAN = GOOD["observations"].copy()
NAN[3, 1] = np.nan
INF = GOOD["actions"].copy()
INF[4] = np.inf


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (changed(episode_lengths=[2, 3]), "sum to 5, but there are 6 observations"),
        (changed(actions=GOOD["actions"][:5]), "there are 5 actions"),
        (changed(episode_lengths=[6, 0]), "episode 1 has length 0"),
        (changed(episode_lengths=[]), "episode_lengths has dtype float64"),
        (changed(episode_lengths=np.array([], int)), "empty"),
        (changed(episode_lengths=[2.0, 4.0]), "give integers"),
        (changed(observations=np.empty((0, 2)), actions=np.empty((0, 1)), episode_lengths=[0]), "empty"),
        (changed(observations=NAN), "observations holds NaN or infinite values in 1 of 6 rows, first in row 3"),
        (changed(actions=INF), "actions holds NaN or infinite values in 1 of 6 rows, first in row 4"),
        (changed(rewards=[0, 1, 2, 3, 4, np.nan]), "rewards holds NaN"),
        (changed(rewards=[1.0]), "there are 1 rewards"),
        (changed(modes=[1]), "1 modes for 2 episodes"),
        (changed(action_space=spaces.Box(-0.5, 0.5, (1,))), "4 of 6 actions lie outside .*, first in row 0"),
        (changed(action_space=spaces.Box(-1, 1, (2,))), r"actions have shape \(1,\) each"),
        (changed(observation_space=spaces.Box(-1, 1, (3,))), r"observations have shape \(2,\) each"),
        (changed(action_space=spaces.Discrete(3)), r"actions have shape \(1,\)"),
        (changed(actions=np.arange(6), action_space=spaces.Discrete(4)), "2 of 6 actions lie outside"),
        (changed(actions=np.linspace(0, 1, 6), action_space=spaces.Discrete(4)), "give integers"),
        (changed(observations=[[1.0, 2.0], [3.0]]), "ragged"),
        (changed(observations=np.array([["a", "b"]] * 6)), "give numbers"),
        (changed(observation_space=spaces.Dict({})), "not supported"),
    ],
)
def test_bad_input(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LatentRLError, match=message):
        Demonstrations.from_arrays(**arguments)


def test_npz_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "demos.npz"
    np.savez(path, **GOOD, rewards=np.ones(6), modes=[3, 5])
    data = Demonstrations.from_npz(path, action_space=spaces.Box(-2, 2, (1,)))
    np.testing.assert_array_equal(data.observations, GOOD["observations"])
    assert data.modes is not None
    assert data.modes.tolist() == [3, 5]
    assert data.action_space == spaces.Box(-2, 2, (1,))


def test_bad_npz(tmp_path: Path) -> None:
    with pytest.raises(LatentRLError, match="there is no file"):
        Demonstrations.from_npz(tmp_path / "missing.npz")
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(LatentRLError, match="cannot be read"):
        Demonstrations.from_npz(damaged)
    partial = tmp_path / "partial.npz"
    np.savez(partial, observations=GOOD["observations"])
    with pytest.raises(LatentRLError, match="lacks actions, episode_lengths; it has observations"):
        Demonstrations.from_npz(partial)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, **changed(actions=np.array([{"run": "code"}] * 6, dtype=object)))
    with pytest.raises(LatentRLError, match="cannot be read"):
        Demonstrations.from_npz(pickled)


def test_split_keeps_modes_apart_and_together() -> None:
    lengths = np.full(14, 2)
    modes = np.repeat([0, 1], 7)
    data = Demonstrations.from_arrays(np.arange(28.0)[:, None], np.zeros((28, 1)), lengths, modes=modes)
    first, second = data.split(5 / 7, seed=3)
    assert (np.bincount(first.modes).tolist(), np.bincount(second.modes).tolist()) == ([5, 5], [2, 2])
    rows = np.concatenate([first.observations, second.observations]).ravel()
    assert sorted(rows) == list(range(28))
    again, _ = data.split(5 / 7, seed=3)
    np.testing.assert_array_equal(first.observations, again.observations)
    with pytest.raises(LatentRLError, match="between 0 and 1"):
        data.split(1.0)
    with pytest.raises(LatentRLError, match=r"fraction 0\.01 leaves one part of 14 episodes empty"):
        data.split(0.01)


def test_select_keeps_order_and_rows() -> None:
    data = Demonstrations.from_arrays(**GOOD, rewards=np.arange(6.0), modes=[7, 8])
    part = data.select([1, 0])
    assert part.episode_lengths.tolist() == [4, 2]
    assert part.observations[:, 0].tolist() == [4, 6, 8, 10, 0, 2]
    assert part.rewards is not None
    assert part.rewards.tolist() == [2, 3, 4, 5, 0, 1]
    with pytest.raises(LatentRLError, match="no episode"):
        data.select([])
