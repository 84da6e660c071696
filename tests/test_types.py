"""What type checkers know of the public names."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAST = 0.99
"""Of the public symbols; those without a known type return stable-baselines3's VecEnvStepReturn, or derive from it."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright is not installed")
def test_types_of_public_names_are_known_to_pyright(tmp_path: Path) -> None:
    # Elsewhere than at the root, so that it finds the package as one that is installed.
    run = subprocess.run(
        ["pyright", "--pythonpath", sys.executable, "--verifytypes", "latentrl", "--ignoreexternal", "--outputjson"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "envs")])},
        capture_output=True,
        text=True,
    )
    assert run.stdout.startswith("{"), run.stdout + run.stderr
    report = json.loads(run.stdout)["typeCompleteness"]
    assert Path(report["packageRootDirectory"]) == ROOT / "latentrl"
    unknown = [symbol["name"] for symbol in report["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert report["completenessScore"] >= LEAST, unknown
