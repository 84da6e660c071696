"""Gymnasium's Acrobot-v1 as pure functions in torch: swing a two-link arm up by the torque of its elbow."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from gymnasium.envs.classic_control import AcrobotEnv
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from latentrl_envs.classic import ClassicControl
from latentrl_envs.task import columns


def derivatives(
    state: Tensor,
    torque: Tensor,
    m1: float = 1.0,
    m2: float = 1.0,
    l1: float = 1.0,
    lc1: float = 0.5,
    lc2: float = 0.5,
    I1: float = 1.0,
    I2: float = 1.0,
    g: float = 9.8,
) -> Tensor:
    """Return d(state)/dt of two links hinged to each other, the first one to the ceiling, without friction.

    The equations of Sutton and Barto's book (section 11.3 of the first edition), with their letters.

    Args:
        state: (..., 4): angle θ1 of the first link in rad, 0 hanging down; angle θ2 of the second link relative to the
            first in rad, 0 in line with it; their velocities in rad/s.
        torque: (...), on the elbow in N m; it turns the second link by +torque and the first one by -torque.
        m1, m2: masses in kg.
        l1: length of the first link in m (that of the second plays no part).
        lc1, lc2: distances of the centres of mass from the links' upper ends in m.
        I1, I2: moments of inertia about the centres of mass in kg m².
        g: gravity in m/s².

    Returns:
        Tensor (..., 4): the velocities in rad/s and the accelerations in rad/s².
    """
    angle1, angle2, velocity1, velocity2 = state.unbind(-1)
    coupling = m2 * l1 * lc2
    cosine, sine = angle2.cos(), angle2.sin()
    d1 = m1 * lc1**2 + m2 * (l1**2 + lc2**2) + I1 + I2 + 2 * coupling * cosine
    d2 = m2 * lc2**2 + I2 + coupling * cosine
    phi2 = m2 * lc2 * g * (angle1 + angle2).sin()
    swirl = coupling * sine * velocity2 * (velocity2 + 2 * velocity1)
    phi1 = (m1 * lc1 + m2 * l1) * g * angle1.sin() + phi2 - swirl
    ratio = d2 / d1
    push = torque + ratio * phi1 - coupling * velocity1**2 * sine - phi2
    acceleration2 = push / (m2 * lc2**2 + I2 - d2 * ratio)
    acceleration1 = -(d2 * acceleration2 + phi1) / d1
    return columns(velocity1, velocity2, acceleration1, acceleration2)


def rk4(derivative: Callable[[Tensor], Tensor], state: Tensor, dt: float) -> Tensor:
    """Return the state after one step of ``dt`` by the classical fourth-order method of Runge and Kutta."""
    k1 = derivative(state)
    k2 = derivative(state + dt / 2 * k1)
    k3 = derivative(state + dt / 2 * k2)
    k4 = derivative(state + dt * k3)
    return state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def observed(state: Tensor) -> Tensor:
    """Return (cos θ1, sin θ1, cos θ2, sin θ2, velocity 1, velocity 2), (..., 6), of states (..., 4)."""
    angle1, angle2, velocity1, velocity2 = state.unbind(-1)
    return columns(angle1.cos(), angle1.sin(), angle2.cos(), angle2.sin(), velocity1, velocity2)


class Acrobot(ClassicControl):
    """The dynamics and the reward of ``gymnasium.envs.classic_control.AcrobotEnv`` (equal to 1e-9 in float64).

    State (..., 4): angle θ1 of the upper link in rad, 0 hanging down; angle θ2 of the lower link relative to the upper
    one in rad, 0 in line with it; their velocities in rad/s, cut at ±4π and ±9π. Both angles are wrapped to [-π, π].
    Action: 0, 1, 2 for a torque of -1, 0, +1 N m on the elbow. Observation (..., 6): cos θ1, sin θ1, cos θ2, sin θ2 and
    the velocities. Reward: -1 for each step, 0 for the one that ends the episode. Start: each number ~ U(-0.1, 0.1),
    rounded to float32, as Gymnasium rounds it. Terminates when the tip is more than one link's length above the hinge:
    -cos θ1 - cos(θ1 + θ2) > 1; the registered id truncates after 500 steps.

    These are the dynamics of Sutton and Barto's book, without noise on the torque: Gymnasium's defaults.

    Gradients reach the state, not the action, which is discrete; a velocity that is cut has none. The reward is
    constant on either side of a jump, so that pathwise gradients of the return are zero.
    """

    initial_noise_dim: int = 4
    differentiable: ClassVar[bool] = True
    metadata: ClassVar[dict[str, Any]] = AcrobotEnv.metadata
    drawn_by = AcrobotEnv

    dt = 0.2
    max_velocity_1 = 4 * math.pi
    max_velocity_2 = 9 * math.pi

    def __init__(self) -> None:
        super().__init__()
        high = np.array([1.0] * 4 + [self.max_velocity_1, self.max_velocity_2], dtype=np.float32)
        self.observation_space = Box(-high, high, dtype=np.float32)
        self.action_space = Discrete(3)

    def initial(self, rng: Tensor, params: Any = None) -> Tensor:
        """Return angles and velocities ~ U(-0.1, 0.1) from uniforms (..., 4)."""
        return (0.2 * rng - 0.1).float().to(rng.dtype)

    def transition(self, state: Tensor, action: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Take one Runge-Kutta step of 0.2 s, wrap the angles and cut the velocities."""
        torque = action.to(state.dtype) - 1
        angle1, angle2, velocity1, velocity2 = rk4(lambda x: derivatives(x, torque), state, self.dt).unbind(-1)
        velocity1 = velocity1.clamp(-self.max_velocity_1, self.max_velocity_1)
        velocity2 = velocity2.clamp(-self.max_velocity_2, self.max_velocity_2)
        return columns(_wrap(angle1), _wrap(angle2), velocity1, velocity2)

    def observation(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return (cos θ1, sin θ1, cos θ2, sin θ2, velocity 1, velocity 2)."""
        return observed(state)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: Tensor | None = None, params: Any = None
    ) -> Tensor:
        """Return 0 where ``next_state`` is terminal, -1 elsewhere."""
        return self.terminal(next_state).to(state.dtype) - 1

    def terminal(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return whether the tip is above the line, bool (...,)."""
        angle1, angle2 = state[..., 0], state[..., 1]
        return -angle1.cos() - (angle1 + angle2).cos() > 1.0


def _wrap(angle: Tensor) -> Tensor:
    """Return the angle in [-π, π]; unlike ``%``, rounding leaves π and -π where they are, as Gymnasium does."""
    return angle - 2 * math.pi * (angle / (2 * math.pi)).round()
