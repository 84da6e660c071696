"""What all gradient estimators of an expectation have in common."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, count
from latentrl.types import Estimate

Integrand: TypeAlias = Callable[[Tensor], Tensor]
"""f: z (S, ..., B, Z) -> (S, ..., B)."""


class Estimator(nn.Module):
    """A rule for the gradient of E_q[f(z)]: ``estimator(q, f, num_samples) -> Estimate(value, surrogate)``.

    ``q`` has batch_shape (..., B); ``f`` maps z (S, ..., B, Z) to (S, ..., B); both outputs are means over S, (..., B).
    The gradient of ``surrogate`` is the estimate for the parameters of q *and* for those inside f. Where f itself
    reads a parameter of q, such as log q(z) in an ELBO, that too is a path through f.

    f may be called more than once, and elsewhere than at draws from q; last of all at what ``value`` is the mean over.

    ``num_samples=None`` is one draw; f may then be given z without the dimension S, as ``q.sample()`` gives it.

    Members work under ``torch.func.vmap(torch.func.grad(...), randomness="different")``.
    """

    unbiased: ClassVar[bool]
    """The expected gradient of the surrogate is the gradient of the expectation."""
    needs_rsample: ClassVar[bool]
    """q must have ``rsample``."""
    needs_differentiable_f: ClassVar[bool]
    """f must be differentiable in z: jumps in f are invisible, so the gradient is wrong without a warning."""
    discrete: ClassVar[bool]
    """Works for q over a discrete set."""
    multi_sample: ClassVar[bool] = False
    """Estimates the gradient of a bound whose draws share one logarithm, not of E_q[f(z)]."""

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        raise NotImplementedError


class Trajectories(NamedTuple):
    """N rollouts of T steps, as rollout estimators read them."""

    log_probs: Float[Tensor, "T N"] | None
    """log π(a_t|s_t); None where the actions carry the gradient instead."""
    rewards: Float[Tensor, "T N"]
    """Zero from the end of an episode on."""
    alive: Bool[Tensor, "T N"]
    """The episode had not ended before step t."""
    observations: list[Tensor]
    """T + 1 observations (N, O), the one after the last step included."""


def draw_count(num_samples: int | None) -> int:
    """The number of draws; None is one."""
    return 1 if num_samples is None else count("num_samples", num_samples, 1)


def sum_of_others(values: Float[Tensor, "S *shape"]) -> Float[Tensor, "S *shape"]:
    """Σ_{r≠s} x_r. The sum over all less x_s would be rounding errors where x_s is by far the largest."""
    zero = torch.zeros_like(values[:1])
    before = torch.cat([zero, values.cumsum(0)[:-1]])
    return before + torch.cat([values.flip(0).cumsum(0)[:-1].flip(0), zero])


def evaluate(f: Integrand, z: Tensor, q: Distribution) -> Float[Tensor, "S *batch"]:
    """f(z), with the shape checked: a missing dimension would broadcast into a wrong gradient unnoticed."""
    cost = f(z)
    expected = z.shape[: z.dim() - len(q.event_shape)]
    if cost.shape != expected:
        raise LatentRLError(
            f"f must map z {tuple(z.shape)} to {tuple(expected)}, one number per draw from q, "
            f"but returned {tuple(cost.shape)}"
        )
    return cost
