"""LatentBC under torchrun: on one machine or several, the same as with helpers that it starts itself."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from latentrl.sb3 import LatentBC
from latentrl.training.parallel import _free_port as free_port

SCRIPT = """
import os, sys
import numpy as np, torch
from latentrl import Demonstrations
from latentrl.sb3 import LatentBC

def stopping(seen, _):
    return seen["self"].num_timesteps < 8

def main(folder, devices, differs):
    rank = os.environ.get("RANK", "0")
    rng = np.random.default_rng(int(rank) if differs else 0)
    arrays = rng.normal(size=(80, 2)).astype(np.float32), rng.normal(size=(80, 1)).astype(np.float32)
    policy = {"hidden": (8,), "latent_dim": 2, "n_components": 3, "context_length": 4}
    agent = LatentBC(demonstrations=Demonstrations.from_arrays(*arrays, [10] * 8), batch_size=4, devices=devices,
                     ema_decay=0.9, policy_kwargs=policy, seed=0, device="cpu")
    agent.learn(4, checkpoint=folder + "/run")
    agent.learn(4, checkpoint=folder + "/run")  # finished
    agent.learn(9, callback=stopping, reset_num_timesteps=False)
    torch.save([agent.num_timesteps, agent.policy.state_dict()], f"{folder}/{rank}.pt")
    return agent

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), len(sys.argv) > 3)
"""


def started(folder: Path, *options: str, told: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """The script, given its options, in an environment that is told more."""
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(SCRIPT)
    place = options.index("script") if "script" in options else 0
    command = [*options[:place], str(folder / "script.py"), str(folder), *options[place + 1 :]]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *command], env={**os.environ, **(told or {})}, **pipes)


def ended(*processes: "subprocess.Popen[str]") -> str:
    """What they said; none is left behind."""
    try:
        return "".join(process.communicate(timeout=300)[0] for process in processes)
    finally:
        for process in processes:
            process.kill()


def same(folder: Path, agent: LatentBC) -> bool:
    """Whether both processes ended with this agent's weights, to the last bit."""
    wanted = agent.policy.state_dict()
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    weights = [kept for count, kept in found if count == agent.num_timesteps == 8 and kept.keys() == wanted.keys()]
    return len(weights) == 2 and all(torch.equal(kept[name], wanted[name]) for kept in weights for name in wanted)


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory) -> LatentBC:
    """What becomes of it with a helper that it starts itself."""
    namespace: dict[str, Any] = {}
    exec(SCRIPT, namespace)
    return namespace["main"](str(tmp_path_factory.mktemp("helped")), 2, False)


@pytest.mark.slow
def test_processes_that_are_told_who_they_are_train_one_agent(tmp_path: Path, helped: LatentBC) -> None:
    """As torchrun tells them, each on a machine of its own. A run that is finished, and one that a callback ends, end
    everywhere."""
    told = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    each = ({"RANK": str(rank), "GROUP_RANK": str(rank)} for rank in range(2))
    said = ended(*(started(tmp_path, "script", "2", told=told | own) for own in each))
    assert "Error" not in said, said
    assert same(tmp_path, helped)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun(tmp_path: Path, helped: LatentBC, nodes: int) -> None:
    port, each = str(free_port()), str(2 // nodes)
    run = "-m", "torch.distributed.run", "--nnodes", str(nodes), "--nproc-per-node", each
    meeting = "--master-addr", "127.0.0.1", "--master-port", port
    ranks = range(nodes)
    said = ended(*(started(tmp_path, *run, *meeting, "--node-rank", str(rank), "script", "2") for rank in ranks))
    assert "Error" not in said, said
    assert same(tmp_path, helped)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "differs", "message"),
    [
        ("3", [], "batch_size=4 .* cannot be split over devices=3"),
        ("4", [], "devices=4, but torchrun started 2 processes: give devices=2"),
        ("2", ["differs"], "process 1 of torchrun has other demonstrations than the first one"),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, devices: str, differs: list[str], message: str) -> None:
    run = "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())
    said = ended(started(tmp_path, *run, "script", devices, *differs))
    assert re.search(message, said), said
