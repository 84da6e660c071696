"""What does the gradient of the return of a long rollout cost, in time and memory: eager, in segments, compiled?

    python -m experiments.benchmarks.rollout_gradient > experiments/results/benchmarks/rollout_gradient.txt

Pathwise gradient on Pendulum, 1024 environments, 200 steps, 3-64-64-1 tanh policy, float32, one thread. Ratios of
medians in one process, each candidate timed in turn with the eager rollout; the null control times that against itself.
Memory is the peak of the resident set while one gradient is taken, above what the process held just before, in a
process of its own; compiled code is warm by then.
JAX (``pip install jax``, optional) does the same by ``lax.scan`` with each step under ``jax.checkpoint``, in this
process too; its memory is the temporary buffers of the compiled program, as XLA itself states them.
"""

import ctypes
import gc
import math
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from experiments.benchmarks.timing import Step, machine, paired_ratio, row
from latentrl.distributions import DiagonalNormal
from latentrl.estimators import Pathwise
from latentrl.rollout_segments import COMPILED_SEGMENT
from latentrl.rollouts import ExpectedReturn
from latentrl_envs import Pendulum

H = 64
HORIZON, ENVS, SEGMENT = 200, 1024, 10
OPTIONS: dict[str, dict[str, Any]] = {
    "eager": {},
    "in segments": {"segment": SEGMENT},
    "compiled": {"compiled": True, "segment": COMPILED_SEGMENT},
}


@dataclass(frozen=True)
class Args:
    """Compare gradients of a rollout."""

    rounds: int = 30
    """Paired timings of each pair."""
    memory: str | None = None
    """Only measure the memory of this candidate, and print MiB; the benchmark calls itself so."""


def policy(p: dict[str, Tensor], observation: Tensor) -> DiagonalNormal:
    hidden = torch.tanh(torch.addmm(p["b0"], observation, p["w0"]))
    hidden = torch.tanh(torch.addmm(p["b1"], hidden, p["w1"]))
    return DiagonalNormal(torch.addmm(p["b2"], hidden, p["w2"]), p["log_scale"].exp())


def parameters() -> dict[str, Tensor]:
    torch.manual_seed(0)
    made = {"log_scale": torch.full((1,), -0.5)}
    for i, (fan_in, fan_out) in enumerate(((3, H), (H, H), (H, 1))):
        made[f"w{i}"], made[f"b{i}"] = torch.randn(fan_in, fan_out) / math.sqrt(fan_in), torch.zeros(fan_out)
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def gradient(name: str, horizon: int = HORIZON, envs: int = ENVS) -> Step:
    """One gradient by a candidate."""
    objective = ExpectedReturn(Pendulum(), policy, Pathwise(), horizon, envs, **OPTIONS[name])
    given = parameters()
    return lambda: torch.autograd.grad(objective(given), list(given.values()))


def resident() -> int:
    """Bytes of memory that this process holds (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak(step: Step) -> float:
    """MiB that a step takes at its peak, looked at every half millisecond."""
    step()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before, seen, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.0005):
            seen.append(resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    step()
    done.set()
    watcher.join()
    return (max(seen) - before) / 2**20


def memory(name: str) -> float:
    """MiB of one gradient, from a process of its own."""
    command = [sys.executable, "-m", "experiments.benchmarks.rollout_gradient", "--memory", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def jax_gradient() -> tuple[Step, float] | None:
    """The same in JAX, and its MiB; None where JAX is missing."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    try:
        import jax
        from jax import numpy as jnp
    except ImportError:
        return None
    given = {name: jnp.asarray(tensor.detach().numpy()) for name, tensor in parameters().items()}

    def surrogate(p: dict[str, Any], key: Any) -> Any:
        first, second = jax.random.split(key)
        uniforms = jax.random.uniform(first, (ENVS, 2))

        def step(state: Any, noise: Any) -> tuple[Any, Any]:
            angle, velocity = state
            hidden = jnp.stack([jnp.cos(angle), jnp.sin(angle), velocity], -1)
            for i in range(2):
                hidden = jnp.tanh(hidden @ p[f"w{i}"] + p[f"b{i}"])
            action = (hidden @ p["w2"] + p["b2"])[:, 0] + jnp.exp(p["log_scale"]) * noise
            torque, wrapped = jnp.clip(action, -2, 2), (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
            reward = -(wrapped**2 + 0.1 * velocity**2 + 0.001 * torque**2)
            velocity = jnp.clip(velocity + (15 * jnp.sin(angle) + 3 * torque) * 0.05, -8, 8)
            return (angle + velocity * 0.05, velocity), reward

        start = jnp.pi * (2 * uniforms[:, 0] - 1), 2 * uniforms[:, 1] - 1
        noise = jax.random.normal(second, (HORIZON, ENVS))
        return jax.lax.scan(jax.checkpoint(step), start, noise)[1].sum(0).mean()

    key = jax.random.PRNGKey(0)
    compiled = jax.jit(jax.grad(surrogate)).lower(given, key).compile()
    mib = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return lambda: jax.block_until_ready(compiled(given, key)), mib


def scaling(args: Args, name: str) -> None:
    """Cost against the horizon and the number of environments, over that of a quarter or half as much."""
    for label, small, large, factor in (
        ("100 over 50 steps", (50, ENVS), (100, ENVS), 2),
        ("200 over 100 steps", (100, ENVS), (200, ENVS), 2),
        ("1024 over 512 environments", (HORIZON, 512), (HORIZON, 1024), 2),
        ("4096 over 1024 environments", (50, 1024), (50, 4096), 4),
    ):
        ratio = paired_ratio(gradient(name, *large), gradient(name, *small), args.rounds, 1)
        print(row(f"{name}, {label}", ratio, f"<= {factor:.2f} if linear"), flush=True)


def main(args: Args) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    if args.memory is not None:
        print(peak(gradient(args.memory)))
        return
    measure = partial(paired_ratio, rounds=args.rounds, repeat=1)
    print(machine())
    print(f"rollout gradient, Pendulum, {HORIZON} steps, {ENVS} environments, 3-{H}-{H}-1, torch {torch.__version__}")
    print(f"1 thread, segments of {SEGMENT} steps, {COMPILED_SEGMENT} where compiled: time over eager unless said")
    print(f"{'':44} median   [quartiles]        target")
    eager, compiled = gradient("eager"), gradient("compiled")
    print(row("eager (null control)", measure(gradient("eager"), eager), "1.00"), flush=True)
    print(row("in segments", measure(gradient("in segments"), eager)), flush=True)
    print(row("compiled, in segments", measure(compiled, eager), "<= 0.65"), flush=True)
    mib = {name: memory(name) for name in OPTIONS}
    for name, taken in mib.items():
        share = "" if name == "eager" else f"{taken / mib['eager']:6.3f} of eager   target <= 0.10"
        print(f"peak memory, {name:31} {taken:6.1f} MiB   {share}", flush=True)
    if (theirs := jax_gradient()) is None:
        print("JAX is not installed: pip install jax")
    else:
        step, taken = theirs
        print(row("JAX, scan and checkpoint", measure(step, eager)), flush=True)
        print(row("compiled over JAX", measure(compiled, step), "<= 1.40"), flush=True)
        print(f"temporary buffers of JAX's program {'':9} {taken:6.1f} MiB")
    scaling(args, "eager")
    scaling(args, "in segments")


if __name__ == "__main__":
    main(tyro.cli(Args))
