"""Tracks of pedestrians, such as those of ETH (Pellegrini et al. 2009) and UCY (Lerner et al. 2007).

An .npz with one array per scene, a row (frame, pedestrian, x, y) in metres for each pedestrian in each annotated frame;
annotated are every ten frames, 0.4 seconds. A pedestrian who is in ``observe + predict`` annotated frames one after
another gives a window, and as many as there are of them, each one frame later (the protocol of Alahi et al. 2016 and
Gupta et al. 2018: 8 and 12 frames). A window is a transition, and those of an unbroken track are an episode.

Observations (N, observe, 2): where the pedestrian was, relative to where it is now, so that the last row is 0.
Actions (N, predict, 2): how far it goes from frame to frame; their cumulative sum is where it will be, relative to now.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from latentrl.checks import LatentRLError, count
from latentrl.data.checks import as_array, check_finite
from latentrl.data.npz import load_npz
from latentrl.data.reading import Episodes, chosen, reading

STEP = 10
"""Frames between two annotated ones."""
STRIDE = 4.0
"""Metres between two annotated frames that nobody exceeds: 10 m/s. The same bound for all scenes, so that a policy of
some can be judged on another."""


def pedestrian_arguments(path: Path, scenes: str | Sequence[str] | None, observe: int, predict: int) -> dict[str, Any]:
    """Arguments of ``Demonstrations.from_arrays``; for parameters see ``Demonstrations.from_pedestrians``."""
    count("observe", observe, 1), count("predict", predict, 1)
    arrays = load_npz(path, lambda names: chosen(names, scenes, "scenes", "scenes"))
    with reading(path, "tracks of pedestrians"):
        found = [
            (f"{scene}, pedestrian {who:g} from frame {track[0, 0]:g}", track[:, 2:])
            for scene, rows in arrays.items()
            for who, track in _tracks(scene, rows)
            if len(track) >= observe + predict
        ]
        if not found:
            raise LatentRLError(f"nobody is in {observe + predict} annotated frames one after another: ask for fewer")
        episodes = Episodes(sum(len(track) - observe - predict + 1 for _, track in found))
        for record, track in found:
            windows = sliding_window_view(track, observe + predict, axis=0).transpose(0, 2, 1)
            past = windows[:, :observe] - windows[:, observe - 1 : observe]
            steps = np.diff(windows[:, observe - 1 :], axis=1)
            episodes.add(record, past.astype(np.float32), steps.astype(np.float32))
        return episodes.arguments(action_space=spaces.Box(-STRIDE, STRIDE, (predict, 2)))


def _tracks(scene: str, rows: NDArray[Any]) -> Iterator[tuple[float, NDArray[Any]]]:
    """(pedestrian, rows by time) of every track without a gap."""
    rows = as_array(scene, rows)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise LatentRLError(f"{scene} has shape {rows.shape}: give rows of frame, pedestrian, x, y")
    check_finite(scene, rows)
    rows = rows.astype(float)[np.lexsort((rows[:, 0], rows[:, 1]))]
    later, other = np.diff(rows[:, 0]), np.diff(rows[:, 1]) != 0
    if (twice := (later == 0) & ~other).any():
        frame, who = rows[twice.argmax(), :2]
        raise LatentRLError(f"{scene} has pedestrian {who:g} twice in frame {frame:g}: keep one of them")
    for track in np.split(rows, np.flatnonzero(other | (later != STEP)) + 1):
        if len(track):
            yield track[0, 1], track
