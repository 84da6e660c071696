"""Gymnasium's MountainCarContinuous-v0 as pure functions in torch: rock a weak car out of a valley."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.envs.classic_control import Continuous_MountainCarEnv
from gymnasium.spaces import Box
from torch import Tensor

from latentrl_envs.classic import ClassicControl
from latentrl_envs.task import checked_number, columns


class MountainCarContinuous(ClassicControl):
    """The dynamics and the reward of ``gymnasium.envs.classic_control.Continuous_MountainCarEnv``.

    Equal to 1e-9 in float64, except that Gymnasium rounds each new state to float32; here it keeps its dtype.

    State and observation (..., 2): position in [-1.2, 0.6], the valley's floor at -π/6, and velocity per step, cut at
    ±0.07, in Gymnasium's units of length. Action (..., 1): force, clipped to ±1. Reward: minus 0.1 times the square of
    the action, *not* clipped, and 100 for the step that ends the episode. Start: position ~ U(-0.6, -0.4) at rest.
    Terminates at a position of 0.45 or more with a velocity of ``goal_velocity`` or more; the registered id truncates
    after 999 steps. A car that meets the wall at -1.2 stops there; one that meets the right end keeps its velocity.

    Differentiable away from the clips, the wall and the goal: the gradient is zero in a force beyond ±1 (but for the
    reward's), in a velocity that is cut, in a car that the wall has stopped and in the position of one at the right
    end; and the 100 of the goal is a jump, which gradients do not see: all that they tell of the return is that force
    costs.

    Args:
        goal_velocity: smallest velocity at which the goal counts as reached.

    Raises:
        ValueError: goal_velocity is not a finite number.
    """

    initial_noise_dim: int = 1
    differentiable: ClassVar[bool] = True
    metadata: ClassVar[dict[str, Any]] = Continuous_MountainCarEnv.metadata
    drawn_by = Continuous_MountainCarEnv

    min_position = -1.2
    max_position = 0.6
    max_speed = 0.07
    goal_position = 0.45
    max_force = 1.0
    power = 0.0015
    gravity = 0.0025

    def __init__(self, goal_velocity: float = 0.0) -> None:
        super().__init__()
        self.goal_velocity = checked_number("goal_velocity", goal_velocity)
        low = np.array([self.min_position, -self.max_speed], dtype=np.float32)
        high = np.array([self.max_position, self.max_speed], dtype=np.float32)
        self.observation_space = Box(low, high, dtype=np.float32)
        self.action_space = Box(-self.max_force, self.max_force, (1,), dtype=np.float32)

    def initial(self, rng: Tensor, params: Any = None) -> Tensor:
        """Return a car at rest at U(-0.6, -0.4), from uniforms (..., 1)."""
        return torch.cat((0.2 * rng - 0.6, torch.zeros_like(rng)), -1)

    def transition(self, state: Tensor, action: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Take one semi-implicit Euler step: the new velocity moves the car."""
        position, velocity = state.unbind(-1)
        force = action[..., 0].clamp(-self.max_force, self.max_force)
        velocity = velocity + force * self.power - self.gravity * (3 * position).cos()
        velocity = velocity.clamp(-self.max_speed, self.max_speed)
        position = position + velocity
        velocity = torch.where(position <= self.min_position, velocity.clamp(min=0.0), velocity)
        return columns(position.clamp(self.min_position, self.max_position), velocity)

    def observation(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return the state."""
        return state.clone()

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: Tensor | None = None, params: Any = None
    ) -> Tensor:
        """Return 100 where ``next_state`` is terminal, less 0.1 times the squared action as it was given."""
        return 100 * self.terminal(next_state).to(state.dtype) - 0.1 * action[..., 0] ** 2

    def terminal(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return whether the car is at the goal, fast enough, bool (...,)."""
        return (state[..., 0] >= self.goal_position) & (state[..., 1] >= self.goal_velocity)
