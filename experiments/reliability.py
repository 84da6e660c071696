"""Hard knocks: processes killed at any moment, damaged files, full disks. What is lost?

    python -m experiments.reliability

A small policy is cloned, with checkpoints, a held-out bound and an average of weights. Lost is a run that does not end
at the weights of an undisturbed one, to the last bit; a file that cannot be read, a record of a study that differs; and
an error that does not say what happened. Needs processes that can be forked (Linux, macOS).
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from latentrl import Demonstrations, LatentRLError
from latentrl.cells import Cells, Record
from latentrl.files import whole
from latentrl.report import environment
from latentrl.sb3 import HeldOut, LatentBC, LatentPolicy
from latentrl.sweeps import sweep
from latentrl.training.checkpoints import LAST

UPDATES, JOBS = 60, 6


class Outcome(NamedTuple):
    """Of many knocks of one kind."""

    knocks: int
    lost: int


def shown() -> Demonstrations:
    """Twenty episodes of noise."""
    observations = np.random.default_rng(0).normal(size=(240, 2)).astype(np.float32)
    return Demonstrations.from_arrays(observations, -observations, [10, 14] * 10)


class Interrupted(BaseCallback):
    """Ends training as Ctrl-C would, after some updates."""

    def __init__(self, after: int | None) -> None:
        super().__init__()
        self.after = after

    def _on_step(self) -> bool:
        if self.n_calls == self.after:
            raise KeyboardInterrupt
        return True


def cloned(folder: Path, interrupted_after: int | None = None) -> bytes:
    """Train, or go on where training stopped; the weights."""
    train, test = shown().split(0.8)
    options = {"latent_dim": 2, "hidden": (8,), "n_components": 4, "context_length": 6, "prior": "mixture"}
    agent = LatentBC(
        demonstrations=train, policy_kwargs=options, batch_size=8, seed=0, device="cpu", ema_decay=0.9
    ).learn(
        UPDATES,
        [HeldOut(test, 7, 100), Interrupted(interrupted_after)],
        log_interval=9,
        checkpoint=folder,
        checkpoint_every=4,
    )
    return weights_of(agent.policy)


def half_trained(folder: Path) -> None:
    with suppress(KeyboardInterrupt):
        cloned(folder, UPDATES // 2)


def weights_of(policy: LatentPolicy) -> bytes:
    return b"".join(value.numpy().tobytes() for value in policy.model.state_dict().values())


def forked(work: Callable[[], Any]) -> int:
    """The id of a process that does it; it ends with 0, or with 3 after an error of this library, or with 1."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        work()
        status = 0
    except LatentRLError as error:
        (Path(os.environ["KNOCKS"]) / "said").write_text(str(error))
        status = 3
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def status_of(pid: int) -> int:
    """Waits for the end: the exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(work: Callable[[], Any], seconds: float) -> bool:
    """Begin, and kill after some time; False where it ended before.

    :raises RuntimeError: it failed by itself
    """
    pid = forked(work)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)  # one that has ended still waits to be asked for its status
    status = status_of(pid)
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"ended with {status}")
    return status != 0


def readable(folder: Path) -> bool:
    """Are all files whole that have their final name?"""
    for path in folder.rglob("*"):
        try:
            if path.suffix in (".pt", ".zip") and ".part" not in path.name and zipfile.ZipFile(path).testzip():
                return False
            if path.suffix == ".json" and ".part" not in path.name:
                json.loads(path.read_text())
        except (zipfile.BadZipFile, ValueError):
            return False
    return True


def until_done(work: Callable[[Path], bytes], folder: Path, times: int, chance: random.Random) -> Outcome:
    """Begin over and over, killed at a random moment, until it ends; in another folder until all knocks are given."""
    work(folder / "first")  # which takes longer
    start = time.monotonic()
    expected = work(folder / "whole")
    seconds, knocks, lost = time.monotonic() - start, 0, 0
    while knocks < times:
        place = folder / f"after_{knocks}"

        def attempt(place: Path = place) -> None:
            with whole(folder / "result") as path:
                path.write_bytes(work(place))

        while killed(attempt, chance.uniform(0.0, 0.7) * seconds):
            knocks += 1
            lost += not readable(place)
        lost += (folder / "result").read_bytes() != expected
    return Outcome(knocks, lost)


def training(folder: Path, times: int, chance: random.Random) -> Outcome:
    """Killed while it trains."""
    return until_done(cloned, folder, times, chance)


def writing(folder: Path, times: int, chance: random.Random) -> Outcome:
    """Killed when half of a checkpoint is written."""
    expected, save, lost = cloned(folder / "whole"), torch.save, 0

    def dying(place: Path, at: int) -> None:
        count = 0

        def half(state: Any, file: Any) -> None:
            nonlocal count
            save(state, file)
            if str(getattr(file, "name", "")).endswith(".part.pt") and (count := count + 1) == at:
                file.flush()
                os.truncate(file.name, os.path.getsize(file.name) // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        torch.save = half
        cloned(place)

    for number in range(times):
        place = folder / str(number)
        if status_of(forked(partial(dying, place, chance.randint(1, UPDATES // 4)))) != -signal.SIGKILL:
            raise RuntimeError("it was not killed")
        lost += not readable(place) or cloned(place) != expected
    return Outcome(times, lost)


def record_of(number: int) -> Record:
    time.sleep(0.02)
    return {"value": float(np.random.default_rng(number).normal())}


def study(folder: Path, times: int, chance: random.Random) -> Outcome:
    """Killed while it runs jobs and keeps their records."""

    def work(place: Path) -> bytes:
        jobs = {f"job {number}": partial(record_of, number) for number in range(JOBS)}
        return json.dumps(sweep(Cells(place, {}), jobs, label=None)).encode()

    return until_done(work, folder, times, chance)


def dies_at_first(number: int, folder: Path) -> Record:
    if not (folder / f"died_{number}").exists():
        (folder / f"died_{number}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return record_of(number)


def workers(folder: Path, times: int, _: random.Random) -> Outcome:
    """Each job of a study kills the process that runs it, once."""
    lost = 0
    for number in range(times):
        place = folder / str(number)
        place.mkdir(parents=True)
        jobs = {"one": partial(dies_at_first, number, place), "other": partial(record_of, number + 1)}
        made = sweep(Cells(place / "study", {}), jobs, 2, label=None)
        lost += made != [record_of(number), record_of(number + 1)]
    return Outcome(times, lost)


def saving(folder: Path, times: int, chance: random.Random) -> Outcome:
    """Killed while it saves two policies in turns, in three formats: what is there is one of them."""
    agents = [LatentBC(demonstrations=shown(), policy_kwargs={"hidden": (8,)}, seed=seed) for seed in (0, 1)]
    data = shown()
    ones = {weights_of(agent.policy) for agent in agents}

    def save(place: Path) -> None:
        while True:
            for agent in agents:
                agent.save(place / "agent.zip")
                agent.policy.save_pretrained(place / "policy")
                data.save(place / "shown.npz")

    lost, place = 0, folder / "saved"
    place.mkdir(parents=True)
    if not killed(partial(save, place), 1.0):
        raise RuntimeError("it ended")
    for _ in range(times):
        killed(partial(save, place), chance.uniform(0.0, 0.2))
        found = LatentBC.load(place / "agent.zip").policy, LatentPolicy.from_pretrained(place / "policy", device="cpu")
        same = np.array_equal(Demonstrations.from_npz(place / "shown.npz").actions, data.actions)
        lost += not ({weights_of(policy) for policy in found} <= ones and same)
    return Outcome(times, lost)


def damage(folder: Path, times: int, chance: random.Random) -> Outcome:
    """The last checkpoint is cut, overwritten in part, or has one bit flipped: the one before is used."""
    expected, lost = cloned(folder / "whole"), 0
    half_trained(folder / "half")
    for number in range(times):
        place = folder / str(number)
        shutil.copytree(folder / "half", place)
        content = bytearray((place / LAST).read_bytes())
        at = chance.randrange(len(content))
        match number % 3:
            case 0:
                del content[at:]
            case 1:
                content[at : at + 64] = bytes(len(content[at : at + 64]))
            case _:
                content[at] ^= 1 << chance.randrange(8)
        (place / LAST).write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lost += cloned(place) != expected
    return Outcome(times, lost)


def full_disk(folder: Path, times: int, chance: random.Random) -> Outcome:
    """No file may grow beyond some size, below that of a checkpoint: a clear error, and with more room it goes on."""
    expected, lost = cloned(folder / "whole"), 0
    size = (folder / "whole" / LAST).stat().st_size

    def limited(place: Path, limit: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        cloned(place)

    for number in range(times):
        place = folder / str(number)
        half_trained(place) if number % 2 else None
        clear = status_of(forked(partial(limited, place, chance.randint(1000, size - 1)))) == 3
        clear = clear and "cannot be written (File too large)" in (folder / "said").read_text()
        lost += not clear or cloned(place) != expected
    return Outcome(times, lost)


def two_at_once(folder: Path, times: int, _: random.Random) -> Outcome:
    """Two processes begin the same run: one trains, the other says why it does not."""
    expected, lost = cloned(folder / "whole"), 0
    for number in range(times):
        place = folder / str(number)
        pids = [forked(partial(cloned, place)) for _ in range(2)]
        ends = sorted(map(status_of, pids))
        said = (folder / "said").read_text() if (folder / "said").exists() else ""
        clear = ends == [0, 3] and "another process is writing to" in said
        lost += not (clear or ends == [0, 0]) or cloned(place) != expected
    return Outcome(times, lost)


KNOCKS: dict[str, Callable[[Path, int, random.Random], Outcome]] = {
    "SIGKILL at a random moment of training": training,
    "SIGKILL with half a checkpoint written": writing,
    "SIGKILL at a random moment of a study": study,
    "SIGKILL of a worker of a study": workers,
    "SIGKILL at a random moment of saving": saving,
    "last checkpoint cut, overwritten or one bit flipped": damage,
    "full disk": full_disk,
    "two processes on one run": two_at_once,
}


@dataclass(frozen=True)
class Args:
    """Give every kind of knock many times."""

    times: int = 50
    """Knocks of each kind, at least."""
    seed: int = 0
    """Of the moments and the damages."""
    out: Path = Path("experiments/results/reliability")
    """Folder for table and records."""


def main(args: Args) -> None:
    """Knock, tabulate, write."""
    torch.set_num_threads(1)
    found = {}
    for title, knock in tqdm(KNOCKS.items(), desc="kinds of knocks"):
        folder = args.out / "runs" / knock.__name__
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.environ["KNOCKS"] = str(folder)
        found[title] = knock(folder, args.times, random.Random(args.seed))
        shutil.rmtree(folder)
    shutil.rmtree(args.out / "runs")
    lines = ["| knock | times | lost |", "|---|---|---|"]
    text = "\n".join([*lines, *(f"| {title} | {got.knocks} | {got.lost} |" for title, got in found.items())]) + "\n"
    print(text)
    record: dict[str, Any] = {"command": "python -m experiments.reliability", "environment": environment("cpu")}
    with whole(args.out / "table.md") as path:
        path.write_text(text)
    with whole(args.out / "records.json") as path:
        knocks = {title: got._asdict() for title, got in found.items()}
        path.write_text(
            json.dumps({**record, "times": args.times, "seed": args.seed, "knocks": knocks}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main(tyro.cli(Args))
