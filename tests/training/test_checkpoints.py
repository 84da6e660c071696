"""The folder of a run: whole files, the same settings, nothing that runs code."""

import json
import pickle
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from latentrl import Demonstrations, LatentRLError
from latentrl.cells import Cells
from latentrl.randomness import random_state, same_randomness, set_random_state
from latentrl.schedules import Constant, FadeIn, KLConstraint, KLRange
from latentrl.training import fingerprint
from latentrl.training.checkpoints import RunFolder
from latentrl.training.fingerprint import _constant, describe, digest
from latentrl.training.state import load_schedule_state, schedule_state

CPU = torch.device("cpu")


def test_a_state_comes_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {"seed": 1})
    assert folder.read(CPU) is None
    state = {"random": random_state(CPU), "step": 3, "range": schedule_state(FadeIn(KLRange(0.5, 3.0), 5))}
    drawn = torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
    folder.write(state)
    found = RunFolder(tmp_path / "run", {"seed": 1}).read(CPU)
    assert found is not None
    set_random_state(found["random"], CPU)
    assert torch.equal(torch.rand(3), drawn[0])
    assert np.random.rand() == drawn[1]  # noqa: NPY002
    assert random.random() == drawn[2]
    assert found["range"] == state["range"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["last.pt", "settings.json"]


def test_another_run_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path, {"seed": 1, "batch_size": 4})
    RunFolder(tmp_path, {"seed": 1, "batch_size": 8}).write({})  # the one before never kept anything
    with pytest.raises(LatentRLError, match=r"of another run \(batch_size: 8 there, 16 now\): give another folder"):
        RunFolder(tmp_path, {"seed": 1, "batch_size": 16})


def test_the_folder_of_a_study_is_refused(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "study", {"seeds": [0, 1]})
    cells.keep("a", {"value": 1.0})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(LatentRLError, match=r"study' holds the results of a study, .*: give another folder"):
        RunFolder(tmp_path / "study", {"seed": 1})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "a" in Cells(tmp_path / "study", {"seeds": [0, 1]})


def test_a_first_state_that_could_not_be_read_is_refused(tmp_path: Path) -> None:
    """Rather than called damaged when it is needed."""
    with pytest.raises(LatentRLError, match=r"an optimizer's option.* holds something else \(.*numpy.*\): convert it"):
        RunFolder(tmp_path, {}).write({"lr": np.float64(1e-4)})
    assert {path.name for path in tmp_path.iterdir()} == {"settings.json"}


def test_a_later_state_that_could_not_be_read_is_refused_too(tmp_path: Path) -> None:
    """And what was kept before stays."""
    folder = RunFolder(tmp_path, {})
    folder.write({"best": 1.0})
    for _ in range(2):
        with pytest.raises(LatentRLError, match="convert it"):
            folder.write({"best": np.float64(2.0)})
    assert RunFolder(tmp_path, {}).read(CPU) == {"best": 1.0}


def test_what_is_faded_in_by_two_is_kept() -> None:
    """As where a user gives a FadeIn; one around a constant observes nothing."""
    twice = FadeIn(FadeIn(weight := KLRange(0.5, 3.0), 2), 3)
    twice.observe(5, torch.tensor(9.0), torch.tensor(0.0))
    again = FadeIn(FadeIn(copy := KLRange(0.5, 3.0), 2), 3)
    load_schedule_state(again, schedule_state(twice))
    assert vars(copy) == vars(weight)
    assert twice(9, 0.0) == again(9, 0.0) > 1.0
    assert not FadeIn(FadeIn(Constant(1.0), 2), 3).observes


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "run_by_a_stranger",))

    folder = RunFolder(tmp_path, {})
    (tmp_path / "last.pt").write_bytes(pickle.dumps(Bad()))
    with pytest.raises(LatentRLError, match="no checkpoint of this library, or damaged"):
        folder.read(CPU)
    torch.save({"model": Bad()}, tmp_path / "last.pt")
    with pytest.raises(LatentRLError, match="no checkpoint of this library, or damaged"):
        folder.read(CPU)
    assert not (tmp_path / "run_by_a_stranger").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LatentRLError, match=r"output folder .*file' is a file"):
        RunFolder(tmp_path / "file", {})
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "last.pt").write_text("")
    with pytest.raises(LatentRLError, match="has no settings"):
        RunFolder(tmp_path / "alone", {})


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path) -> None:
    folder, last, previous = RunFolder(tmp_path, {}), tmp_path / "last.pt", tmp_path / "previous.pt"
    folder.write({"update": 1})
    assert not previous.exists()
    folder.write({"update": 2})
    good = last.read_bytes()
    for damaged in (b"", good[:-20], bytes(len(good))):
        last.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"last.pt' is damaged: going on from 'previous.pt'"):
            assert folder.read(CPU) == {"update": 1}
        # Killed before the next write, and in the midst of it, the good one is still there.
        assert folder.read(CPU) == {"update": 1}
    folder.write({"update": 3})
    assert folder.read(CPU) == {"update": 3}
    for path in (last, previous):
        path.write_bytes(b"no")
    with pytest.raises(LatentRLError, match=r"last.pt' and .*previous.pt': no checkpoint of this library, or damaged"):
        folder.read(CPU)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, PermissionError])
