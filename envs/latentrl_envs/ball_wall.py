"""A ball thrown at a wall: the distance jumps where it just clears the wall, and pathwise gradients do not see it."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

import math
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import ArrayLike
from torch import Tensor

from latentrl_envs.drawing import Canvas, DrawnTask
from latentrl_envs.task import checked_stiffness, columns


class BallWall(DrawnTask):
    """A thrown ball is steered up or down in flight: over a wall, it lands far behind it; otherwise at its foot.

    After the ball with a wall of Suh et al., "Do differentiable simulators give better policy gradients?" (2022), where
    the angle of the throw is the only decision. Here the angle is random, and every step of the flight decides.

    State and observation (..., 4): position x, y in m, velocity in m/s. Action (..., 1): vertical acceleration in units
    of 2 m/s², clipped to ±1; gravity is 9.81 m/s² downwards. Reward: metres gained in x, so that the return is the
    distance. Start: released at x = 0, y = 1 m with 8 m/s at an angle ~ U(30°, 60°); without steering, half of the
    throws clear the wall. Terminates where the ball lands (y = 0), which is where it stays; the registered id truncates
    after 20 steps of 0.1 s, later than any landing.

    The wall is thin, at x = 4 m, and 2.5 m high. A ball that crosses x = 4 at that height or over it flies on. One that
    crosses d metres lower keeps the share exp(-stiffness · d) of its horizontal velocity: the hard wall (infinite
    stiffness) stops it, and it falls to the foot of the wall; a soft one slows it as a hedge would, the lower the more.
    Crossing and landing are computed at their exact times, so that no stiffness needs a shorter step. (The force of a
    spring would need a thick wall, and balls that clear it come down behind it, on to its top or into its back.)

    Differentiable almost everywhere. At the top of the wall the return has a kink, and jumps by 2 to 5 m if the wall is
    hard. No pathwise gradient contains the jump: with the hard wall their mean is biased however many there are, 0.68
    where the expected return has the slope 1.69 (in a constant action, at 0). With any other wall it is right, but the
    standard deviation grows as the root of the stiffness: 1.2, 2.7, 9.1 and 29 at 3, 10, 100 and 1000 per metre. So a
    stiff wall looks like the hard one until a sample falls on its edge. The score function's gradient is unbiased.

    Args:
        stiffness: of the wall in 1/m, at least 0 (no wall); ``math.inf`` is the hard one.

    Raises:
        ValueError: the stiffness is no number or negative.
    """

    initial_noise_dim: int = 1
    differentiable: ClassVar[bool] = True

    gravity = 9.81
    lift = 2.0
    dt = 0.1
    speed = 8.0
    release_height = 1.0
    wall = 4.0
    wall_height = 2.5

    def __init__(self, stiffness: float = math.inf) -> None:
        super().__init__()
        self.stiffness = checked_stiffness(stiffness, minimum=0.0)
        self.observation_space = Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (4,), dtype=np.float32)
        self.action_space = Box(-1.0, 1.0, (1,), dtype=np.float32)

    def initial(self, rng: Tensor, params: Any = None) -> Tensor:
        """Return a ball just thrown at an angle ~ U(30°, 60°), from uniforms (..., 1)."""
        angle = math.pi / 6 * (1 + rng[..., 0])
        nowhere = torch.zeros_like(angle)
        return columns(nowhere, nowhere + self.release_height, self.speed * angle.cos(), self.speed * angle.sin())

    def transition(self, state: Tensor, action: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Fly on for 0.1 s, or until the landing, under a constant acceleration; a ball that has landed stays."""
        x, y, across, up = state.unbind(-1)
        pull = self.lift * action[..., 0].clamp(-1.0, 1.0) - self.gravity
        flies = y > 0
        lands = flies & (y + up * self.dt + pull * self.dt**2 / 2 <= 0)
        # The root is taken where it is not needed, too: of 1, for a derivative that is finite.
        time_to_ground = -(up + torch.where(lands, up**2 - 2 * pull * y, 1.0).sqrt()) / pull
        time = torch.where(lands, time_to_ground, self.dt).masked_fill(~flies, 0)
        ahead = x + across * time
        crosses = (x <= self.wall) & (ahead > self.wall)
        time_to_wall = (self.wall - x) / torch.where(crosses, across, 1.0)
        share = torch.where(crosses, self._share(y + up * time_to_wall + pull * time_to_wall**2 / 2), 1.0)
        x = torch.where(crosses, self.wall + share * (ahead - self.wall), ahead)
        y = torch.where(lands, 0.0, y + up * time + pull * time**2 / 2)
        rests = lands | ~flies
        return columns(x, y, (share * across).masked_fill(rests, 0), (up + pull * time).masked_fill(rests, 0))

    def _share(self, height: Tensor) -> Tensor:
        """Return the share of its horizontal velocity that a ball keeps which crosses at this height."""
        if self.stiffness == math.inf:
            return (height >= self.wall_height).to(height)
        return (-self.stiffness * (self.wall_height - height).relu()).exp()

    def observation(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return the state."""
        return state.clone()

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: Tensor | None = None, params: Any = None
    ) -> Tensor:
        """Return the metres gained."""
        return next_state[..., 0] - state[..., 0]

    def terminal(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return whether the ball has landed, bool (...,)."""
        return state[..., 1] <= 0

    @property
    def view(self) -> tuple[ArrayLike, ArrayLike]:
        """From the thrower to the farthest landing."""
        return (-0.5, -0.5), (10.0, 4.5)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray | None) -> None:
        """Draw ground, wall, ball and, as a line from the ball, its velocity (a tenth of a second long)."""
        canvas.line(((-0.5, 0), (10, 0)), "gray")
        canvas.line(((self.wall, 0), (self.wall, self.wall_height)), "#666666", 5)
        canvas.line((state[:2], state[:2] + self.dt * state[2:]), "#cc3311")
        canvas.circle(state[:2], 0.12, "#4477aa")
