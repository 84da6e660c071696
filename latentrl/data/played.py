"""Demonstrations cut as a policy with a held latent would play them: one segment after another, each action once."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from latentrl.data.cuts import Cuts, check_lengths
from latentrl.data.demonstrations import Demonstrations
from latentrl.data.host_segments import make_segments


class Played(NamedTuple):
    """S segments of E episodes."""

    segments: Cuts
    episodes: NDArray[np.int64]
    """(S,): the episode that each belongs to."""
    steps: NDArray[np.int64]
    """(S,): actions that each scores."""


def played(
    demonstrations: Demonstrations,
    hold: int,
    context_length: int,
    device: torch.device | str = "cpu",
    *,
    chunk: int = 1,
    pads: bool = False,
    raw_observations: bool = False,
    history: int = 1,
) -> Played:
    """Cut every episode where a new latent is drawn: nowhere (``hold = 0``), every k steps or at each.

    Training sees the windows that start at every step; here they follow one another, and the last may be shorter.
    Chunks of T actions are whole plans, made one after another, for ``hold = 1`` too; what is left behind an
    episode's or a segment's last whole plan is not scored, as a plan's law tells nothing of a part of it. Data that are
    too large for the device stay on the host, as in training.

    The parameters are those of :class:`Segments`.

    :raises LatentRLError: episodes shorter than ``chunk``, or a ``hold`` shorter than that
    """
    # An episode may be shorter than ``hold``: it is then one segment.
    check_lengths(demonstrations.episode_lengths, hold if hold < chunk else 0, chunk)
    size = chunk if hold == 1 else hold
    cut, episodes = demonstrations.episode_lengths, np.arange(demonstrations.num_episodes)
    if size:
        number = -(-cut // size)
        episodes = np.repeat(episodes, number)
        last = np.cumsum(number) - 1
        lengths = np.full(len(episodes), size)
        lengths[last] = cut - (number - 1) * size
        cut = lengths
    pieces = replace(demonstrations, episode_lengths=cut, modes=None)
    whole = cut >= chunk
    segments = make_segments(
        pieces if whole.all() else pieces.select(whole),
        1 if hold == 1 else 0,
        min(hold, context_length) if hold > 1 else context_length,
        device,
        chunk=chunk,
        pads=pads,
        raw_observations=raw_observations,
        history=history,
        # A cut ends a latent, but not what is remembered.
        memory=np.bincount(episodes[whole], cut[whole]).astype(np.int64),
    )
    return Played(segments, episodes[whole], cut[whole] // chunk * chunk)
