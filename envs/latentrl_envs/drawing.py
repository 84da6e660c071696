"""Pictures of planar tasks, drawn with pygame."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import ArrayLike
from torch import Tensor

from latentrl_envs.task import Task

Color = str | tuple[int, int, int]
"""A name that pygame knows ("black", "#4477aa") or red, green and blue from 0 to 255."""

_FINE = 2  # drawn this much larger and scaled down, for smooth edges


class Canvas:
    """A box of the world on a picture with square pixels, y upwards.

    Coordinates and radii are the world's, widths of lines are pixels. What lies outside the box is cut off. Drawing
    again starts with ``clear``; ``show`` hands over what was drawn since.

    Args:
        render_mode: "rgb_array" to have ``show`` return pictures, "human" to have it show them in a window.
        low: (x, y) of the lower left corner.
        high: (x, y) of the upper right corner.
        fps: pictures per second at most, in a window.
        size: pixels of the longer side; the other is in proportion, rounded to an even number (videos need that).

    Raises:
        gymnasium.error.DependencyNotInstalled: pygame is missing.
    """

    def __init__(self, render_mode: str, low: ArrayLike, high: ArrayLike, fps: int = 30, size: int = 500) -> None:
        try:
            import pygame
        except ImportError as error:
            raise DependencyNotInstalled("pictures need pygame: pip install latentrl[render]") from error
        self._pygame = pygame
        self._low, extent = np.asarray(low, dtype=float), np.subtract(high, low).astype(float)
        self._scale = _FINE * size / extent.max()
        width, height = (2 * max(1, round(float(side) * size / extent.max() / 2)) for side in extent)
        self._size = (width, height)
        self._surface = pygame.Surface((_FINE * width, _FINE * height))
        self._fps = fps
        self._window: Any = None
        if render_mode == "human":
            pygame.display.init()
            self._window = pygame.display.set_mode(self._size)
            self._clock = pygame.time.Clock()
        self.clear()

    def clear(self, color: Color = "white") -> None:
        """Fill the picture with one colour."""
        self._surface.fill(color)

    def line(self, points: ArrayLike, color: Color = "black", width: float = 2.0) -> None:
        """Draw straight segments from point to point (n, 2), ``width`` pixels thick with round ends and joints."""
        pixels, half = self._pixels(points), _FINE * width / 2
        for start, end in pairwise(pixels):
            along = (end - start) / max(float(np.hypot(*(end - start))), 1e-9)
            side = half * np.array([-along[1], along[0]])
            self._pygame.draw.polygon(self._surface, color, [start + side, end + side, end - side, start - side])
        for point in pixels:
            self._pygame.draw.circle(self._surface, color, point, half)

    def circle(self, center: ArrayLike, radius: float, color: Color = "black") -> None:
        """Draw a filled circle; it is at least a pixel wide."""
        pixels = tuple(self._pixels(center))
        self._pygame.draw.circle(self._surface, color, pixels, max(radius * self._scale, _FINE / 2))

    def polygon(self, points: ArrayLike, color: Color = "black") -> None:
        """Draw a filled polygon with the corners (n, 2), n at least 3."""
        self._pygame.draw.polygon(self._surface, color, list(self._pixels(points)))

    def show(self) -> np.ndarray | None:
        """Return the picture (H, W, 3) uint8, or show it in the window and return None."""
        picture = self._pygame.transform.smoothscale(self._surface, self._size)
        if self._window is None:
            return np.ascontiguousarray(self._pygame.surfarray.array3d(picture).transpose(1, 0, 2))
        self._window.blit(picture, (0, 0))
        self._pygame.event.pump()
        self._clock.tick(self._fps)
        self._pygame.display.flip()
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._pygame.display.quit()
            self._window = None

    def _pixels(self, points: ArrayLike) -> np.ndarray:
        x, y = np.moveaxis((np.asarray(points, dtype=float) - self._low) * self._scale, -1, 0)
        return np.stack((x, self._surface.get_height() - y), -1)


class DrawnTask(Task, ABC):
    """A task that draws itself on a canvas: a subclass says which box of the world to show and writes ``draw``."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human", "rgb_array"], "render_fps": 30}

    @property
    @abstractmethod
    def view(self) -> tuple[ArrayLike, ArrayLike]:
        """Lower left and upper right corner of what the picture shows."""

    @abstractmethod
    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray | None) -> None:
        """Draw one state (S,) on a white canvas, with the action that led to it if there was one."""

    def render_init(self, params: Any = None, render_mode: str = "rgb_array", **kwargs: Any) -> Canvas:
        """Return a canvas.

        Raises:
            gymnasium.error.DependencyNotInstalled: pygame is missing.
        """
        low, high = self.view
        return Canvas(render_mode, low, high, fps=self.metadata["render_fps"])

    def render_image(  # type: ignore[override]
        self, state: Tensor, render_state: Canvas, params: Any = None, action: Tensor | None = None
    ) -> tuple[Canvas, np.ndarray | None]:
        """Draw one state (S,): (H, W, 3) uint8, or None where the mode is "human"."""
        render_state.clear()
        self.draw(render_state, state.numpy(force=True), None if action is None else action.numpy(force=True))
        return render_state, render_state.show()

    def render_close(self, render_state: Canvas, params: Any = None) -> None:
        """Close the window."""
        render_state.close()
