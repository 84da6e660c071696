"""A point with four equally good goals: the plane on which soft Q-learning showed that its policies are multimodal."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

import math
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import ArrayLike
from torch import Tensor

from latentrl_envs.drawing import Canvas, DrawnTask
from latentrl_envs.task import checked_number


class MultiGoal(DrawnTask):
    """``MultiGoalEnv`` of soft Q-learning (Haarnoja et al. 2017), with the constants of its published code.

    State and observation (..., 2): position x, y, kept in ±7. Action (..., 2): velocity per step, clipped to ±1 per
    axis. The goals are (5, 0), (-5, 0), (0, 5) and (0, -5). Reward: minus ``actuation_cost_coeff`` times the squared
    length of the clipped action, minus ``distance_cost_coeff`` times the squared distance from the new position to the
    nearest goal, plus ``goal_reward`` if that distance is below ``goal_threshold``, which also terminates the episode.
    Start: normal around the origin with standard deviation ``init_sigma`` per axis. The registered id truncates after
    30 steps, as that code does. ``infos``: "mode", which goal is nearest (0 to 3, in the order above), and "success",
    whether it is reached.

    The threshold must suit the steps: a point that moves by 1 at a time jumps over a goal much smaller than its step.

    Differentiable almost everywhere, with zero gradient in a clipped action and at the walls. The squared distance has
    kinks on the diagonals, where the nearest goal changes, and ``goal_reward`` is a jump without gradient.

    Args:
        goal_reward: what reaching a goal adds.
        actuation_cost_coeff: weight of the squared action, at least 0.
        distance_cost_coeff: weight of the squared distance, at least 0.
        init_sigma: spread of the starts, at least 0.
        goal_threshold: how near a goal counts as reached, at least 0.

    Raises:
        ValueError: an argument is not a number, not finite or out of range.
    """

    initial_noise_dim: int = 2
    differentiable: ClassVar[bool] = True

    goals = ((5.0, 0.0), (-5.0, 0.0), (0.0, 5.0), (0.0, -5.0))
    edge = 7.0
    max_step = 1.0

    def __init__(
        self,
        goal_reward: float = 10.0,
        actuation_cost_coeff: float = 30.0,
        distance_cost_coeff: float = 1.0,
        init_sigma: float = 0.1,
        goal_threshold: float = 1.0,
    ) -> None:
        super().__init__()
        self.goal_reward = checked_number("goal_reward", goal_reward)
        self.actuation_cost_coeff = checked_number("actuation_cost_coeff", actuation_cost_coeff, minimum=0.0)
        self.distance_cost_coeff = checked_number("distance_cost_coeff", distance_cost_coeff, minimum=0.0)
        self.init_sigma = checked_number("init_sigma", init_sigma, minimum=0.0)
        self.goal_threshold = checked_number("goal_threshold", goal_threshold, minimum=0.0)
        self.observation_space = Box(-self.edge, self.edge, (2,), dtype=np.float32)
        self.action_space = Box(-self.max_step, self.max_step, (2,), dtype=np.float32)

    def initial(self, rng: Tensor, params: Any = None) -> Tensor:
        """Return normal positions from uniforms (..., 2), by Box and Muller's transform."""
        radius = (-2 * torch.log1p(-rng[..., :1])).sqrt()
        angle = 2 * math.pi * rng[..., 1:]
        position = self.init_sigma * radius * torch.cat((angle.cos(), angle.sin()), -1)
        return position.clamp(-self.edge, self.edge)

    def transition(self, state: Tensor, action: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Move the point by the clipped action, up to the walls."""
        return (state + self._velocity(action)).clamp(-self.edge, self.edge)

    def observation(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return the position."""
        return state.clone()

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: Tensor | None = None, params: Any = None
    ) -> Tensor:
        """Return minus the costs of the action and of the new position, and the goal's reward where it is reached."""
        actuation = self._velocity(action).square().sum(-1)
        distance = self._squared_distance(next_state)
        costs = self.actuation_cost_coeff * actuation + self.distance_cost_coeff * distance
        return self.goal_reward * (distance < self.goal_threshold**2).to(distance.dtype) - costs

    def terminal(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return whether a goal is reached."""
        return self._squared_distance(state) < self.goal_threshold**2

    def state_info(self, state: Tensor, params: Any = None) -> dict[str, Tensor]:
        """Return "mode", the nearest goal's number (int64), and "success"."""
        x, y = state.unbind(-1)
        mode = torch.where(x.abs() >= y.abs(), (x < 0).long(), 2 + (y < 0).long())
        return {"mode": mode, "success": self.terminal(state)}

    def _velocity(self, action: Tensor) -> Tensor:
        return action.clamp(-self.max_step, self.max_step)

    def _squared_distance(self, position: Tensor) -> Tensor:
        """Return the squared distance to the nearest goal: the one on the axis of the larger coordinate."""
        sizes = position.abs()
        return (sizes.amax(-1) - self.goals[0][0]).square() + sizes.amin(-1).square()

    @property
    def view(self) -> tuple[ArrayLike, ArrayLike]:
        """The walls."""
        return (-self.edge, -self.edge), (self.edge, self.edge)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray | None) -> None:
        """Draw the goals, the point and, as a line from where it came, the last step."""
        for goal in self.goals:
            canvas.circle(goal, self.goal_threshold, "#bbddbb")
            canvas.circle(goal, 0.1, "#228833")
        if action is not None:
            canvas.line([state - np.clip(action, -self.max_step, self.max_step), state], "#88aacc")
        canvas.circle(state, 0.2, "#4477aa")
