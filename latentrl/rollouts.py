"""Expected return over a rollout, as an objective whose gradient an estimator gives."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from latentrl.checks import LatentRLError, count, function
from latentrl.estimators import RolloutEstimator, Trajectories
from latentrl.estimators.combinations import Combination
from latentrl.estimators.rollout import ShortHorizon
from latentrl.rollout_core import Core
from latentrl.rollout_gradients import combined_gradient
from latentrl.rollout_segments import COMPILED_SEGMENT, Recomputed, Segments
from latentrl.tasks import FunctionalTask, Policy, checked_task, first_of, plainly
from latentrl.types import Estimate


@dataclass(frozen=True)
class ExpectedReturn:
    """J = E Σ_{t<T} r_t, from ``num_envs`` trajectories of at most ``horizon`` steps, without discount.

    Calling it with parameters rolls out once and returns the scalar whose gradient estimates ∇J, ready for
    :func:`latentrl.variance.gradient_variance` or, with its sign turned, for an optimiser. Noise comes from torch's
    global generator, dtype and device from the first parameter. A start that is terminal earns nothing, where an
    environment would play on.

    :param task: pure functions; differentiable ones for :class:`~latentrl.estimators.Pathwise`
    :param policy: (parameters, observation (N, O)) -> law with batch_shape (N,)
    :param estimator: ``LikelihoodRatio()``, ``Pathwise()``, ``ShortHorizon(…)`` or a combination of the first two
    :param horizon: T, steps
    :param num_envs: N, trajectories per gradient
    :param segment: how many steps to keep for the way back at a time: little memory, at the price of playing each
        segment twice. The numbers drawn, the value and the gradient are those of a rollout in one piece
    :param compiled: fuse the steps of a segment into compiled code (5 steps where ``segment`` is None), for autograd
        alone. The first call compiles for up to a minute. The task and the policy must be pure functions: what else
        they read is read then. A last, shorter segment is compiled too, so let ``segment`` divide the horizon
    :raises LatentRLError: ``horizon``, ``num_envs`` or ``segment`` below 1, something else than a task, a function and
        an estimator of returns; later, actions, rewards or values that are not one for each trajectory; a policy
        that, with its law, draws otherwise than with torch.rand or torch.randn, where there are segments; a rollout
        that cannot be compiled
    """

    task: FunctionalTask
    policy: Policy
    estimator: RolloutEstimator | Combination
    horizon: int
    num_envs: int
    segment: int | None = None
    compiled: bool = False

    def __post_init__(self) -> None:
        checked_task(self.task)
        function("policy", self.policy)
        count("horizon", self.horizon, 1)
        count("num_envs", self.num_envs, 1)
        if self.segment is not None:
            count("segment", self.segment, 1)
        if not isinstance(self.estimator, Combination) and not hasattr(self.estimator, "draw"):
            raise LatentRLError(
                "an expected return is differentiated by LikelihoodRatio, Pathwise, ShortHorizon or a combination, "
                f"not by {self.estimator!r}"
            )
        if isinstance(self.estimator, Combination) and (self.segment is not None or self.compiled):
            raise LatentRLError(
                f"{type(self.estimator).__name__} goes back step by step anyway: leave segment and compiled out"
            )

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
                self.estimator, self._plain(parameters), self.policy, parameters, self.horizon, self.num_envs
            )
            linear = torch.stack([(parameters[name] * part).sum() for name, part in gradient.items()]).sum()
            return Estimate(returns, linear.expand(returns.shape))
        trajectories = self.roll_out(self.estimator, parameters)
        return Estimate(trajectories.rewards.detach().sum(0), self.estimator.surrogate(trajectories))

    def roll_out(self, estimator: RolloutEstimator, parameters: dict[str, Tensor]) -> Trajectories:
        """Play once, with actions drawn as an estimator wants them."""
        if self.compiled and any(map(is_functorch_wrapped_tensor, parameters.values())):
            raise LatentRLError(
                "a compiled rollout works with autograd alone, not under torch.func (vmap, grad) and so not in "
                "gradient_variance: leave compiled out there; segment works"
            )
        core = Core(self._plain(parameters), self.policy, estimator, self._kernels)
        state = core.initial(self.num_envs, first_of(parameters))
        window = estimator.window if isinstance(estimator, ShortHorizon) else self.horizon
        breaks = set(range(window, self.horizon, window))
        length = self.segment or (COMPILED_SEGMENT if self.compiled else None)
        if length is None:
            return core.trajectories(parameters, state, self.horizon, breaks)
        draws, numbers = core.draw(parameters, state, self.horizon)
        cuts = sorted({*range(0, self.horizon, length), *breaks, self.horizon})
        segments = Segments(core, cuts, breaks, tuple(parameters), draws, self.compiled)
        _, observations, rewards, alive, *log_probs = Recomputed.apply(segments, state, *parameters.values(), *numbers)
        seen = [core.task.observation(state), *observations.unbind(0)]
        return Trajectories(log_probs[0] if log_probs else None, rewards, alive, seen)

    def _plain(self, parameters: dict[str, Tensor]) -> FunctionalTask:
        return plainly(self.task, first_of(parameters).device)

    @cached_property
    def _kernels(self) -> dict[Any, Callable[..., Any]]:
        """Compiled segments."""
        return {}
