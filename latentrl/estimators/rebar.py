"""The score function with control variates that are relaxed or learned, at no bias."""

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, at_least, instance, real
from latentrl.distributions.relaxed import Thresholded, thresholded
from latentrl.estimators.base import Estimator, Integrand, draw_count, evaluate
from latentrl.estimators.finite import LEAST_LOGIT, finite, value_and_slope
from latentrl.estimators.relaxed import LEAST_TEMPERATURE
from latentrl.types import Estimate


class Rebar(Estimator):
    """∇E f = E[(f(b) − c(z̃)) ∇log q(b) + ∇c(z) − ∇c(z̃)] + E ∇f(b), c(z) = η f(σ_λ(z)) (Tucker et al. 2017).

    z is the noisy logits of which b = H(z) is the threshold, z̃ the same given b. They share their noise and so their
    value: f is evaluated twice per draw. f's own parameters get ∇f(b) alone, at no additional noise.

    Unbiased at any λ and η, provided that f is continuous between the values of q. Both are parameters of this module,
    which the surrogate does not train. They lower the variance along the gradient of :meth:`variance_loss`::

        tuner = torch.optim.Adam(rebar.parameters(), lr=1e-2)
        tuner.zero_grad()
        rebar.variance_loss(q, f, num_samples).backward(inputs=list(rebar.parameters()))
        tuner.step()

    f must be a function: it is called more than once, and under ``torch.func`` transforms.

    :param temperature: λ at the start
    :param eta: η at the start; 0 is the score function
    :raises LatentRLError: a temperature that is not a number of at least 1e-6
    """

    unbiased: ClassVar[bool] = True
    needs_rsample: ClassVar[bool] = False
    needs_differentiable_f: ClassVar[bool] = True
    discrete: ClassVar[bool] = True

    def __init__(self, temperature: float = 0.5, eta: float = 1.0) -> None:
        super().__init__()
        self.log_temperature: nn.Parameter = nn.Parameter(
            torch.tensor(math.log(at_least("temperature", temperature, LEAST_TEMPERATURE)))
        )
        self.eta: nn.Parameter = nn.Parameter(torch.tensor(float(real("eta", eta))))

    @property
    def temperature(self) -> Float[Tensor, ""]:
        """λ."""
        return self.log_temperature.exp()

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        """:raises LatentRLError: q is not a law of choices or bits, f (or the control of :class:`Relax`) returns
        another shape than (S, ..., B), or num_samples < 1
        """
        draw, z = self._draw(q, num_samples)
        with torch.no_grad():
            control, slope = value_and_slope(partial(self.control_variate, draw, f), z)
        # Last, for an f that keeps what it computed: what it keeps shall belong to draws from q.
        cost = evaluate(f, draw.threshold(z), q)
        constant = cost.detach()
        gradient = _gradient(draw, z, constant - control, slope)
        return Estimate(constant.mean(0), ((gradient * draw.law.logits).sum(-1) + cost).mean(0))

    def variance_loss(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Float[Tensor, ""]:
        """E‖g‖², g one draw's gradient by the unnormalised logits of one element, averaged over draws and batch.

        Its gradient by this module's parameters is unbiased for that of the variance of g, since E g does not depend
        on them, where the slopes of f and of the control are continuous (tanh or SiLU, not ReLU). It does not train q.
        f's own parameters would get a gradient as well, of no use: give ``backward`` its ``inputs``. Where f itself
        reads q, that path is no part of g.

        :raises LatentRLError: as :meth:`forward`
        """
        draw, z = self._draw(q, num_samples)
        with torch.no_grad():
            cost = evaluate(f, draw.threshold(z), q)
        control, slope = value_and_slope(partial(self.control_variate, draw, f), z)
        return _gradient(draw, z, cost - control, slope).square().sum(-1).mean()

    def control_variate(
        self, draw: Thresholded, f: Integrand, z: Float[Tensor, "S *batch Z"]
    ) -> Float[Tensor, "S *batch"]:
        """c(z)."""
        return self.eta * evaluate(f, draw.relax(z, self.temperature), draw.law)

    def _draw(self, q: Distribution, num_samples: int | None) -> tuple[Thresholded, Tensor]:
        draw = thresholded(finite(type(self).__name__, q))
        return draw, draw.logits + draw.noise(draw_count(num_samples))


class Relax(Rebar):
    """REBAR whose control variate is helped by a network, c(z) = η f(σ_λ(z)) + r(z) (Grathwohl et al. 2018).

    The network is trained together with λ and η through :meth:`~Rebar.variance_loss`, by an optimiser of
    ``relax.parameters()``.

    :param control: r, a network (S, ..., B, Z) -> (S, ..., B, 1) that reads the noisy logits z
    :param temperature: λ at the start
    :param eta: η at the start
    :raises LatentRLError: a temperature that is not a number of at least 1e-6
    """

    def __init__(self, control: nn.Module, temperature: float = 0.5, eta: float = 1.0) -> None:
        super().__init__(temperature, eta)
        self.control: nn.Module = instance("control", control, Callable)

    def control_variate(
        self, draw: Thresholded, f: Integrand, z: Float[Tensor, "S *batch Z"]
    ) -> Float[Tensor, "S *batch"]:
        learned = self.control(z.clamp_min(LEAST_LOGIT))
        if learned.shape != (*z.shape[:-1], 1):
            raise LatentRLError(
                f"control must map z {tuple(z.shape)} to {(*z.shape[:-1], 1)}, one number per draw, "
                f"but returned {tuple(learned.shape)}"
            )
        return super().control_variate(draw, f, z) + learned.squeeze(-1)


def _gradient(draw: Thresholded, z: Tensor, advantage: Tensor, slope: Tensor) -> Float[Tensor, "S *batch Z"]:
    """(f(b) − c(z̃)) ∇log q(b) + ∇c(z) − ∇c(z̃) by the unnormalised logits, with z̃ = z."""
    score = draw.threshold(z) - draw.probs
    return advantage.unsqueeze(-1) * score + draw.unnormalised(slope * draw.coupling(z))
