"""What does it cost to have GradientVariance measure an agent's gradient while it learns?

    python -m experiments.benchmarks.measured_training

Each agent learns with its own defaults on a task that is cheap to step, which makes the share largest, and is measured
as often as the callback does by default; one thread. The share is the time spent measuring over all other time of the
same run; median and range over the runs.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from stable_baselines3 import A2C, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from experiments.benchmarks.bc_throughput import data
from experiments.benchmarks.timing import machine, row
from latentrl.sb3 import GradientVariance, LatentBC

SHORT: dict[str, Any] = {"seed": 0, "device": "cpu"}
AGENTS: dict[str, tuple[Callable[[], BaseAlgorithm], int]] = {
    "LatentBC, 100 000 transitions": (lambda: LatentBC(demonstrations=data(), **SHORT), 1500),
    "PPO, CartPole-v1": (lambda: PPO("MlpPolicy", "CartPole-v1", **SHORT), 8 * 2048),
    "A2C, CartPole-v1": (lambda: A2C("MlpPolicy", "CartPole-v1", **SHORT), 2000 * 5),
    "SAC, Pendulum-v1": (lambda: SAC("MlpPolicy", "Pendulum-v1", **SHORT), 3100),
    "TD3, Pendulum-v1": (lambda: TD3("MlpPolicy", "Pendulum-v1", **SHORT), 3100),
}
"""Agents, and the steps (of LatentBC: updates) that each learns for."""


@dataclass(frozen=True)
class Args:
    """Time what measuring takes."""

    runs: int = 5
    """Of each agent; the median counts."""


class Timed(GradientVariance):
    """Knows how long it took."""

    spent, times = 0.0, 0

    def _measure(self) -> None:
        started = time.perf_counter()
        super()._measure()
        self.spent += time.perf_counter() - started
        self.times += 1


def share(make: Callable[[], BaseAlgorithm], steps: int) -> tuple[float, int]:
    """Seconds of measuring over all other seconds of learning, and the number of measurements."""
    agent, callback = make(), Timed()
    started = time.perf_counter()
    agent.learn(steps, callback=callback)
    return callback.spent / (time.perf_counter() - started - callback.spent), callback.times


def main(args: Args) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(machine())
    print(f"GradientVariance at its defaults, torch {torch.__version__}, 1 thread: time of measuring over all other")
    print(f"{'':44} median   [least, most]          target")
    for name, (make, steps) in AGENTS.items():
        shares, times = zip(*(share(make, steps) for _ in range(args.runs)), strict=True)
        found = statistics.median(shares), min(shares), max(shares)
        print(f"{row(f'{name} ({times[0]} times)', found, '<= .05')}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
