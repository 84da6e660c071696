"""Gymnasium's CartPole-v1 as pure functions in torch: keep a pole upright on a cart that is pushed left or right."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

import math
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from latentrl_envs.classic import ClassicControl
from latentrl_envs.task import columns


class CartPole(ClassicControl):
    """The dynamics and the reward of ``gymnasium.envs.classic_control.CartPoleEnv`` (equal to 1e-9 in float64).

    State and observation (..., 4): position of the cart in m and its velocity in m/s, angle of the pole in rad, 0
    upright, and its velocity in rad/s. Action: 0 or 1, a force of -10 or +10 N on the cart. Reward: 1 for each step,
    also for the one that ends the episode. Start: each number ~ U(-0.05, 0.05). Terminates beyond ±2.4 m or ±12°; the
    registered id truncates after 500 steps. A step taken from a terminal state is rewarded like any other (Gymnasium
    warns and gives 0).

    Gradients reach the state, not the action, which is discrete. The reward is constant, or constant on either side of
    a jump, so that pathwise gradients of the return are zero.

    Args:
        sutton_barto_reward: give 0 for each step and -1 for the one that ends the episode, as in Sutton and Barto's
            book.

    Raises:
        ValueError: sutton_barto_reward is neither True nor False.
    """

    initial_noise_dim: int = 4
    differentiable: ClassVar[bool] = True
    metadata: ClassVar[dict[str, Any]] = CartPoleEnv.metadata
    drawn_by = CartPoleEnv

    gravity = 9.8
    cart_mass = 1.0
    pole_mass = 0.1
    half_length = 0.5
    force = 10.0
    dt = 0.02
    max_position = 2.4
    max_angle = 12 * math.pi / 180

    def __init__(self, sutton_barto_reward: bool = False) -> None:
        super().__init__()
        if not isinstance(sutton_barto_reward, bool):
            raise ValueError(f"sutton_barto_reward must be True or False, got {sutton_barto_reward!r}")
        self.sutton_barto_reward = sutton_barto_reward
        # Twice as wide as where an episode ends, so that its last observation lies inside.
        high = np.array([2 * self.max_position, np.inf, 2 * self.max_angle, np.inf], dtype=np.float32)
        self.observation_space = Box(-high, high, dtype=np.float32)
        self.action_space = Discrete(2)

    def initial(self, rng: Tensor, params: Any = None) -> Tensor:
        """Return a state of four numbers ~ U(-0.05, 0.05) from uniforms (..., 4)."""
        return 0.1 * rng - 0.05

    def transition(self, state: Tensor, action: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Take one explicit Euler step of 0.02 s: the old velocities move the cart and the pole."""
        _, velocity, angle, spin = state.unbind(-1)
        force = self.force * (2 * action.to(state.dtype) - 1)
        cosine, sine = angle.cos(), angle.sin()
        mass, lever = self.cart_mass + self.pole_mass, self.pole_mass * self.half_length
        without_pole = (force + lever * spin**2 * sine) / mass
        inertia = self.half_length * (4 / 3 - self.pole_mass * cosine**2 / mass)
        spin_up = (self.gravity * sine - cosine * without_pole) / inertia
        acceleration = without_pole - lever * spin_up * cosine / mass
        return state + self.dt * columns(velocity, acceleration, spin, spin_up)

    def observation(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return the state."""
        return state.clone()

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: Tensor | None = None, params: Any = None
    ) -> Tensor:
        """Return 1, or, as in Sutton and Barto's book, -1 where ``next_state`` is terminal and 0 elsewhere."""
        if self.sutton_barto_reward:
            return -self.terminal(next_state).to(state.dtype)
        return torch.ones_like(state[..., 0])

    def terminal(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return whether the cart has left the track or the pole has fallen, bool (...,)."""
        return (state[..., 0].abs() > self.max_position) | (state[..., 2].abs() > self.max_angle)
