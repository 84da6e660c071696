"""The baseline of least variance."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from latentrl.checks import LatentRLError
from latentrl.distributions.discrete import Bernoullis, OneHots
from latentrl.distributions.gaussian import DiagonalNormal
from latentrl.estimators.base import sum_of_others
from latentrl.estimators.baselines import LawBaseline


class OptimalBaseline(LawBaseline):
    """The constant of least variance, another one for each of q's own parameters, b = E[f ‖s‖²] / E[‖s‖²].

    s is the score, the derivative of log q(z) by a block of parameters: a coordinate of a diagonal Gaussian's mean or
    standard deviation, a bit's logit, the logits of one choice. (One number for all of them would be a compromise:
    for f = (z − k)² and N(μ, σ²) the best ones for μ and σ differ by 2σ².) Both expectations are means over the
    *other* samples, so that the gradient is unbiased; their ratio moves with f where a constant is added to it.
    """

    def score_term(self, q: Distribution, z: Tensor, cost: Float[Tensor, "S *batch"]) -> Float[Tensor, "S *batch"]:
        """:raises LatentRLError: fewer than two samples, or a law whose scores are not known here."""
        if len(cost) < 2:
            raise LatentRLError(
                f"OptimalBaseline needs num_samples of at least 2, but {len(cost)} was given: the baseline of a sample "
                "is estimated from the others; use RunningMean or LearnedBaseline with a single one"
            )
        terms = [
            ((cost.unsqueeze(-1) - self(cost, part.squared_length)) * part.score * part.parameter).sum(-1)
            for part in _scores(q, z)
        ]
        return torch.stack(terms).sum(0)

    def forward(
        self, cost: Float[Tensor, "S *batch"], squared_length: Float[Tensor, "S *batch P"]
    ) -> Float[Tensor, "S *batch P"]:
        """b for every sample and parameter, from the costs and squared scores of the other samples."""
        # If the others' scores are all 0 they know nothing: b = 0 rather than 0/0.
        total = sum_of_others(squared_length).clamp_min(torch.finfo(cost.dtype).tiny)
        return sum_of_others(cost.unsqueeze(-1) * squared_length) / total


class _Score(NamedTuple):
    """The score of some of a law's parameters."""

    parameter: Float[Tensor, "*batch P"]
    score: Float[Tensor, "S *batch P"]
    """Derivative of log q(z) by the parameter, with mean 0; without gradient."""
    squared_length: Float[Tensor, "S *batch P"]
    """Of the part of the score that shares its baseline."""


def _scores(q: Distribution, z: Tensor) -> list[_Score]:
    if isinstance(q, DiagonalNormal):
        scale = q.stddev.detach()
        whitened = (z - q.loc.detach()) / scale
        by_loc, by_scale = whitened / scale, (whitened.square() - 1.0) / scale
        return [_Score(q.loc, by_loc, by_loc.square()), _Score(q.stddev, by_scale, by_scale.square())]
    if isinstance(q, Bernoullis):
        score = z - q.probs.detach()
        return [_Score(q.logits, score, score.square())]
    if isinstance(q, OneHots):
        score = z - q.probs.detach()
        lengths = q.each_choice(score, lambda part: part.square().sum(-1, keepdim=True).expand_as(part))
        return [_Score(q.logits, score, lengths)]
    raise LatentRLError(
        f"OptimalBaseline needs the score of each parameter of q, and knows those of DiagonalNormal, Bernoullis and "
        f"OneHots, not of {type(q).__name__}: use LeaveOneOut, which works for all laws"
    )
