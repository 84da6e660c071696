"""What commands and pages share: the files of a run's folder, demonstrations by name, and tasks by id."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from latentrl.checks import LatentRLError
from latentrl.data import Demonstrations
from latentrl.files import whole

OPTIONS, POLICY, RUNS = "config.yaml", "policy", "runs"
"""What folders hold beside checkpoints and logs: options, the policy as safe files; those of a sweep, its runs."""
READERS: dict[str, Callable[[str], Demonstrations]] = {
    "lasa": lambda where: Demonstrations.from_lasa(where or None),
    "minari": Demonstrations.from_minari,
    "trajectories": Demonstrations.from_trajectories,
    "hdf5": Demonstrations.from_hdf5,
    "lerobot": Demonstrations.from_lerobot,
    "pusht": Demonstrations.from_pusht,
    "pedestrians": Demonstrations.from_pedestrians,
    "npz": Demonstrations.from_npz,
}
HELP = f"READER or READER:WHERE, with {', '.join(READERS)}; a path that ends in .npz needs no reader"


def runs_of(folder: Path) -> list[Path]:
    """The runs in the folder of a sweep; none in others."""
    return sorted(path for path in (folder / RUNS).glob("*") if path.is_dir())


def read_source(source: str) -> Demonstrations:
    """What is meant by ``lasa``, ``minari:D4RL/door/human-v2``, ``hdf5:FILE`` or ``FILE.npz``.

    :raises LatentRLError: an unknown reader, or what the reader finds wrong
    """
    if source.endswith(".npz") and source.partition(":")[0] not in READERS:
        source = f"npz:{source}"
    name, _, where = source.partition(":")
    if name not in READERS:
        raise LatentRLError(f"{source!r} names no reader: give {HELP}")
    if not where and name != "lasa":
        raise LatentRLError(f"{name!r} has to be told where: give {name}:WHERE")
    return READERS[name](str(Path(where).expanduser()) if where.startswith("~") else where)


def options_of(path: Path) -> dict[str, Any]:
    """The options in a YAML file.

    :raises LatentRLError: no such file, or one that is no mapping of options
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LatentRLError(f"config file {str(path)!r} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise LatentRLError(f"config file {str(path)!r} is no mapping: write it as 'updates: 3000', one option a line")
    return content


def write_options(path: Path, options: dict[str, Any]) -> None:
    """What :func:`options_of` reads; written whole."""
    with whole(path) as partial:
        partial.write_text(yaml.safe_dump(plain(options), sort_keys=False), encoding="utf-8")


def flags_of(options: dict[str, Any], prefix: str = "") -> list[str]:
    """Options as they would be typed: nested names are joined by dots."""
    found: list[str] = []
    for name, value in options.items():
        flag = f"{prefix}{name}".replace("_", "-")
        if isinstance(value, dict):
            found += flags_of(value, f"{prefix}{name}.")
        elif isinstance(value, bool):
            head, _, tail = flag.rpartition(".")
            found.append(f"--{flag}" if value else f"--{head}{'.' if head else ''}no-{tail}")
        elif isinstance(value, list):
            found += [f"--{flag}", *map(str, value)]
        else:
            found += [f"--{flag}", str(value)]
    return found


def plain(value: Any) -> Any:
    """A dataclass's fields as YAML has them."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def make_env(name: str, number: int = 1, seed: int | None = None) -> Any:
    """Environments of a Gymnasium id, as stable-baselines3 vectorises them.

    :raises LatentRLError: no such id, or one whose package is missing
    """
    import gymnasium as gym
    from stable_baselines3.common.env_util import make_vec_env

    if name.startswith("latentrl/"):
        name = f"latentrl_envs:{name}"
    try:
        return make_vec_env(name, number, seed=seed)
    except (gym.error.Error, ImportError) as error:
        raise LatentRLError(f"environment {name!r} cannot be made: {' '.join(str(error).split())}") from error
