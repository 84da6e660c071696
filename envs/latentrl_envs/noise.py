"""Random numbers as a pure function of (seed, episode), so that one row's numbers never depend on another row."""

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # an odd constant near 2^64 / golden ratio, as a signed integer
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def uniforms(seeds: Tensor, episodes: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Return uniforms in [0, 1), the same on every device: 24 random bits in float32, 53 in float64.

    Args:
        seeds: int64 (...,), the streams.
        episodes: int64 (...,), the place in each stream.
        dim: how many numbers for each place.
        dtype: torch.float32 or torch.float64.

    Returns:
        Tensor (..., dim). Each number hashes (seed, episode, column) by three rounds of SplitMix64, a generator whose
        n-th output is a hash of n (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """
    columns = torch.arange(1, dim + 1, device=seeds.device)
    stream = _mix(seeds + _GOLDEN)
    place = _mix(stream + episodes * _GOLDEN)
    bits = 24 if dtype == torch.float32 else 53
    # Keeping only as many bits as the dtype holds: rounding more of them could give 1.
    return _shift(_mix(place[..., None] + columns * _GOLDEN), 64 - bits).to(dtype) * 2.0**-bits


def _mix(x: Tensor) -> Tensor:
    """Return SplitMix64's hash of int64 ``x``, a bijection; int64 products wrap modulo 2^64, which is what it wants."""
    for places, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        x = (x ^ _shift(x, places)) * multiplier
    return x ^ _shift(x, 31)


def _shift(x: Tensor, places: int) -> Tensor:
    """Shift right, filling with zeros: int64's own ``>>`` copies the sign."""
    return (x >> places) & ((1 << (64 - places)) - 1)
