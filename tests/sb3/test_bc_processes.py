"""LatentBC on several processes: trained where it was called, the same each time, going on where it was killed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from latentrl import Demonstrations, LatentRLError
from latentrl.data import mapped
from latentrl.sb3 import HeldOut, LatentBC
from tests.sb3.test_bc_runs import Killed, small, weights


def learn(data: Demonstrations, folder: Path, **options: Any) -> LatentBC:
    train, test = data.split(0.75)
    agent = small(train, devices=2, learning_rate=lambda left: 2e-3 * left, ema_decay=0.9, **options)
    return agent.learn(6, [HeldOut(test, every=2), Killed()], log_interval=3, checkpoint=folder, checkpoint_every=2)


def test_two_processes_train_this_agent(
    two_ways: Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schedule of this file's own, callbacks and checkpoints here; its weights moved, and it acts. What the helper
    reads of the data is in a temporary file."""
    with monkeypatch.context() as patched:
        patched.setattr(mapped, "MAPPED_SHARE", 0.0)
        kept = mapped.room(two_ways.observations.shape, two_ways.observations.dtype)
    kept[:] = two_ways.observations
    two_ways = replace(two_ways, observations=kept)
    fresh = weights(small(two_ways))
    agent = learn(two_ways, tmp_path)
    assert agent.num_timesteps == 6
    assert float((weights(agent) - fresh).abs().max()) > 1e-3
    assert agent.predict(two_ways.observations[:3])[0].shape == (3, 2)
    assert not torch.distributed.is_initialized()
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["finished"]
    assert state["trainer"]["data_seed"] is not None
    assert (tmp_path / "best.zip").exists()


def test_a_file_that_was_replaced_is_not_trained_on_by_others(
    two_ways: Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process still sees what the name stood for before."""
    monkeypatch.setattr(mapped, "MAPPED_SHARE", 0.0)
    two_ways.save(path := tmp_path / "shown.npz")
    shown = Demonstrations.from_npz(path)
    shown.select(range(shown.num_episodes)[::-1]).save(path)
    with pytest.raises(LatentRLError, match="a helper process has other demonstrations than the first one"):
        small(shown, devices=2).learn(2)


@pytest.mark.slow
def test_two_processes_are_seeded_and_go_on(
    two_ways: Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = weights(learn(two_ways, tmp_path / "whole"))
    monkeypatch.setattr(Killed, "at", 5)
    with pytest.raises(KeyboardInterrupt):
        learn(two_ways, tmp_path / "killed")
    monkeypatch.setattr(Killed, "at", 10**9)
    assert torch.equal(weights(learn(two_ways, tmp_path / "killed")), whole)


SCRIPT = """
import numpy as np
from latentrl import Demonstrations
from latentrl.sb3 import LatentBC

def main():
    data = Demonstrations.from_arrays(np.zeros((40, 2), np.float32), np.zeros((40, 1), np.float32), [10] * 4)
    agent = LatentBC(demonstrations=data, batch_size=4, devices=2, seed=0, policy_kwargs={"latent_dim": 0})
    print("updates", agent.learn(3).num_timesteps)

"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["guarded", "unguarded", "no file"])
def test_a_script(tmp_path: Path, kind: str) -> None:
    """It needs the guard that multiprocessing needs, and says so where it is missing; a notebook does not."""
    program = SCRIPT + ("main()" if kind != "guarded" else 'if __name__ == "__main__":\n    main()\n')
    (tmp_path / "script.py").write_text(program)
    what = ["-c", program] if kind == "no file" else [str(tmp_path / "script.py")]
    run = subprocess.run([sys.executable, *what], capture_output=True, text=True)
    if kind != "unguarded":
        assert "updates 3" in run.stdout, run.stderr
    else:
        assert run.returncode != 0
        assert "call learn below `if __name__ == '__main__':`" in run.stderr
