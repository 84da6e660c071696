"""``latentrl envs``: the tasks that come with the library."""

import inspect
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import gymnasium as gym
from rich.console import Console
from rich.padding import Padding


@dataclass(frozen=True)
class EnvsConfig:
    """List the tasks of latentrl_envs."""


def list_envs(_: EnvsConfig, console: Console | None = None) -> None:
    """Two lines for each id."""
    import_module("latentrl_envs")  # registers them; the package itself is no part of this one
    console = console or Console(highlight=False)
    for name, spec in sorted(gym.registry.items()):
        if spec.namespace != "latentrl":
            continue
        module, _, task = spec.kwargs["func_env"].partition(":")
        what = (inspect.getdoc(getattr(import_module(module), task)) or "").partition("\n")[0].replace("``", "")
        env = gym.make(name)
        shapes = f"{_short(env.observation_space)} → {_short(env.action_space)}, {spec.max_episode_steps} steps"
        console.print(f"[bold]{name}[/bold]  {shapes}")
        console.print(Padding(what, (0, 0, 0, 4)))
    console.print('gymnasium.make("latentrl_envs:ID") makes one, gymnasium.make_vec(…, num_envs=N) many.')


def _short(space: gym.Space[Any]) -> str:
    return f"{type(space).__name__} {space.shape or getattr(space, 'n', '')}".strip()
