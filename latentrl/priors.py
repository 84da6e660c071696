"""Priors p(z) and p(z|s): modules whose forward takes the observations at which z is drawn, (B, O).

The law that comes back has event_shape (Z,) and a batch_shape that broadcasts with (B,): priors that do not look at
the state return one law without batch dimension.

``seed_from(posterior, inputs)`` starts a prior where the posteriors of real data lie; the trainer calls it once, when
the share ``seed_at`` of training is over. Most priors have nothing to do there.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from latentrl.distributions import DiagonalNormal, GaussianMixture, OneHot, StandardNormal
from latentrl.nets import MLP, UNIT_SCALE, Standardize, positive
from latentrl.posteriors import Posterior


class Prior(nn.Module):
    """Base of priors."""

    seed_at: ClassVar[float] = 0.0
    seeded: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("seeded", torch.tensor(False))

    def forward(self, observations: Float[Tensor, "B O"]) -> Distribution:
        raise NotImplementedError

    def seed_from(self, posterior: Posterior, inputs: Tensor) -> None:
        """Start where the data is. ``inputs`` (N, [T,] D) are the posterior's standardised inputs."""


class StandardNormalPrior(Prior):
    """N(0, I)."""

    zeros: Tensor
    ones: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("ones", torch.ones(latent_dim), persistent=False)
        self._law = StandardNormal(self.zeros, self.ones)

    def forward(self, observations: Float[Tensor, "B O"]) -> StandardNormal:  # noqa: ARG002
        if self._law.loc is not self.zeros:  # moved to another device or dtype
            self._law = StandardNormal(self.zeros, self.ones)
        return self._law


class ConditionalPrior(Prior):
    """Learned Gaussian p(z|s) = N(μ(s), diag σ²(s)), the conditional VAE's prior (Sohn et al. 2015)."""

    def __init__(self, observation_dim: int, latent_dim: int, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__(latent_dim)
        self.observation_scale = Standardize(observation_dim, "observation")
        self.net = MLP([observation_dim, *hidden])
        self.head = nn.Linear(hidden[-1], 2 * latent_dim)

    def forward(self, observations: Float[Tensor, "B O"]) -> DiagonalNormal:
        loc, raw_scale = self.head(self.net(self.observation_scale(observations))).chunk(2, dim=-1)
        return DiagonalNormal(loc, positive(raw_scale))


class MixturePrior(Prior):
    """Mixture of K diagonal Gaussians with learned weights, means and scales (as in VaDE, Jiang et al. 2017).

    :param latent_dim: Z
    :param n_components: K
    """

    # Posterior means say nothing before the encoder has learned; with the KL weight faded in, they do.
    seed_at: ClassVar[float] = 0.3

    def __init__(self, latent_dim: int, n_components: int) -> None:
        super().__init__(latent_dim)
        self.logits = nn.Parameter(torch.zeros(n_components))
        self.loc = nn.Parameter(torch.randn(n_components, latent_dim))
        self.raw_scale = nn.Parameter(torch.full((n_components, latent_dim), UNIT_SCALE))

    def forward(self, observations: Float[Tensor, "B O"]) -> GaussianMixture:  # noqa: ARG002
        return GaussianMixture(self.logits, self.loc, positive(self.raw_scale))

    @torch.no_grad()
    def seed_from(self, posterior: Posterior, inputs: Tensor) -> None:
        """Put the components at posterior means that lie far from one another."""
        means = posterior.law(inputs).mean
        chosen = means[farthest_points(means, len(self.loc))]
        self.loc.copy_(chosen)


class VampPrior(Prior):
    """Variational mixture of posteriors, p(z) = Σ_k w_k q(z|u_k), u_k learned pseudo-inputs (Tomczak & Welling 2018).

    The weights are learned too: with fewer components than kinds of behaviour, equal weights would force equal
    frequencies on them.

    :param posterior: the model's own posterior; it is referred to, not owned, so its parameters count once
    :param n_components: K
    :param length: T of the pseudo-segments; None for single transitions
    """

    def __init__(self, posterior: Posterior, n_components: int, length: int | None = None) -> None:
        super().__init__(posterior.latent_dim)
        steps = () if length is None else (length,)
        self.logits = nn.Parameter(torch.zeros(n_components))
        self.pseudo_inputs = nn.Parameter(torch.randn(n_components, *steps, posterior.encoder.input_dim))
        # A tuple hides the module from parameters() and state_dict(), and deepcopy and pickle still follow it.
        self._posterior = (posterior,)

    def forward(self, observations: Float[Tensor, "B O"]) -> GaussianMixture:  # noqa: ARG002
        components = self._posterior[0].law(self.pseudo_inputs)
        assert isinstance(components, DiagonalNormal)
        return GaussianMixture(self.logits, components.loc, components.scale)

    @torch.no_grad()
    def seed_from(self, posterior: Posterior, inputs: Tensor) -> None:  # noqa: ARG002
        """Copy segments that lie far from one another into the pseudo-inputs."""
        self.pseudo_inputs.copy_(inputs[farthest_points(inputs.flatten(1), len(self.pseudo_inputs))])


class CategoricalPrior(Prior):
    """Learned probabilities of Z choices."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.logits = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, observations: Float[Tensor, "B O"]) -> OneHot:  # noqa: ARG002
        return OneHot(self.logits)


def farthest_points(points: Float[Tensor, "N D"], count: int) -> Tensor:
    """Indices (count,) of points chosen one after another, each the farthest from those before (Gonzalez 1985).

    The first is the one nearest the mean, so there is no chance in it. Where ``count`` exceeds N, it starts over.
    """
    chosen = [int((points - points.mean(0)).square().sum(-1).argmin())]
    distance = (points - points[chosen[0]]).square().sum(-1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(-1))
    index = torch.tensor(chosen, device=points.device)
    return index.repeat(-(-count // len(index)))[:count]
