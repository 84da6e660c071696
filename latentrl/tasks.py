"""What a rollout takes: a task of pure functions, and a policy."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from torch import Tensor
from torch.distributions import Distribution

Policy: TypeAlias = Callable[[dict[str, Tensor], Tensor], Distribution]
"""π: parameters, observation (N, O) -> law of the action, batch_shape (N,), event_shape (A,)."""


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


def going_on(running: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """The same values, without gradient where a trajectory is over: what a task makes of them there is dropped, but a
    derivative that is infinite would make NaN of the zero that comes back."""
    mask = running.unsqueeze(-1)
    return tuple(value.where(mask, value.detach()) for value in values)
