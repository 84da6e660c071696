"""The house: who may import whom, what is exported, and that the built wheel is complete."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import latentrl

ROOT = Path(__file__).parent.parent
FLOORS = {
    "types": 0, "checks": 0, "processes": 0, "tasks": 1, "files": 1, "randomness": 1, "noise_tape": 1, "memory": 1,
    "gradient_report": 1, "nets": 1, "distributions": 1, "schedules": 1, "spaces": 1, "cells": 2, "output_jacobian": 2,
    "moments": 3, "sweeps": 3, "encoders": 2, "decoders": 2, "trunks": 2, "estimators": 2, "diagnostics": 2, "data": 2,
    "diffusion": 3, "posteriors": 3, "elbo": 3, "noise": 3, "rollout_core": 3, "rollout_gradients": 3, "priors": 4,
    "rollout_segments": 4, "model": 5, "parts": 5, "config": 6, "objectives": 6, "rollouts": 6, "latent_rollouts": 6,
    "metrics": 6, "training": 6, "variance": 6, "comparison": 7, "per_sample": 7, "sb3": 7, "plots": 7, "report": 7,
    "runs": 8, "demo": 8, "gradients": 9, "page": 9, "commands": 10, "cli": 11,
}  # fmt: skip
FILES = sorted((ROOT / "latentrl").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_from_lower_floors_only(path: Path) -> None:
    parts = path.relative_to(ROOT / "latentrl").with_suffix("").parts
    if parts == ("__init__",):
        return
    family = parts[0]
    for name in imports(path):
        if name.startswith("latentrl.") and name.split(".")[1] in FLOORS:
            other = name.split(".")[1]
            assert other == family or FLOORS[other] < FLOORS[family], f"{family} imports {name}"
        assert not name.startswith("latentrl_envs"), name
        if name.startswith("stable_baselines3"):
            assert FLOORS[family] >= 7, f"{family} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "envs").rglob("*.py")), ids=lambda path: path.name)
def test_tasks_stand_alone(path: Path) -> None:
    for name in imports(path):
        assert name.split(".")[0] != "latentrl", name


def test_exports() -> None:
    for name in latentrl.__all__:
        assert getattr(latentrl, name).__doc__
    assert latentrl.__version__ == "0.1.0"


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    """Nobody waits for a library that only some functions need, unless torch or stable-baselines3 import it anyway."""
    heavy = (
        "datasets h5py huggingface_hub lightning_fabric matplotlib minari onnx onnxscript pandas PIL plotly pyarrow "
        "pygame pyro ray scipy.cluster scipy.io scipy.spatial scipy.special scipy.stats sklearn torch._dynamo"
    )
    code = (
        "import sys, torch, stable_baselines3; before = set(sys.modules);"
        "import latentrl.sb3, latentrl.cli, latentrl_envs; print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "latentrl.sb3.bc" in run.stdout.split()
    assert not set(heavy.split()) & set(run.stdout.split())


def test_help_needs_no_agents() -> None:
    code = "import sys, latentrl.cli; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "latentrl.gradients.run" in run.stdout.split()
    assert not {"stable_baselines3", "latentrl.sb3"} & set(run.stdout.split())


@pytest.mark.slow
def test_built_wheel_imports(tmp_path: Path) -> None:
    """A wheel holds both packages, their type markers and the command; it imports without the source tree."""
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)], check=True
    )
    assert (target / "latentrl" / "py.typed").exists()
    assert (target / "latentrl_envs" / "py.typed").exists()
    code = "import latentrl.cli, latentrl_envs; print(latentrl.__file__, latentrl_envs.__file__)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.count(str(target)) == 2
