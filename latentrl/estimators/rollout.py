"""Estimators of the gradient of an expected return over a rollout.

They have the two methods of :class:`RolloutEstimator`; :class:`latentrl.estimators.Pathwise` is the other member.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, count, dimension, instance, layer_sizes, one_of
from latentrl.estimators.base import Trajectories
from latentrl.estimators.pathwise import Pathwise
from latentrl.nets import MLP

PATHWISE = Pathwise()

Value = Callable[[Float[Tensor, "*T N O"], Float[Tensor, "*T 1"]], Float[Tensor, "*T N"]]
"""Expected return from observations on, with so many steps to go: a function, or a module such as
:class:`ValueFunction`."""


class RolloutEstimator(Protocol):
    """How a rollout draws its actions, and what is differentiated afterwards."""

    @property
    def needs_rsample(self) -> bool:
        """Whether drawn actions carry the gradient; where they do not, log π(a|s) does."""

    def draw(self, law: Distribution) -> Tensor:
        """Actions (N, A) from π(·|s) with batch_shape (N,)."""

    def surrogate(self, trajectories: Trajectories) -> Float[Tensor, " N"]:
        """One number per trajectory; the gradient of their mean estimates that of the expected return."""


@dataclass(frozen=True)
class LikelihoodRatio:
    """Policy gradient, ∇J = E Σ_t (R_t − b_t) ∇log π(a_t|s_t) (Williams 1992; Sutton et al. 2000).

    R_t sums the rewards from step t on. The leave-one-out baseline of trajectory i is b_t = Σ_{j≠i} R_t^j / (N − 1),
    from the same step of the others: it does not depend on trajectory i, so the gradient stays unbiased; as it does
    with a value function that was not fitted to these trajectories.

    :param baseline: ``"leave_one_out"``, a value function V(observations, steps to go), or None for 0
    :param reward_to_go: leave rewards from before the action out of R_t; they only add noise
    :raises LatentRLError: unknown baseline; later, at the first use, leave-one-out with a single trajectory
    """

    unbiased: ClassVar[bool] = True
    needs_rsample: ClassVar[bool] = False
    needs_differentiable_f: ClassVar[bool] = False
    discrete: ClassVar[bool] = True

    baseline: Literal["leave_one_out"] | Value | None = "leave_one_out"
    reward_to_go: bool = True

    def __post_init__(self) -> None:
        if self.baseline is not None and not callable(self.baseline):
            one_of("baseline", self.baseline, ["leave_one_out"])

    def draw(self, law: Distribution) -> Tensor:
        """A draw without gradient."""
        return law.sample()

    def surrogate(self, trajectories: Trajectories) -> Float[Tensor, " N"]:
        log_probs = trajectories.log_probs
        assert log_probs is not None  # as ``draw`` gives no gradient
        returns = trajectories.rewards.detach()
        if log_probs.shape != returns.shape:
            raise LatentRLError(
                f"the policy's law must have batch_shape {tuple(returns.shape[1:])}, one action vector per "
                f"trajectory, but its log_prob has shape {tuple(log_probs.shape[1:])}"
            )
        returns = returns.flip(0).cumsum(0).flip(0) if self.reward_to_go else returns.sum(0).expand_as(returns)
        return (log_probs * (returns - self._level(trajectories, returns)) * trajectories.alive).sum(0)

    def _level(self, trajectories: Trajectories, returns: Float[Tensor, "T N"]) -> Tensor | float:
        """b_t of each trajectory."""
        if self.baseline is None:
            return 0.0
        if callable(self.baseline):
            with torch.no_grad():
                return values(self.baseline, trajectories)
        return self._others(returns)

    @staticmethod
    def _others(returns: Float[Tensor, "T N"]) -> Float[Tensor, "T N"]:
        trajectories = returns.shape[1]
        if trajectories < 2:
            raise LatentRLError("the leave_one_out baseline needs at least 2 trajectories, but 1 was given")
        return (returns.sum(1, keepdim=True) - returns) / (trajectories - 1)


@dataclass(frozen=True)
class ShortHorizon:
    """Pathwise gradients in windows of h steps, with a critic for what comes after (SHAC, Xu et al. 2022).

    No gradient flows from one window into the one before; instead V tells what the state at a window's end is worth.
    The variance is that of h steps, whatever the horizon; the bias is the critic's: none with the true V.

    :param window: h
    :param critic: V(observations, steps to go), differentiable by the observations
    """

    unbiased: ClassVar[bool] = False
    needs_rsample: ClassVar[bool] = True
    needs_differentiable_f: ClassVar[bool] = True
    discrete: ClassVar[bool] = False

    window: int
    critic: Value

    def __post_init__(self) -> None:
        count("window", self.window, 1)
        instance("critic", self.critic, Callable)

    def draw(self, law: Distribution) -> Tensor:
        """A draw that carries the gradient."""
        return PATHWISE.draw(law)

    def surrogate(self, trajectories: Trajectories) -> Float[Tensor, " N"]:
        horizon = len(trajectories.rewards)
        ends = list(range(self.window, horizon, self.window))
        if not ends:
            return trajectories.rewards.sum(0)
        alive = trajectories.alive[ends]
        observations = torch.stack([trajectories.observations[end] for end in ends])
        # What an episode ended in need not be finite.
        observations = observations.where(alive.unsqueeze(-1), observations.new_zeros(()))
        to_go = horizon - torch.tensor(ends, dtype=observations.dtype, device=observations.device).unsqueeze(-1)
        worth = _worth(self.critic, observations, to_go) * alive
        return trajectories.rewards.sum(0) + worth.sum(0)


class ValueFunction(nn.Module):
    """A network for V(observation, steps to go), as baseline or as critic; trained by :meth:`loss`.

    :param observation_dim: O
    :param horizon: T, the unit of the steps to go
    :param hidden: layer sizes
    """

    def __init__(self, observation_dim: int, horizon: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.horizon: int = count("horizon", horizon, 1)
        sizes = [dimension("observation_dim", observation_dim, 0) + 1, *layer_sizes("hidden", hidden)]
        self.net: MLP = MLP(sizes)
        self.head: nn.Linear = nn.Linear(sizes[-1], 1)

    def forward(self, observations: Float[Tensor, "*T N O"], to_go: Float[Tensor, "*T 1"]) -> Float[Tensor, "*T N"]:
        share = (to_go / self.horizon).expand(observations.shape[:-1]).unsqueeze(-1)
        return self.head(self.net(torch.cat([observations, share], -1))).squeeze(-1)

    def loss(self, trajectories: Trajectories) -> Float[Tensor, ""]:
        """Mean squared error to the returns that came, over the steps of running episodes."""
        to_go = trajectories.rewards.detach().flip(0).cumsum(0).flip(0)
        error = (values(self, trajectories) - to_go).square() * trajectories.alive
        return error.sum() / trajectories.alive.sum()


def values(function: Value, trajectories: Trajectories) -> Float[Tensor, "T N"]:
    """V at each of the T steps, of zeros where the episode is over; no gradient flows into the observations."""
    horizon = len(trajectories.rewards)
    observations = torch.stack(trajectories.observations[:horizon]).detach()
    observations = observations.where(trajectories.alive.unsqueeze(-1), observations.new_zeros(()))
    to_go = torch.arange(horizon, 0, -1, dtype=observations.dtype, device=observations.device)
    return _worth(function, observations, to_go.unsqueeze(-1))


def _worth(function: Value, observations: Float[Tensor, "*T N O"], to_go: Float[Tensor, "*T 1"]) -> Tensor:
    """One number for each observation, and not one to be spread over others'."""
    found = function(observations, to_go)
    if found.shape != observations.shape[:-1]:
        raise LatentRLError(
            f"a value function must return {tuple(observations.shape[:-1])}, one number for each observation, not "
            f"{tuple(found.shape)}: a network's last dimension of 1 is to be squeezed"
        )
    return found
