"""Spaces as features and back, and as raw flat vectors."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from latentrl import LatentRLError
from latentrl.spaces import features, from_features, leaves, raw, size

CHOICES = [
    spaces.Discrete(3),
    spaces.Discrete(3, start=-5),
    spaces.MultiDiscrete([2, 4]),
    spaces.MultiDiscrete([2, 4], start=[7, -1]),
    spaces.MultiDiscrete([[2, 3, 2], [4, 1, 2]]),
    spaces.MultiBinary(5),
    spaces.MultiBinary((2, 3)),
]
BOXES = [
    spaces.Box(-1.0, 1.0, (3,)),
    spaces.Box(-1.0, 1.0, ()),
    spaces.Box(-0.01, 0.01, (2, 1, 3), np.float64),
    spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([0.5, 0.1], np.float32)),
    spaces.Box(0, 255, (2, 2), np.uint8),
    spaces.Box(-3, 4, (2,), np.int64),
]


@pytest.mark.parametrize("space", CHOICES + BOXES, ids=str)
def test_there_and_back(space: spaces.Space[Any]) -> None:
    """Features of values of a space are those values again."""
    space.seed(0)
    values = np.stack([space.sample() for _ in range(20)])
    made = features(space, torch.as_tensor(values))
    assert made.shape == (20, size("action", space))
    assert made.dtype == torch.float32
    back = from_features(space, made)
    assert back.shape == values.shape
    assert back.dtype == space.dtype
    np.testing.assert_allclose(back, values, rtol=1e-6)


@pytest.mark.parametrize("space", CHOICES + BOXES, ids=str)
def test_any_features_become_values_of_the_space(space: spaces.Space[Any]) -> None:
    made = torch.randn(50, size("action", space)) * 300
    if isinstance(space, spaces.MultiBinary):
        made = (made > 0).float()  # what a Bernoulli decoder gives
    for value in from_features(space, made):
        assert space.contains(np.asarray(value))


def test_choices_are_one_hot_side_by_side() -> None:
    made = features(spaces.MultiDiscrete([2, 3], start=[1, -1]), torch.tensor([[1, 1], [2, -1]]))
    assert made.tolist() == [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0]]


def test_integers_are_rounded_and_not_cut_off() -> None:
    space = spaces.Box(0, 10, (2,), np.int32)
    assert from_features(space, torch.tensor([[1.6, -3.0], [2.4, 99.0]])).tolist() == [[2, 0], [2, 10]]


def test_raw_keeps_bytes() -> None:
    picture = spaces.Box(0, 255, (2, 2, 1), np.uint8)
    flat = raw(picture, torch.arange(8, dtype=torch.uint8).reshape(2, 2, 2, 1))
    assert flat.dtype == torch.uint8
    assert flat.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    parts = {name: torch.zeros(1, 2, 2, 1, dtype=torch.uint8) for name in "ab"}
    twice = raw(spaces.Dict(b=picture, a=picture), parts)
    assert twice.dtype == torch.uint8
    parts["speed"] = torch.tensor([[-0.5]])
    mixed = raw(spaces.Dict(b=picture, a=picture, speed=spaces.Box(-1, 1, (1,))), parts)
    assert mixed.tolist() == [[0.0] * 8 + [-0.5]]


def test_raw_follows_the_order_of_the_space_and_not_of_the_values() -> None:
    space = spaces.Dict([("z", spaces.Discrete(9, start=3)), ("a", spaces.Box(-9, 9, (2,)))])
    values = {"a": torch.tensor([[0.5, -0.5], [1.0, 2.0]]), "z": torch.tensor([4, 11])}
    flat = raw(space, values)
    assert flat.dtype == torch.float32
    assert flat.tolist() == [[4, 0.5, -0.5], [11, 1, 2]]


def test_bad_input() -> None:
    space = spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2))
    one = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(LatentRLError, match="observations are named a, c, but the space is a Dict of a, b"):
        raw(space, {"a": one, "c": one})
    with pytest.raises(LatentRLError, match="observations are no dict, but the space is a Dict of a, b"):
        raw(space, one)
    with pytest.raises(LatentRLError, match="observations are a dict, but the space is Discrete"):
        leaves("observations", spaces.Discrete(2), {"a": one})
    with pytest.raises(LatentRLError, match=r"have dtype torch\.float32, but the space is Box\(0, 255.*give uint8"):
        raw(spaces.Box(0, 255, (2,), np.uint8), torch.zeros(1, 2))
    with pytest.raises(LatentRLError, match=r"is not supported: .* or give a trunk"):
        size("observation", space)
    with pytest.raises(LatentRLError, match=r"action space Tuple.* is not supported: use Box, Discrete, MultiDiscrete"):
        size("action", spaces.Tuple([spaces.Discrete(2)]))
