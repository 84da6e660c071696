"""``latentrl gradients``: what it measures, what it refuses, and that a killed run ends as an undisturbed one."""

import json
import math
import random
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from latentrl.cells import Cells
from latentrl.checks import LatentRLError
from latentrl.cli import COMMANDS, main
from latentrl.estimators import LikelihoodRatio, Pathwise
from latentrl.gradients import GradientsConfig, run_gradients
from latentrl.gradients import run as running
from latentrl.gradients.problem import ESTIMATORS, Needs, make_problem
from latentrl.gradients.run import cells_of
from latentrl.variance import gradient_variance

TIMINGS = {"seconds_per_gradient", "cost_normalized", "peak_memory"}
SMALL = GradientsConfig(
    tasks=("Pendulum-v1", "LQR-v0"), horizons=(2, 3), estimators=("lr", "rp"), num_envs=4, replicates=6, seeds=(0,)
)


def timeless(summary: Any) -> Any:
    """Without times and memory."""
    if isinstance(summary, dict):
        return {key: timeless(value) for key, value in summary.items() if key not in TIMINGS}
    return [timeless(value) for value in summary] if isinstance(summary, list) else summary


def test_figures_are_the_meters_own(tmp_path: Path) -> None:
    config = replace(SMALL, tasks=("Pendulum-v1",), horizons=(3,), out=tmp_path)
    (cell,) = run_gradients(config)["cells"]
    problem = make_problem("Pendulum-v1", None, 0.5, 3, 0, 4, (), "cpu")
    reference = gradient_variance(problem.objective(LikelihoodRatio()), problem.parameters, 6, seed=999)
    report = gradient_variance(problem.objective(Pathwise()), problem.parameters, 6, reference, seed=1)
    (record,) = [record for record in cell["estimators"] if record["estimator"] == "rp"]
    assert record["trace"] == report.trace
    assert record["cosine"] == report.cosine
    assert record["env_steps_per_gradient"] == 12
    assert cell["reference_snr"] == reference.snr
    assert (tmp_path / "gradients.png").stat().st_size > 1000
    # In units of half the range, which is 2 N m here.
    assert torch.equal(problem.policy(problem.parameters, torch.zeros(5, 3)).stddev, torch.ones(5, 1))


def test_every_estimator_on_a_smooth_task() -> None:
    """None is biased on LQR, but for the critic's and the weights' small errors; Bonferroni-corrected p of 1e-4."""
    problem = make_problem("LQR-v0", None, 0.5, 4, 0, 32, (), "cpu")
    needs = Needs(problem, gamma=1e6, window=2, value_updates=50, seed=0)
    reference = gradient_variance(problem.objective(Pathwise()), problem.parameters, 400, seed=1)
    for name, make in ESTIMATORS.items():
        report = gradient_variance(problem.objective(make(needs)), problem.parameters, 200, reference)
        assert report.cosine is not None
        assert report.cosine > 0.9, name
        if name in ("lr", "lr-naive", "lr-no-baseline", "lr-value", "inverse-variance"):
            assert report.bias_p is not None
            assert report.bias_p > 1e-4, name


