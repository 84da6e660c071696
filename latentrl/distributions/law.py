"""What all laws of the library have in common."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution


class Law(Distribution):
    """A ``torch.distributions.Distribution`` over vectors whose arguments are not validated.

    Modules that build laws make the arguments valid by construction; to look at them at each step would cost 6-8 % of
    a training step on a CPU and a synchronisation on a GPU.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch's own convention)

    def __init__(self, batch_shape: torch.Size, event_shape: torch.Size) -> None:
        super().__init__(batch_shape, event_shape, validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def sample_mode(self) -> Tensor:
        """One of the law's peaks, drawn: of a mixture a component's mode, of a law with one peak the mode."""
        return self.mode

    def tempered(self, temperature: float) -> "Law":
        """The law with another spread, narrower below 1: Gaussian standard deviations times it, logits over it.

        :raises NotImplementedError: a law that no prior has
        """
        raise NotImplementedError(f"{type(self).__name__} has no temperature")

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Tensor, Tensor]:
        """Draw with gradients, and the log density of the draws, which some laws know from the drawing.

        The density is a function of the parameters alone: it has the total derivative, and none by the draw itself.
        """
        value = self.rsample(sample_shape)
        return value, self.log_prob(value)


def common_shape(first: torch.Size, second: torch.Size) -> torch.Size:
    """``torch.broadcast_shapes``, with a short way for equal shapes: it takes longer than a small operation."""
    return first if first == second else torch.broadcast_shapes(first, second)


class Remembering(Law):
    """Another law for the time of one evaluation: asked for the density of its last draw, it need not compute it.

    Only draws with gradients are remembered; see :meth:`Law.rsample_and_log_prob` for what their density is.

    :param law: one with ``rsample``
    """

    has_rsample = True

    def __init__(self, law: Law) -> None:
        self.law = law
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(law.batch_shape, law.event_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        self._drawn = self.law.rsample_and_log_prob(sample_shape)
        return self._drawn[0]

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.law.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._drawn is not None and value is self._drawn[0]:
            return self._drawn[1]
        return self.law.log_prob(value)
