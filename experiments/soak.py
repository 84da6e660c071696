"""A day's work in one process: does its memory stay flat?

    python -m experiments.soak

LatentPPO takes a million environment steps in ``latentrl/MultiGoal-v0``, then LatentBC makes 100 000 updates on what
was shown there, with all that long runs use: evaluations, diagnostics, logs for TensorBoard, a held-out bound,
checkpoints. Resident memory and open files are noted a hundred times each; the first fifth of either half warms up.
Growth is that of the straight line through the rest. Exit status 1 where it is more than 2 % of what is held, or files
stay open. Linux.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor

from experiments.records import StudyArgs
from latentrl import Demonstrations
from latentrl.files import whole
from latentrl.memory import resident_memory
from latentrl.report import environment
from latentrl.sb3 import HeldOut, LatentBC, LatentPPO, LatentUsage, ModeCoverage, TorchVecEnvAdapter
from latentrl_envs.experts import demonstrate
from latentrl_envs.multi_goal import MultiGoal

ALLOWED = 0.02


class Watch(BaseCallback):
    """Notes seconds, megabytes and open files as the work goes on.

    :param total: time steps
    :param looks: how often in all
    """

    def __init__(self, total: int, looks: int) -> None:
        super().__init__()
        self.every, self.start = max(1, total // looks), time.monotonic()
        self.seen: list[tuple[int, float, float, int]] = []

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.every * (len(self.seen) + 1):
            files = len(list(Path("/proc/self/fd").iterdir()))
            self.seen.append((self.num_timesteps, time.monotonic() - self.start, resident_memory() / 1e6, files))
        return True


@dataclass(frozen=True)
class Args(StudyArgs):
    """Work on, and watch the memory."""

    env_steps: int = 1_000_000
    """Of reinforcement learning."""
    updates: int = 100_000
    """Of behaviour cloning."""
    looks: int = 100
    """In each half."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/soak")
    """Folder for table, records and picture."""

    def smoked(self) -> "Args":
        """The settings that count."""
        return replace(self, env_steps=4_000, updates=100, looks=10) if self.smoke else self


def batch(seed: int) -> VecMonitor:
    made = VecMonitor(TorchVecEnvAdapter(gym.make_vec("latentrl/MultiGoal-v0", 16, autoreset_mode="SameStep")))
    made.seed(seed)
    return made


def reinforce(args: Args, folder: Path) -> Watch:
    """A million steps."""
    watch, judged = Watch(args.env_steps, args.looks), batch(1)
    agent = LatentPPO(
        "LatentPolicy",
        batch(0),
        n_steps=64,
        batch_size=256,
        n_epochs=4,
        seed=0,
        device="cpu",
        tensorboard_log=str(folder),
    )
    coverage = ModeCoverage(judged, 4, 16, eval_freq=max(1, args.env_steps // 16 // 20), verbose=0)
    agent.learn(args.env_steps, [watch, LatentUsage(), coverage])
    return watch


def clone(args: Args, folder: Path) -> Watch:
    """A hundred thousand updates."""
    watch = Watch(args.updates, args.looks)
    shown, others = Demonstrations.from_arrays(**demonstrate(MultiGoal(), 100, seed=0)._asdict()).split(0.9)
    agent = LatentBC(demonstrations=shown, seed=0, device="cpu", tensorboard_log=str(folder), ema_decay=0.999)
    look = HeldOut(others, max(50, args.updates // 200))
    agent.learn(args.updates, [watch, look], checkpoint=folder / "run", checkpoint_every=max(1, args.updates // 100))
    return watch


def growth(seen: Sequence[Any]) -> tuple[float, float, float, int]:
    """Megabytes held at first, growth over all as megabytes and as a share, and files more at the end than then."""
    steady = np.array(seen[len(seen) // 5 :], float)
    slope, _ = np.polyfit(steady[:, 0], steady[:, 2], 1)
    grown = float(slope * (steady[-1, 0] - steady[0, 0]))
    return steady[0, 2], grown, grown / steady[0, 2], int(steady[-1, 3] - steady[0, 3])


def draw(found: dict[str, Watch]) -> Figure:
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    for axis, (title, watch) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        seen = np.array(watch.seen)
        axis.plot(seen[:, 0], seen[:, 2])
        axis.set(title=title, xlabel="time steps", ylabel="resident memory (MB)", ylim=(0, 1.2 * seen[:, 2].max()))
    return figure


def main(args: Args) -> int:
    """Work, tabulate, write; the exit status."""
    args = args.smoked()
    torch.set_num_threads(1)
    found, status = {}, 0
    lines = ["| half | seconds | MB | growth (MB) | growth (%) | files left open |", "|---|---|---|---|---|---|"]
    for title, work in {"PPO, environment steps": reinforce, "cloning, updates": clone}.items():
        with tempfile.TemporaryDirectory() as folder:
            found[title] = watch = work(args, Path(folder))
        held, grown, share, files = growth(watch.seen)
        seconds = watch.seen[-1][1]
        lines.append(f"| {title} | {seconds:.0f} | {held:.0f} | {grown:+.1f} | {100 * share:+.2f} | {files} |")
        status |= share > ALLOWED or files > 0
    text = "\n".join(lines) + "\n"
    print(text)
    record = {"command": "python -m experiments.soak", "environment": environment("cpu")}
    seen = {title: watch.seen for title, watch in found.items()}
    with whole(args.out / "table.md") as path:
        path.write_text(text)
    with whole(args.out / "records.json") as path:
        path.write_text(json.dumps({**record, "steps, seconds, MB, files": seen}) + "\n")
    with whole(args.out / "soak.png") as path:
        draw(found).savefig(path, dpi=110)
    return int(status)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