def test_a_state_that_cannot_be_read_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    folder = RunFolder(tmp_path, {})
    folder.write({"update": 1})
    folder.write({"update": 2})

    def fails(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", fails)
        with pytest.raises(error):
            folder.read(CPU)
    assert folder.read(CPU) == {"update": 2}


def test_leftovers_of_a_killed_write_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".last.123.part.pt").write_text("half")
    RunFolder(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_a_weight_that_learns_is_kept() -> None:
    learned = KLRange(0.5, 3.0)
    for _ in range(3):
        learned.observe(0, torch.tensor(9.0), torch.tensor(0.0))
    fresh = FadeIn(KLRange(0.5, 3.0), 0)
    load_schedule_state(fresh, schedule_state(learned))
    assert fresh.schedule.beta == learned.beta != 1.0  # type: ignore[attr-defined]
    assert schedule_state(Constant(2.0)) == {}

    constraint = KLConstraint(np.log(24))
    constraint.told = np.float32(0.5)  # type: ignore[attr-defined]
    assert {type(value) for value in schedule_state(constraint).values()} == {float, tuple}

    class Strange(KLRange):
        memory = None

    strange = Strange(0.5, 3.0)
    strange.memory = object()  # type: ignore[assignment]
    with pytest.raises(LatentRLError, match=r"cannot hold Strange\.memory, a object"):
        schedule_state(strange)


def test_descriptions_tell_settings_apart() -> None:
    learned = KLRange(0.5, 3.0)
    before = describe(learned)
    learned.observe(0, torch.tensor(9.0), torch.tensor(0.0))
    assert describe(learned) == before != describe(KLRange(0.5, 4.0))
    by, other = 2.0, 3.0
    assert describe(lambda x: x * by) != describe(lambda x: x * other)
    assert describe(np.arange(3)) != describe(np.arange(4)) == describe(torch.arange(4))
    assert describe({"a": [Constant(1.0), None]})["a"][1] is None


def scaled(left: float, by: float = 1.0) -> float:
    return FACTOR * by * left


FACTOR = 2.0


class Keeps:
    def __init__(self, number: float) -> None:
        self.number = number

    def times(self, left: float) -> float:
        return self.number * left

    def plus(self, left: float) -> float:
        return self.number + left


def test_what_functions_compute_with_tells_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    several = [
        partial(scaled, by=1e-3), partial(scaled, by=0.5), partial(scaled, 1e-3), scaled,
        Keeps(1.0).times, Keeps(2.0).times, Keeps(1.0).plus,
        lambda x: np.sin(x), lambda x: np.cos(x), lambda x, y=1: x + y, lambda x, y=2: x + y,
        lambda x: x in (1, 2), lambda x: x in (1, 3),
        lambda x: [x + i for i in (x, 1)], lambda x: [x - i for i in (x, 1)],
    ]  # fmt: skip
    found = [json.dumps(describe(one)) for one in several]
    assert len(set(found)) == len(several)
    assert found == [json.dumps(describe(one)) for one in several]
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert describe(scaled) != json.loads(found[3])


def test_sets_are_described_whatever_their_order() -> None:
    names = "abcdefgh"
    assert _constant((frozenset(names), 1)) == repr([repr(sorted(map(repr, names))), "1"])
    assert describe(lambda x: x in {"a", "b"}) != describe(lambda x: x in {"a", "c"})


def test_numbers_of_a_state_may_lie_on_another_device() -> None:
    """A checkpoint is read onto the device of its weights; random states are the host's."""
    state = random_state(CPU)
    drawn = np.random.rand()  # noqa: NPY002

    class Elsewhere:
        def __init__(self, values: torch.Tensor) -> None:
            self.values = values

        def cpu(self) -> torch.Tensor:
            return self.values

    state["numpy"][0], state["torch"] = Elsewhere(state["numpy"][0]), Elsewhere(state["torch"])
    set_random_state(state, CPU)
    assert np.random.rand() == drawn  # noqa: NPY002


def test_data_are_told_apart(two_ways: Demonstrations, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = two_ways.actions.copy()
    changed[5, 0] += 1e-3
    other = Demonstrations.from_arrays(two_ways.observations, changed, two_ways.episode_lengths)
    same = Demonstrations.from_arrays(two_ways.observations, two_ways.actions, two_ways.episode_lengths)
    assert digest(same) == digest(two_ways) != digest(other)
    seen = two_ways.observations.copy()
    seen[5, 0] += 1e-3
    lengths = np.array([11, 13, *two_ways.episode_lengths[2:]])
    wider = spaces.Box(-9, 9, (2,))
    others = [
        Demonstrations.from_arrays(seen, two_ways.actions, two_ways.episode_lengths),
        Demonstrations.from_arrays(two_ways.observations, two_ways.actions, lengths),
        Demonstrations.from_arrays(two_ways.observations, two_ways.actions, two_ways.episode_lengths, wider),
        Demonstrations.from_arrays(
            two_ways.observations, two_ways.actions, two_ways.episode_lengths, two_ways.observation_space, wider
        ),
    ]
    monkeypatch.setattr(fingerprint, "WHOLE", 0)  # then rows are hashed, here all of them
    assert len({json.dumps(digest(data)) for data in (two_ways, other, *others)}) == 6


def test_a_seeded_block_leaves_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    with same_randomness(CPU, seed=3):
        first = torch.rand(2)
    with same_randomness(CPU, seed=3):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_so_does_one_that_breaks_off() -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    def draw(shape: tuple[int, ...]) -> None:
        np.random.rand(700)  # noqa: NPY002
        torch.rand(shape)

    with pytest.raises(RuntimeError), same_randomness(CPU):
        draw((-1,))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
