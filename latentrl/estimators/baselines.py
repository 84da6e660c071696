"""Baselines of the score function: what is subtracted from the cost to lower the variance, at no bias.

A baseline is a module that maps the detached costs of one call, (S, ..., B), to a tensor that broadcasts with them.
The gradient stays unbiased if the number subtracted from a cost does not depend on the draw of that cost.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentrl.checks import LatentRLError


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
        if not 0.0 <= decay < 1.0:
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
                "the mean of the others (with itself included the gradient would shrink by 1 - 1/num_samples)"
            )
        return (cost.sum(0) - cost) / (samples - 1)
