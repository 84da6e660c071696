"""Cart-pole swing-up: bring a hanging pole up by pushing its cart, with a continuous force and a smooth cost."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

import math
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import ArrayLike
from torch import Tensor

from latentrl_envs.acrobot import rk4
from latentrl_envs.drawing import Canvas, DrawnTask
from latentrl_envs.task import columns


class CartPoleSwingUp(DrawnTask):
    """The cart and pole of Gymnasium's CartPole-v1 in a task for pathwise gradients, after Xu et al., "Accelerated
    policy learning with parallel differentiable simulation" (2022): 240 steps at 60 Hz, smooth, without termination.

    The equations (Barto, Sutton and Anderson 1983, as Florian 2007 corrected them, without friction), the masses and
    the length are Gymnasium's. Gymnasium takes Euler steps of 0.02 s; here a Runge-Kutta step of fourth order keeps the
    energy of an unforced episode to 2e-5 J, where lifting the pole takes 0.98 J.

    State (..., 4): position of the cart in m, its velocity in m/s, angle θ of the pole in rad, 0 upright and never
    wrapped, and its velocity in rad/s. Action (..., 1): force on the cart in units of 10 N, clipped to ±1. Observation
    (..., 5): position, velocity, cos θ, sin θ, angular velocity. Reward: cos θ - 1 - 0.05 position² - 0.01 velocity² -
    0.005 angular velocity² - 0.001 action², of the state *after* the step and the clipped action: hanging still earns
    -480, swinging up at once about -170. Start: hanging still, each number of the state off by ~ U(-0.05, 0.05).
    Nothing bounds the track but the cost of the position. Never terminates; the registered id truncates after 240
    steps.

    Differentiable, except that a force beyond the bounds has no gradient. Pathwise gradients of the return are
    unbiased; hanging still is nearly stationary, so that they are small there.
    """

    initial_noise_dim: int = 4
    differentiable: ClassVar[bool] = True
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human", "rgb_array"], "render_fps": 60}

    gravity = 9.8
    cart_mass = 1.0
    pole_mass = 0.1
    half_length = 0.5
    force = 10.0
    dt = 1 / 60

    def __init__(self) -> None:
        super().__init__()
        top = float(np.finfo(np.float32).max)
        high = np.array([top, top, 1.0, 1.0, top], dtype=np.float32)
        self.observation_space = Box(-high, high, dtype=np.float32)
        self.action_space = Box(-1.0, 1.0, (1,), dtype=np.float32)

    def initial(self, rng: Tensor, params: Any = None) -> Tensor:
        """Return a hanging pole, each number off by ~ U(-0.05, 0.05), from uniforms (..., 4)."""
        position, velocity, angle, spin = (0.1 * rng - 0.05).unbind(-1)
        return columns(position, velocity, angle + math.pi, spin)

    def transition(self, state: Tensor, action: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Take one Runge-Kutta step of 1/60 s under a constant force."""
        force = self.force * action[..., 0].clamp(-1.0, 1.0)
        return rk4(lambda x: self.derivatives(x, force), state, self.dt)

    def derivatives(self, state: Tensor, force: Tensor) -> Tensor:
        """Return d(state)/dt (..., 4) under a force (...) on the cart in N."""
        _, velocity, angle, spin = state.unbind(-1)
        sine, cosine = angle.sin(), angle.cos()
        mass, lever = self.cart_mass + self.pole_mass, self.pole_mass * self.half_length
        push = (force + lever * spin**2 * sine) / mass
        inertia = self.half_length * (4 / 3 - self.pole_mass / mass * cosine**2)
        turn = (self.gravity * sine - cosine * push) / inertia
        return columns(velocity, push - lever / mass * turn * cosine, spin, turn)

    def observation(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return (position, velocity, cos θ, sin θ, angular velocity)."""
        position, velocity, angle, spin = state.unbind(-1)
        return columns(position, velocity, angle.cos(), angle.sin(), spin)

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: Tensor | None = None, params: Any = None
    ) -> Tensor:
        """Return minus the cost of pushing and of being in ``next_state``."""
        position, velocity, angle, spin = next_state.unbind(-1)
        effort = action[..., 0].clamp(-1.0, 1.0)
        cart = 0.05 * position**2 + 0.01 * velocity**2
        return angle.cos() - 1 - cart - 0.005 * spin**2 - 0.001 * effort**2

    @property
    def view(self) -> tuple[ArrayLike, ArrayLike]:
        """Six metres of the track."""
        return (-3.0, -1.5), (3.0, 1.5)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray | None) -> None:
        """Draw track, cart, pole and, as a line from the cart, the force."""
        position, _, angle, _ = state
        canvas.line(((-3, 0), (3, 0)), "gray")
        if action is not None:
            canvas.line(((position, 0), (position + np.clip(action[0], -1, 1), 0)), "#cc3311", 6)
        left, right = position - 0.2, position + 0.2
        canvas.polygon(((left, -0.1), (right, -0.1), (right, 0.1), (left, 0.1)))
        tip = position + 2 * self.half_length * np.sin(angle), 2 * self.half_length * np.cos(angle)
        canvas.line(((position, 0), tip), "#ca9865", 8)
        canvas.circle((position, 0), 0.05, "#8184cb")
