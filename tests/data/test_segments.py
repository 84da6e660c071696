"""Segments: where they start, what the posterior sees, which steps are scored."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from latentrl import Demonstrations, LatentRLError
from latentrl.data import Segments
from latentrl.spaces import features


def counted(lengths: list[int]) -> Demonstrations:
    """Observation = row number, action = minus it."""
    rows = np.arange(sum(lengths), dtype=np.float32)[:, None]
    return Demonstrations.from_arrays(rows, -rows, lengths)


def test_whole_episodes() -> None:
    segments = Segments(counted([5, 9]), hold=0, context_length=3)
    assert (segments.starts.tolist(), segments.lengths.tolist()) == ([0, 5], [5, 9])
    observations, actions = segments.context(torch.tensor([0, 1]))
    assert observations[..., 0].tolist() == [[0, 2, 4], [5, 9, 13]]
    torch.testing.assert_close(actions, -observations)


def test_windows_never_cross_episodes() -> None:
    segments = Segments(counted([3, 4]), hold=3, context_length=8)
    windows = segments.batch(torch.arange(len(segments))).observations[..., 0]
    assert windows.tolist() == [[0, 1, 2], [3, 4, 5], [4, 5, 6]]


def test_transitions_have_no_time() -> None:
    segments = Segments(counted([3, 4]), hold=1, context_length=8)
    batch = segments.batch(torch.tensor([6, 0]), steps=5)
    assert batch.observations.tolist() == [[6.0], [0.0]]
    assert batch.context_actions.tolist() == [[-6.0], [0.0]]
    assert batch.weight is None


def test_random_steps_stay_inside_and_are_uniform() -> None:
    """Each of 9 steps is drawn alike: χ² with 8 degrees of freedom, 1e-4 quantile 31.8."""
    segments = Segments(counted([5, 9]), hold=0, context_length=3)
    batch = segments.batch(torch.ones(900, dtype=torch.long), steps=10)
    counts = torch.bincount(batch.observations.long().flatten() - 5, minlength=9)
    assert counts.sum() == 9000
    assert float(((counts - 1000.0) ** 2 / 1000.0).sum()) < 31.8
    assert batch.weight is not None
    torch.testing.assert_close(batch.weight, torch.full((900,), 0.9))
    torch.testing.assert_close(batch.actions, -batch.observations)


def test_too_long_a_hold_is_refused() -> None:
    with pytest.raises(LatentRLError, match="hold=4, but episode 0 has only 3 steps"):
        Segments(counted([3, 5]), hold=4, context_length=8)


def test_all_steps_need_equal_lengths() -> None:
    with pytest.raises(LatentRLError, match="differ in length"):
        Segments(counted([3, 5]), hold=0, context_length=2).batch(torch.tensor([0, 1]))


def test_features_of_spaces() -> None:
    assert features(spaces.Discrete(3, start=5), torch.tensor([5, 7])).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert features(spaces.Box(0, 1, (2, 2)), torch.ones(4, 2, 2)).shape == (4, 4)
    assert features(spaces.Box(0, 1, ()), torch.ones(4)).shape == (4, 1)
