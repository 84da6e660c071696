"""One body pushes another to a goal, through a contact from soft to rigid: out of contact the gradient vanishes."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

import math
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import softplus

from latentrl_envs.drawing import Canvas, DrawnTask
from latentrl_envs.task import checked_stiffness, columns


class Pushing(DrawnTask):
    """On a line, an actuated body pushes a passive one to the goal at 0; it cannot pull it back.

    After the pushing task of Suh et al., "Do differentiable simulators give better policy gradients?" (2022).

    State and observation (..., 4): position of the pusher's front face in m, its velocity in m/s, position of the
    object's near face in m and its velocity in m/s; the pusher is on the left. Action (..., 1): force on the pusher in
    units of 5 N, clipped to ±1. Reward: minus the squared distance of the object's face from 0 in m², after the step.
    Start: at rest, the object at ~ U(-1.2, -0.8), the pusher ~ U(0.2, 0.4) behind it. Never terminates; the registered
    id truncates after 60 steps of 0.05 s.

    Both bodies weigh 1 kg; viscous friction brakes the object by 1 N s/m. The contact is a spring that only pushes: a
    penetration of p metres gives softplus(stiffness · p) N, about stiffness · p where the faces overlap and about
    exp(-stiffness · gap) N where they are apart. Infinite stiffness is a rigid contact. Each step takes the penetration
    at its end, linearised, as implicit Euler does, so that no stiffness is too large for the step; with a rigid contact
    this is the time stepping of Stewart and Trinkle (1996). Momentum is conserved, and the step damps what it is too
    long for: the share of the closing speed with which frictionless bodies part is 0.80, 0.39 and 0.11 at 10, 100 and
    1000 N/m, and 0 if rigid.

    Differentiable everywhere, the rigid contact except where the faces just touch: there the return has a kink but no
    jump, so that pathwise gradients are unbiased. They are flat, though: the force has no effect on the return unless
    the contact closes later. In an episode without contact the gradient is exactly 0 if rigid, and of the order of
    exp(-stiffness · gap) otherwise, so that a policy that never touches the object learns nothing.

    Args:
        stiffness: of the contact in N/m, positive; ``math.inf`` is the rigid one.

    Raises:
        ValueError: the stiffness is no number or not positive.
    """

    initial_noise_dim: int = 2
    differentiable: ClassVar[bool] = True

    mass = 1.0
    friction = 1.0
    max_force = 5.0
    dt = 0.05

    def __init__(self, stiffness: float = 100.0) -> None:
        super().__init__()
        self.stiffness = checked_stiffness(stiffness, minimum=1e-3)
        self.observation_space = Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (4,), dtype=np.float32)
        self.action_space = Box(-1.0, 1.0, (1,), dtype=np.float32)

    def initial(self, rng: Tensor, params: Any = None) -> Tensor:
        """Return both bodies at rest, from uniforms (..., 2)."""
        block = 0.4 * rng[..., 0] - 1.2
        pusher = block - 0.2 - 0.2 * rng[..., 1]
        still = torch.zeros_like(block)
        return columns(pusher, still, block, still)

    def transition(self, state: Tensor, action: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Take one step of 0.05 s: new velocities move the bodies."""
        pusher, pushing, block, sliding = state.unbind(-1)
        rate = self.dt / self.mass
        pushing = pushing + rate * self.max_force * action[..., 0].clamp(-1.0, 1.0)
        sliding = sliding - rate * self.friction * sliding
        force = self._contact(pusher - block + self.dt * (pushing - sliding))
        pushing, sliding = pushing - rate * force, sliding + rate * force
        return columns(pusher + self.dt * pushing, pushing, block + self.dt * sliding, sliding)

    def _contact(self, penetration: Tensor) -> Tensor:
        """Return the force in N, from the penetration at the end of the step if there were no contact."""
        give = 2 * self.dt**2 / self.mass  # by how much a force of 1 N lowers that penetration
        if self.stiffness == math.inf:
            return penetration.relu() / give
        return softplus(self.stiffness * penetration) / (1 + self.stiffness * give)

    def observation(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return the state."""
        return state.clone()

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: Tensor | None = None, params: Any = None
    ) -> Tensor:
        """Return minus the squared distance of the object from its goal."""
        return -(next_state[..., 2] ** 2)

    @property
    def view(self) -> tuple[ArrayLike, ArrayLike]:
        """From behind the pusher to beyond the goal."""
        return (-2.2, -0.6), (1.4, 0.6)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray | None) -> None:
        """Draw the ground, the goal for the object's near face, the object, the pusher and, as a line, the force."""
        pusher, _, block, _ = state
        canvas.line(((-2.2, -0.2), (1.4, -0.2)), "gray")
        canvas.line(((0, -0.2), (0, 0.4)), "#228833")
        canvas.polygon([(block, -0.2), (block + 0.4, -0.2), (block + 0.4, 0.2), (block, 0.2)], "#ca9865")
        canvas.polygon([(pusher - 0.2, -0.2), (pusher, -0.2), (pusher, 0.2), (pusher - 0.2, 0.2)], "#4477aa")
        if action is not None:
            canvas.line(((pusher - 0.1, 0), (pusher - 0.1 + 0.4 * np.clip(action[0], -1, 1), 0)), "#cc3311", 6)
