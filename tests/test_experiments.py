"""The studies run, in a small version, and write what they promise."""

import json
from pathlib import Path

import pytest

from experiments import gallery, ppo
from experiments.benchmarks import env_steps


@pytest.mark.slow
def test_gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    gallery.main(gallery.Args(out=tmp_path / "gallery.png", rows=2))
    assert (tmp_path / "gallery.png").stat().st_size > 50_000


@pytest.mark.slow
def test_ppo(tmp_path: Path) -> None:
    ppo.main(ppo.Args(seeds=(0,), smoke=True, out=tmp_path))
    runs = json.loads((tmp_path / "records.json").read_text())["runs"]
    assert {(run["task"], run["source"]) for run in runs} == {
        (study.env_id, source) for study in ppo.STUDIES for source in ppo.SOURCES
    }
    assert all(len(steps) == len(returns) >= 10 for steps, returns in (run["curve"] for run in runs))
    assert (tmp_path / "table.md").read_text().count("\n") == 2 + len(runs)
    assert (tmp_path / "curves.png").exists()


def test_ratios_between_processes_are_over_the_yardstick() -> None:
    """Half as fast a machine for one candidate changes its steps per second, not its ratio."""
    ours = env_steps.Timing("latentrl", "CartPole", 16384, [[10.0, 2.0], [12.0, 2.0], [8.0, 2.0]])
    slowed = env_steps.Timing("latentrl", "CartPole", 16384, [[5.0, 1.0], [6.0, 1.0], [4.0, 1.0]])
    assert (ours.per_yardstick, slowed.per_yardstick) == (5.0, 5.0)
    assert (ours.steps_per_second, slowed.steps_per_second) == (10.0, 5.0)
