"""Uniforms from a hash: the published generator, uniform, and without a pattern across rows, episodes and columns.

The seeds are fixed, so these tests do not flicker; with another seed each p-value would fall below 1e-4 once in 10 000.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from latentrl_envs.noise import uniforms

WORD = 2**64 - 1


def splitmix(x: int) -> int:
    """Return SplitMix64's output for a state, in Python's unbounded integers, as published."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & WORD
    return x ^ (x >> 31)


def reference(seed: int, episode: int, column: int) -> int:
    golden = 0x9E3779B97F4A7C15
    place = splitmix(splitmix(seed + golden & WORD) + episode * golden & WORD)
    return splitmix(place + (column + 1) * golden & WORD)


def test_the_hash_is_the_published_splitmix() -> None:
    # First outputs of SplitMix64 seeded with 1234567, as Rosetta Code lists them.
    assert splitmix(1234567 + 0x9E3779B97F4A7C15 & WORD) == 6457827717110365317
    assert splitmix(1234567 + 2 * 0x9E3779B97F4A7C15 & WORD) == 3203168211198807973


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 24), (torch.float64, 53)], ids=str)
def test_uniforms_are_the_top_bits_of_the_hash(dtype: torch.dtype, bits: int) -> None:
    seeds, episodes = [0, 1, 7, 2**62 + 5], [0, 1, 3, 10**9]
    drawn = uniforms(torch.tensor(seeds), torch.tensor(episodes), 3, dtype)
    assert drawn.dtype == dtype
    for i, (seed, episode) in enumerate(zip(seeds, episodes, strict=True)):
        expected = [(reference(seed, episode, column) >> (64 - bits)) / 2**bits for column in range(3)]
        assert drawn[i].tolist() == expected


@pytest.fixture(scope="module")
def cube() -> np.ndarray:
    """Uniforms of 200 neighbouring seeds, 200 episodes, 2 columns."""
    seeds, episodes = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="ij")
    return uniforms(seeds, episodes, 2, torch.float32).double().numpy()


def test_uniform_overall_and_along_each_axis(cube: np.ndarray) -> None:
    assert cube.min() >= 0
    assert cube.max() < 1
    for sample in (cube, cube[0], cube[:, 0], cube[..., 0], cube[..., 1]):
        assert stats.kstest(sample.ravel(), "uniform").pvalue > 1e-4


def test_pairs_of_neighbours_fill_the_square(cube: np.ndarray) -> None:
    neighbours = {
        "rows": (cube[1:], cube[:-1]),
        "episodes": (cube[:, 1:], cube[:, :-1]),
        "columns": (cube[..., 0], cube[..., 1]),
        "row + 1, episode - 1": (cube[1:, :-1], cube[:-1, 1:]),
    }
    for name, (a, b) in neighbours.items():
        assert stats.pearsonr(a.ravel(), b.ravel()).pvalue > 1e-4, name
        counts = np.histogram2d(a.ravel(), b.ravel(), bins=16, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(counts.ravel()).pvalue > 1e-4, name


def test_no_two_places_share_a_number() -> None:
    seeds, episodes = torch.meshgrid(torch.arange(100), torch.arange(100), indexing="ij")
    drawn = uniforms(seeds, episodes, 4, torch.float64)
    assert drawn.unique().numel() == drawn.numel()  # 53 bits: two of 40 000 would meet once in 10 million seeds


@pytest.mark.gpu
def test_the_same_numbers_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    seeds, episodes = torch.arange(1000), torch.arange(1000).flip(0) * 12345
    for dtype in (torch.float32, torch.float64):
        there = uniforms(seeds.cuda(), episodes.cuda(), 3, dtype)
        assert torch.equal(there.cpu(), uniforms(seeds, episodes, 3, dtype))
