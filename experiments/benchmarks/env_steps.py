"""How many environment steps per second, beside EnvPool, gymnax and Gymnasium?

    python -m experiments.benchmarks.env_steps --peers .peers

Each candidate runs in a process of its own on one core, the peers in virtual environments of theirs (``make benchmark``
makes them under ``.peers``), random actions drawn beforehand. In every process a yardstick, the Pendulum's equations in
eager torch, is timed in turn with the candidate; ratios between candidates are ratios of candidate over yardstick. Only
"overhead" compares a step with its compiled core, in one process.
Writes ``env_steps.json`` and ``env_steps.png`` beside the table.
"""

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import tyro

from experiments.benchmarks.timing import machine
from latentrl.files import whole
from latentrl.report import environment

WORKER = Path(__file__).with_name("env_worker.py")
TASKS = ("Pendulum", "MountainCarContinuous", "CartPole")
TARGETS = {"envpool": 20.0, "gymnax": 2.0}
"""How many times as fast as each peer we want to be at 16 384 environments."""


@dataclass(frozen=True)
class Args:
    """Time environment steps."""

    peers: Path | None = None
    """Folder with the peers' virtual environments, one per peer; None leaves the peers out."""
    sizes: tuple[int, ...] = (1024, 4096, 16384, 65536)
    """Numbers of environments; the peers run at 16 384 and Gymnasium's vector CartPole at all."""
    out: Path = Path("experiments/results/benchmarks")
    """Folder for the JSON and the picture."""


@dataclass(frozen=True)
class Timing:
    """What a worker measured: for each round the steps per second of the candidate and of what it is compared with."""

    candidate: str
    task: str
    n: int
    rounds: list[list[float]]

    @property
    def steps_per_second(self) -> float:
        return statistics.median(ours for ours, _ in self.rounds)

    @property
    def per_yardstick(self) -> float:
        return statistics.median(ours / theirs for ours, theirs in self.rounds)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles([ours / theirs for ours, theirs in self.rounds], n=4)
        return low, high


def run(python: str | Path, candidate: str, task: str, n: int) -> Timing | None:
    """Time a candidate in a process of its own; None and a line on the terminal where it cannot run."""
    done = subprocess.run([python, WORKER, candidate, task, str(n)], capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{task:22} {candidate:18} {n:6}   failed: {done.stderr.strip().splitlines()[-1][:70]}")
        return None
    timing = Timing(**json.loads(done.stdout.splitlines()[-1]))
    low, high = timing.quartiles
    print(
        f"{task:22} {candidate:18} {n:6}   {timing.steps_per_second:9.3g}   "
        f"{timing.per_yardstick:7.3f} [{low:.3f}, {high:.3f}]",
        flush=True,
    )
    return timing


def jobs(args: Args) -> list[tuple[str | Path, str, str, int]]:
    """Which interpreter times which candidate at which task and size."""
    main = 16384
    listed: list[tuple[str | Path, str, str, int]] = []
    for task in TASKS:
        listed += [(sys.executable, "latentrl", task, n) for n in args.sizes]
        listed += [(sys.executable, candidate, task, main) for candidate in ("core", "overhead", "eager")]
        if task == "CartPole":
            listed += [(sys.executable, "gymnasium_vector", task, n) for n in args.sizes]
        if args.peers is not None:
            listed += [(args.peers / peer / "bin" / "python", peer, task, main) for peer in TARGETS]
    listed.append((sys.executable, "gymnasium_sync", "Pendulum", 256))
    return listed


def verdicts(timings: list[Timing], memory: list[int]) -> list[str]:
    """Our targets and what was reached."""
    by_key = {(t.candidate, t.task, t.n): t.per_yardstick for t in timings}
    lines = []

    def compare(label: str, ratio: float, target: str) -> None:
        lines.append(f"{label:62} {ratio:7.2f}   target {target}")

    for task in TASKS:
        ours = by_key[("latentrl", task, 16384)]
        for peer, target in TARGETS.items():
            if (peer, task, 16384) in by_key:
                compare(f"{task}: latentrl / {peer}, n = 16384", ours / by_key[(peer, task, 16384)], f">= {target:g}")
        compare(f"{task}: time of a step / compiled core", 1 / by_key[("overhead", task, 16384)], "<= 1.1")
    for (candidate, task, n), theirs in by_key.items():
        if candidate == "gymnasium_vector":
            compare(f"{task}: latentrl / Gymnasium's vector, n = {n}", by_key[("latentrl", task, n)] / theirs, ">= 1")
    for task in TASKS:
        cost = {t.n: 1e9 / t.steps_per_second for t in timings if (t.candidate, t.task) == ("latentrl", task)}
        lines.append(f"{task}: ns per environment at n = " + ", ".join(f"{n}: {cost[n]:.1f}" for n in sorted(cost)))
    lines.append(f"memory after 1 000 and 11 000 steps of 16 384 Pendulums: {memory[0] >> 10}, {memory[1] >> 10} MiB")
    return lines


def draw(timings: list[Timing], path: Path) -> None:
    """Steps per second over the number of environments, one panel for each task."""
    figure, axes = plt.subplots(1, len(TASKS), figsize=(12, 3.6), sharex=True, sharey=True, layout="constrained")
    candidates = [c for c in dict.fromkeys(t.candidate for t in timings) if c != "overhead"]
    for axis, task in zip(axes, TASKS, strict=True):
        for i, candidate in enumerate(candidates):
            own = sorted((t.n, t.steps_per_second) for t in timings if (t.task, t.candidate) == (task, candidate))
            if own:
                axis.plot(*zip(*own, strict=True), "o-", color=f"C{i}", label=candidate.replace("_", " "))
        axis.set(xscale="log", yscale="log", title=task, xlabel="environments")
    by_label = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(by_label.values(), by_label.keys(), loc="outside right center", fontsize=8)
    axes[0].set_ylabel("steps per second, one core")
    with whole(path) as partial:
        figure.savefig(partial, dpi=130, format="png")
    plt.close(figure)


def main(args: Args) -> None:
    """Run everything and print."""
    print(machine())
    print(f"{'task':22} {'candidate':18} {'n':>6}   steps / s   over the yardstick [quartiles]")
    timings = [timing for job in jobs(args) if (timing := run(*job)) is not None]
    done = subprocess.run([sys.executable, WORKER, "memory", "Pendulum", "16384"], capture_output=True, text=True)
    memory = json.loads(done.stdout.splitlines()[-1])
    lines = verdicts(timings, memory)
    print("\n".join(["", *lines]))
    args.out.mkdir(parents=True, exist_ok=True)
    record = {
        "command": "python -m experiments.benchmarks.env_steps --peers .peers",
        "environment": environment("cpu"),
        "timings": [{**t.__dict__, "steps_per_second": t.steps_per_second} for t in timings],
        "verdicts": lines,
    }
    with whole(args.out / "env_steps.json") as partial:
        partial.write_text(json.dumps(record, indent=1))
    draw(timings, args.out / "env_steps.png")


if __name__ == "__main__":
    main(tyro.cli(Args))
