"""What a traversal of the latent goes through, and what it keeps of an episode."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FADED = 0.35
"""How much is seen of the first of the moments that are laid over each other; of the last all is."""


@dataclass(frozen=True)
class Row:
    """Latents that differ in one thing: the value of a dimension, or which choice it is."""

    title: str
    names: list[str]
    latents: NDArray[Any]
    """(C, Z), or whole numbers (C,)."""


class Moments:
    """Pictures spread evenly over an episode whose length is not known; few are drawn and fewer kept."""

    def __init__(self, number: int) -> None:
        self.number: int = number
        self.stride: int = 1
        self.seen: int = 0
        self.kept: list[Any] = []

    def offer(self, picture: Callable[[], Any]) -> None:
        if self.seen % self.stride == 0:
            if len(self.kept) == 4 * self.number:
                self.kept, self.stride = self.kept[::2], 2 * self.stride
            self.kept.append(picture())
        self.seen += 1

    def pictures(self) -> NDArray[Any]:
        """(F, H, W, 3), the last one of those that were kept among them."""
        index = np.linspace(len(self.kept) - 1, 0, min(self.number, len(self.kept))).round().astype(int)[::-1]
        return np.stack([self.kept[i] for i in index])


def overlay(pictures: NDArray[Any]) -> NDArray[np.uint8]:
    """One picture (H, W, 3) of several moments (F, H, W, 3): what moves is seen in all of them, later ones stronger.

    The background is the median of the moments. Of those that differ from it at a pixel, the most different one is
    shown there.
    """
    background = np.median(pictures, axis=0)
    change = pictures - background
    seen = np.linspace(FADED, 1.0, len(pictures)) if len(pictures) > 1 else np.ones(1)
    weighted = change * seen[:, None, None, None]
    strongest = np.abs(weighted).sum(-1).argmax(0)
    moved = np.take_along_axis(weighted, strongest[None, ..., None], axis=0)[0]
    return (background + moved).clip(0, 255).astype(np.uint8)
