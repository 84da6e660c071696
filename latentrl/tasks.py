"""What a rollout takes: a task of pure functions, and a policy."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentrl.checks import LatentRLError

Policy: TypeAlias = Callable[[dict[str, Tensor], Tensor], Distribution]
"""π: parameters, observation (N, O) -> law of the action, batch_shape (N,), event_shape (A,), or () where the task's
actions are choices."""


class FunctionalTask(Protocol):
    """Pure functions batched over leading dimensions, the state one tensor (..., S): any ``latentrl_envs`` task."""

    @property
    def initial_noise_dim(self) -> int:
        """How many uniforms in [0, 1) ``initial`` takes."""

    def initial(self, rng: Tensor) -> Tensor:
        """First state (..., S) from uniforms (..., initial_noise_dim)."""

    def transition(self, state: Tensor, action: Tensor) -> Tensor:
        """Next state (..., S)."""

    def observation(self, state: Tensor) -> Tensor:
        """Observation (..., O)."""

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Reward of one step, (...,)."""

    def terminal(self, state: Tensor) -> Tensor:
        """Whether the episode ends in ``state``, bool (...,)."""


def checked_task(task: Any) -> FunctionalTask:
    """Return a task that has all of a task's functions.

    :raises LatentRLError: it has not
    """
    lacking = [name for name in vars(FunctionalTask) if not name.startswith("_") and not hasattr(task, name)]
    if lacking:
        raise LatentRLError(
            f"task must be pure functions, such as any task of latentrl_envs, but {task!r} has no {', '.join(lacking)}"
        )
    if isinstance(task, type):
        raise LatentRLError(f"task must be an object, but the class {task.__name__} was given: add parentheses")
    return task


def going_on(running: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """The same values, without gradient where a trajectory is over: what a task makes of them there is dropped, but a
    derivative that is infinite would make NaN of the zero that comes back."""
    masks = [running.reshape(running.shape + (1,) * (value.ndim - running.ndim)) for value in values]
    return tuple(value.where(mask, value.detach()) for value, mask in zip(values, masks, strict=True))


def check_action(task: FunctionalTask, running: Tensor, action: Tensor) -> None:
    """Whether there is one action of the task for each trajectory; otherwise it would be spread over all of them.

    :raises LatentRLError: there is not
    """
    space = getattr(task, "action_space", None)
    own = action.shape[running.ndim :] if space is None else space.shape or ()
    wanted = (*running.shape, *own)
    if tuple(action.shape) != wanted:
        hint = ": the policy's mean is (N, A), also where A is 1, and its law has the event_shape (A,)" if own else ""
        raise LatentRLError(
            f"actions must have shape {wanted}, one {'of ' + str(space) if space is not None else 'action'} for each "
            f"trajectory, not {tuple(action.shape)}{hint}"
        )


def first_of(parameters: Mapping[str, Tensor]) -> Tensor:
    """The tensor whose dtype and device a rollout has.

    :raises LatentRLError: there are no parameters
    """
    if not parameters:
        raise LatentRLError("a gradient is by parameters, but there are none: give the policy's, by name")
    return next(iter(parameters.values()))


class _Plain:
    """A task whose functions are computed as they are written, in no lower precision than the state's."""

    def __init__(self, task: Any, device: str) -> None:
        self._task, self._device = task, device

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._task, name)
        if not callable(function):
            return function

        def call(state: Tensor, *others: Tensor) -> Any:
            with torch.autocast(self._device, enabled=False):
                return function(state, *(part.to(state) if part.is_floating_point() else part for part in others))

        return call


def plainly(task: FunctionalTask, device: torch.device) -> FunctionalTask:
    """The task without autocast, in which it would be another task; itself where there is none."""
    return _Plain(task, device.type) if precision_on(device)[0] else task


def precision_on(device: torch.device) -> tuple[bool, torch.dtype | None]:
    """Whether autocast is on for a device, and with which type."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return False, None
    return True, torch.get_autocast_dtype(device.type)
