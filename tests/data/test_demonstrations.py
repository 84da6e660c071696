"""Demonstrations are validated once, at the door."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from latentrl import Demonstrations, LatentRLError
from latentrl.data import Segments

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
    column = np.array([[0], [1], [2], [0], [1], [2]])
    for given in (None, spaces.Discrete(4)):
        alone = Demonstrations.from_arrays(GOOD["observations"], column, [6], action_space=given)
        assert alone.action_space == (given or spaces.Discrete(3))
        assert alone.actions.tolist() == [0, 1, 2, 0, 1, 2]
    line = spaces.Box(0.0, 2.0, (1,))
    assert Demonstrations.from_arrays(GOOD["observations"], column, [6], action_space=line).actions.shape == (6, 1)
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
        (
            changed(observations=NAN),
            "observations holds NaN or infinite values in 1 of 6 rows, first in row 3 .step 1 of episode 1.:",
        ),
        (
            changed(actions=INF),
            "actions holds NaN or infinite values in 1 of 6 rows, first in row 4 .step 2 of episode 1.:",
        ),
        (changed(rewards=[0, 1, 2, 3, 4, np.nan]), "rewards holds NaN"),
        (changed(rewards=[1.0]), "there are 1 rewards"),
        (changed(modes=[1]), "1 modes for 2 episodes"),
        (
            changed(action_space=spaces.Box(-0.5, 0.5, (1,))),
            "4 of 6 actions lie outside .*, first in row 0 .step 0 of episode 0.:",
        ),
        (changed(action_space=spaces.Box(-1, 1, (2,))), r"actions have shape \(1,\) each"),
        (changed(observation_space=spaces.Box(-1, 1, (3,))), r"observations have shape \(2,\) each"),
        (changed(action_space=spaces.Discrete(3)), r"actions have shape \(1,\)"),
        (changed(actions=np.arange(6), action_space=spaces.Discrete(4)), "2 of 6 actions lie outside"),
        (changed(actions=np.linspace(0, 1, 6), action_space=spaces.Discrete(4)), "give integers"),
        (changed(observations=[[1.0, 2.0], [3.0]]), "ragged"),
        (changed(observations=np.array([["a", "b"]] * 6)), "give real numbers"),
        (changed(actions=3.0), "actions is a single number: give an array"),
        (changed(observation_space=spaces.Dict({})), "observations are no dict, but the space is a Dict"),
        (
            changed(observation_space=spaces.Tuple([])),
            r"observation space Tuple\(\) is not supported: use Box, Discrete",
        ),
        (changed(action_space=spaces.Dict({})), r"action space Dict\(\) is not supported"),
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
    """Two seeds split alike once in 441 times."""
    lengths = np.full(14, 2)
    modes = np.repeat([0, 1], 7)
    data = Demonstrations.from_arrays(np.arange(28.0)[:, None], np.zeros((28, 1)), lengths, modes=modes)
    first, second = data.split(5 / 7, seed=3)
    assert (np.bincount(first.modes).tolist(), np.bincount(second.modes).tolist()) == ([5, 5], [2, 2])
    rows = np.concatenate([first.observations, second.observations]).ravel()
    assert sorted(rows) == list(range(28))
    again, _ = data.split(5 / 7, seed=3)
    np.testing.assert_array_equal(first.observations, again.observations)
    assert not np.array_equal(data.split(5 / 7, seed=4)[0].observations, first.observations)
    with pytest.raises(LatentRLError, match="between 0 and 1"):
        data.split(1.0)
    assert [part.num_episodes for part in data.split(0.01)] == [1, 13]
    with pytest.raises(LatentRLError, match="one episode, which cannot be split"):
        data.select([0]).split(0.5)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.6, 0.75, 0.9, 0.99])
@pytest.mark.parametrize("each", [1, 2, 4, 7])
def test_split_takes_its_share_of_few_episodes_of_many_modes(fraction: float, each: int) -> None:
    modes = np.repeat(np.arange(12), each)
    rows = np.zeros((len(modes), 1))
    data = Demonstrations.from_arrays(rows, rows, np.ones(len(modes), int), modes=modes)
    first, second = data.split(fraction)
    total = min(max(round(fraction * len(modes)), 1), len(modes) - 1)
    assert (first.num_episodes, second.num_episodes) == (total, len(modes) - total)
    assert first.modes is not None
    shares = np.bincount(first.modes, minlength=12)
    assert shares.max() - shares.min() <= 1
    assert sorted([*first.modes, *second.modes]) == modes.tolist()


def test_select_keeps_order_and_rows() -> None:
    data = Demonstrations.from_arrays(**GOOD, rewards=np.arange(6.0), modes=[7, 8])
    part = data.select([1, 0])
    assert part.episode_lengths.tolist() == [4, 2]
    assert part.observations[:, 0].tolist() == [4, 6, 8, 10, 0, 2]
    assert part.rewards is not None
    assert part.rewards.tolist() == [2, 3, 4, 5, 0, 1]
    with pytest.raises(LatentRLError, match="no episode"):
        data.select([])
    assert data.select(slice(1, 2)).episode_lengths.tolist() == data.select(1).episode_lengths.tolist() == [4]
    for wrong in ([2], [True, False, True]):
        with pytest.raises(LatentRLError, match="there are 2 episodes: "):
            data.select(wrong)
    with pytest.raises(LatentRLError, match=r"episode_lengths have shape \(1, 2\)"):
        Demonstrations.from_arrays(**{**GOOD, "episode_lengths": [[2, 4]]})


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f4", np.longdouble])
def test_numbers_that_torch_does_not_know_become_those_that_it_does(dtype: Any) -> None:
    data = Demonstrations.from_arrays(np.ones((4, 2), dtype), np.ones((4, 1), dtype), [4])
    assert data.observations.dtype in (np.float32, np.float64)
    assert torch.as_tensor(data.actions).sum() == 4


SPACE = spaces.Dict(
    camera=spaces.Box(0, 255, (3, 4, 1), np.uint8),
    goal=spaces.Discrete(3, start=2),
    gates=spaces.MultiDiscrete([2, 3]),
    speed=spaces.Box(-1, 1, (2,)),
    switches=spaces.MultiBinary(2),
)


def parts(**changes: Any) -> dict[str, Any]:
    """Six observations of the Dict space."""
    generator = np.random.default_rng(0)
    made = {
        "camera": generator.integers(0, 256, (6, 3, 4, 1), dtype=np.uint8),
        "goal": generator.integers(2, 5, 6),
        "gates": generator.integers(0, 2, (6, 2)),
        "speed": generator.uniform(-1, 1, (6, 2)).astype(np.float32),
        "switches": generator.integers(0, 2, (6, 2)),
    }
    return {**made, **changes}


def test_dict_observations(tmp_path: Path) -> None:
    data = Demonstrations.from_arrays(**changed(observations=parts()), observation_space=SPACE)
    assert len(data) == 6
    part = data.select([1])
    assert len(part) == 4
    for name, values in parts().items():
        np.testing.assert_array_equal(part.observations[name], values[2:])
    first, second = data.split(0.5)
    joined = np.concatenate([first.observations["speed"], second.observations["speed"]])
    assert sorted(joined.ravel()) == sorted(parts()["speed"].ravel())
    path = tmp_path / "demos.npz"
    arrays = {f"observations/{name}": values for name, values in parts().items()}
    np.savez(path, actions=GOOD["actions"], episode_lengths=[2, 4], **arrays)
    read = Demonstrations.from_npz(path, observation_space=SPACE)
    for name, values in parts().items():
        np.testing.assert_array_equal(read.observations[name], values)


def test_guessed_dict_spaces() -> None:
    data = Demonstrations.from_arrays(**changed(observations=parts()))
    space = data.observation_space
    assert isinstance(space, spaces.Dict)
    assert space["camera"] == spaces.Box(0, 255, (3, 4, 1), np.uint8)
    assert space["speed"] == spaces.Box(-np.inf, np.inf, (2,))


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (parts(speed=np.full((6, 2), np.nan)), "observations/speed holds NaN or infinite values in 6 of 6 rows"),
        (parts(speed=np.zeros((5, 2))), "there are 5 observations/speed"),
        (parts(speed=np.zeros((6, 3))), r"observations/speed have shape \(3,\) each"),
        (
            parts(goal=np.arange(6)),
            r"3 of 6 observations/goal lie outside Discrete\(3, start=2\), first .*: 0;",
        ),
        (parts(goal=np.full(6, 2.5)), "observations/goal have dtype float64, but .* give integers"),
        (parts(gates=np.full((6, 2), 2)), "6 of 6 observations/gates lie outside MultiDiscrete"),
        (parts(switches=np.full((6, 2), -1)), "6 of 6 observations/switches lie outside MultiBinary"),
        (parts(camera=np.zeros((6, 3, 4, 1))), "observations/camera have dtype float64, but .* give integers"),
        (parts(camera=np.full((6, 3, 4, 1), 256)), r"6 of 6 observations/camera lie outside Box\(0, 255"),
        (parts(more=np.zeros(6)), "observations are named .*more, but the space is a Dict of camera, .* give these"),
        (GOOD["observations"], "observations are no dict, but the space is a Dict of camera"),
        ({}, "observations are an empty dict"),
        (parts(speed=[["a", "b"]] * 6), "observations/speed has dtype"),
    ],
)
def test_bad_dict_observations(observations: Any, message: str) -> None:
    with pytest.raises(LatentRLError, match=message):
        Demonstrations.from_arrays(**changed(observations=observations), observation_space=SPACE)


def test_nested_dicts_are_refused() -> None:
    space = spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2)))
    with pytest.raises(LatentRLError, match=r"observation space Dict.* inside a Dict is not supported"):
        Demonstrations({"a": np.zeros(6)}, np.zeros((6, 1)), np.array([6]), space, spaces.Box(0, 1, (1,)))
    with pytest.raises(LatentRLError, match="observations are a dict, but the space is Box"):
        Demonstrations.from_arrays(**changed(observations=parts()), observation_space=spaces.Box(0, 1, (2,)))


@pytest.mark.parametrize(
    ("space", "bad"),
    [
        (spaces.MultiDiscrete([2, 3]), [0, 3]),
        (spaces.MultiDiscrete([2, 3], start=[5, 0]), [4, 0]),
        (spaces.MultiDiscrete([[2], [3]]), [[1], [-1]]),
        (spaces.MultiBinary(2), [1, 2]),
        (spaces.MultiBinary((2, 1)), [[-1], [0]]),
    ],
    ids=str,
)
def test_several_choices_at_once(space: Any, bad: Any) -> None:
    """As actions and as observations; one value outside is found and named."""
    space.seed(0)
    values = np.stack([space.sample() for _ in range(6)])
    data = Demonstrations.from_arrays(values, values, [6], space, space)
    assert data.select([0]).actions.shape == values.shape
    broken = values.astype(np.int64)
    broken[4] = bad
    with pytest.raises(LatentRLError, match=r"(?s)1 of 6 actions lie outside Multi.*, first in row 4"):
        Demonstrations.from_arrays(values, broken, [6], space, space)
    with pytest.raises(LatentRLError, match=r"(?s)1 of 6 observations lie outside Multi.*, first in row 4"):
        Demonstrations.from_arrays(broken, values, [6], space, space)
    with pytest.raises(LatentRLError, match=r"(?s)actions have dtype float64.*give integers"):
        Demonstrations.from_arrays(values, values.astype(float), [6], space, space)


def test_pictures_are_recognised_and_truth_values_are_bits() -> None:
    pictures = np.zeros((6, 4, 5, 3), np.uint8)
    bits = np.arange(12).reshape(6, 2) % 2 == 0
    data = Demonstrations.from_arrays(pictures, bits, [6], action_space=spaces.MultiBinary(2))
    assert data.observation_space == spaces.Box(0, 255, (4, 5, 3), np.uint8)
    assert data.actions.tolist() == bits.astype(int).tolist()


def test_what_they_say_of_themselves(two_ways: Demonstrations) -> None:
    """No pages of numbers."""
    said = repr(two_ways)
    assert said.startswith("Demonstrations(24 episodes of 288 transitions, 2 modes; observations Box(")
    assert len(said) < 200


def test_a_guessed_space_of_actions_holds_them() -> None:
    """Its bounds are rounded to float32, far more coarsely on the one side than on the other."""
    for actions in (np.linspace(-12345.6789, 0.5, 20), np.linspace(-0.5, 12345.6789, 20)):
        shown = Demonstrations.from_arrays(np.zeros((20, 1)), actions[:, None], [20])
        assert len(shown) == 20


def test_what_is_changed_on_the_way_to_networks_is_refused() -> None:
    whole = np.zeros((6, 1))
    with pytest.raises(
        LatentRLError, match=r"observations holds numbers beyond 3.4e\+38 in 1 of 6 rows, first in row 2"
    ):
        Demonstrations.from_arrays(np.where(np.arange(6)[:, None] == 2, 1e39, whole), whole, [6])
    with pytest.raises(LatentRLError, match="observations is masked in places"):
        Demonstrations.from_arrays(np.ma.masked_equal(np.arange(6.0)[:, None], 3.0), whole, [6])
    with pytest.raises(LatentRLError, match="actions is a single number"):
        Demonstrations.from_arrays(whole, True, [6])


def test_lengths_that_overflow_are_refused() -> None:
    lengths = np.array([2**63 - 1, 2**63 - 1, 8])
    with pytest.raises(LatentRLError, match=f"episode_lengths sum to {2**64 + 6}, but there are 6"):
        Demonstrations.from_arrays(np.zeros((6, 2)), np.zeros((6, 1)), lengths)


def test_any_kind_of_number_is_taken_by_the_constructor_too() -> None:
    """Other byte orders, small integers, and fields of packed records, whose numbers lie across words."""
    packed = np.zeros(6, np.dtype([("kind", np.int8), ("seen", np.float32, 2), ("done", np.float64, 1)]))
    packed["seen"] = np.arange(12).reshape(6, 2)
    box, one = spaces.Box(-99, 99, (2,)), spaces.Box(-9, 9, (1,))
    for observations in (packed["seen"], packed["seen"].astype(">f4")):
        made = Demonstrations(observations, packed["done"], np.array([2, 4], np.uint8), box, one)
        assert made.episode_lengths.dtype == np.int64
        segments = Segments(made, 2, 2)
        assert segments.observations.flatten().tolist() == list(range(12))
    with pytest.raises(LatentRLError, match="modes has dtype float64: give integers"):
        Demonstrations(packed["seen"], packed["done"], np.array([2, 4]), box, one, modes=np.array([0.5, np.nan]))
    with pytest.raises(LatentRLError, match=r"episodes have shape \(1, 2\)"):
        made.select([[0, 1]])


def test_an_archive_has_observations_in_one_form(tmp_path: Path) -> None:
    """And what nobody asked for is not looked at, be it a pickle."""
    parts = {"actions": np.zeros((2, 1)), "episode_lengths": np.array([2])}
    np.savez(tmp_path / "more.npz", observations=np.zeros((2, 1)), infos=np.array([{}], object), **parts)
    assert len(Demonstrations.from_npz(tmp_path / "more.npz")) == 2
    np.savez(
        tmp_path / "both.npz", **{"observations": np.zeros((2, 1)), "observations/goal": np.zeros((2, 1))}, **parts
    )
    with pytest.raises(LatentRLError, match="has 'observations' and 'observations/goal': keep one of them"):
        Demonstrations.from_npz(tmp_path / "both.npz")
    (tmp_path / "folder").mkdir()
    for name, array in {**parts, "observations": np.zeros((2, 1))}.items():
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    (tmp_path / "folder" / "._observations.npy").write_bytes(b"of another system")
    (tmp_path / "folder" / "unrelated.npy").write_bytes(b"of something else")
    assert len(Demonstrations.from_npz(tmp_path / "folder")) == 2


def test_integers_are_inside_their_bounds_or_not() -> None:
    """Room for rounding is for real numbers."""
    with pytest.raises(LatentRLError, match="1 of 2 actions lie outside"):
        Demonstrations.from_arrays(
            np.zeros((2, 1)), np.array([[5], [1_000_005]]), [2], action_space=spaces.Box(0, 10**6, (1,), np.int64)
        )