def test_choices_contacts_and_layers(tmp_path: Path) -> None:
    """CartPole chooses, has no σ, and no pathwise gradient; only Pushing has a stiffness."""
    config = replace(
        SMALL, tasks=("CartPole-v1", "Pushing-v0"), stiffnesses=(10.0, math.inf), sigmas=(0.3, 0.6), horizons=(30,),
        hidden=(8,), num_envs=16, along="stiffness", out=tmp_path,
    )  # fmt: skip
    assert [cell.task for cell in cells_of(config)].count("CartPole-v1") == 1
    assert [cell.task for cell in cells_of(config)].count("Pushing-v0") == 4
    cells = run_gradients(config)["cells"]
    assert "rsample" in next(row["error"] for row in cells[0]["estimators"] if row["estimator"] == "rp")
    traces = [tuple(row.get("trace") for row in cell["estimators"]) for cell in cells[1:]]
    assert len(set(traces)) == 4


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_gradients(replace(SMALL, out=tmp_path / "whole"))
    measure, done = running.measure, []

    def tired(*args: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return measure(*args)

    config = replace(SMALL, out=tmp_path / "parts")
    monkeypatch.setattr(running, "measure", tired)
    with pytest.raises(KeyboardInterrupt):
        run_gradients(config)
    assert not (config.out / "gradients.json").exists()
    monkeypatch.setattr(running, "measure", measure)
    assert timeless(run_gradients(config)) == timeless(whole)
    before = (config.out / "gradients.json").read_text()
    monkeypatch.setattr(running, "measure", tired)  # nothing is left to measure
    run_gradients(config)
    assert (config.out / "gradients.json").read_text() == before


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Three SIGKILLs, each at a random moment of a run that takes some seconds."""
    options = ["--smoke", "--estimators", "lr", "rp", "inverse-variance"]

    def start(out: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "latentrl.cli", "gradients", *options, "--out", str(tmp_path / out)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    begun = time.monotonic()
    assert start("whole").wait(120) == 0
    seconds = time.monotonic() - begun
    moments = random.Random(0)
    for _ in range(3):
        run = start("parts")
        time.sleep(moments.uniform(0.2, 0.9) * seconds)
        run.kill()
        run.wait()
    assert start("parts").wait(120) == 0
    first, second = (json.loads((tmp_path / out / "gradients.json").read_text()) for out in ("whole", "parts"))
    assert timeless(first) == timeless(second)


def test_cells_are_kept_whole_and_apart(tmp_path: Path) -> None:
    cells = Cells(tmp_path, {"a": 1})
    assert cells("x/1", lambda: {"value": 1}) == {"value": 1}
    assert cells("x 1", lambda: {"value": 2}) == {"value": 2}
    assert cells("x/1", lambda: pytest.fail("made again")) == {"value": 1}
    assert "x/2" not in cells
    with pytest.raises(ValueError, match="JSON"):
        cells("x/2", lambda: {"value": float("nan")})
    assert "x/2" not in cells
    with pytest.raises(LatentRLError, match=r"another study \(a, b differ\)"):
        Cells(tmp_path, {"a": 2, "b": 3})
    (tmp_path / "file").touch()
    with pytest.raises(LatentRLError, match="cannot be written"):
        Cells(tmp_path / "file", {})


REFUSED = {
    "unknown estimator 'reinforce': choose one of": {"estimators": ("reinforce",)},
    "cannot make task 'Pendulum-v9'.*choose among.*BallWall-v0": {"tasks": ("Pendulum-v9",)},
    "no functions to roll out": {"tasks": ("gymnasium:CartPole-v1",)},
    "cannot make task 'BallWall-v0'.*stiffness": {"tasks": ("BallWall-v0",), "stiffnesses": (-1.0,)},
    "num_envs must be a whole number of at least 4": {"num_envs": 3},
    "give at least one of horizons": {"horizons": ()},
    "sigma must be": {"sigmas": (0.0,)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_before_any_work(message: str, tmp_path: Path) -> None:
    with pytest.raises(LatentRLError, match=message):
        run_gradients(GradientsConfig(**REFUSED[message], out=tmp_path / "out"))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    options = ["--tasks", "LQR-v0", "--horizons", "2", "--estimators", "lr", "--replicates", "4", "--seeds", "0"]
    assert main(["gradients", *options, "--num-envs", "4", "--out", out]) == 0
    assert main(["gradients", *options, "--num-envs", "5", "--out", out]) == 2
    assert "num_envs differ" in capsys.readouterr().err


def test_a_run_is_resumed_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with what has no values, is infinite, or only counts where it runs."""
    config = replace(SMALL, gamma=math.inf, tasks=("LQR-v0",), workers=1, along="sigma", out=tmp_path / "run")
    whole = run_gradients(replace(config, out=tmp_path / "whole"))

    def tired(*_: Any) -> Any:
        raise KeyboardInterrupt

    measure = running.measure
    monkeypatch.setattr(running, "measure", tired)
    with pytest.raises(KeyboardInterrupt):
        run_gradients(config)
    monkeypatch.setattr(running, "measure", measure)
    assert main(["gradients", "--resume", str(config.out)]) == 0
    assert timeless(json.loads((config.out / "gradients.json").read_text())) == timeless(whole)
    asked: list[GradientsConfig] = []
    monkeypatch.setitem(COMMANDS, "gradients", (GradientsConfig, asked.append))
    main(["gradients", "--resume", str(config.out)])
    assert asked == [config]


def test_what_each_job_takes_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def ray(*args: Any, **_: Any) -> Any:
        given.append(args[2:])
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "sweep", ray)
    options = ["--smoke", "--backend", "ray", "--gpus", "0.25", "--workers", "3", "--out", str(tmp_path)]
    assert main(["gradients", *options]) == 130
    assert given == [(3, "ray", 0.25)]
    assert main(["gradients", "--gpus", "-1"]) == 2


def test_help_explains_every_estimator(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["gradients", "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", "").split())
    about = said[said.index("--estimators") : said.index("(default: lr")]
    for name in ESTIMATORS:
        assert re.search(rf"(?<![\w-]){name}[,:]", about), name


def test_an_infinite_gamma_is_the_likelihood_ratio_where_the_reference_fails_too(tmp_path: Path) -> None:
    """CartPole's returns over three steps are all the same."""
    config = GradientsConfig(gamma=math.inf, smoke=True, device="cpu", out=tmp_path)
    found = run_gradients(config)
    assert any(cell["reference_error"] for cell in found["cells"])
    assert found["settings"]["device"] == "cpu"
