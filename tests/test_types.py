"""What type checkers know of the public names."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEAST = 0.99
"""Of the public symbols; those without a known type return stable-baselines3's VecEnvStepReturn, or derive from it."""


def test_types_of_public_names_are_known_to_pyright(tmp_path: Path) -> None:
    # Elsewhere than at the root, so that it finds the package as one that is installed; to verify types it asks the
    # interpreter for no folders but these.
    path = os.pathsep.join([str(ROOT), str(ROOT / "envs"), sysconfig.get_path("purelib")])
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "latentrl", "--ignoreexternal", "--outputjson"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.stdout.startswith("{"), run.stdout + run.stderr
    report = json.loads(run.stdout)["typeCompleteness"]
    assert Path(report["packageRootDirectory"]) == ROOT / "latentrl"
    unknown = [symbol["name"] for symbol in report["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert report["completenessScore"] >= LEAST, unknown
