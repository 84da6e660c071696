"""Hard knocks, a few of each: nothing is lost. ``python -m experiments.reliability`` gives fifty."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.soak import ALLOWED, Args, growth, main


@pytest.mark.slow
def test_nothing_is_lost(tmp_path: Path) -> None:
    pytest.importorskip("resource")  # knocks need a system with fork and limits
    command = [sys.executable, "-m", "experiments.reliability", "--times", "2", "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    knocks = json.loads((tmp_path / "records.json").read_text())["knocks"]
    assert len(knocks) == 8
    assert all(knock["knocks"] >= 2 for knock in knocks.values())
    assert {title: knock["lost"] for title, knock in knocks.items() if knock["lost"]} == {}
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "records.json"}


def test_memory_that_grows_is_found() -> None:
    flat = [(step, 0.0, 500.0 + step % 3, 12) for step in range(100)]
    assert abs(growth(flat)[2]) < 0.001
    leaking = [(step, 0.0, 500.0 + 0.2 * step, 12 + step // 50) for step in range(100)]
    held, grown, share, files = growth(leaking)
    assert (held, files) == (504.0, 1)
    assert grown == pytest.approx(0.2 * 79)
    assert share > ALLOWED


@pytest.mark.slow
def test_soak(tmp_path: Path) -> None:
    main(Args(smoke=True, out=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "records.json", "soak.png"}
