"""How much slower is LatentBC.learn than a hand-written cloning loop over the same data?

    python -m experiments.benchmarks.bc_throughput

100 000 transitions of 17 observations and 6 actions, a Gaussian policy without latent, 256-256, batch 256, one thread,
Adam. The hand-written loop keeps its tensors in memory and gathers random rows, as fast as plain torch goes. The null
control times that loop against itself; the data path is what gathering a batch costs of a step.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from torch import nn
from torch.nn import functional as F

from experiments.benchmarks.timing import Step, machine, paired_ratio, row
from latentrl import Demonstrations
from latentrl.data import Segments
from latentrl.sb3 import LatentBC

O, A, H, B, N = 17, 6, 256, 256, 100_000  # noqa: E741


@dataclass(frozen=True)
class Args:
    """Compare cloning with a hand-written loop."""

    rounds: int = 100
    """Paired timings."""
    updates: int = 100
    """Updates per timing."""


def data() -> Demonstrations:
    """Random linear behaviour with noise."""
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(N, O)).astype(np.float32)
    actions = (observations @ generator.normal(size=(O, A)) / 4 + 0.1 * generator.normal(size=(N, A))).astype(
        np.float32
    )
    return Demonstrations.from_arrays(observations, actions, np.full(N // 100, 100))


def raw_loop(demonstrations: Demonstrations, updates: int) -> Step:
    """Behaviour cloning as a user would write it by hand."""
    net = nn.Sequential(nn.Linear(O, H), nn.SiLU(), nn.Linear(H, H), nn.SiLU(), nn.Linear(H, A))
    raw_sigma = nn.Parameter(torch.full((A,), 0.5413))
    optimizer = torch.optim.Adam([*net.parameters(), raw_sigma], 1e-3)
    observations, actions = torch.as_tensor(demonstrations.observations), torch.as_tensor(demonstrations.actions)

    def loop() -> None:
        for _ in range(updates):
            index = torch.randint(N, (B,))
            sigma = F.softplus(raw_sigma)
            error = (actions[index] - net(observations[index])) / sigma
            loss = (0.5 * error.square() + sigma.log() + 0.5 * math.log(2 * math.pi)).sum(-1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return loop


def our_loop(demonstrations: Demonstrations, updates: int, fused: bool) -> Step:
    """The same through the library."""
    agent = LatentBC(
        demonstrations=demonstrations,
        learning_rate=1e-3,
        batch_size=B,
        seed=0,
        device="cpu",
        policy_kwargs={
            "latent_dim": 0,
            "hold": 1,
            "hidden": (H, H),
            "optimizer_class": torch.optim.Adam,
            "optimizer_kwargs": {"fused": fused},
        },
    )
    return lambda: agent.learn(updates, reset_num_timesteps=False, log_interval=10**9)


def data_path_share(demonstrations: Demonstrations, step_seconds: float) -> float:
    """Seconds to draw a batch over seconds of a whole update."""
    segments = Segments(demonstrations, hold=1, context_length=2)
    started = time.perf_counter()
    for _ in range(1000):
        segments.batch(segments.random_index(B))
    return (time.perf_counter() - started) / 1000 / step_seconds


def main(args: Args) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    demonstrations = data()

    def measure(first: Step, second: Step) -> tuple[float, float, float]:
        return paired_ratio(first, second, args.rounds, 1)

    def raw() -> Step:
        return raw_loop(demonstrations, args.updates)

    print(machine())
    print(f"BC, {N} x ({O} -> {A}), {H}-{H}, batch {B}, torch {torch.__version__}, 1 thread: time over raw torch")
    print(f"{'':44} median   [quartiles]        target")
    print(row("raw torch (null control)", measure(raw(), raw()), "1.00"))
    print(row("LatentBC.learn", measure(our_loop(demonstrations, args.updates, False), raw()), "<= 1.05"))
    print(row("LatentBC.learn, fused Adam", measure(our_loop(demonstrations, args.updates, True), raw())))
    loop = our_loop(demonstrations, args.updates, True)
    started = time.perf_counter()
    loop()
    share = data_path_share(demonstrations, (time.perf_counter() - started) / args.updates)
    print(f"{'data path, share of an update':44} {share:6.1%}                      <= 5 %")


if __name__ == "__main__":
    main(tyro.cli(Args))
