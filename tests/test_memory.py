"""How much memory there is, as the system tells it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from latentrl import Demonstrations, LatentRLError, memory
from latentrl.sb3 import LatentBC
from latentrl.variance import gradient_variance

MACHINE = "MemTotal:       24000 kB\nMemAvailable:   20000 kB\n"


@pytest.mark.parametrize(
    ("machine", "limit", "used", "expected"),
    [
        (MACHINE, None, None, 20000 * 1024),
        (MACHINE, "max", "500", 20000 * 1024),
        (MACHINE, "9000000", "500", 8999500),
        (MACHINE, "500", "9000", 0),
        (MACHINE, "90000000", "500", 20000 * 1024),
        ("MemTotal:       24000 kB\n", None, None, None),
        (None, "9000000", "500", None),
    ],
)
def test_available_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str | None,
    limit: str | None,
    used: str | None,
    expected: int | None,
) -> None:
    for name, text in (("meminfo", machine), ("memory.max", limit), ("memory.current", used)):
        if text is not None:
            (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "none")
    assert memory.available_memory() == expected


def test_memory_of_files_that_were_read_is_free_and_the_own_group_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "groups" / "job" / "step"
    inner.mkdir(parents=True)
    (tmp_path / "meminfo").write_text(MACHINE)
    (tmp_path / "own").write_text("1:name=systemd:/elsewhere\n0::/job/step\n")
    for folder, limit in ((inner, "max"), (inner.parent, "5000000")):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text("4900000")
        (folder / "memory.stat").write_text("anon 900000\ninactive_file 4000000\nactive_file 0\n")
    for name, path in (("MACHINE", "meminfo"), ("GROUP", "groups"), ("OWN_GROUP", "own")):
        monkeypatch.setattr(memory, name, tmp_path / path)
    assert memory.available_memory() == 4_100_000


@pytest.mark.parametrize("line", ["4:cpu,memory:/job/step", "4:memory:/elsewhere", "4:pids:/job"])
def test_the_first_version_of_control_groups(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process' own has no limit, those around it count; a container sees its own as the root."""
    for folder, limit, used in (("", "6000000", "4800000"), ("job", "5000000", "4800000"), ("job/step", "9" * 18, "7")):
        group = tmp_path / "groups" / "memory" / folder
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(limit)
        (group / "memory.usage_in_bytes").write_text(used)
        (group / "memory.stat").write_text("inactive_file 5\ntotal_inactive_file 3000000\n")
    (tmp_path / "meminfo").write_text(MACHINE)
    (tmp_path / "own").write_text(f"1:name=systemd:/\n{line}\n0::/\n")
    for name, path in (("MACHINE", "meminfo"), ("GROUP", "groups"), ("OWN_GROUP", "own")):
        monkeypatch.setattr(memory, name, tmp_path / path)
    assert memory.available_memory() == (3_200_000 if "/step" in line else 4_200_000)


def run_out(*_: object) -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has …")


def test_a_device_that_runs_out_of_memory_while_gradients_are_measured() -> None:
    with pytest.raises(LatentRLError, match=r"ran out of memory: give a chunk_size below 10, .*\(CUDA out of memory\)"):
        gradient_variance(run_out, {"a": torch.ones(2)}, 20, chunk_size=10)


def test_a_device_that_runs_out_of_memory_while_it_clones(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Demonstrations.from_arrays(np.zeros((8, 2), np.float32), np.eye(8, 2, dtype=np.float32), [4, 4])
    agent = LatentBC(demonstrations=shown, batch_size=32, device="cpu")
    monkeypatch.setattr(agent.policy.optimizer, "step", run_out)
    with pytest.raises(LatentRLError, match=r"ran out of memory: give a batch_size below 32"):
        agent.learn(2)


@pytest.mark.gpu
def test_a_gpu_that_runs_out_of_memory() -> None:
    weights = {"a": torch.ones(1000, device="cuda")}

    def greedy(given: dict[str, torch.Tensor]) -> torch.Tensor:
        return (given["a"] * torch.randn(10**8, 1, device="cuda")).sum()

    with pytest.raises(LatentRLError, match="give a chunk_size below 250"):
        gradient_variance(greedy, weights, 500, chunk_size=250)
    assert torch.cuda.is_available()
