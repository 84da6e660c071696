"""Approximate posteriors q(z|s, a) of a transition and q(z|τ) of a segment: an encoder and a law.

``forward(observations, actions)`` returns a ``torch.distributions.Distribution`` with batch_shape (B,) and
event_shape (Z,). ``law(inputs)`` is the same map from standardised, joined inputs on, for priors that put their own
pseudo-inputs there.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from latentrl.distributions import DiagonalNormal, OneHot
from latentrl.nets import Encoder, positive


class Posterior(nn.Module):
    """Base of posteriors: holds the encoder, leaves the law to its members."""

    def __init__(self, encoder: Encoder, latent_dim: int, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.latent_dim = latent_dim
        self.head = nn.Linear(encoder.features_dim, outputs)

    def law(self, inputs: Tensor) -> Distribution:
        """q(z|·) from the encoder's standardised inputs (B, D) or (B, T, D)."""
        raise NotImplementedError

    def forward(self, observations: Float[Tensor, "*b O"], actions: Float[Tensor, "*b A"]) -> Distribution:
        return self.law(self.encoder.inputs(observations, actions))


class GaussianPosterior(Posterior):
    """Mean-field Gaussian, q(z|x) = N(μ(x), diag σ²(x)) (Kingma & Welling 2014).

    :param encoder: a transition or sequence encoder
    :param latent_dim: Z
    """

    def __init__(self, encoder: Encoder, latent_dim: int) -> None:
        super().__init__(encoder, latent_dim, 2 * latent_dim)

    def law(self, inputs: Tensor) -> DiagonalNormal:
        loc, raw_scale = self.head(self.encoder.features(inputs)).chunk(2, dim=-1)
        return DiagonalNormal(loc, positive(raw_scale))


class CategoricalPosterior(Posterior):
    """One of Z choices, as a one-hot vector.

    :param encoder: a transition or sequence encoder
    :param latent_dim: Z, the number of choices
    """

    def __init__(self, encoder: Encoder, latent_dim: int) -> None:
        super().__init__(encoder, latent_dim, latent_dim)

    def law(self, inputs: Tensor) -> OneHot:
        return OneHot(self.head(self.encoder.features(inputs)))
