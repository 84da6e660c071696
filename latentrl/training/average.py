"""An exponential moving average of the weights, which predicts while the weights themselves are trained."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from latentrl.checks import LatentRLError


class WeightAverage:
    """θ̄_t = Σ_{i≤t} d^{t−i} θ_i / Σ_{i≤t} d^{t−i}, over the weights θ_i after each update.

    The start from nothing is corrected as in Adam (Kingma & Ba 2015, section 3), so that θ̄_1 = θ_1 and early averages
    do not remember the initial weights. One step is θ̄ += w_t (θ_t − θ̄), w_t = (1 − d) / (1 − d^t). For constant d, this
    is Polyak averaging (1992) with a horizon of about 1 / (1 − d) updates. With ``updates`` set to 0 it begins anew.

    :meth:`show` exchanges weights and average in the parameters, :meth:`hide` exchanges them back; nothing is copied.

    :param parameters: what is averaged; buffers are not
    :param decay: d
    :raises LatentRLError: d outside (0, 1)
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay: float = check_decay(decay)
        self._parameters = list(parameters)
        self._other: list[Tensor] = [p.detach().clone() for p in self._parameters]
        self.updates: int = 0
        self.shown: bool = False

    @torch.no_grad()
    def update(self) -> None:
        """Count the present weights in."""
        self.updates += 1
        weight = (1.0 - self.decay) / (1.0 - self.decay**self.updates)
        torch._foreach_lerp_(self._other, [p.detach() for p in self._parameters], weight)

    def show(self) -> None:
        """Let the parameters be the average."""
        if not self.shown and self.updates:
            self._exchange()

    def hide(self) -> None:
        """Let the parameters be the weights that are trained."""
        if self.shown:
            self._exchange()

    def _exchange(self) -> None:
        for index, parameter in enumerate(self._parameters):
            parameter.data, self._other[index] = self._other[index], parameter.data
        self.shown = not self.shown

    def state(self) -> dict[str, Any]:
        """The average, while it is hidden."""
        return {"updates": self.updates, "average": list(self._other)}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.updates = state["updates"]
        for mine, theirs in zip(self._other, state["average"], strict=True):
            mine.copy_(theirs)


def check_decay(decay: float) -> float:
    """:raises LatentRLError: a decay outside (0, 1)"""
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0.0 < decay < 1.0:
        raise LatentRLError(f"ema_decay must lie between 0 and 1, such as 0.999, but {decay!r} was given: None is off")
    return float(decay)
