"""Several processes: their averaged gradient is that of one on the whole batch, and their weights stay the same."""

import os
import pickle
import signal
import time
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from latentrl import Demonstrations, LatentConfig, LatentRLError
from latentrl.data import Segments
from latentrl.estimators import Enumerate
from latentrl.schedules import FreeBits, KLConstraint, Schedule
from latentrl.training import ElboTrainer
from latentrl.training.finite import NonFiniteLossError
from latentrl.training.help import follow
from latentrl.training.parallel import Processes, dumps, together
from latentrl.types import Batch

CPU = torch.device("cpu")


class Exact(ElboTrainer):
    """Without chance: the first and the second half of the segments are the shares of two processes."""

    def _batch(self, step: int):  # type: ignore[no-untyped-def]  # noqa: ARG002
        size = self.batch_size // self._size
        index = torch.arange(self._rank * size, (self._rank + 1) * size)
        return self.segments.batch(index)


def exact(data: Demonstrations, kl_weight: Schedule) -> ElboTrainer:
    """Whole segments; the latent is a choice, whose expectation is a sum, so that no draw is left."""
    torch.manual_seed(5)
    made = LatentConfig(latent_dim=3, hidden=(8,), context_length=6, posterior="categorical", prior="categorical")
    model = made.build(data.observation_space, data.action_space).double()
    segments = segments_on(data, CPU)
    model.standardize(segments.observations, segments.actions)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    return Exact(model, segments, optimizer, deepcopy(kl_weight), 24, None, None, 0.5, estimator=Enumerate())


def segments_on(data: Demonstrations, device: torch.device) -> Segments:
    made = Segments(data, 0, 6, device)
    made.observations, made.actions = made.observations.double(), made.actions.double()  # so that rounding is no matter
    return made


def report(folder: Path, learner: ElboTrainer, data: Demonstrations, processes: Processes) -> None:
    """A helper that writes down its weights and the last gradient."""
    follow(learner, partial(segments_on, data), lambda left: 0.01 * left, 0, 4, processes)
    torch.save([p.detach() for p in learner.model.parameters()], folder / "weights.pt")
    (folder / "done").touch()


@pytest.mark.parametrize(
    "kl_weight",
    [pytest.param(KLConstraint(0.1), id="observes"), pytest.param(FreeBits(0.05), id="reads", marks=pytest.mark.slow)],
)
def test_two_processes_are_one(two_ways: Demonstrations, tmp_path: Path, kl_weight: Schedule) -> None:
    """In float64: gradients, bounds, β and weights, over 4 updates with clipping; both processes have the same bits."""
    alone, both = exact(two_ways, kl_weight), exact(two_ways, kl_weight)
    both.draw_data_seed()
    with together(2, "32-true", CPU, partial(report, tmp_path, both, two_ways)) as processes:
        both.settle(both.segments, processes)
        for step in range(4):
            found = []
            for learner in (alone, both):
                for group in learner.optimizer.param_groups:
                    group["lr"] = 0.01 * (1.0 - step / 4)
                found.append(learner.update(step))
            for name in ("value", "kl", "reconstruction"):
                torch.testing.assert_close(getattr(found[1], name), getattr(found[0], name), rtol=1e-9, atol=1e-9)
            assert float(found[1].beta) == pytest.approx(float(found[0].beta))
            for p, q in zip(both.model.parameters(), alone.model.parameters(), strict=True):
                assert (p.grad is None) == (q.grad is None)
                if p.grad is not None:
                    torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-9)
        while not (tmp_path / "done").exists():
            time.sleep(0.05)
    theirs = torch.load(tmp_path / "weights.pt", weights_only=True)
    for p, q in zip(both.model.parameters(), theirs, strict=True):
        assert torch.equal(p, q)
    assert not torch.distributed.is_initialized()


def crash(pid_file: Path, processes: Processes) -> None:
    pid_file.write_text(str(os.getpid()))
    if processes.rank:
        pictures = torch.zeros(1_000_000)  # more than a pipe holds where nobody reads
        raise NonFiniteLossError(7, float("nan"), Batch(pictures, pictures, pictures, pictures))


@pytest.mark.slow
def test_what_a_helper_raises_is_raised_here(tmp_path: Path) -> None:
    with (
        pytest.raises(NonFiniteLossError, match="at update 7"),
        together(2, "32-true", CPU, partial(crash, tmp_path / "pid")) as processes,
    ):
        processes.mean(torch.ones(3))


class Fatal:
    """What ends the process that unpickles it."""

    def __reduce__(self) -> object:
        return (os._exit, (9,))

    def __call__(self, processes: Processes) -> None:
        """It does not come to this."""


def raises(_: object) -> None:
    raise MemoryError("no room")


class TooLarge(Fatal):
    def __reduce__(self) -> object:
        return (raises, (None,))


@pytest.mark.parametrize(
    ("job", "error", "message"), [(Fatal(), LatentRLError, "give fewer devices"), (TooLarge(), MemoryError, "no room")]
)
def test_who_never_comes_to_the_meeting_is_not_waited_for(job: Fatal, error: type[Exception], message: str) -> None:
    began = time.monotonic()
    with pytest.raises(error, match=message), together(2, "32-true", CPU, job):
        pass
    assert time.monotonic() - began < 60.0


def wait(pid_file: Path, processes: Processes) -> None:
    pid_file.write_text(str(os.getpid()))
    processes.mean(torch.ones(3))


@pytest.mark.slow
def test_helpers_end_with_the_block(tmp_path: Path) -> None:
    """However it ends; here while they wait for an average."""

    class Enough(Exception):
        pass

    def begin() -> None:
        with together(2, "32-true", CPU, partial(wait, tmp_path / "pid")):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                time.sleep(0.05)
            raise Enough

    environment = dict(os.environ)
    with pytest.raises(Enough):
        begin()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGCONT)
    assert dict(os.environ) == environment


def test_a_copy_on_write_map_is_sent_with_its_changes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(5))
    for mode, expected in (("c", 7.0), ("r", 0.0)):
        mapped = np.load(tmp_path / "a.npy", mmap_mode=mode)
        if mode == "c":
            mapped[1] = 7.0
        assert pickle.loads(dumps(mapped[1:]))[0] == expected
