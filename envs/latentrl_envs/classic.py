"""What the tasks of Gymnasium's classic control share: Gymnasium's own classes draw them."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from latentrl_envs.task import Task


class ClassicControl(Task):
    """A task of ``gymnasium.envs.classic_control``; a subclass names the class and takes its ``metadata``."""

    drawn_by: ClassVar[type[Any]]
    """Gymnasium's class: its ``state`` is the first thing that it draws from."""

    def render_init(self, params: Any = None, **kwargs: Any) -> Any:
        """Return Gymnasium's own environment, which knows how to draw (``render_mode`` in kwargs; needs pygame)."""
        return self.drawn_by(**kwargs)

    def render_image(
        self, state: Tensor, render_state: Any, params: Any = None, action: Tensor | None = None
    ) -> tuple[Any, np.ndarray]:
        """Draw the state: (H, W, 3) uint8, or None where the mode is "human".

        Raises:
            gymnasium.error.DependencyNotInstalled: pygame is missing.
        """
        render_state.state = state.numpy(force=True)
        return render_state, render_state.render()

    def render_close(self, render_state: Any, params: Any = None) -> None:
        """Close the window."""
        render_state.close()
