"""``latentrl sweep``, at a scale of seconds."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from latentrl import Demonstrations, LatentRLError
from latentrl.cli import main
from latentrl.commands import sweep
from latentrl.sb3 import LatentPolicy


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Options of a tiny run, in a file."""
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(60, 5)).astype(np.float32), rng.uniform(-0.1, 0.1, (60, 2)).astype(np.float32)
    Demonstrations.from_arrays(*arrays, [6] * 10).save(tmp_path / "shown.npz")
    policy = {"hidden": [8], "encoder_hidden": [8], "n_components": 3}
    options = {"data": str(tmp_path / "shown.npz"), "updates": 6, "every": 2, "device": "cpu", "policy": policy}
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(options))
    return path


def bounds(out: Path) -> dict[tuple[str, str], float]:
    with (out / "sweep.csv").open() as file:
        return {(row["policy.latent-dim"], row["seed"]): float(row["held-out bound"]) for row in csv.DictReader(file)}


def test_every_combination_is_trained_once_and_ranked(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, grid = tmp_path / "sweep", ("--grid", "policy.latent-dim=2,4", "seed=0,1")
    assert run("sweep", "--base", base, *grid, "--out", out) == 0
    found = bounds(out)
    assert set(found) == {("2", "0"), ("2", "1"), ("4", "0"), ("4", "1")}
    assert len(set(found.values())) == 4
    for name in ("2", "4"):
        policy = LatentPolicy.from_pretrained(out / f"runs/policy.latent-dim={name} seed=0/policy", device="cpu")
        assert policy.config.latent_dim == int(name)
    first = " ".join(capsys.readouterr().out.split())
    better = max("24", key=lambda name: found[name, "0"] + found[name, "1"])
    assert first.index(f"│ {better} │") < first.index(f"│ {'2' if better == '4' else '4'} │")
    assert (
        run("sweep", "--base", base, "--grid", "policy.latent-dim=4,8", "seed=0,1", "--out", out, "--workers", 1) == 0
    )
    assert bounds(out)["4", "1"] == found["4", "1"]
    page = tmp_path / "report.html"
    assert run("report", out, "--out", page) == 0
    assert page.read_text().count('"name": "policy.latent-dim=') == 6
    # The same options give the same run as `latentrl train` alone.
    alone = ("--config", base, "--policy.latent-dim", 8, "--seed", 1, "--out", tmp_path / "alone")
    capsys.readouterr()
    assert run("train", *alone) == 0
    assert f"held-out bound {bounds(out)['8', '1']:.4g} nats" in " ".join(capsys.readouterr().out.split())


def test_runs_are_ranked_whatever_their_segments_are(base: Path, tmp_path: Path) -> None:
    """Without a latent the policy is the same, its segment one of six steps or one step."""
    out, grid = tmp_path / "sweep", ("--grid", "policy.latent-dim=0", "policy.hold=0,1", "updates=300")
    assert run("sweep", "--base", base, *grid, "--out", out, "--workers", 1) == 0
    with (out / "sweep.csv").open() as file:
        episode, step = csv.DictReader(file)
    whole, single = float(episode["nats per action"]), float(step["nats per action"])
    assert float(episode["held-out bound"]) == pytest.approx(6 * whole)
    assert float(step["held-out bound"]) == single
    assert abs(whole - single) < 0.25 * abs(whole)


def test_runs_shorter_than_from_look_to_look_are_looked_at(base: Path, tmp_path: Path) -> None:
    grid = ("--grid", "updates=1", "policy.latent-dim=2", "seed=0,1")
    assert run("sweep", "--base", base, *grid, "--out", tmp_path / "sweep", "--workers", 1) == 0
    assert len(bounds(tmp_path / "sweep")) == 2


def test_a_combination_that_fails_does_not_end_the_others(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, grid = tmp_path / "sweep", ("--grid", "learning-rate=1e30,1e-3", "policy.latent-dim=2", "seed=0")
    assert run("sweep", "--base", base, *grid, "--out", out, "--workers", 1) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "failed: learning-rate=1e30 policy.latent-dim=2 seed=0: " in said
    with (out / "sweep.csv").open() as file:
        failed, done = csv.DictReader(file)
    assert failed["error"]
    assert (failed["held-out bound"], done["error"]) == ("", "")
    assert float(done["held-out bound"])


def test_what_failed_for_want_of_room_is_tried_again(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not so where the loss was not finite."""
    fails: list[Exception] = [LatentRLError("the device ran out of memory"), FloatingPointError("the loss is nan")]
    asked: list[int] = []

    def failing(config: Any, _: Any) -> Any:
        asked.append(config.seed)
        raise fails[config.seed]

    out, grid = tmp_path / "sweep", ("--grid", "seed=0,1")
    monkeypatch.setattr(sweep, "fit", failing)
    for _ in range(2):
        assert run("sweep", "--base", base, *grid, "--out", out, "--workers", 1) == 1
    assert asked == [0, 1, 0]
    # Also where the data were to blame, and are others now.
    arrays = np.zeros((60, 5), np.float32), np.zeros((60, 2), np.float32)
    Demonstrations.from_arrays(*arrays, [6] * 10).save(tmp_path / "shown.npz")
    assert run("sweep", "--base", base, "--grid", "seed=0", "--out", out, "--workers", 1) == 1
    assert asked == [0, 1, 0, 0]
    with (out / "sweep.csv").open() as file:
        assert [row["error"] for row in csv.DictReader(file)] == [str(error) for error in fails[:1]]


@pytest.mark.parametrize("backend", ["ray", "processes"])
def test_workers_in_other_folders_find_the_data(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    seen: list[str] = []

    def placed(_: Any, jobs: dict[str, Any], *__: Any, **___: Any) -> list[dict[str, Any]]:
        seen.extend(job.args[0].data for job in jobs.values())
        return [dict.fromkeys(sweep.FIGURES)] * len(jobs)

    monkeypatch.setattr(sweep, "sweep", placed)
    monkeypatch.chdir(tmp_path)
    given = ["shown.npz", "npz:shown.npz", f"npz:{tmp_path}/shown.npz"]
    grid = ("--grid", f"data={','.join(given)}")
    assert run("sweep", "--base", base, *grid, "--out", "sweep", "--backend", backend) == 0
    absolute = f"{tmp_path}/shown.npz"
    assert seen == ([absolute, f"npz:{absolute}", f"npz:{absolute}"] if backend == "ray" else given)


def test_what_is_no_path_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a dataset of Minari that is named like a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "door").mkdir()
    assert [sweep._absolute(given) for given in ("lasa", "minari:door", "npz:nowhere")] == [
        "lasa",
        "minari:door",
        "npz:nowhere",
    ]
    assert sweep._absolute("lerobot:door") == f"lerobot:{tmp_path}/door"


def test_folders_of_values_with_slashes() -> None:
    names = [sweep._folder_name(f"data={name}") for name in ("a/b.npz", "a_b.npz", "a_/b.npz")]
    assert len(set(names)) == 3
    assert not any("/" in name for name in names)


def test_truth_values_and_layer_sizes_are_swept(base: Path, tmp_path: Path) -> None:
    grid = (
        "--grid",
        "policy.prior-sees-state=false,true",
        "policy.prior=mixture",
        "policy.hidden=[8,8],[8]",
        "policy.latent-dim=2",
        "seed=0",
    )
    assert run("sweep", "--base", base, *grid, "--out", tmp_path / "sweep", "--workers", 1) == 0
    with (tmp_path / "sweep" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["policy.hidden"] for row in rows] == ["[8,8]", "[8]"] * 2
    assert all(row["held-out bound"] for row in rows)


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (("policy.decoder=gaussian,diffusion", "policy.latent-dim=0"), "a diffusion decoder has no density"),
        (("kl-weight",), "'kl-weight' is no option with different values"),
        (("kl-weight=1,1",), "is no option with different values"),
        (("kl-weight=1", "kl_weight=2"), "give each once"),
        (("heavy=1",), "latentrl train does not take --heavy 1 with the options of '.*base.yaml': .*[Uu]nrecognized"),
        (("help=1",), "'help=1' is no option with different values"),
        (("updates=few",), "does not take --updates few"),
        (("updates=0",), "updates must be a whole number of at least 1"),
        (("held-out=0.0",), "ranked by what is held out, and there is nothing"),
    ],
)
def test_what_cannot_be_swept(
    base: Path, tmp_path: Path, grid: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sweep", "--base", base, "--grid", *grid, "--out", tmp_path / "sweep") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("latentrl: error: ")
    assert re.search(said, error), error
    assert not (tmp_path / "sweep").exists()


def test_what_was_made_from_other_data_is_refused(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("sweep", "--base", base, "--out", tmp_path / "sweep", "--workers", 1, "--grid")
    assert run(*command, "seed=0") == 0
    before = (tmp_path / "sweep" / "sweep.csv").read_text()
    arrays = np.zeros((60, 5), np.float32), np.zeros((60, 2), np.float32)
    Demonstrations.from_arrays(*arrays, [6] * 10).save(tmp_path / "shown.npz")
    assert run(*command, "seed=0,1") == 2
    assert "the run 'seed=0' was made from other data than" in capsys.readouterr().err
    assert (tmp_path / "sweep" / "sweep.csv").read_text() == before


def test_a_sweep_that_is_refused_leaves_the_one_that_runs_alone(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what that is to try again later."""
    out, command = tmp_path / "sweep", ("sweep", "--base", base, "--workers", 1, "--grid", "seed=0", "--out")
    fails = LatentRLError("the disk is full")
    monkeypatch.setattr(sweep, "fit", lambda *_: (_ for _ in ()).throw(fails))
    assert run(*command, out) == 1
    (cell,) = (out / "cells").iterdir()
    monkeypatch.setattr(sweep, "locked", lambda _: (_ for _ in ()).throw(LatentRLError("another process is writing")))
    assert run(*command, out) == 2
    assert cell.exists()


def test_long_grids_have_folders() -> None:
    keys = ["x" * 300 + end for end in "ab"]
    names = [sweep._folder_name(key) for key in keys]
    assert len(set(names)) == 2
    assert max(map(len, names)) < 255
