"""How much slower is LatentBC.learn than a hand-written cloning loop over the same data, and than other libraries?

    python -m experiments.benchmarks.bc_throughput --peers .peers

100 000 transitions of 17 observations and 6 actions, a Gaussian policy without latent, 256-256, batch 256, one thread,
Adam, no corrective noise. The hand-written loop keeps its tensors in memory and gathers random rows, as fast as plain
torch goes. The null control times that loop against itself; the data path is what gathering a batch costs of a step.
The peers run in processes of their own, in virtual environments of theirs (``make benchmark`` makes them under
``.peers``), each in turn with the hand-written loop; a peer over ours is a ratio of ratios over that loop. On the same
likelihood, and as they are shipped: ``bc_worker`` says what that is.
Two processes share large batches of the same network, with one thread each, as the one process has.
On a GPU: samples per second, and the share of that time in which it is busy, which is how long the profiler sees any
kernel or copy run in an update of its own 256, over how long an update takes without profiler.
"""

import json
import math
import os
import statistics
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from stable_baselines3.common.callbacks import BaseCallback
from torch.autograd import DeviceType

from experiments.benchmarks.bc_worker import EPOCH, A, B, H, N, O, arrays, raw
from experiments.benchmarks.timing import Step, machine, paired_ratio, row
from latentrl import Demonstrations
from latentrl.data import Segments
from latentrl.sb3 import LatentBC

Ratio = tuple[float, float, float]
"""Median and quartiles."""
PEERS = {"imitation": ">= 3.00", "imitation_as_shipped": "", "d3rlpy": ">= 2.30", "d3rlpy_as_shipped": ""}
"""How many times as fast as each we want to be. As it is shipped, d3rlpy has no likelihood."""
SHARED_BATCHES, GPU_BATCHES = {4096: "", 16384: ">= 1.70"}, (256, 8192)
"""Of two processes together, with how many times as fast they ought to be; of a GPU."""
NETWORKS: dict[str, dict[str, Any]] = {
    "MLP, 256-256": {"hidden": (H, H)},
    "transformer, 3 x 128, 8 observations": {"trunk": "transformer", "history": 8, "hidden": (128, 128, 128)},
}


@dataclass(frozen=True)
class Args:
    """Compare cloning with a hand-written loop, with peers, on two processes and on a GPU."""

    rounds: int = 100
    """Paired timings; of peers a fifth as many, of two processes a twentieth."""
    updates: int = 100
    """Updates per timing; of peers an epoch."""
    peers: Path | None = None
    """Folder with the peers' virtual environments, one per peer; None leaves the peers out."""
    smoke: bool = False
    """Few and short timings, to see that everything runs."""


