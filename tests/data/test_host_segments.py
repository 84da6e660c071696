"""Segments on the host: the same batches as on the device, from arrays and from files in memory."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.profiler import ProfilerActivity, profile

from latentrl import Demonstrations
from latentrl.data import HostSegments, Segments, host_segments, make_segments, mapped, row_reader
from latentrl.nets import evenly
from latentrl.spaces import features
from latentrl.training.ahead import Ahead
from latentrl.training.parallel import dumps

LENGTHS = [5, 9, 7]


def data(kind: str) -> Demonstrations:
    generator = np.random.default_rng(0)
    total = sum(LENGTHS)
    actions: Any = generator.normal(size=(total, 2)).astype(np.float32)
    if kind == "pictures":
        return Demonstrations.from_arrays(
            generator.integers(0, 255, (total, 3, 8, 8), dtype=np.uint8), actions, LENGTHS
        )
    observations: Any = generator.normal(size=(total, 3))
    if kind == "dict":
        parts = {"x": observations, "n": generator.integers(0, 4, total)}
        space = spaces.Dict({"n": spaces.Discrete(4), "x": spaces.Box(-9, 9, (3,))})
        return Demonstrations.from_arrays(parts, actions, LENGTHS, space)
    return Demonstrations.from_arrays(observations, actions[:, 0] > 0, LENGTHS, action_space=spaces.Discrete(2))


@pytest.mark.parametrize("kind", ["numbers", "pictures", "dict"])
@pytest.mark.parametrize(
    ("hold", "chunk", "pads"), [(0, 1, False), (0, 1, True), (0, 2, False), (4, 2, False), (1, 1, False), (1, 3, False)]
)
def test_batches_are_those_of_segments(kind: str, hold: int, chunk: int, pads: bool) -> None:
    options: Any = {"chunk": chunk, "pads": pads, "raw_observations": kind != "numbers", "history": 1 + (chunk == 2)}
    there, here = (made(data(kind), hold, 6, **options) for made in (Segments, HostSegments))
    assert (here.observation_dim, here.action_dim) == (there.observation_dim, there.action_dim)
    batches = []
    for segments in (there, here):
        torch.manual_seed(3)
        batches.append(segments.batch(segments.random_index(5), steps=4))
    for mine, theirs in zip(*batches, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine.dtype == theirs.dtype
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    if hold == 1:  # a trunk sees what is the same only once
        assert batches[1].observations is batches[1].context_observations
    for mine, theirs in zip(here.sample_rows(), there.sample_rows(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_what_fits_lies_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is a share of the memory that is free; what lies in the host's memory stays there on a CPU."""
    np.save(tmp_path / "pictures.npy", np.zeros((21, 3, 8, 8), np.uint8))
    file = np.load(tmp_path / "pictures.npy", mmap_mode="r")
    mapped_data = Demonstrations.from_arrays(file, np.zeros((21, 2), np.float32), LENGTHS)
    needed = 21 * (3 * 64 + 2 * 4)
    for free, kind in ((2 * needed, Segments), (2 * needed - 1, HostSegments)):
        monkeypatch.setattr(host_segments, "available_memory", lambda free=free: free)
        assert type(make_segments(mapped_data, 1, 2, raw_observations=True)) is kind
        assert type(make_segments(data("pictures"), 1, 2, raw_observations=True)) is Segments
    assert type(make_segments(data("pictures"), 1, 2, resident=False)) is HostSegments


@pytest.mark.parametrize(
    ("make", "space", "each"),
    [
        (lambda: np.zeros((4_000, 64)), None, 64 * (4 + 8)),
        (lambda: np.zeros((4_000, 64), np.float32), None, 64 * 4),
        (lambda: np.arange(4_000) % 50, spaces.Discrete(50), 50 * 20),
    ],
    ids=["float64", "float32", "choices"],
)
def test_what_data_are_made_from_counts_too(
    make: Callable[[], np.ndarray], space: spaces.Space | None, each: int, tmp_path: Path, monkeypatch: Any
) -> None:
    """The memory that is said to be needed is at least what is allocated on the way, but for a row's number."""
    np.save(tmp_path / "seen.npy", make())
    file = np.load(tmp_path / "seen.npy", mmap_mode="r")
    shown = Demonstrations.from_arrays(file, np.zeros((4_000, 1), np.float32), [4_000], observation_space=space)
    for free, kind in ((2 * 4_000 * (each + 4), Segments), (2 * 4_000 * (each + 4) - 1, HostSegments)):
        monkeypatch.setattr(host_segments, "available_memory", lambda free=free: free)
        assert type(make_segments(shown, 1, 2)) is kind
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        features(shown.observation_space, torch.as_tensor(np.array(file)))
    taken = sum(max(event.self_cpu_memory_usage, 0) for event in seen.key_averages())
    came = file.nbytes if space is None else 0
    assert 0.5 * 4_000 * each < taken + came <= 4_000 * (each + 16)


