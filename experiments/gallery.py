"""What do the tasks look like? One frame and a few trajectories of each, on one page.

    python -m experiments.gallery

Trajectories are those of random actions (held for some steps, so that they lead somewhere), of none, or, on MultiGoal
and Avoiding, of the scripted demonstrators in every mode.
"""

from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from gymnasium.spaces import Discrete
from matplotlib.axes import Axes
from torch import Tensor

import latentrl_envs
from latentrl.files import whole
from latentrl_envs import Avoiding, MultiGoal, Task
from latentrl_envs.experts import demonstrate


@dataclass(frozen=True)
class Args:
    """Draw the gallery."""

    out: Path = Path("experiments/results/gallery.png")
    """The picture."""
    rows: int = 8
    """Trajectories per task."""


@dataclass(frozen=True)
class Panel:
    """What to show of a task."""

    env_id: str
    columns: tuple[int | None, int]
    """State features drawn against one another; None is time."""
    labels: tuple[str, str]
    held: int = 10
    """Steps for which a random action is held; 0 takes no action."""
    steps: int = 100


PANELS = (
    Panel("Pendulum-v1", (None, 0), ("step", "angle (rad)")),
    Panel("CartPole-v1", (0, 2), ("cart (m)", "pole (rad)"), held=1),
    Panel("CartPoleSwingUp-v0", (None, 2), ("step", "pole (rad)"), held=20, steps=240),
    Panel("MountainCarContinuous-v0", (0, 1), ("position", "velocity"), held=30, steps=300),
    Panel("Acrobot-v1", (None, 0), ("step", "first angle (rad)"), held=10, steps=200),
    Panel("DoublePendulum-v0", (None, 1), ("step", "second angle (rad)"), held=0, steps=200),
    Panel("BallWall-v0", (0, 1), ("x", "y"), held=30, steps=20),
    Panel("Pushing-v0", (None, 2), ("step", "object (m)"), held=20, steps=60),
    Panel("LQR-v0", (None, 0), ("step", "first feature"), held=1, steps=50),
    Panel("Trace-v0", (0, 1), ("x (mm)", "y (mm)"), held=15),
    Panel("MultiGoal-v0", (0, 1), ("x", "y")),
    Panel("Avoiding-v0", (1, 0), ("y", "x")),
)


def random_actions(task: Task, rows: int, steps: int, held: int) -> Tensor:
    """Actions (steps, rows, A) or (steps, rows), uniform over the space and held for some steps; or none."""
    generator = torch.Generator().manual_seed(0)
    space = task.action_space
    changes = -(-steps // max(held, 1))
    if isinstance(space, Discrete):
        drawn = torch.randint(int(space.n), (changes, rows), generator=generator)
    else:
        high = torch.from_numpy(space.high) * (held > 0)
        drawn = high * (2 * torch.rand(changes, rows, len(high), generator=generator) - 1)
    return drawn.repeat_interleave(max(held, 1), 0)[:steps]


def roll_out(task: Task, actions: Tensor, rows: int) -> np.ndarray:
    """States (T + 1, rows, S) of the pure functions; not a number once an episode has ended."""
    state = task.initial(torch.rand(rows, task.initial_noise_dim, generator=torch.Generator().manual_seed(1)))
    states, alive = [state], torch.ones(rows, dtype=torch.bool)
    for action in actions:
        alive = alive & ~task.terminal(states[-1]).nan_to_num(0).bool()
        states.append(torch.where(alive[:, None], task.transition(states[-1], action), torch.nan))
    return torch.stack(states).numpy()


def draw_demonstrations(axis: Axes, task: Avoiding | MultiGoal, modes: int, columns: tuple[int, int]) -> None:
    """Two demonstrations of each mode, one colour for each mode."""
    episodes = demonstrate(task, 2 * modes, seed=0)
    ends = episodes.episode_lengths.cumsum()
    for end, length, mode in zip(ends, episodes.episode_lengths, episodes.modes, strict=True):
        path = episodes.observations[end - length : end, list(columns)].T
        axis.plot(*path, color=plt.cm.turbo(mode / (modes - 1)), lw=0.8)
    if isinstance(task, Avoiding):
        for post in task.posts:
            axis.add_patch(plt.Circle((post[columns[0]], post[columns[1]]), task.post_radius, color="0.3"))
    axis.set_aspect("equal")


def draw_frame(axis: Axes, panel: Panel, actions: Tensor) -> None:
    """A picture from the middle of an episode, where the task can draw; LQR shows its matrix instead."""
    env = gym.make(f"latentrl/{panel.env_id}", render_mode=None if panel.env_id == "LQR-v0" else "rgb_array")
    env.reset(seed=0)
    axis.set_axis_off()
    if panel.env_id == "LQR-v0":
        axis.imshow(env.unwrapped.func_env.A.numpy(), cmap="coolwarm")
        axis.set_title("LQR-v0: the matrix A", fontsize=9)
        return
    picture = env.render()
    for action in actions[: panel.steps // 3, 0]:
        if any(env.step(action.numpy() if action.dim() else int(action))[2:4]):
            break
        picture = env.render()  # also for the pen, which leaves its ink on the sheet
    axis.imshow(picture)
    axis.set_title(panel.env_id, fontsize=9)
    env.close()


def draw(panel: Panel, frame: Axes, plot: Axes, rows: int) -> None:
    """Both pictures of a task."""
    task = gym.make(f"latentrl/{panel.env_id}").unwrapped.func_env
    actions = random_actions(task, rows, panel.steps, panel.held)
    draw_frame(frame, panel, actions)
    across, up = panel.columns
    if isinstance(task, Avoiding | MultiGoal):
        draw_demonstrations(plot, task, 24 if isinstance(task, Avoiding) else 4, (across or 0, up))
    else:
        states = roll_out(task, actions, rows)
        for row in range(rows):
            x = np.arange(len(states)) if across is None else states[:, row, across]
            plot.plot(x, states[:, row, up], lw=0.9)
    plot.set_xlabel(panel.labels[0], fontsize=8)
    plot.set_ylabel(panel.labels[1], fontsize=8)
    plot.tick_params(labelsize=7)


def main(args: Args) -> None:
    """Draw every task and write one PNG."""
    registered = {spec for spec in gym.registry if spec.startswith("latentrl/")}
    assert {f"latentrl/{panel.env_id}" for panel in PANELS} == registered, f"{latentrl_envs.__name__} has other tasks"
    figure, axes = plt.subplots(4, 6, figsize=(18, 12), layout="constrained")
    for panel, frame, plot in zip(PANELS, axes[:, ::2].flat, axes[:, 1::2].flat, strict=True):
        draw(panel, frame, plot, args.rows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with whole(args.out) as partial:
        figure.savefig(partial, dpi=90, format="png")
    print(args.out)


if __name__ == "__main__":
    main(tyro.cli(Args))
