"""Hard knocks, a few of each: nothing is lost. ``python -m experiments.reliability`` gives fifty."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow, id="often")])
def test_nothing_is_lost(tmp_path: Path, times: int) -> None:
    pytest.importorskip("resource")  # knocks need a system with fork and limits
    command = [sys.executable, "-m", "experiments.reliability", "--times", str(times), "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    knocks = json.loads((tmp_path / "records.json").read_text())["knocks"]
    assert len(knocks) == 8
    assert all(knock["knocks"] >= times for knock in knocks.values())
    assert {title: knock["lost"] for title, knock in knocks.items() if knock["lost"]} == {}
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())
