"""Overlap of the components of a mixture, two by two."""

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional as F

from latentrl.checks import LatentRLError
from latentrl.distributions.discrete import Bernoullis, OneHots
from latentrl.distributions.gaussian import DiagonalNormal


def bhattacharyya(components: Distribution) -> Tensor:
    """−log ∫ √(p_i p_j) for every pair of K laws, symmetric and 0 on the diagonal.

    :param components: one law with batch_shape (..., K)
    :returns: (..., K, K)
    :raises LatentRLError: laws other than diagonal Gaussians, choices or bits
    """
    if isinstance(components, DiagonalNormal):
        # Not expanded: pairs of scales that the batch shares are few.
        (loc_i, loc_j), (scale_i, scale_j) = _pairs(components.loc), _pairs(torch.atleast_2d(components.scale))
        mean_square = 0.5 * (scale_i.square() + scale_j.square())
        apart = ((loc_i - loc_j).square() * (0.125 / mean_square)).sum(-1)
        return apart + 0.5 * (mean_square / (scale_i * scale_j)).log().sum(-1)
    if isinstance(components, OneHots):
        first, second = _pairs(components.logits)
        mean = 0.5 * (first + second)
        overlaps = [part.logsumexp(-1) for part in mean.split(components.sizes, -1)]
        return -torch.stack(overlaps).sum(0)
    if isinstance(components, Bernoullis):
        ones, zeros = _pairs(F.logsigmoid(components.logits)), _pairs(F.logsigmoid(-components.logits))
        return -torch.logaddexp(0.5 * sum(ones), 0.5 * sum(zeros)).sum(-1)  # type: ignore[arg-type]
    raise LatentRLError(
        f"the overlap of {type(components).__name__} has no closed form here: use DiagonalNormal, OneHots or Bernoullis"
    )


def _pairs(values: Tensor) -> tuple[Tensor, Tensor]:
    """(..., K, 1, D) and (..., 1, K, D)."""
    return values.unsqueeze(-2), values.unsqueeze(-3)