def data() -> Demonstrations:
    """Random linear behaviour with noise."""
    return Demonstrations.from_arrays(*arrays(), np.full(N // 100, 100))


def agent(
    demonstrations: Demonstrations, network: dict[str, Any], fused: bool = True, batch_size: int = B, **options: Any
) -> LatentBC:
    """Ours, of the same likelihood as the hand-written loop."""
    return LatentBC(
        demonstrations=demonstrations,
        learning_rate=1e-3,
        batch_size=batch_size,
        noise=None,
        seed=0,
        policy_kwargs={
            "latent_dim": 0,
            "hold": 1,
            "optimizer_class": torch.optim.Adam,
            "optimizer_kwargs": {"fused": fused},
            **network,
        },
        **options,
    )


def our_loop(demonstrations: Demonstrations, updates: int, fused: bool) -> Step:
    """The same through the library."""
    made = agent(demonstrations, NETWORKS["MLP, 256-256"], fused, device="cpu")
    return lambda: made.learn(updates, reset_num_timesteps=False, log_interval=10**9)


def data_path_share(demonstrations: Demonstrations, step_seconds: float) -> float:
    """Seconds to draw a batch over seconds of a whole update."""
    segments = Segments(demonstrations, hold=1, context_length=2)
    started = time.perf_counter()
    for _ in range(1000):
        segments.batch(segments.random_index(B))
    return (time.perf_counter() - started) / 1000 / step_seconds


# -- peers -----------------------------------------------------------------------------------------------------


def peer_ratio(peers: Path, candidate: str, rounds: int, updates: int) -> Ratio | None:
    """A peer's time over raw torch's; None and a line on the terminal where it cannot run."""
    # Not resolve(), as the link to the system's python is what makes it that of the environment.
    python = peers.absolute() / candidate.partition("_")[0] / "bin" / "python"
    if not python.exists():
        print(f"{candidate} is left out, as {python} is not there: make benchmark")
        return None
    command = [python, "-m", "experiments.benchmarks.bc_worker", candidate, str(rounds), str(updates)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        print(f"{candidate} is left out, as it failed: {last}")
        return None
    median, low, high = json.loads(done.stdout.splitlines()[-1])
    return median, low, high


def times_as_fast(ours: Ratio, theirs: Ratio) -> Ratio:
    """Their time over ours, from both over raw torch's; the quartiles are the farthest that those of both allow."""
    return theirs[0] / ours[0], theirs[1] / ours[2], theirs[2] / ours[1]


def compare_with_peers(args: Args, ours: Ratio, fused: Ratio) -> None:
    """Rows of the peers, and of ours over them: with the same Adam, and with the fused one."""
    if args.peers is None:
        print("peers are left out: --peers says where their environments are")
        return
    rounds, updates = (2, 5) if args.smoke else (max(2, args.rounds // 5), EPOCH)
    for candidate, target in PEERS.items():
        if (theirs := peer_ratio(args.peers, candidate, rounds, updates)) is not None:
            name = candidate.replace("_", " ")
            print(row(name, theirs), flush=True)
            print(row(f"{name} over ours", times_as_fast(ours, theirs), target))
            print(row(f"{name} over ours, fused Adam", times_as_fast(fused, theirs)), flush=True)


# -- several processes, and GPUs -------------------------------------------------------------------------------


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Clock(BaseCallback):
    """Seconds of an update, over ``count`` of them after the first ``skip``."""

    def __init__(self, skip: int, count: int) -> None:
        super().__init__()
        self.skip, self.count = skip, count
        self.seconds = math.nan

    def _on_step(self) -> bool:
        if self.n_calls in (self.skip, self.skip + self.count):
            synchronize(self.model.device)
            if self.n_calls == self.skip:
                self.begin()
            else:
                self.seconds = self.end() / self.count
        return True

    def begin(self) -> None:
        self._started = time.perf_counter()

    def end(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self._started


class Kernels(Clock):
    """Seconds of an update in which the GPU works."""

    def begin(self) -> None:
        self._profiler = torch.profiler.profile()
        self._profiler.start()

    def end(self) -> float:
        self._profiler.stop()
        return busy_seconds(self._profiler.events())


def busy_seconds(events: Iterable[Any]) -> float:
    """How long at least one kernel or copy of a profile runs on a GPU."""
    on_gpu = [e.time_range for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    total, end = 0.0, -math.inf
    for start, stop in sorted((span.start, span.end) for span in on_gpu):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total / 1e6  # the profiler counts microseconds


def update_seconds(demonstrations: Demonstrations, batch_size: int, devices: int, skip: int, count: int) -> float:
    """Of processes that share a batch, without their start."""
    network, clock = NETWORKS["MLP, 256-256"], Clock(skip, count)
    made = agent(demonstrations, network, batch_size=batch_size, device="cpu", devices=devices)
    made.learn(skip + count, clock, log_interval=10**9)
    return clock.seconds


def compare_processes(demonstrations: Demonstrations, args: Args) -> None:
    """How many times as fast two processes are as one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2:
        print("two processes are left out, as there is one core")
        return
    rounds, skip, count = (2, 1, 2) if args.smoke else (max(2, args.rounds // 20), 10, args.updates)
    for batch_size, target in SHARED_BATCHES.items():
        ratios = []
        for index in range(rounds):
            seconds = {}
            for devices in (1, 2)[:: 1 if index % 2 else -1]:
                seconds[devices] = update_seconds(demonstrations, batch_size, devices, skip, count)
            ratios.append(seconds[1] / seconds[2])
        low, median, high = statistics.quantiles(ratios, n=4)
        print(row(f"two processes, batch {batch_size}: times as fast", (median, low, high), target), flush=True)


def throughput(
    demonstrations: Demonstrations, network: str, batch_size: int, compiled: bool, device: str, count: int
) -> tuple[float, float]:
    """Samples per second, and the share of that time in which the GPU is busy (0 without one)."""
    torch.compiler.reset()
    skip = min(20, count)
    made = agent(demonstrations, NETWORKS[network], batch_size=batch_size, device=device, compile=compiled)
    # Profiled apart, as that slows the launches of kernels, though not the kernels.
    clock, kernels = Clock(skip, count), Kernels(skip + count, count)
    made.learn(skip + 2 * count, [clock, kernels], log_interval=10**9)
    return batch_size / clock.seconds, kernels.seconds / clock.seconds


def gpu_table(demonstrations: Demonstrations, device: str, batches: tuple[int, ...], count: int) -> None:
    """Rows of both networks at each batch size, with and without compiling."""
    print(f"{'LatentBC.learn, fused Adam':60} samples / s   busy")
    for network in NETWORKS:
        for batch_size in batches:
            for compiled in (False, True):
                samples, busy = throughput(demonstrations, network, batch_size, compiled, device, count)
                name = f"{network}, batch {batch_size}{', compiled' if compiled else ''}"
                print(f"{name:60} {samples:11.3g} {busy:6.1%}", flush=True)


def main(args: Args) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    demonstrations = data()
    rounds, updates = (2, 5) if args.smoke else (args.rounds, args.updates)

    def over_raw(loop: Step) -> Ratio:
        return paired_ratio(loop, raw(updates), rounds, 1)

    print(machine())
    print(f"BC, {N} x ({O} -> {A}), {H}-{H}, batch {B}, torch {torch.__version__}, 1 thread: time over raw torch")
    print(f"{'':44} median   [quartiles]        target")
    print(row("raw torch (null control)", over_raw(raw(updates)), "1.00"), flush=True)
    ours, fused = (over_raw(our_loop(demonstrations, updates, fused)) for fused in (False, True))
    print(row("LatentBC.learn", ours, "<= 1.05"))
    print(row("LatentBC.learn, fused Adam", fused), flush=True)
    loop = our_loop(demonstrations, updates, True)
    loop()  # the first has things to set up
    started = time.perf_counter()
    loop()
    share = data_path_share(demonstrations, (time.perf_counter() - started) / updates)
    print(f"{'data path, share of an update':44} {share:6.1%}                      <= 5 %", flush=True)
    compare_with_peers(args, ours, fused)
    compare_processes(demonstrations, args)
    if not torch.cuda.is_available():
        print("GPU rows are left out, as there is no GPU")
        return
    print(torch.cuda.get_device_name())
    gpu_table(demonstrations, "cuda", GPU_BATCHES, 5 if args.smoke else 256)


if __name__ == "__main__":
    main(tyro.cli(Args))
