"""A double pendulum with a motor in its elbow: chaos, in which pathwise gradients grow without bound."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

import math
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import ArrayLike
from torch import Tensor

from latentrl_envs.acrobot import derivatives, observed, rk4
from latentrl_envs.drawing import Canvas, DrawnTask


class DoublePendulum(DrawnTask):
    """The two links of Acrobot with a continuous torque, a smooth cost, any start and neither clip nor termination.

    State (..., 4): angle θ1 of the upper link in rad, 0 hanging down; angle θ2 of the lower link relative to the upper
    one in rad, 0 in line with it; their velocities in rad/s. Nothing is wrapped. Action (..., 1): torque on the elbow
    in units of 5 N m, clipped to ±1. Observation (..., 6): cos θ1, sin θ1, cos θ2, sin θ2 and the velocities. Reward:
    the height of the tip over the hinge in m (-2 to 2) - 0.01 (velocity 1² + velocity 2²) - 0.01 action², of the state
    *after* the step and the clipped action. Start: angles ~ U(-π, π), velocities ~ U(-1, 1): with so much energy that
    the motion is chaotic. Never terminates; the registered id truncates after 200 steps.

    Differentiable, except that a torque beyond the bounds has no gradient. Pathwise gradients of the return are
    unbiased, but neighbouring motions part: without torque the largest Lyapunov exponent is 0.35 per second on average
    over the starts. So the gradient's norm grows exponentially with the horizon: that by a constant torque, at 0, has
    the median 39, 130 and 970 after 50, 100 and 200 steps, and a standard deviation over starts of 10², 10³ and 10⁵.
    """

    initial_noise_dim: int = 4
    differentiable: ClassVar[bool] = True

    max_torque = 5.0
    dt = 0.05

    def __init__(self) -> None:
        super().__init__()
        top = float(np.finfo(np.float32).max)
        high = np.array([1.0] * 4 + [top] * 2, dtype=np.float32)
        self.observation_space = Box(-high, high, dtype=np.float32)
        self.action_space = Box(-1.0, 1.0, (1,), dtype=np.float32)

    def initial(self, rng: Tensor, params: Any = None) -> Tensor:
        """Return angles ~ U(-π, π) and velocities ~ U(-1, 1) from uniforms (..., 4)."""
        centered = 2 * rng - 1
        return torch.cat((math.pi * centered[..., :2], centered[..., 2:]), -1)

    def transition(self, state: Tensor, action: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Take one Runge-Kutta step of 0.05 s under a constant torque."""
        torque = self.max_torque * action[..., 0].clamp(-1.0, 1.0)
        return rk4(lambda x: derivatives(x, torque), state, self.dt)

    def observation(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return (cos θ1, sin θ1, cos θ2, sin θ2, velocity 1, velocity 2)."""
        return observed(state)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: Tensor | None = None, params: Any = None
    ) -> Tensor:
        """Return the height of the tip in ``next_state`` minus the costs of speed and torque."""
        angle1, angle2, velocity1, velocity2 = next_state.unbind(-1)
        height = -angle1.cos() - (angle1 + angle2).cos()
        return height - 0.01 * (velocity1**2 + velocity2**2 + action[..., 0].clamp(-1.0, 1.0) ** 2)

    @property
    def view(self) -> tuple[ArrayLike, ArrayLike]:
        """All that the tip can reach."""
        return (-2.2, -2.2), (2.2, 2.2)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray | None) -> None:
        """Draw both links, the hinges and, as a disk around the elbow, the torque: red if positive, or blue."""
        angles = state[0], state[0] + state[1]
        joints = np.cumsum([(0, 0), *((np.sin(angle), -np.cos(angle)) for angle in angles)], 0)
        if action is not None:
            canvas.circle(joints[1], 0.4 * min(1, abs(action[0])), "#ee99aa" if action[0] > 0 else "#6699cc")
        canvas.line(joints, "#00cccc", 14)
        for joint in joints[:2]:
            canvas.circle(joint, 0.1, "#cccc00")
