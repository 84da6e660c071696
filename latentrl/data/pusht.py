"""Push-T: human demonstrations of pushing a T-shaped block to its goal (Florence et al. 2021; Chi et al. 2023).

Arrays of the diffusion-policy data set in one .npz: ``state`` (N, 5) position of the pusher and pose of the block (x,
y, angle), ``keypoint`` (N, 9, 2) of the block, ``action`` (N, 2) where the pusher shall go, all in pixels, and
``episode_ends`` (E,). The environment is the package gym-pusht.
"""

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from latentrl.checks import LatentRLError, one_of
from latentrl.data.checks import as_array, as_integers
from latentrl.data.npz import load_npz
from latentrl.data.reading import reading

BOARD = spaces.Box(0.0, 512.0, (2,))
"""Where the pusher can be sent, in pixels."""


def pusht_arguments(path: Path, observations: str) -> dict[str, Any]:
    """Arguments of ``Demonstrations.from_arrays``; for parameters see ``Demonstrations.from_pusht``."""
    one_of("observations", observations, ("state", "keypoints"))
    shapes = {"state": (5,), "action": (2,)} | ({"keypoint": (9, 2)} if observations == "keypoints" else {})
    arrays = load_npz(path, lambda names: [name for name in names if name in {*shapes, "episode_ends"}])
    lengths = lengths_of(path, arrays)
    for name, shape in shapes.items():
        needed = (int(lengths.sum()), *shape)
        if name not in arrays or arrays[name].shape != needed:
            given = f"of shape {arrays[name].shape}" if name in arrays else "missing"
            raise LatentRLError(f"{path} holds no Push-T: {name} is {given}, but needs {needed}")
        with reading(path, "Push-T"):
            arrays[name] = as_array(name, arrays[name])
    seen = arrays["state"]
    if observations == "keypoints":
        seen = np.concatenate([arrays["keypoint"].reshape(-1, 18), seen[:, :2]], axis=1)
    return {"observations": seen, "actions": arrays["action"], "episode_lengths": lengths, "action_space": BOARD}


def lengths_of(path: Path, arrays: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Lengths of episodes from ``episode_ends``, the row after the last one of each.

    :raises LatentRLError: ends that are missing, or do not increase
    """
    if "episode_ends" not in arrays:
        raise LatentRLError(f"{path} lacks episode_ends; it has {', '.join(sorted(arrays)) or 'nothing'}")
    with reading(path, "episodes"):
        ends = as_integers("episode_ends", arrays["episode_ends"])
        lengths = np.diff(ends, prepend=0)
        if ends.ndim != 1 or not len(ends) or (lengths < 1).any():
            where = f", first at episode {int((lengths < 1).argmax())}" if ends.ndim == 1 and len(ends) else ""
            raise LatentRLError(f"episode_ends of shape {ends.shape} do not increase from 1{where}: repair them")
    return lengths