def test_batches_ahead_do_not_depend_on_when_they_are_made() -> None:
    segments = HostSegments(data("numbers"), 0, 3)
    in_turn, later, other = (Ahead(segments, 4, 5, seeds) for seeds in ((7, 0), (7, 0), (7, 1)))
    batches = [in_turn(step) for step in range(6)]
    assert torch.equal(later(5).observations, batches[5].observations)
    assert not torch.equal(other(5).observations, batches[5].observations)
    assert len({float(batch.observations.sum()) for batch in batches}) == 6
    for one in (in_turn, later, other):
        one.close()


def test_files_travel_as_their_names(tmp_path: Path) -> None:
    """Views of a file in memory, turned and cut, come out of another process as they were, and take no room in it."""
    whole = np.random.default_rng(0).integers(0, 255, (500, 8, 6, 3), dtype=np.uint8)
    np.save(tmp_path / "pictures.npy", whole)
    view = np.asarray(np.load(tmp_path / "pictures.npy", mmap_mode="r")).transpose(0, 3, 1, 2)[100:, :, ::-1]
    assert mapped.is_mapped(view)
    packed = dumps(view)
    assert len(packed) < 2000
    found = pickle.loads(packed)
    np.testing.assert_array_equal(found, whole.transpose(0, 3, 1, 2)[100:, :, ::-1])
    assert mapped.is_mapped(found)
    assert not mapped.is_mapped(whole)


def test_changes_of_a_copied_file_are_kept(tmp_path: Path) -> None:
    """Pages of a mapping with changes of its own must not be given back."""
    np.save(tmp_path / "numbers.npy", np.zeros((10, 4)))
    file = np.load(tmp_path / "numbers.npy", mmap_mode="c")
    file[3] = 1.0
    for _ in mapped.blocks(file):
        pass
    reader = row_reader.Reader(file)
    for _ in range(2 * reader._part):
        assert reader(np.array([3])).sum() == 4.0


MEASURED = """
import resource
import sys
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from latentrl import Demonstrations
from latentrl.data import host_segments, row_reader
from latentrl.memory import _resident
from latentrl.sb3 import LatentBC

host_segments.SHARE, row_reader.BLOCK = 0.0, 2**22
class Brightness(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 1)

    def forward(self, observations):
        return observations.mean((1, 2, 3)).unsqueeze(-1)

options = {"latent_dim": 0, "hold": 1, "hidden": (8,), "features_extractor_class": Brightness}

def learn(pictures, updates):
    data = Demonstrations.from_arrays(pictures, np.zeros((len(pictures), 1), np.float32), [50] * (len(pictures) // 50))
    LatentBC(demonstrations=data, batch_size=256, seed=0, device="cpu", policy_kwargs=options).learn(updates)

pictures = np.load(sys.argv[1], mmap_mode="r")
learn(pictures[:5000].copy(), 2)  # what every run takes, the standardisation of 4096 pictures too
before, allowed = _resident("VmHWM"), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (_resident("VmData") + allowed, resource.RLIM_INFINITY))  # of its own
learn(pictures, 150)
print(_resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to measure the resident set")
@pytest.mark.parametrize(
    ("pictures", "share"),
    [(40_000, 2 / 5), pytest.param(250_000, 8 / 50, marks=pytest.mark.slow, id="8 GB for 50 GB, at 1/50 of both")],
)
def test_pictures_larger_than_the_memory_allowed(tmp_path: Path, pictures: int, share: float) -> None:
    """38 400 random pictures of 4 kB from a file of 164 MB, or of 1 GB: the process is refused memory of its own beyond
    a share of it, and grows by less, pages of the file included (by a fifth to a fourth of the smaller; without giving
    pages back, by four fifths)."""
    path = tmp_path / "pictures.npy"
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (pictures, 1, 64, 64))
    file[:] = np.arange(pictures).astype(np.uint8)[:, None, None, None]
    file.flush()
    # What the allocator keeps for later differs by 100 MB from run to run; so large blocks are given back at once.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    allowed = int(path.stat().st_size * share)
    command = [sys.executable, "-c", MEASURED, str(path), str(allowed)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | allocator)
    assert int(run.stdout) < allowed


def test_all_over_the_data_a_trunk_sees_fewer_observations_than_there_are_actions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that it sees belong to actions as evenly spaced among all."""
    monkeypatch.setattr(host_segments, "MOMENTS", 11)
    monkeypatch.setattr(host_segments, "TRUNK_ROWS", 5)
    pictures = np.broadcast_to(np.arange(21, dtype=np.uint8)[:, None, None, None], (21, 3, 8, 8))
    shown = Demonstrations.from_arrays(np.array(pictures), np.arange(21.0, dtype=np.float32)[:, None], LENGTHS)
    observations, actions = HostSegments(shown, 1, 6, raw_observations=True).sample_rows()
    assert actions[:, 0].tolist() == list(range(0, 21, 2))
    paired = actions[evenly(len(actions), len(observations)), 0]
    assert observations[:, 0].tolist() == paired.tolist()
    assert (paired[0], paired[-1]) == (0, 20)
