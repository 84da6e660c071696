"""What the tests of readers have in common: drawn spaces and values, and damage to files."""

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st

from latentrl import Demonstrations

SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    shape = draw(SHAPES)
    dtype: Any = draw(st.sampled_from([np.float32, np.float64, np.uint8, np.int64]))
    if dtype is np.uint8:
        return spaces.Box(0, 255, shape, dtype)
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    low = generator.normal(size=shape) * 10
    high = low + generator.uniform(1, 9, shape)
    if draw(st.booleans()) and dtype is not np.int64:
        high = np.full(shape, np.inf)
    return spaces.Box(np.asarray(low).astype(dtype), np.asarray(high).astype(dtype), shape, dtype)


CHOICES = st.one_of(
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 9), st.integers(-3, 3)),
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 5), min_size=1, max_size=3)),
    st.builds(spaces.MultiBinary, st.one_of(st.integers(1, 4), st.just((2, 2)))),
)
LEAVES = st.one_of(boxes(), CHOICES)
NAMES = st.text("abz_/", min_size=1, max_size=4).filter(lambda name: "//" not in name and name.strip("/") == name)
OBSERVATIONS = st.one_of(LEAVES, st.dictionaries(NAMES, LEAVES, min_size=1, max_size=3).map(spaces.Dict))


def values(space: spaces.Space[Any], rows: int, seed: int) -> Any:
    """Values of a space, or a dict of them."""
    if isinstance(space, spaces.Dict):
        return {name: values(part, rows, seed) for name, part in space.spaces.items()}
    space.seed(seed)
    return np.stack([np.asarray(space.sample()) for _ in range(rows)])


def same(first: Any, second: Any) -> None:
    """Equal arrays of equal kinds, by name if they are named."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for name in first:
            same(first[name], second[name])
        return
    np.testing.assert_array_equal(first, second, strict=True)


def sound(made: Demonstrations) -> None:
    """What demonstrations promise, whatever was read."""
    seen = made.observations if isinstance(made.observations, dict) else {"": made.observations}
    assert made.episode_lengths.min() > 0
    for array in (*seen.values(), made.actions):
        assert len(array) == made.episode_lengths.sum()
        assert array.dtype.kind in "fiu"
        assert np.isfinite(array).all()
    assert made.rewards is None or made.rewards.shape == (len(made),)
    assert made.modes is None or made.modes.shape == (made.num_episodes,)


def cut(file: Path, share: float) -> None:
    """Leave a share of a file's bytes, less than all."""
    content = file.read_bytes()
    file.write_bytes(content[: min(int(share * len(content)), len(content) - 1)])
