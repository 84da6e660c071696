"""A point moved over a plane by its velocity: the task in which handwriting is cloned."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import ArrayLike
from torch import Tensor

from latentrl_envs.drawing import Canvas, DrawnTask
from latentrl_envs.task import checked_count, checked_number


class Trace(DrawnTask):
    """A pen on a sheet: each action is added to its position.

    State (..., 5): position x, y in mm, previous velocity in mm per step, number of steps so far. Action (..., 2):
    velocity in mm per step, clipped to ±max_speed per axis. Observation (..., 5): position, previous velocity (zero at
    the start) and the elapsed fraction of the horizon. Reward: always 0, because the task is for cloning: what is good
    is what the demonstrations do. Start: uniform in a square around the origin. Never terminates.

    The time limit is the environment's, not the task's: ``latentrl/Trace-v0`` truncates after 100 steps whatever the
    horizon, so give both (``gym.make(id, horizon=50, max_episode_steps=50)``). Beyond the horizon the fraction stays 1
    and the sheet ends at start_jitter + horizon * max_speed, so that every observation lies in the observation space.

    Differentiable almost everywhere, with zero gradient in a clipped action, at the sheet's edge and from the reward.

    The picture shows the middle fifth of the sheet each way, ±100 mm: writing stays near its start. What each picture
    adds is the last step's ink, so that rendering every step shows the whole stroke.

    Args:
        horizon: number of steps after which the elapsed fraction is 1.
        max_speed: largest speed along each axis in mm per step; rounded to float32, like the spaces.
        start_jitter: half the side of the square of starts in mm; rounded to float32. 0 starts at the origin.

    Raises:
        ValueError: an argument is not a number, not finite or out of range.
    """

    initial_noise_dim: int = 2
    differentiable: ClassVar[bool] = True

    def __init__(self, horizon: int = 100, max_speed: float = 5.0, start_jitter: float = 0.0) -> None:
        super().__init__()
        self.horizon = checked_count("horizon", horizon)
        # Bounds that float32 cannot hold would be exceeded in float64 by observations that touch them.
        self.max_speed = float(np.float32(checked_number("max_speed", max_speed, minimum=1e-6)))
        self.start_jitter = float(np.float32(checked_number("start_jitter", start_jitter, minimum=0.0)))
        self.edge = float(np.float32(self.start_jitter + self.horizon * self.max_speed))
        high = np.array([self.edge] * 2 + [self.max_speed] * 2 + [1.0], dtype=np.float32)
        low = np.array([-self.edge] * 2 + [-self.max_speed] * 2 + [0.0], dtype=np.float32)
        self.observation_space = Box(low, high, dtype=np.float32)
        self.action_space = Box(-self.max_speed, self.max_speed, (2,), dtype=np.float32)

    def initial(self, rng: Tensor, params: Any = None) -> Tensor:
        """Return a pen at rest in the square of starts, from uniforms (..., 2)."""
        position = self.start_jitter * (2 * rng - 1)
        return torch.cat((position, torch.zeros_like(rng), torch.zeros_like(rng[..., :1])), -1)

    def transition(self, state: Tensor, action: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Move the pen by the clipped action and count the step."""
        velocity = action.clamp(-self.max_speed, self.max_speed)
        position = (state[..., :2] + velocity).clamp(-self.edge, self.edge)
        return torch.cat((position, velocity, state[..., 4:] + 1), -1)

    def observation(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return (x, y, previous velocity, elapsed fraction)."""
        return torch.cat((state[..., :4], (state[..., 4:] / self.horizon).clamp(max=1.0)), -1)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: Tensor | None = None, params: Any = None
    ) -> Tensor:
        """Return 0: there is nothing to earn."""
        return torch.zeros_like(state[..., 0])

    @property
    def view(self) -> tuple[ArrayLike, ArrayLike]:
        """The middle of the sheet."""
        return (-self.edge / 5, -self.edge / 5), (self.edge / 5, self.edge / 5)

    def render_begin(self, render_state: Canvas) -> None:
        """Take a clean sheet."""
        render_state.clear()

    def render_image(  # type: ignore[override]
        self, state: Tensor, render_state: Canvas, params: Any = None, action: Tensor | None = None
    ) -> tuple[Canvas, np.ndarray | None]:
        """Draw on over the pictures before, with a clean sheet at the start: (H, W, 3) uint8, or None in a window."""
        if state[4] == 0:
            render_state.clear()
        self.draw(render_state, state.numpy(force=True), None)
        return render_state, render_state.show()

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray | None) -> None:
        """Draw the last step, at the start a dot."""
        canvas.line([state[:2] - state[2:4], state[:2]], "#4477aa", 6 if state[4] == 0 else 3)
