"""Baselines of the score function: what is subtracted from the cost to lower the variance, at no bias.

A baseline is a module that maps the detached costs of one call, (S, ..., B), to a tensor that broadcasts with them, or,
if it looks at q or the draws too, a :class:`LawBaseline`.
The gradient stays unbiased if the number subtracted from a cost does not depend on the draw of that cost.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, at_least, instance
from latentrl.distributions.discrete import Discrete
from latentrl.estimators.finite import LEAST_LOGIT


class LawBaseline(nn.Module):
    """A baseline that looks at more than the costs: it makes the whole term of the score function itself."""

    def score_term(self, q: Distribution, z: Tensor, cost: Float[Tensor, "S *batch"]) -> Float[Tensor, "S *batch"]:
        """A tensor whose gradient is (f − b) ∇log q(z), for draws z and their detached costs."""
        raise NotImplementedError


def checked_baseline(baseline: Any) -> nn.Module | None:
    """:raises LatentRLError: a baseline that is no module"""
    if baseline is not None and not isinstance(baseline, nn.Module):
        raise LatentRLError(f"baseline must be a module, but {baseline!r} was given: use LeaveOneOut()")
    return baseline


def score_term(
    baseline: nn.Module | None, q: Distribution, z: Tensor, cost: Float[Tensor, "S *batch"]
) -> Float[Tensor, "S *batch"]:
    """A tensor whose gradient is (f − b) ∇log q(z), for draws z and their detached costs; b is 0 without a baseline."""
    if isinstance(baseline, LawBaseline):
        return baseline.score_term(q, z, cost)
    return (cost if baseline is None else cost - baseline(cost)) * q.log_prob(z)


class RunningMean(nn.Module):
    """Exponential moving average of past costs, one number for the whole batch.

    It is read *before* it is updated with the current costs; the other order subtracts a share of each cost from
    itself and shrinks the gradient by ``decay``. Like Adam's moments it is corrected for its start from zero, and 0
    before the first cost. It learns in training mode only: call ``eval()`` before a measurement or under
    ``torch.func``, where no buffer may change.

    :param decay: weight of the past, in [0, 1)
    """

    average: Float[Tensor, ""]
    weight: Float[Tensor, ""]

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        if not 0.0 <= at_least("decay", decay, 0.0) < 1.0:
            raise LatentRLError(f"decay must be in [0, 1), but {decay!r} was given")
        self.decay = decay
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, cost: Float[Tensor, "S *batch"]) -> Float[Tensor, ""]:
        """:raises LatentRLError: in training mode under a ``torch.func`` transform."""
        # Before the first cost this is 0 over the smallest number, 0; comparing would synchronise a GPU.
        baseline = self.average / self.weight.clamp_min(torch.finfo(self.weight.dtype).tiny)
        if self.training:
            self._update(cost.mean())
        return baseline

    @torch.no_grad()
    def _update(self, cost: Tensor) -> None:
        try:
            self.average.lerp_(cost.to(self.average.dtype), 1.0 - self.decay)
        except RuntimeError as error:
            raise LatentRLError("RunningMean cannot learn under torch.func transforms: call eval() first") from error
        self.weight.lerp_(torch.ones_like(self.weight), 1.0 - self.decay)


class LeaveOneOut(nn.Module):
    """Mean cost of the *other* samples, b_s = Σ_{r≠s} f_r / (S − 1) (Mnih & Rezende 2016; Kool et al. 2019).

    The mean over all S samples contains the cost itself and would shrink the gradient by 1 − 1/S.
    """

    def forward(self, cost: Float[Tensor, "S *batch"]) -> Float[Tensor, "S *batch"]:
        """:raises LatentRLError: fewer than two samples."""
        samples = cost.shape[0]
        if samples < 2:
            raise LatentRLError(
                f"LeaveOneOut needs num_samples of at least 2, but {samples} was given: the baseline of a sample is "
                "the mean of the others (with itself included the gradient would shrink by 1 - 1/num_samples); use "
                "RunningMean or LearnedBaseline with a single one"
            )
        return (cost.sum(0) - cost) / (samples - 1)


class LearnedBaseline(LawBaseline):
    """b(x), a network's guess of the cost from what q knows of x: q's own parameters (Mnih & Gregor 2014).

    Works with a single draw, and where costs differ widely between elements of the batch. The surrogate does not train
    the network: add its loss to that of the model, or give it an optimizer of its own::

        estimate = ScoreFunction(baseline)(q, f)
        loss = estimate.surrogate.mean() + baseline.loss(q, estimate.value)

    :param network: (..., B, P) -> (..., B, 1); it reads the D logits of laws over vectors of zeros and ones (P = D), of
        all others mean and standard deviation side by side (P = 2D)
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: nn.Module = instance("network", network, Callable)

    def forward(self, q: Distribution) -> Float[Tensor, "*batch"]:
        """b for every element of the batch.

        :raises LatentRLError: q has no parameters that the network could read, or it returns another shape
        """
        features = _features(q)
        guess = self.network(features)
        if guess.shape != (*features.shape[:-1], 1):
            raise LatentRLError(
                f"the network of LearnedBaseline must map {tuple(features.shape)} to {(*features.shape[:-1], 1)}, "
                f"but returned {tuple(guess.shape)}"
            )
        return guess.squeeze(-1)

    def loss(self, q: Distribution, cost: Float[Tensor, "*samples_and_batch"]) -> Float[Tensor, ""]:
        """Mean squared error of b, (S, ..., B) or (..., B): the mean cost, ``Estimate.value``, has the same gradient.

        Neither q nor f gets a gradient from it.
        """
        return (self(q) - cost.detach()).square().mean()

    def score_term(self, q: Distribution, z: Tensor, cost: Float[Tensor, "S *batch"]) -> Float[Tensor, "S *batch"]:
        return (cost - self(q).detach()) * q.log_prob(z)


def _features(q: Distribution) -> Float[Tensor, "*batch P"]:
    """Numbers that tell q from other laws of its kind, without gradient."""
    if isinstance(q, Discrete):
        return q.logits.detach().clamp_min(LEAST_LOGIT)
    try:
        return torch.cat([q.mean, q.stddev], -1).detach()
    except NotImplementedError as error:
        raise LatentRLError(
            f"LearnedBaseline reads mean and standard deviation of q, and {type(q).__name__} has none in closed form: "
            "use LeaveOneOut with 2 samples or more, or RunningMean"
        ) from error
