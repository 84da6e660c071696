"""Spaces come back from JSON as they were."""

import inspect
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings

from latentrl import LatentRLError
from latentrl.data.space_json import from_json, to_json
from tests.data.strategies import OBSERVATIONS


@settings(max_examples=150, deadline=None, derandomize=True)
@given(OBSERVATIONS)
def test_round_trip(space: spaces.Space[Any]) -> None:
    again = from_json(to_json(space))
    assert again == space
    assert again.dtype == space.dtype
    if isinstance(space, spaces.Dict):
        assert list(again.spaces) == list(space.spaces)  # type: ignore[attr-defined]


def test_pictures_take_two_numbers() -> None:
    assert len(to_json(spaces.Box(0, 255, (224, 224, 3), "uint8"))) < 100


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"type": "Tuple"}', '{"type": "Discrete", "n": -1, "start": 0}', '{"type": "Box", "shape": [2]}'],
)
def test_other_text(text: str) -> None:
    with pytest.raises(LatentRLError, match="no space"):
        from_json(text)
    with pytest.raises(LatentRLError, match="cannot be written"):
        to_json(spaces.Text(3))


@pytest.mark.skipif("dtype" not in inspect.signature(spaces.Discrete).parameters, reason="an older Gymnasium")
def test_choices_keep_their_kind_of_integer() -> None:
    space = spaces.Discrete(3, start=1, dtype=np.int32)
    assert from_json(to_json(space)) == space
