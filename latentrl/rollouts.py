"""Expected return over a rollout, as an objective whose gradient an estimator gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, count
from latentrl.estimators import RolloutEstimator, Trajectories
from latentrl.estimators.combinations import Combination
from latentrl.estimators.rollout import ShortHorizon
from latentrl.rollout_gradients import combined_gradient
from latentrl.types import Estimate

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


@dataclass(frozen=True)
class ExpectedReturn:
    """J = E Σ_{t<T} r_t, from ``num_envs`` trajectories of at most ``horizon`` steps, without discount.

    Calling it with parameters rolls out once and returns the scalar whose gradient estimates ∇J, ready for
    :func:`latentrl.variance.gradient_variance` or, with its sign turned, for an optimiser. Noise comes from torch's
    global generator, dtype and device from the first parameter.

    :param task: pure functions; differentiable ones for :class:`~latentrl.estimators.Pathwise`
    :param policy: (parameters, observation (N, O)) -> law with batch_shape (N,)
    :param estimator: ``LikelihoodRatio()``, ``Pathwise()``, ``ShortHorizon(…)`` or a combination of the first two
    :param horizon: T, steps
    :param num_envs: N, trajectories per gradient
    :raises LatentRLError: ``horizon`` or ``num_envs`` below 1
    """

    task: FunctionalTask
    policy: Policy
    estimator: RolloutEstimator | Combination
    horizon: int
    num_envs: int

    def __post_init__(self) -> None:
        count("horizon", self.horizon, 1)
        count("num_envs", self.num_envs, 1)

    @property
    def env_steps(self) -> int:
        """Environment steps that one gradient costs."""
        return self.horizon * self.num_envs

    def __call__(self, parameters: dict[str, Tensor]) -> Float[Tensor, ""]:
        return self.estimate(parameters).surrogate.mean()

    def estimate(self, parameters: dict[str, Tensor]) -> Estimate:
        """Returns and surrogates, one per trajectory, (N,)."""
        if isinstance(self.estimator, Combination):
            returns, gradient = combined_gradient(
                self.estimator, self.task, self.policy, parameters, self.horizon, self.num_envs
            )
            linear = torch.stack([(parameters[name] * part).sum() for name, part in gradient.items()]).sum()
            return Estimate(returns, linear.expand(returns.shape))
        trajectories = self.roll_out(self.estimator, parameters)
        return Estimate(trajectories.rewards.detach().sum(0), self.estimator.surrogate(trajectories))

    def roll_out(self, estimator: RolloutEstimator, parameters: dict[str, Tensor]) -> Trajectories:
        """Play once, with actions drawn as an estimator wants them."""
        task, like = self.task, next(iter(parameters.values()))
        noise = torch.rand(self.num_envs, task.initial_noise_dim, dtype=like.dtype, device=like.device)
        state = task.initial(noise)
        running = ~task.terminal(state)
        window = estimator.window if isinstance(estimator, ShortHorizon) else self.horizon
        laws, actions, rewards, alive, observations = [], [], [], [], [task.observation(state)]
        for step in range(self.horizon):
            if step and step % window == 0:
                # What came before is not differentiated; the last observation, for the critic, still is.
                state = state.detach()
                law = self.policy(parameters, observations[-1].detach())
            else:
                law = self.policy(parameters, observations[-1])
            action = estimator.draw(law)
            following = task.transition(state, action)
            reward = task.reward(state, action, following)
            if reward.shape != running.shape:
                raise LatentRLError(f"the reward must have shape {tuple(running.shape)}, not {tuple(reward.shape)}")
            laws.append(law)
            actions.append(action)
            rewards.append(reward.where(running, reward.new_zeros(())))
            alive.append(running)
            # A finished trajectory stays where it ended: terminal, and nothing beyond can overflow into a gradient.
            state = following.where(running.unsqueeze(-1), state)
            running = ~task.terminal(state)
            observations.append(task.observation(state))
        return Trajectories(laws, actions, torch.stack(rewards), torch.stack(alive), observations)
