"""Minari's datasets, written by the package itself and by us."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from latentrl import Demonstrations, LatentRLError
from latentrl.data import minari as minari_files
from tests.data.strategies import same, values

minari = pytest.importorskip("minari", reason="the extra 'minari' is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Minari wants to know the author


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


NESTED = spaces.Dict(
    goal=spaces.Dict(kettle=spaces.Box(-1, 1, (3,)), burner=spaces.Discrete(4)),
    camera=spaces.Box(0, 255, (40, 36, 3), np.uint8),
    words=spaces.Text(3),
)


def stored(space: spaces.Space[Any], lengths: list[int], name: str = "tests/some-v0") -> tuple[Any, list[Any]]:
    """A dataset that Minari wrote, and its episodes."""
    from minari.data_collector import EpisodeBuffer

    def several(part: Any, rows: int, seed: int) -> Any:
        if isinstance(part, spaces.Dict):
            return {key: several(inner, rows, seed) for key, inner in part.spaces.items()}
        return ["abc"] * rows if isinstance(part, spaces.Text) else values(part, rows, seed)

    episodes = [
        EpisodeBuffer(
            observations=several(space, steps + 1, seed),
            actions=values(spaces.Discrete(5), steps, seed),
            rewards=np.arange(steps) + 10.0 * seed,
            terminations=np.zeros(steps, bool),
            truncations=np.arange(steps) == steps - 1,
        )
        for seed, steps in enumerate(lengths)
    ]
    made = minari.create_dataset_from_buffers(
        name, episodes, observation_space=space, action_space=spaces.Discrete(5), jpeg_encoding=False
    )
    return made, episodes


def test_what_minari_wrote() -> None:
    space = spaces.Box(-1, 1, (3,), np.float64)
    dataset, episodes = stored(space, [3, 1, 4])
    for given in (dataset, "tests/some-v0"):
        data = Demonstrations.from_minari(given)
        assert data.episode_lengths.tolist() == [3, 1, 4]
        assert (data.observation_space, data.action_space) == (space, spaces.Discrete(5))
        same(data.observations, np.concatenate([one.observations[:-1] for one in episodes]))
        same(data.actions, np.concatenate([one.actions for one in episodes]))
        same(data.rewards, np.concatenate([one.rewards for one in episodes]).astype(np.float32))
        assert data.modes is None


def test_some_episodes() -> None:
    dataset, episodes = stored(spaces.Box(-1, 1, (3,), np.float64), [3, 1, 4])
    data = Demonstrations.from_minari(dataset, episodes=[2, 0])
    same(data.actions, np.concatenate([episodes[2].actions, episodes[0].actions]))
    longer = dataset.filter_episodes(lambda episode: len(episode) > 1)
    same(Demonstrations.from_minari(longer).actions, np.concatenate([episodes[0].actions, episodes[2].actions]))
    same(Demonstrations.from_minari(longer, episodes=[1]).actions, episodes[2].actions)
    for bad in ([3], [-1], [], [0.5], 1):
        with pytest.raises(LatentRLError, match="episodes"):
            Demonstrations.from_minari(dataset, episodes=bad)  # type: ignore[arg-type]


def test_named_observations() -> None:
    dataset, episodes = stored(NESTED, [3, 2])
    data = Demonstrations.from_minari(dataset, keys=("camera", "goal/burner", "goal/kettle"))
    inner = {"camera": NESTED["camera"], "goal/burner": spaces.Discrete(4), "goal/kettle": spaces.Box(-1, 1, (3,))}
    assert data.observation_space == spaces.Dict(inner)
    same(data.observations["camera"], np.concatenate([one.observations["camera"][:-1] for one in episodes]))
    goals = np.concatenate([one.observations["goal"]["burner"][:-1] for one in episodes])
    same(data.observations["goal/burner"], goals)
    alone = Demonstrations.from_minari(dataset, keys="goal/burner")
    assert alone.observation_space == spaces.Discrete(4)
    same(alone.observations, goals)
    with pytest.raises(LatentRLError, match=r"observation space Text.* of words is not supported: choose by keys="):
        Demonstrations.from_minari(dataset)
    with pytest.raises(LatentRLError, match="but kettle was asked for"):
        Demonstrations.from_minari(dataset, keys="kettle")


def test_what_its_collector_wrote() -> None:
    pytest.importorskip("jax", reason="Minari's DataCollector needs jax")
    env = minari.DataCollector(gym.make("CartPole-v1"), record_infos=True)
    seen, done = [], []
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            seen.append(observation)
            done.append(seed % 2)
            observation, _, terminated, truncated, _ = env.step(seed % 2)
            over = terminated or truncated
    data = Demonstrations.from_minari(env.create_dataset("tests/cartpole-v0"))
    assert data.num_episodes == 3
    same(data.observations, np.array(seen))
    same(data.actions, np.array(done))
    assert data.observation_space == env.observation_space


def test_names_with_slashes_are_written_as_groups() -> None:
    """As nested observations are named here, and cameras of LeRobot; files know no such names."""
    parts = {
        "camera/top": spaces.Box(-1, 1, (2,)),
        "camera/side/near": spaces.Box(-1, 1, (3,)),
        "speed": spaces.Discrete(3),
    }
    space, actions = spaces.Dict(parts), spaces.Box(-2, 2, (2,))
    data = Demonstrations.from_arrays(values(space, 7, 0), values(actions, 7, 1), [3, 4], space, actions)
    dataset = data.to_minari("tests/nested-v0", description="drawn", author="nobody")
    same(dataset[0].observations["camera"]["side"]["near"][:-1], data.observations["camera/side/near"][:3])
    again = Demonstrations.from_minari("tests/nested-v0")
    assert again.observation_space == space
    same(again.observations, data.observations)
    clash = spaces.Dict({"a": spaces.Discrete(2), "a/b/c": spaces.Discrete(2)})
    for names in (clash, spaces.Dict(list(clash.spaces.items())[::-1])):
        with pytest.raises(LatentRLError, match="cannot hold observations 'a' beside 'a/b/c'"):
            Demonstrations.from_arrays(values(names, 7, 0), values(actions, 7, 1), [7], names, actions).to_minari(
                "tests/clash-v0"
            )


@pytest.mark.parametrize(("labelled", "data_format"), [(True, "hdf5"), (False, "hdf5"), (True, "arrow")])
def test_what_we_wrote(labelled: bool, data_format: str) -> None:
    space = spaces.Dict(camera=NESTED["camera"], gates=spaces.MultiDiscrete([2, 3]), speed=spaces.Box(-1, np.inf, (2,)))
    action_space = spaces.Box(-2, 2, (2,), np.float64)
    more: dict[str, Any] = {"rewards": np.arange(7) / 3, "modes": [4, 2]} if labelled else {}
    data = Demonstrations.from_arrays(
        values(space, 7, 0), values(action_space, 7, 1), [3, 4], space, action_space, **more
    )
    dataset = data.to_minari("tests/ours-v0", description="drawn", author="nobody", data_format=data_format)
    assert (dataset.total_episodes, dataset.total_steps) == (2, 7)
    episode = dataset[1]
    same(episode.observations["speed"], data.observations["speed"][[3, 4, 5, 6, 6]])
    assert episode.truncations.tolist() == [False, False, False, True]
    again = Demonstrations.from_minari("tests/ours-v0")
    assert (again.observation_space, again.action_space) == (space, action_space)
    same(again.observations, data.observations)
    same(again.actions, data.actions)
    assert again.rewards is not None
    assert again.rewards.tolist() == (data.rewards.tolist() if data.rewards is not None else [0.0] * 7)
    assert (None if again.modes is None else again.modes.tolist()) == more.get("modes")
    with pytest.raises(LatentRLError, match="'tests/ours-v0' already: give another name"):
        data.to_minari("tests/ours-v0")


def interrupted(*_: Any) -> Iterator[Any]:
    raise KeyboardInterrupt
    yield


def test_writing_is_whole_or_not_at_all(
    tmp_path: Path, two_ways: Demonstrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LatentRLError, match="cannot be written"):
        two_ways.to_minari("tests/ours-v0", data_format="clay")
    with pytest.raises(LatentRLError, match=r"no id.* cannot be written"):
        two_ways.to_minari("no id")
    with monkeypatch.context() as patched:
        patched.setattr(minari_files, "_buffers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            two_ways.to_minari("tests/ours-v0")
    assert not [path for path in tmp_path.rglob("*") if path.name in ("ours-v0", "no id")]
    two_ways.to_minari("tests/ours-v0")


def test_what_is_not_there(tmp_path: Path) -> None:
    stored(spaces.Box(-1, 1, (3,)), [3])
    advice = r"'tests/other-v1' on this machine: give download=True, .*`minari download tests/other-v1`.*tests/some-v0"
    with pytest.raises(LatentRLError, match=advice):
        Demonstrations.from_minari("tests/other-v1")
    with pytest.raises(LatentRLError, match="list is no Minari dataset"):
        Demonstrations.from_minari([1])
    with pytest.raises(LatentRLError, match="without names: leave out keys="):
        Demonstrations.from_minari("tests/some-v0", keys="camera")
    (described,) = tmp_path.rglob("metadata.json")
    told = described.read_text()
    described.write_text(told.replace('\\"n\\": 5', '\\"n\\": 2'))
    with pytest.raises(LatentRLError, match=r"tests/some-v0.* actions lie outside Discrete\(2\)"):
        Demonstrations.from_minari("tests/some-v0")
    described.write_text(told)
    (file,) = tmp_path.rglob("main_data.hdf5")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(LatentRLError, match=r"tests/some-v0.* cannot be read"):
        Demonstrations.from_minari("tests/some-v0")
    (file.parent / "metadata.json").write_text("{")
    with pytest.raises(LatentRLError, match="'tests/some-v0' cannot be loaded"):
        Demonstrations.from_minari("tests/some-v0")


def test_what_is_not_there_can_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, episodes = stored(spaces.Box(-1, 1, (3,)), [3])

    def load(name: str, download: bool) -> Any:
        assert name == "tests/far-v0"
        if not download:
            raise FileNotFoundError(name)
        return dataset

    monkeypatch.setattr(minari, "load_dataset", load)
    same(Demonstrations.from_minari("tests/far-v0", download=True).actions, episodes[0].actions)
    with pytest.raises(LatentRLError, match=r"`minari download tests/far-v0`"):
        Demonstrations.from_minari("tests/far-v0")


def test_pictures_as_jpeg_are_nearly_as_they_were() -> None:
    """Which is how Minari stores them by default."""
    height, width, step = np.ogrid[:40, :36, :7]
    slopes = [height * 6 + 0 * (width + step), width * 7 + 0 * (height + step), 100 + 20 * step + 0 * (height + width)]
    pictures = np.stack(slopes, -1).transpose(2, 0, 1, 3).astype(np.uint8)
    data = Demonstrations.from_arrays(pictures, np.zeros((7, 1)), [3, 4])
    dataset = data.to_minari("tests/jpeg-v0", author="nobody", description="slopes", jpeg_encoding=True)
    assert dataset.storage.jpeg_encoding
    again = Demonstrations.from_minari("tests/jpeg-v0")
    assert again.observation_space == data.observation_space
    assert again.observations.dtype == np.uint8
    wrong = np.abs(again.observations.astype(int) - pictures)
    assert 0 < wrong.max() <= 24
    assert wrong.mean() < 3


def test_shorter_observations_are_named() -> None:
    import h5py

    dataset, _ = stored(spaces.Box(-1, 1, (3,)), [3, 2])
    with h5py.File(dataset.storage.data_path / "main_data.hdf5", "a") as file:
        kept = file["episode_1/observations"][:-1]
        del file["episode_1/observations"]
        file["episode_1/observations"] = kept
    with pytest.raises(LatentRLError, match=r"tests/some-v0.*episode 1 has 2 observations for 2 steps"):
        Demonstrations.from_minari("tests/some-v0")


@pytest.mark.parametrize("words", [("expert", "novice"), (0.5, 1.0), (1, "novice")])
def test_modes_of_other_people_may_be_anything(words: tuple[Any, Any]) -> None:
    data = Demonstrations.from_arrays(np.zeros((7, 1)), np.zeros((7, 1)), [3, 4])
    dataset = data.to_minari("tests/words-v0", author="nobody", description="words")
    dataset.storage.update_episode_metadata([{"mode": word} for word in words])
    assert Demonstrations.from_minari("tests/words-v0").modes is None
