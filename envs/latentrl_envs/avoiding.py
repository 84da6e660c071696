"""A point finds its way past three rows of posts: 24 routes, all about equally long."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import ArrayLike
from torch import Tensor

from latentrl_envs.drawing import Canvas, DrawnTask
from latentrl_envs.task import checked_number, columns


class Avoiding(DrawnTask):
    """A planar task after the obstacle avoidance of D3IL (Jia et al. 2024), which does it with a simulated robot arm.

    A round point moves over a table, forward along y, past one, two and three posts in rows at y = 2, 4.5 and 7. Posts
    stand 1 apart around x = 0, so that a row of k posts leaves k + 1 gaps: 2 * 3 * 4 = 24 routes. Each gap between two
    posts or between the last row and the table's sides leaves the point's centre 0.6 to pass, and the longest of the
    24 shortest paths is 10 % longer than the shortest.

    State (..., 6): position x, y; for each row the gap taken, from 0 at the left, or -1; outcome: 0 on the way, 1
    success, -1 failure. Action (..., 2): velocity as a share of the top speed, clipped to ±1 per axis; the top speed
    is 0.1 per step. Observation (..., 2): position. Reward: 1 for the step that succeeds, otherwise 0. Start: uniform
    in a square around the origin. Crossing at moderate speed takes 100 to 150 steps; the registered id truncates after
    200.

    The episode succeeds when the centre crosses the finish line, y = 8.5. It fails when the point touches a post
    anywhere on the straight way of a step (nothing is jumped over), or when its centre leaves the table at a side
    (x = ±1.8) or behind (y = -0.5); a step that both fails and crosses the line fails. After its end nothing moves.

    ``infos``: "success", and "mode", the route: 12 * gap of row 1 + 4 * gap of row 2 + gap of row 3, or -1 as long as
    some row is not passed. A row's gap is where the centre last crossed the line through its posts forwards; going
    back over that line forgets it. So the mode says how the point got where it is, whatever it tried before.

    Differentiable almost everywhere in the position, with zero gradient in a clipped action and from the reward, the
    gaps and the outcome, which are steps.

    Args:
        start_jitter: half the side of the square of starts, from 0 (the origin) to 0.4.

    Raises:
        ValueError: start_jitter is not a number or out of range.
    """

    initial_noise_dim: int = 2
    differentiable: ClassVar[bool] = True

    max_step = 0.1
    point_radius = 0.05
    post_radius = 0.15
    post_spacing = 1.0
    first_row = 2.0
    row_spacing = 2.5
    rows = 3
    side = 1.8
    back = -0.5
    finish = 8.5

    def __init__(self, start_jitter: float = 0.1) -> None:
        super().__init__()
        self.start_jitter = checked_number("start_jitter", start_jitter, minimum=0.0)
        if self.start_jitter > 0.4:
            raise ValueError(f"start_jitter must be at most 0.4, so that starts lie on the table, got {start_jitter!r}")
        # An episode's last observation may lie up to one step beyond the table.
        low = np.array([-self.side, self.back], dtype=np.float32) - 0.2
        high = np.array([self.side, self.finish], dtype=np.float32) + 0.2
        self.observation_space = Box(low, high, dtype=np.float32)
        self.action_space = Box(-1.0, 1.0, (2,), dtype=np.float32)

    @property
    def posts(self) -> tuple[tuple[float, float], ...]:
        """Centres of the six posts, row by row from the left."""
        return tuple(
            (self.post_spacing * (post - row / 2), self.first_row + self.row_spacing * row)
            for row in range(self.rows)
            for post in range(row + 1)
        )

    def initial(self, rng: Tensor, params: Any = None) -> Tensor:
        """Return a point in the square of starts, from uniforms (..., 2), before all rows."""
        zeros = torch.zeros_like(rng[..., :1])
        return torch.cat((self.start_jitter * (2 * rng - 1), (zeros - 1).expand(*rng.shape[:-1], 3), zeros), -1)

    def transition(self, state: Tensor, action: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Move the point, note the gap of a row that is crossed, and decide whether the episode has ended."""
        running = state[..., 5] == 0
        step = torch.where(running[..., None], self.max_step * action.clamp(-1, 1), 0.0)
        position = state[..., :2] + step
        # What follows are steps, without gradients.
        start, step = state[..., :2].detach(), step.detach()
        x, y = position.detach().unbind(-1)
        row = ((start[..., 1] - self.first_row) / self.row_spacing).round().clamp(0, self.rows - 1)  # the one in reach
        # From gap to gap, around the half of a post, it is further than a step: so the step's end tells the gap.
        gap = torch.minimum((x / self.post_spacing + row / 2 + 1).floor().clamp(min=0), row + 1)
        lines = [self.first_row + self.row_spacing * i for i in range(self.rows)]
        taken = [torch.where(start[..., 1] < line, gap, state[..., 2 + i]) for i, line in enumerate(lines)]
        gaps = [torch.where(y < line, -1.0, now) for now, line in zip(taken, lines, strict=True)]
        failed = self._touches(row, start, step) | (x.abs() > self.side) | (y < self.back)
        verdict = torch.where(failed, -1.0, (y >= self.finish).to(state.dtype))
        outcome = torch.where(running, verdict, state[..., 5])
        return columns(*position.unbind(-1), *gaps, outcome)

    def _touches(self, row: Tensor, start: Tensor, step: Tensor) -> Tensor:
        """Return whether the straight way of a step meets a post of the row.

        Only the post nearest to the way's start can be met: to the others it is further than a step and the radii.
        """
        post = torch.minimum((start[..., 0] / self.post_spacing + row / 2).round().clamp(min=0), row)
        x = start[..., 0] - self.post_spacing * (post - row / 2)
        y = start[..., 1] - self.first_row - self.row_spacing * row
        dx, dy = step.unbind(-1)
        nearest = (-(x * dx + y * dy) / (dx * dx + dy * dy).clamp(min=1e-12)).clamp(0, 1)
        distance = (x + nearest * dx).square() + (y + nearest * dy).square()
        return distance < (self.post_radius + self.point_radius) ** 2

    def observation(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return the position."""
        return state[..., :2].clone()

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: Tensor | None = None, params: Any = None
    ) -> Tensor:
        """Return 1 for the step that succeeds, otherwise 0."""
        return ((state[..., 5] == 0) & (next_state[..., 5] == 1)).to(state.dtype)

    def terminal(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return whether the point has crossed the finish line, touched a post or left the table."""
        return state[..., 5] != 0

    def state_info(self, state: Tensor, params: Any = None) -> dict[str, Tensor]:
        """Return "mode", the route's number or -1 (int64), and "success"."""
        first, second, third = state[..., 2:5].long().unbind(-1)
        passed = (first >= 0) & (second >= 0) & (third >= 0)
        return {"mode": torch.where(passed, 12 * first + 4 * second + third, -1), "success": state[..., 5] == 1}

    @property
    def view(self) -> tuple[ArrayLike, ArrayLike]:
        """The table with a margin."""
        return (-self.side - 0.2, self.back - 0.2), (self.side + 0.2, self.finish + 0.2)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray | None) -> None:
        """Draw the table, the start, the finish line, the posts and the point: green for success, red for failure."""
        x, low, high = self.side, self.back, self.finish
        canvas.polygon([(-x, low), (x, low), (x, high), (-x, high)], "#eeeeee")
        canvas.circle((0, 0), 0.1, "#bbbbbb")
        canvas.line([(-x, high), (x, high)], "#228833", 4)
        for post in self.posts:
            canvas.circle(post, self.post_radius, "#bb5566")
        canvas.circle(state[:2], self.point_radius, {0: "#4477aa", 1: "#228833", -1: "red"}[int(state[5])])
