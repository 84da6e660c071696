"""Steps per second of one candidate, in a process of its own; run by ``env_steps``, in the candidate's environment.

    python env_worker.py latentrl Pendulum 16384

It prints one line of JSON: for each round the candidate's steps per second and those of a yardstick, the Pendulum's
equations in eager torch, measured in turn. The yardstick makes figures of different processes and moments comparable.
The candidate "overhead" is a step with its own compiled core as the yardstick.
Everything runs on one core. This file imports only what its candidate needs: the peers' environments lack the library.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

ROUNDS, SECONDS, POOL = 9, 0.4, 16
IDS = {
    "Pendulum": "Pendulum-v1",
    "MountainCarContinuous": "MountainCarContinuous-v0",
    "CartPole": "CartPole-v1",
}
Steps = Callable[[int], object]
"""Take so many steps of the whole batch."""


def actions(task: str, n: int) -> list[np.ndarray]:
    """A pool of random actions, drawn beforehand: the candidates are timed, not the drawing."""
    generator = np.random.default_rng(0)
    if task == "CartPole":
        return [generator.integers(0, 2, n) for _ in range(POOL)]
    high = 2.0 if task == "Pendulum" else 1.0
    return [generator.uniform(-high, high, (n, 1)).astype(np.float32) for _ in range(POOL)]


def yardstick(n: int) -> Steps:
    state = torch.zeros(n, 2)
    pushes = [torch.from_numpy(a) for a in actions("Pendulum", n)]

    def steps(count: int) -> None:
        angle, velocity = state.unbind(-1)
        for i in range(count):
            velocity = (velocity + (15 * angle.sin() + 3 * pushes[i % POOL][:, 0]) * 0.05).clamp(-8, 8)
            angle = angle + velocity * 0.05
            torch.stack((angle.cos(), angle.sin(), velocity), -1)

    return steps


def latentrl(task: str, n: int, compile: bool = True) -> Steps:
    import gymnasium

    import latentrl_envs  # noqa: F401

    env = gymnasium.make_vec(f"latentrl/{IDS[task]}", n, compile=compile)
    env.reset(seed=0)
    pool = [torch.from_numpy(a) for a in actions(task, n)]

    def steps(count: int) -> None:
        for i in range(count):
            env.step(pool[i % POOL])

    return steps


def eager(task: str, n: int) -> Steps:
    return latentrl(task, n, compile=False)


def core(task: str, n: int) -> Steps:
    """The compiled pure function of a step, without resets, checks or infos: what a step cannot be faster than."""
    import gymnasium

    import latentrl_envs  # noqa: F401

    env = gymnasium.make_vec(f"latentrl/{IDS[task]}", n, compile=True).unwrapped
    env.reset(seed=0)
    pool = [torch.from_numpy(a) for a in actions(task, n)]
    start = env._state

    def steps(count: int) -> None:
        state = start
        with torch.no_grad():
            for i in range(count):
                state, *_ = env._kernels.advance(state, pool[i % POOL])

    return steps


def gymnasium_vector(task: str, n: int, mode: str = "vector_entry_point") -> Steps:
    """Gymnasium's own numpy-vectorised environment, which only CartPole has, or another of its modes."""
    import gymnasium

    env = gymnasium.make_vec(IDS[task], n, vectorization_mode=mode)
    env.reset(seed=0)
    pool = actions(task, n)

    def steps(count: int) -> None:
        for i in range(count):
            env.step(pool[i % POOL])

    return steps


def gymnasium_sync(task: str, n: int) -> Steps:
    return gymnasium_vector(task, n, mode="sync")


def envpool(task: str, n: int) -> Steps:
    import envpool as peer

    env = peer.make(IDS[task], env_type="gymnasium", num_envs=n, num_threads=1, seed=0)
    env.reset()
    pool = actions(task, n)
    if task == "CartPole":
        pool = [a.astype(np.int32) for a in pool]

    def steps(count: int) -> None:
        for i in range(count):
            env.step(pool[i % POOL])

    return steps


def gymnax(task: str, n: int) -> Steps:
    """The faster of the two ways to use it: a jitted scan over 100 steps, with automatic resets."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    import gymnax as peer
    import jax

    env, params = peer.make(IDS[task])
    pool = jax.numpy.asarray(np.stack([a[:, 0] if a.ndim > 1 else a for a in actions(task, n)]))
    keys = jax.random.split(jax.random.PRNGKey(0), n)
    _, state = jax.vmap(env.reset, (0, None))(keys, params)
    length = 100

    @jax.jit
    def rollout(state: object, key: object) -> tuple[object, object]:
        def one(carry: object, i: object) -> tuple[object, object]:
            state, key = carry
            key, sub = jax.random.split(key)
            seen, state, reward, *done, _ = jax.vmap(env.step, (0, 0, 0, None))(
                jax.random.split(sub, n), state, pool[i % POOL], params
            )
            return (state, key), (reward.sum(), sum(end.sum() for end in done), seen.sum())

        return jax.lax.scan(one, (state, key), jax.numpy.arange(length))

    carry = (state, jax.random.PRNGKey(1))

    def steps(count: int) -> None:
        nonlocal carry
        for _ in range(max(1, count // length)):
            carry, sums = rollout(*carry)
        jax.block_until_ready(sums)

    steps.unit = length
    return steps


def timed(steps: Steps, count: int) -> float:
    started = time.perf_counter()
    steps(count)
    return time.perf_counter() - started


def batch(steps: Steps) -> int:
    """How many steps fill SECONDS."""
    unit = getattr(steps, "unit", 1)
    count = unit
    steps(count)
    while (seconds := timed(steps, count)) < SECONDS / 4:
        count *= 2
    return max(unit, round(count * SECONDS / seconds / unit) * unit)


def main(candidate: str, task: str, n: int) -> None:
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    if candidate == "memory":
        print(json.dumps(memory(task, n)))
        return
    if candidate == "overhead":
        ours, theirs = latentrl(task, n), core(task, n)
    else:
        ours, theirs = globals()[candidate](task, n), yardstick(n)
    counts = batch(ours), batch(theirs)
    rounds = []
    for i in range(ROUNDS):
        pair = [(ours, counts[0]), (theirs, counts[1])]
        seconds = {id(f): timed(f, count) for f, count in (pair if i % 2 else pair[::-1])}
        rounds.append([n * count / seconds[id(f)] for f, count in pair])
    print(json.dumps({"candidate": candidate, "task": task, "n": n, "rounds": rounds}))


def memory(task: str, n: int) -> list[int]:
    """Peak memory in KiB after 1 000 and after 10 000 more steps."""
    steps, peaks = latentrl(task, n), []
    for count in (1000, 10_000):
        steps(count)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peaks


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
