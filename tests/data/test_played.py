"""Demonstrations cut as a policy plays them: every action once, in its place."""

import numpy as np
import pytest
import torch

from latentrl import Demonstrations, LatentRLError
from latentrl.data import played

LENGTHS = [7, 4, 9]


def numbered() -> Demonstrations:
    """Actions and observations are the numbers of the transitions."""
    numbers = np.arange(sum(LENGTHS), dtype=np.float32)[:, None]
    return Demonstrations.from_arrays(numbers, numbers, LENGTHS, modes=np.arange(3))


@pytest.mark.parametrize(
    ("hold", "chunk", "segments"),
    [
        (0, 1, [[7], [4], [9]]),
        (1, 1, [[1] * 7, [1] * 4, [1] * 9]),
        (4, 1, [[4, 3], [4], [4, 4, 1]]),
        (20, 1, [[7], [4], [9]]),
        (0, 2, [[6], [4], [8]]),
        (1, 2, [[2] * 3, [2] * 2, [2] * 4]),
        (3, 2, [[2, 2], [2], [2, 2, 2]]),
        (4, 3, [[3, 3], [3], [3, 3]]),
    ],
    ids=str,
)
def test_each_action_once_in_its_place(hold: int, chunk: int, segments: list[list[int]]) -> None:
    """``segments`` are the actions that count of each piece of each episode, worked out by hand."""
    cut = played(numbered(), hold, 32, chunk=chunk)
    assert cut.steps.tolist() == [steps for pieces in segments for steps in pieces]
    assert cut.episodes.tolist() == [i for i, pieces in enumerate(segments) for _ in pieces]
    starts = np.cumsum([0, *LENGTHS])
    for number, (episode, steps) in enumerate(zip(cut.episodes, cut.steps, strict=True)):
        batch = cut.segments.batch(torch.tensor([number]))
        size = chunk if hold == 1 else hold or 100
        before = int((cut.episodes[:number] == episode).sum())
        first = starts[episode] + before * size
        assert batch.actions.flatten().tolist() == list(range(first, first + steps))
        assert batch.observations.flatten().tolist() == list(range(first, first + steps, chunk))
        assert batch.start.item() == first


def test_what_is_refused() -> None:
    with pytest.raises(LatentRLError, match="episode 1 has only 4 steps"):
        played(numbered(), 0, 32, chunk=5)
    with pytest.raises(LatentRLError, match="do not fit into hold=2"):
        played(numbered(), 2, 32, chunk=3)


@pytest.mark.parametrize(("hold", "chunk"), [(0, 1), (0, 2), (3, 1), (4, 2), (1, 1), (1, 2)])
def test_a_history_reaches_over_cuts_but_not_over_episodes(hold: int, chunk: int) -> None:
    lengths = [5, 9, 4]
    numbers = np.concatenate([100 * e + np.arange(n) for e, n in enumerate(lengths)]).astype(np.float32)
    data = Demonstrations.from_arrays(numbers[:, None], numbers[:, None], lengths)
    segments = played(data, hold, 8, chunk=chunk, history=3).segments
    for index in range(len(segments)):
        seen = segments.batch(torch.tensor([index])).observations.flatten(0, -2)
        now = seen[:, -1]
        for ago in (1, 2):
            torch.testing.assert_close(seen[:, 2 - ago], torch.maximum(now - ago, now - now % 100))
