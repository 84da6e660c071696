"""Real processes, killed by SIGKILL at random moments and in the midst of writing, end at the same weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A process for each attempt, forked where everything is imported already. The first attempts kill themselves in the
# midst of writing their first, second, … checkpoint; the others are killed after a random share of a run's duration.
PROGRAM = """
import os, random, signal, sys, time
import numpy as np
import torch
from latentrl import Demonstrations
from latentrl.sb3 import HeldOut, LatentBC

torch.set_num_threads(1)
folder, seed, mid_write, kills = sys.argv[1], *map(int, sys.argv[2:])
generator = np.random.default_rng(0)
observations = generator.normal(size=(240, 2)).astype(np.float32)
data = Demonstrations.from_arrays(observations, -observations, [10, 14] * 10)

def run(name):
    train, test = data.split(0.8)
    options = {"latent_dim": 2, "hidden": (8,), "n_components": 4, "context_length": 6, "prior": "mixture"}
    agent = LatentBC(
        demonstrations=train, policy_kwargs=options, batch_size=8, seed=0, device="cpu", ema_decay=0.9
    ).learn(60, HeldOut(test, every=7, patience=100), log_interval=9, checkpoint=f"{folder}/{name}", checkpoint_every=4)
    return b"".join(value.numpy().tobytes() for value in agent.policy.model.state_dict().values())

def attempt(write):
    pid = os.fork()
    if pid:
        return pid
    if write:
        save, count = torch.save, [0]
        def broken(state, file):
            save(state, file)
            if not str(getattr(file, "name", "")).endswith(".part.pt"):  # the policy's own file, of stable-baselines3
                return
            count[0] += 1
            if count[0] == write:
                file.flush()
                os.truncate(file.name, os.path.getsize(file.name) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
        torch.save = broken
    with open(f"{folder}/result", "wb") as file:
        file.write(run("killed"))
    os._exit(0)

started = time.monotonic()
expected = run("whole")
duration = time.monotonic() - started
chance, killed = random.Random(seed), 0
for number in range(1, 1000):
    pid = attempt(number if number <= mid_write else 0)
    if mid_write < number <= mid_write + kills:
        time.sleep(chance.uniform(0.0, 0.6) * duration)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    status = os.waitpid(pid, 0)[1]
    killed += os.WIFSIGNALED(status)
    if status == 0:
        break
    assert os.WIFSIGNALED(status), status
print(killed, open(f"{folder}/result", "rb").read() == expected)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
@pytest.mark.parametrize(
    ("seed", "mid_write", "kills"), [(0, 2, 1), pytest.param(1, 5, 30, marks=pytest.mark.slow, id="often")]
)
def test_runs_that_are_killed_end_at_the_same_weights(tmp_path: Path, seed: int, mid_write: int, kills: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(seed), str(mid_write), str(kills)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    killed, same = run.stdout.split()[-2:]
    assert int(killed) >= mid_write
    assert same == "True"
