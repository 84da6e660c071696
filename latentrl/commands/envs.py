"""``latentrl envs``: the tasks that come with the library."""

import inspect
from dataclasses import dataclass
from importlib import import_module

import gymnasium as gym
from rich.console import Console
from rich.table import Column, Table


@dataclass(frozen=True)
class EnvsConfig:
    """List the tasks of latentrl_envs."""


def list_envs(_: EnvsConfig, console: Console | None = None) -> None:
    """One row for each id."""
    import latentrl_envs  # noqa: F401 - registers them

    console = console or Console()
    table = Table(Column("id", no_wrap=True), "observations", "actions", "steps", Column("what", ratio=1))
    for name, spec in sorted(gym.registry.items()):
        if spec.namespace != "latentrl":
            continue
        module, _, task = spec.kwargs["func_env"].partition(":")
        what = inspect.getdoc(getattr(import_module(module), task)) or ""
        env = gym.make(name)
        spaces = (_short(env.observation_space), _short(env.action_space))
        table.add_row(name, *spaces, str(spec.max_episode_steps), what.partition("\n")[0].replace("``", ""))
    console.print(table)
    console.print('gymnasium.make("latentrl_envs:ID") makes one, gymnasium.make_vec(…, num_envs=N) many.')


def _short(space: gym.Space) -> str:
    return f"{type(space).__name__} {space.shape or getattr(space, 'n', '')}".strip()
