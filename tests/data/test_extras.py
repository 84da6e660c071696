"""Where a package is not there, the error says which extra brings it."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from latentrl import Demonstrations, LatentRLError
from latentrl.sb3 import LatentBC
from latentrl.training.parallel import dumps

USES: list[tuple[str, str, Callable[[Path, Demonstrations], Any]]] = [
    ("minari", "minari", lambda _, data: data.to_minari("tests/some-v0")),
    ("minari", "minari", lambda *_: Demonstrations.from_minari("tests/some-v0")),
    ("hdf5", "h5py", lambda folder, _: Demonstrations.from_hdf5(folder / "lift.hdf5")),
    ("lerobot", "pyarrow", lambda folder, _: Demonstrations.from_lerobot(folder)),
    ("trajectories", "pyarrow", lambda folder, _: Demonstrations.from_trajectories(folder)),
    ("scale", "lightning_fabric", lambda _, data: LatentBC(demonstrations=data, precision="bf16-mixed").learn(1)),
    ("scale", "cloudpickle", lambda *_: dumps(1)),
]


@pytest.mark.parametrize(("extra", "package", "use"), USES, ids=[f"{extra}: {package}" for extra, package, _ in USES])
def test_the_extra_is_named(
    extra: str,
    package: str,
    use: Callable[[Path, Demonstrations], Any],
    two_ways: Demonstrations,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = importlib.import_module

    def missing(name: str, *others: Any, **more: Any) -> ModuleType:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(name)
        return there(name, *others, **more)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(LatentRLError, match=rf"'{package}.*is not installed: pip install 'latentrl\[{extra}\]'"):
        use(tmp_path, two_ways)
