"""Pictures of a shape whose factors are known: the six factors of dSprites, drawn by formulas instead of stored."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

SHAPES = 3
"""A square, an ellipse, a heart."""


class Factors(NamedTuple):
    """Numbers of values of each factor, which are all as likely, and the pictures' width."""

    shape: int = SHAPES
    size: int = 6
    angle: int = 40
    x: int = 32
    y: int = 32
    pixels: int = 64

    @property
    def sizes(self) -> tuple[int, ...]:
        """Without the width."""
        return tuple(self[:-1])

    def sample(self, number: int, device: torch.device) -> Int[Tensor, "N 5"]:
        """Independent values."""
        return torch.stack([torch.randint(size, (number,), device=device) for size in self.sizes], 1)

    def render(self, values: Int[Tensor, "N 5"]) -> Float[Tensor, "N D"]:
        """Pictures (N, pixels²) of zeros and ones: a whole turn of angles, and the shape wholly inside."""
        shape, size, angle, x, y = (column[:, None, None].float() for column in values.T)
        radius = 0.12 + 0.12 * size / max(1, self.size - 1)
        turn = 2 * math.pi * angle / self.angle
        line = torch.linspace(0.0, 1.0, self.pixels, device=values.device)
        down, across = torch.meshgrid(line, line, indexing="ij")
        across = (across - 0.26 - 0.48 * x / max(1, self.x - 1)) / radius
        down = (down - 0.26 - 0.48 * y / max(1, self.y - 1)) / radius
        u, v = turn.cos() * across + turn.sin() * down, turn.cos() * down - turn.sin() * across
        square = torch.maximum(u.abs(), v.abs()) < 0.7
        ellipse = u.square() + (v / 0.5).square() < 1.0
        a, b = u / 0.75, -v / 0.75
        heart = (a.square() + b.square() - 1.0) ** 3 < a.square() * b**3
        return torch.where(shape == 0, square, torch.where(shape == 1, ellipse, heart)).flatten(1).float()
