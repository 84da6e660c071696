"""Laws over finite sets as thresholds of noise, b = H(z) with z = logits + ε, and what that makes differentiable.

Tempered, z gives the Gumbel-Softmax or Concrete relaxation of b (Jang et al. 2017; Maddison et al. 2017). Given b, z is
again a smooth function of noise that is independent of b, which is what REBAR stands on (Tucker et al. 2017).
"""

from functools import cached_property

import torch
from torch import Tensor

from latentrl.distributions.discrete import Bernoullis, Discrete, OneHots, log_exponential, one_hot

LEAST_Z = -1e15
"""Of an option that is ruled out: as good as the least number that there is, which a small temperature makes −∞."""


class Thresholded:
    """How a law draws by a threshold; its parameters count as constants here.

    Shapes: noise, z, b and gradients (S, ..., B, D).
    """

    def __init__(self, law: Discrete) -> None:
        self.law: Discrete = law
        self.logits: Tensor = law.logits.detach()

    @cached_property
    def probs(self) -> Tensor:
        """Mean of b, (..., B, D)."""
        return self.law.probs.detach()

    def noise(self, samples: int) -> Tensor:
        """ε: H(logits + ε) is a draw from the law."""
        raise NotImplementedError

    def threshold(self, z: Tensor) -> Tensor:
        """H(z), zeros and ones."""
        raise NotImplementedError

    def relax(self, z: Tensor, temperature: Tensor | float) -> Tensor:
        """σ_λ(z), inside of the simplex or of the unit interval; H(z) as λ goes to 0."""
        raise NotImplementedError

    def coupling(self, z: Tensor) -> Tensor:
        """Diagonal of ∂(z − z̃)/∂logits, in [0, 1].

        z̃ has the value of z, but is taken for what it is given b = H(z): g(v, b, logits), where the noise v is
        independent of b (Tucker et al. 2017, appendix). v is the one that gives z̃ = z, their common random numbers.
        """
        raise NotImplementedError

    def unnormalised(self, gradient: Tensor) -> Tensor:
        """The gradient by unnormalised logits, from the one by the law's own."""
        raise NotImplementedError


class GumbelArgmax(Thresholded):
    """Choices: the largest of logits with Gumbel noise.

    Given the choice k, z̃_k = −log E_k and z̃_i = −log(E_i / p_i + E_k) with exponential E, so that
    ∂z̃_i/∂log p_i = 1 − exp(z_i − z_k), also for i = k.
    """

    law: OneHots

    def noise(self, samples: int) -> Tensor:
        return -log_exponential(self.logits, torch.Size((samples, *self.logits.shape)))

    def threshold(self, z: Tensor) -> Tensor:
        return self.law.each_choice(z, lambda part: one_hot(part.argmax(-1), part.shape[-1], part.dtype))

    def relax(self, z: Tensor, temperature: Tensor | float) -> Tensor:
        z = z.clamp_min(max(LEAST_Z, torch.finfo(z.dtype).min))
        return self.law.each_choice(z / temperature, lambda part: part.softmax(-1))

    def coupling(self, z: Tensor) -> Tensor:
        return self.law.each_choice(z, lambda part: (part - part.amax(-1, keepdim=True)).exp())

    def unnormalised(self, gradient: Tensor) -> Tensor:
        total = self.law.each_choice(gradient, lambda part: part.sum(-1, keepdim=True).expand_as(part))
        return gradient - self.probs * total


class LogisticSign(Thresholded):
    """Bits: the sign of logits with logistic noise.

    Given the bit, z̃ = ±softplus(logit v + softplus(±logits)), so that ∂z̃/∂logits = (1 − exp(−|z|)) q(b).
    """

    def noise(self, samples: int) -> Tensor:
        uniform = torch.rand((samples, *self.logits.shape), dtype=self.logits.dtype, device=self.logits.device)
        return uniform.clamp_min(torch.finfo(uniform.dtype).eps / 2).logit()  # as far from 0 as the largest is from 1

    def threshold(self, z: Tensor) -> Tensor:
        return (z > 0).to(z.dtype)

    def relax(self, z: Tensor, temperature: Tensor | float) -> Tensor:
        return (z / temperature).sigmoid()

    def coupling(self, z: Tensor) -> Tensor:
        towards = torch.where(z > 0, self.logits, -self.logits)
        return (-towards).sigmoid() + towards.sigmoid() * (-z.abs()).exp()

    def unnormalised(self, gradient: Tensor) -> Tensor:
        return gradient


def thresholded(law: Discrete) -> Thresholded:
    """The threshold that draws from a law of choices or bits."""
    return LogisticSign(law) if isinstance(law, Bernoullis) else GumbelArgmax(law)
