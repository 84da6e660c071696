"""Estimators of the gradient of an expected return over a rollout.

They have the two methods of :class:`RolloutEstimator`; :class:`latentrl.estimators.Pathwise` is the other member.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, one_of
from latentrl.estimators.base import Trajectories


class RolloutEstimator(Protocol):
    """How a rollout draws its actions, and what is differentiated afterwards."""

    def draw(self, law: Distribution) -> Tensor:
        """Actions (N, A) from π(·|s) with batch_shape (N,)."""

    def surrogate(self, trajectories: Trajectories) -> Float[Tensor, " N"]:
        """One number per trajectory; the gradient of their mean estimates that of the expected return."""


@dataclass(frozen=True)
class LikelihoodRatio:
    """Policy gradient, ∇J = E Σ_t (R_t − b_t) ∇log π(a_t|s_t) (Williams 1992; Sutton et al. 2000).

    R_t sums the rewards from step t on. The leave-one-out baseline of trajectory i is b_t = Σ_{j≠i} R_t^j / (N − 1),
    from the same step of the others: it does not depend on trajectory i, so the gradient stays unbiased.

    :param baseline: ``"leave_one_out"`` or None for 0
    :param reward_to_go: leave rewards from before the action out of R_t; they only add noise
    :raises LatentRLError: unknown baseline; later, at the first use, leave-one-out with a single trajectory
    """

    unbiased: ClassVar[bool] = True
    needs_rsample: ClassVar[bool] = False
    needs_differentiable_f: ClassVar[bool] = False
    discrete: ClassVar[bool] = True

    baseline: Literal["leave_one_out"] | None = "leave_one_out"
    reward_to_go: bool = True

    def __post_init__(self) -> None:
        if self.baseline is not None:
            one_of("baseline", self.baseline, ["leave_one_out"])

    def draw(self, law: Distribution) -> Tensor:
        """A draw without gradient."""
        return law.sample()

    def surrogate(self, trajectories: Trajectories) -> Float[Tensor, " N"]:
        log_probs = torch.stack([q.log_prob(a) for q, a in zip(trajectories.laws, trajectories.actions, strict=True)])
        returns = trajectories.rewards.detach()
        if log_probs.shape != returns.shape:
            raise LatentRLError(
                f"the policy's law must have batch_shape {tuple(returns.shape[1:])}, one action vector per "
                f"trajectory, but its log_prob has shape {tuple(log_probs.shape[1:])}"
            )
        returns = returns.flip(0).cumsum(0).flip(0) if self.reward_to_go else returns.sum(0).expand_as(returns)
        advantage = returns - self._others(returns) if self.baseline else returns
        return (log_probs * advantage * trajectories.alive).sum(0)

    @staticmethod
    def _others(returns: Float[Tensor, "T N"]) -> Float[Tensor, "T N"]:
        trajectories = returns.shape[1]
        if trajectories < 2:
            raise LatentRLError("the leave_one_out baseline needs at least 2 trajectories, but 1 was given")
        return (returns.sum(1, keepdim=True) - returns) / (trajectories - 1)
