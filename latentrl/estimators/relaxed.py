"""Biased gradients through draws from a finite set, made differentiable."""

from typing import ClassVar

from torch import Tensor
from torch.distributions import Distribution

from latentrl.checks import at_least
from latentrl.distributions.relaxed import thresholded
from latentrl.estimators.base import Estimator, Integrand, draw_count, evaluate
from latentrl.estimators.finite import finite
from latentrl.types import Estimate

LEAST_TEMPERATURE = 1e-6
"""Below it a relaxed draw is a hard one in single precision, and its gradient is lost."""


class GumbelSoftmax(Estimator):
    """f at a relaxed draw: softmax((logits + Gumbel noise)/λ), for bits σ((logits + logistic noise)/λ) (Jang et al.
    2017; Maddison et al. 2017).

    The gradient is that of another expectation, over the relaxed law. As λ falls, it nears the one wanted and its
    variance grows without bound. f's own parameters are trained on relaxed draws too.

    :param temperature: λ > 0; assign to it to anneal it
    :param hard: straight-through Gumbel-Softmax: f sees the hard draw, the gradient takes it for the relaxed one
    :raises LatentRLError: a temperature that is not a number of at least 1e-6
    """

    unbiased: ClassVar[bool] = False
    needs_rsample: ClassVar[bool] = False
    needs_differentiable_f: ClassVar[bool] = True
    discrete: ClassVar[bool] = True

    def __init__(self, temperature: float = 1.0, hard: bool = False) -> None:
        super().__init__()
        self.temperature = temperature
        self.hard = hard

    @property
    def temperature(self) -> float:
        return self._temperature

    @temperature.setter
    def temperature(self, given: float) -> None:
        self._temperature = at_least("temperature", given, LEAST_TEMPERATURE)

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        """The value is the mean of f at what f saw.

        :raises LatentRLError: q is not a law of choices or bits, f returns another shape than (S, ..., B), or
            num_samples < 1
        """
        law = finite("GumbelSoftmax", q)
        draw = thresholded(law)
        z = law.logits + draw.noise(draw_count(num_samples))
        relaxed = draw.relax(z, self.temperature)
        return _through(draw.threshold(z) + _zero(relaxed) if self.hard else relaxed, f, q)


class StraightThrough(Estimator):
    """f at the hard draw, whose gradient is taken for that of the probabilities (Bengio et al. 2013).

    Its expectation is E[∇f(b)ᵀ ∂probs]: exact where f is linear, else biased by what f's slope misses between values.
    """

    unbiased: ClassVar[bool] = False
    needs_rsample: ClassVar[bool] = False
    needs_differentiable_f: ClassVar[bool] = True
    discrete: ClassVar[bool] = True

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        """:raises LatentRLError: as :meth:`GumbelSoftmax.forward`."""
        law = finite("StraightThrough", q)
        return _through(law.sample((draw_count(num_samples),)) + _zero(law.probs), f, q)


def _zero(value: Tensor) -> Tensor:
    """Exactly 0, with the gradient of a value."""
    return value - value.detach()


def _through(z: Tensor, f: Integrand, q: Distribution) -> Estimate:
    cost = evaluate(f, z, q).mean(0)
    return Estimate(cost.detach(), cost)
