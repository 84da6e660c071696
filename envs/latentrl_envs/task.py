"""What a task is: pure functions on tensors, written once and run alone, batched, under vmap or in a compiled loop."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

import math
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.envs.registration import load_env_creator
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box, Discrete
from torch import Tensor


class Task(FuncEnv[Tensor, Tensor, Tensor, Tensor, Tensor, Any, Any]):
    """A Gymnasium ``FuncEnv`` in torch.

    A subclass writes ``initial``, ``transition``, ``observation`` and ``reward``. The state is one tensor (..., S),
    float32 or float64, with any leading dimensions; an action is (..., A) where ``action_space`` is a Box and int64
    (...,), counted from 0, where it is Discrete; an observation is (..., O), a reward (...,). A state holds all that an
    episode remembers, flags included, as numbers. Nothing is drawn inside: the random numbers of ``initial`` are its
    argument ``rng``, uniforms in [0, 1) of shape (..., initial_noise_dim). Every function returns new tensors and
    changes none. ``params`` is there because ``FuncEnv`` has it; these tasks take their constants in the constructor.
    """

    observation_space: Box
    action_space: Box | Discrete
    initial_noise_dim: int
    """How many uniforms ``initial`` needs."""
    differentiable: ClassVar[bool]
    """True if gradients reach the state, and an action of a Box, from the next state and the reward; the class says
    where they do not."""
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def terminal(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return whether ``state`` ends the episode, bool (...,): never, unless a task says otherwise."""
        return torch.zeros(state.shape[:-1], dtype=torch.bool, device=state.device)

    def state_info(self, state: Tensor, params: Any = None) -> dict[str, Tensor]:
        """Return what ``infos`` tell of a state, each (...,): nothing, unless a task says otherwise."""
        return {}

    def render_begin(self, render_state: Any) -> None:
        """Take note that an episode begins: where pictures add to one another, they do no longer."""

    def render_image(
        self, state: Tensor, render_state: Any, params: Any = None, action: Tensor | None = None
    ) -> tuple[Any, np.ndarray]:
        """Draw one state (S,), and the action (A,) that led to it if there was one."""
        raise NotImplementedError


def columns(*features: Tensor) -> Tensor:
    """Stack features (...,) to (..., D), each of them contiguous in memory.

    Tasks compute with single features. Where these lie apart in memory, as ``torch.stack(features, -1)`` puts them, a
    processor cannot work on several rows at once, and a step takes two to five times as long.
    """
    return torch.stack(features).movedim(0, -1)


def build_task(func_env: Task | str, **task_kwargs: Any) -> Task:
    """Return ``func_env`` itself, or build it from "module:Class" and keyword arguments (how a registered id names it).

    Raises:
        TypeError: an argument that the task does not know, or arguments for a task that is built already.
        ValueError: a name that is not of the form "module:Class", or a module without such a class.
    """
    if isinstance(func_env, str):
        try:
            creator = load_env_creator(func_env)
        except (ValueError, AttributeError, ModuleNotFoundError) as error:
            missing = getattr(error, "name", None)
            if isinstance(error, ModuleNotFoundError) and not func_env.startswith(str(missing)):
                raise  # of a package that the task itself needs
            raise ValueError(
                f'{func_env!r} names no task ({error}): give "module:Class", such as "latentrl_envs.pendulum:Pendulum"'
            ) from error
        task: Any = creator(**task_kwargs)
    else:
        task = func_env
    if not isinstance(task, Task):
        raise TypeError(f"func_env must be a latentrl_envs Task or 'module:Class' naming one, got {func_env!r}")
    if task is func_env and task_kwargs:
        raise TypeError(f"unexpected arguments {sorted(task_kwargs)}: give them to {type(task).__name__}(...) itself")
    return task


def checked_number(name: str, value: float, minimum: float = -math.inf) -> float:
    """Return ``value`` as a float if it is a finite number of at least ``minimum``; otherwise raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not (math.isfinite(value) and value >= minimum):
        floor = "" if minimum == -math.inf else f" and at least {minimum:g}"
        raise ValueError(f"{name} must be finite{floor}, got {value!r}")
    return float(value)


def checked_stiffness(stiffness: float, minimum: float) -> float:
    """Return the stiffness of a contact, infinite beyond 1e30, where its products leave float32."""
    if isinstance(stiffness, float | np.floating) and stiffness == math.inf:
        return math.inf
    found = checked_number("stiffness", stiffness, minimum=minimum)
    return math.inf if found > 1e30 else found


def checked_count(name: str, value: int) -> int:
    """Return ``value`` as an int if it is an integer of at least 1; otherwise raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)
