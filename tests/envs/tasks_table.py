"""One table of tasks, over which the laws of tasks and environments run."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from latentrl_envs import Pendulum, Task, Trace


class Tripping(Pendulum):
    """A pendulum that terminates at 1.5 rad/s, so that the rows of a batch end at different steps."""

    def terminal(self, state: Tensor, rng: Tensor | None = None, params: object = None) -> Tensor:  # noqa: ARG002
        return state[..., 1].abs() > 1.5


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
    Row("trace", Trace(), (400.0, 400.0, 5.0, 5.0, 90.0), "latentrl_envs:latentrl/Trace-v0"),
    Row("jittered trace", Trace(horizon=7, max_speed=0.7, start_jitter=1.3), (5.0, 5.0, 0.7, 0.7, 6.0)),
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
