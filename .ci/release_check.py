"""What `make dist` built is complete, and works in an empty environment elsewhere. Usage: release_check.py DIST"""

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = {
    *("latentrl/py.typed", "latentrl_envs/py.typed", "latentrl_envs/__init__.py"),
    *("latentrl/page/page.css", "latentrl/page/page.html", "latentrl/page/page.js"),
}
CLONE = """
import numpy as np
from latentrl import Demonstrations
from latentrl.sb3 import LatentBC
data = dict(observations=np.zeros((600, 2)), actions=np.tile([[1.0, -1.0]], (600, 1)), episode_lengths=[20] * 30)
np.savez("toy.npz", **data)
demonstrations = Demonstrations.from_arrays(**data)
agent = LatentBC(demonstrations=demonstrations, policy_kwargs=dict(n_components=2), seed=0).learn(20)
assert agent.predict(np.zeros((8, 2), np.float32))[0].shape == (8, 2)
"""


def main(dist: Path) -> None:
    """Stop with an error at the first thing that is wrong."""
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    check_wheel(wheel)
    check_source(source)
    with tempfile.TemporaryDirectory() as folder:
        direct = Path(folder) / "direct"
        run(sys.executable, "-m", "build", "--wheel", "--outdir", direct, ROOT, cwd=folder)
        if contents(direct / wheel.name) != contents(wheel):
            sys.exit("the wheel of the source archive is another one than that of the tree")
        use(wheel, Path(folder))
    print(f"{wheel.name} and {source.name} are complete and work")


def contents(wheel: Path) -> dict[str, bytes]:
    """What each file in it holds."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def check_wheel(wheel: Path) -> None:
    """Both packages with all their modules and data, the licence, the command, and nothing else."""
    names = set(contents(wheel))
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "latentrl").rglob("*.py")}
    modules |= {path.relative_to(ROOT / "envs").as_posix() for path in (ROOT / "envs").rglob("*.py")}
    info = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"
    about = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    if names != modules | NEEDED | about:
        sys.exit(f"the wheel holds too much or too little: {sorted(names ^ (modules | NEEDED | about))}")


def check_source(source: Path) -> None:
    """The tree with its tests, without what was made by running it."""
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("LICENSE", "README.md", "pyproject.toml", "constraints.txt", "tests/conftest.py", "latentrl/py.typed"):
        if name not in names:
            sys.exit(f"the source archive lacks {name}")
    made = (".venv", ".peers", "runs/", "dist/", "docs/_build", "experiments/results")
    if found := sorted(name for name in names if name.startswith(made)):
        sys.exit(f"the source archive holds {found}")


def use(wheel: Path, folder: Path) -> None:
    """Install it into an empty environment, with no extras, and work with it."""
    python, command = folder / "venv" / "bin" / "python", folder / "venv" / "bin" / "latentrl"
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-compile", "-c", ROOT / "constraints.txt", wheel.resolve(), cwd=folder)
    run(python, "-W", "error", "-c", "import latentrl, latentrl.sb3, latentrl.cli, latentrl_envs", cwd=folder)
    run(python, "-c", CLONE, cwd=folder)
    run(command, "--help", cwd=folder)
    run(command, "envs", cwd=folder)
    run(command, "train", "--data", "toy.npz", "--out", "run", "--updates", 20, cwd=folder)


def run(*command: object, cwd: Path | str) -> None:
    """Run it; its output is only shown where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(map(str, command))} failed with status {done.returncode}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
