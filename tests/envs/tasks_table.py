"""One table of tasks, over which the laws of tasks and environments run."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from latentrl_envs import (
    LQR,
    Acrobot,
    Avoiding,
    BallWall,
    CartPole,
    CartPoleSwingUp,
    DoublePendulum,
    MountainCarContinuous,
    MultiGoal,
    Pendulum,
    Pushing,
    Task,
    Trace,
)


class Tripping(Pendulum):
    """A pendulum that terminates at 1.5 rad/s, so that the rows of a batch end at different steps."""

    def terminal(self, state: Tensor, rng: Tensor | None = None, params: object = None) -> Tensor:  # noqa: ARG002
        return state[..., 1].abs() > 1.5


class Talking(Tripping):
    """A tripping pendulum that tells how fast it is and whether it stands upright."""

    def state_info(self, state: Tensor, params: object = None) -> dict[str, Tensor]:  # noqa: ARG002
        return {"speed": state[..., 1].abs(), "upright": state[..., 0].cos() > 0.9}


@dataclass(frozen=True)
class Row:
    """A task and how to draw states and actions for it."""

    name: str
    task: Task
    state_scale: tuple[float, ...]
    """Half the width of the box that random states come from: beyond every clip when doubled, inside when not."""
    env_id: str | None = None
    state_center: tuple[float, ...] | None = None
    """Middle of that box; None is the origin."""
    gradient_spread: float = 0.5
    """Share of the boxes of states and actions in which the task is smooth, two steps deep."""

    def draw(self, n: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return n states (float64) and actions; with spread < 1 inside the clips, with 2 often beyond them."""
        generator = torch.Generator().manual_seed(seed)
        scale = torch.tensor(self.state_scale, dtype=torch.float64)
        state = spread * scale * (2 * torch.rand(n, len(scale), dtype=torch.float64, generator=generator) - 1)
        if self.state_center is not None:
            state = state + torch.tensor(self.state_center, dtype=torch.float64)
        return state, self.actions(n, spread, generator=generator)[0]

    def actions(self, n: int, spread: float, steps: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Return actions, uniform in ``spread`` times the action space: (steps, n, A) in float64, or (steps, n)."""
        if isinstance(self.task.action_space, Discrete):
            return torch.randint(int(self.task.action_space.n), (steps, n), generator=generator)
        high = torch.from_numpy(self.task.action_space.high).double()
        return spread * high * (2 * torch.rand(steps, n, len(high), dtype=torch.float64, generator=generator) - 1)


TASKS = [
    Row("pendulum", Pendulum(), (3.0, 7.0), "latentrl_envs:latentrl/Pendulum-v1"),
    Row("moon pendulum", Pendulum(g=1.62), (3.0, 7.0)),
    Row("tripping", Tripping(), (3.0, 7.0)),
    Row("talking", Talking(), (3.0, 7.0)),
    Row("trace", Trace(), (400.0, 400.0, 5.0, 5.0, 90.0), "latentrl_envs:latentrl/Trace-v0"),
    Row("jittered trace", Trace(horizon=7, max_speed=0.7, start_jitter=1.3), (5.0, 5.0, 0.7, 0.7, 6.0)),
    Row("multi goal", MultiGoal(), (7.0, 7.0), "latentrl_envs:latentrl/MultiGoal-v0"),
    Row(
        "avoiding",
        Avoiding(),
        (1.8, 4.5, 0.0, 0.0, 0.0, 0.0),
        "latentrl_envs:latentrl/Avoiding-v0",
        state_center=(0.0, 4.0, -1.0, -1.0, -1.0, 0.0),
    ),
    Row("acrobot", Acrobot(), (3.0, 3.0, 12.0, 28.0), "latentrl_envs:latentrl/Acrobot-v1"),
    Row("cartpole", CartPole(), (2.4, 2.0, 0.2, 2.0), "latentrl_envs:latentrl/CartPole-v1"),
    Row("sutton cartpole", CartPole(sutton_barto_reward=True), (2.4, 2.0, 0.2, 2.0)),
    Row(
        "mountain car",
        MountainCarContinuous(),
        (0.9, 0.07),
        "latentrl_envs:latentrl/MountainCarContinuous-v0",
        state_center=(-0.3, 0.0),
    ),
    Row("fast mountain car", MountainCarContinuous(goal_velocity=0.03), (0.9, 0.07), state_center=(-0.3, 0.0)),
    Row("lqr", LQR(), (3.0,) * 4, "latentrl_envs:latentrl/LQR-v0"),
    Row("unstable lqr", LQR(state_dim=5, action_dim=1, seed=3, spectral_radius=1.01), (3.0,) * 5),
    Row("cartpole swing-up", CartPoleSwingUp(), (2.0, 3.0, 3.0, 9.0), "latentrl_envs:latentrl/CartPoleSwingUp-v0"),
    Row("double pendulum", DoublePendulum(), (3.0, 3.0, 6.0, 9.0), "latentrl_envs:latentrl/DoublePendulum-v0"),
    Row(
        "ball wall",
        BallWall(),
        (2.0, 2.0, 4.0, 4.0),
        "latentrl_envs:latentrl/BallWall-v0",
        state_center=(1.5, 3.0, 4.0, 1.0),  # not at the wall within two steps
    ),
    # Through the wall below its top in the first step.
    Row("soft wall", BallWall(stiffness=1.5), (0.3, 1.0, 2.0, 2.0), state_center=(3.8, 1.5, 6.0, 1.0)),
    Row("pushing", Pushing(), (0.1, 1.0, 0.1, 1.0), "latentrl_envs:latentrl/Pushing-v0"),
    Row("soft pushing", Pushing(stiffness=2.0), (1.0, 3.0, 1.0, 3.0)),
    # Pressed together for two steps.
    Row("hard pushing", Pushing(stiffness=math.inf), (0.1, 1.0, 0.1, 1.0), state_center=(0.3, 1.5, 0.0, 0.0)),
]
REGISTERED = [row for row in TASKS if row.env_id]


def names(row: object) -> str:
    """Return a row's name, for pytest's ``ids``."""
    return getattr(row, "name", str(row))


def central_differences(function: Callable[[Tensor], Tensor], point: Tensor, step: float = 1e-5) -> Tensor:
    """Return the gradient of a scalar function by central differences, in float64."""
    gradient = torch.zeros_like(point)
    for i in range(point.numel()):
        nudge = torch.zeros_like(point)
        nudge.view(-1)[i] = step
        gradient.view(-1)[i] = (function(point + nudge) - function(point - nudge)) / (2 * step)
    return gradient
