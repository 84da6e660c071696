"""Gymnasium's Pendulum-v1 as pure functions in torch: swing a rod up and hold it there."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

import math
from typing import Any, ClassVar

import numpy as np
from gymnasium.envs.classic_control import PendulumEnv
from gymnasium.spaces import Box
from torch import Tensor

from latentrl_envs.classic import ClassicControl
from latentrl_envs.task import checked_number, columns


class Pendulum(ClassicControl):
    """The dynamics and the cost of ``gymnasium.envs.classic_control.PendulumEnv`` (equal to 1e-9 in float64).

    State (..., 2): angle θ in rad, 0 upright and never wrapped, and angular velocity in rad/s. Action (..., 1): torque
    in N m, clipped to ±2. Observation (..., 3): cos θ, sin θ, angular velocity. Reward: minus (θ wrapped to [-π, π))² +
    0.1 velocity² + 0.001 torque², of the state *before* the step and the clipped torque. Start: θ ~ U(-π, π),
    velocity ~ U(-1, 1). Never terminates; the registered id truncates after 200 steps.

    Differentiable almost everywhere. The gradient is zero in a torque beyond ±2 and in a velocity cut at ±8 rad/s, and
    that of the reward jumps from one side of θ = ±π (hanging down) to the other.

    Args:
        g: gravity in m/s².

    Raises:
        ValueError: g is not a finite number.
    """

    initial_noise_dim: int = 2
    differentiable: ClassVar[bool] = True
    metadata: ClassVar[dict[str, Any]] = PendulumEnv.metadata
    drawn_by = PendulumEnv

    max_speed = 8.0
    max_torque = 2.0
    dt = 0.05
    mass = 1.0
    length = 1.0

    def __init__(self, g: float = 10.0) -> None:
        super().__init__()
        self.g = checked_number("g", g)
        high = np.array([1.0, 1.0, self.max_speed], dtype=np.float32)
        self.observation_space = Box(-high, high, dtype=np.float32)
        self.action_space = Box(-self.max_torque, self.max_torque, (1,), dtype=np.float32)

    def initial(self, rng: Tensor, params: Any = None) -> Tensor:
        """Return θ ~ U(-π, π) and velocity ~ U(-1, 1) from uniforms (..., 2)."""
        angle, velocity = rng.unbind(-1)
        return columns(math.pi * (2 * angle - 1), 2 * velocity - 1)

    def transition(self, state: Tensor, action: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Take one semi-implicit Euler step of 0.05 s: the new velocity moves the angle."""
        angle, velocity = state.unbind(-1)
        gravity = 3 * self.g / (2 * self.length) * angle.sin()
        push = 3 / (self.mass * self.length**2) * self._torque(action)
        velocity = (velocity + (gravity + push) * self.dt).clamp(-self.max_speed, self.max_speed)
        return columns(angle + velocity * self.dt, velocity)

    def observation(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return (cos θ, sin θ, velocity)."""
        angle, velocity = state.unbind(-1)
        return columns(angle.cos(), angle.sin(), velocity)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: Tensor | None = None, params: Any = None
    ) -> Tensor:
        """Return minus the cost of being in ``state`` and pushing; ``next_state`` plays no part, as in Gymnasium."""
        angle, velocity = state.unbind(-1)
        wrapped = (angle + math.pi) % (2 * math.pi) - math.pi
        return -(wrapped**2 + 0.1 * velocity**2 + 0.001 * self._torque(action) ** 2)

    def _torque(self, action: Tensor) -> Tensor:
        return action[..., 0].clamp(-self.max_torque, self.max_torque)

    def render_image(
        self, state: Tensor, render_state: PendulumEnv, params: Any = None, action: Tensor | None = None
    ) -> tuple[PendulumEnv, np.ndarray]:
        """Draw the rod and, as an arrow, the torque: (500, 500, 3) uint8, or None where the mode is "human".

        Raises:
            gymnasium.error.DependencyNotInstalled: pygame is missing.
        """
        render_state.last_u = None if action is None else float(self._torque(action))
        return super().render_image(state, render_state)
