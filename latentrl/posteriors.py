"""Approximate posteriors q(z|s, a) of a transition and q(z|τ) of a segment.

``infer(batch, bound)`` is what a bound asks for; an amortized posterior answers with ``forward``, which returns a
``torch.distributions.Distribution`` with batch_shape (B,) and event_shape (Z,). ``law(inputs)`` is the same map from
standardised, joined inputs on, for priors that put their own pseudo-inputs there.
"""

from collections.abc import Callable

import torch
import zuko
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, at_least, count, dimension, instance
from latentrl.distributions import DiagonalNormal, FlowLaw, FullNormal, GaussianMixture, Law, OneHots, choices
from latentrl.encoders import Encoder, Lengths
from latentrl.nets import UNIT_SCALE, LowerTriangular, positive, twice_differentiable
from latentrl.types import Batch

Bound = Callable[[Law], Tensor]
"""ELBO of each element under a given law, q -> (B,)."""


class Posterior(nn.Module):
    """Base of posteriors."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim: int = dimension("latent_dim", latent_dim)

    def infer(self, batch: Batch, bound: Bound) -> Distribution:
        """q for the elements of a batch; ``bound`` is there for members that improve q on each element."""
        raise NotImplementedError


class AmortizedPosterior(Posterior):
    """A posterior read off the data by an encoder; leaves the law to its members.

    :param encoder: of transitions or sequences
    :param latent_dim: Z
    :param outputs: how many numbers make the law
    """

    def __init__(self, encoder: Encoder, latent_dim: int, outputs: int) -> None:
        super().__init__(latent_dim)
        self.encoder: Encoder = instance("encoder", encoder, nn.Module)
        self.head: nn.Linear = nn.Linear(encoder.features_dim, outputs)

    def law(self, inputs: Tensor, lengths: Lengths = None) -> Distribution:
        """q(z|·) from the encoder's standardised inputs (B, D) or (B, T, D).

        In full precision, whatever the encoder's: rounded to bfloat16, draws would take a few values each.
        """
        features = self.encoder.features(inputs, lengths)
        if not torch.is_autocast_enabled(features.device.type):
            return self.law_of(features)
        with torch.autocast(features.device.type, enabled=False):
            return self.law_of(features.to(self.head.weight.dtype))

    def law_of(self, features: Float[Tensor, "*b H"]) -> Distribution:
        """q(z|·) from the encoder's features."""
        raise NotImplementedError

    def forward(
        self, observations: Float[Tensor, "*b O"], actions: Float[Tensor, "*b A"], lengths: Lengths = None
    ) -> Distribution:
        return self.law(self.encoder.inputs(observations, actions), lengths)

    def infer(self, batch: Batch, bound: Bound) -> Distribution:  # noqa: ARG002
        return self(batch.context_observations, batch.context_actions, batch.context_lengths)


class GaussianPosterior(AmortizedPosterior):
    """Mean-field Gaussian, q(z|x) = N(μ(x), diag σ²(x)) (Kingma & Welling 2014)."""

    def __init__(self, encoder: Encoder, latent_dim: int) -> None:
        super().__init__(encoder, latent_dim, 2 * latent_dim)

    def law_of(self, features: Float[Tensor, "*b H"]) -> DiagonalNormal:
        loc, raw_scale = self.head(features).chunk(2, dim=-1)
        return DiagonalNormal(loc, positive(raw_scale))


class FullGaussianPosterior(AmortizedPosterior):
    """Gaussian with any covariance, q(z|x) = N(μ(x), L(x) L(x)ᵀ): latents may depend on one another given x."""

    def __init__(self, encoder: Encoder, latent_dim: int) -> None:
        triangle = LowerTriangular(dimension("latent_dim", latent_dim))
        super().__init__(encoder, latent_dim, 2 * latent_dim + triangle.below)
        self.triangle = triangle

    def law_of(self, features: Float[Tensor, "*b H"]) -> FullNormal:
        outputs, size = self.head(features), self.latent_dim
        scale_tril = self.triangle(positive(outputs[..., size : 2 * size]), outputs[..., 2 * size :])
        return FullNormal(outputs[..., :size], scale_tril)


class MixturePosterior(AmortizedPosterior):
    """Mixture of K diagonal Gaussians: for data that more than one behaviour could have brought about.

    Gradients are pathwise, by implicit reparameterization; the KL is estimated from the draws.

    :param n_components: K
    """

    def __init__(self, encoder: Encoder, latent_dim: int, n_components: int = 4) -> None:
        self.n_components: int = dimension("n_components", n_components)
        super().__init__(encoder, latent_dim, self.n_components * (1 + 2 * latent_dim))

    def law_of(self, features: Float[Tensor, "*b H"]) -> GaussianMixture:
        size = self.n_components * self.latent_dim
        logits, loc, raw_scale = self.head(features).split([self.n_components, size, size], -1)
        shape = (self.n_components, self.latent_dim)
        return GaussianMixture(logits, loc.unflatten(-1, shape), positive(raw_scale).unflatten(-1, shape))


class FlowPosterior(AmortizedPosterior):
    """A mean-field Gaussian bent by a neural spline flow that reads the features too (Durkan et al. 2019).

    It is laid out for drawing: one pass of each network. Densities of other values take two.

    :param transforms: number of coupling layers
    :param bins: of each spline
    """

    def __init__(self, encoder: Encoder, latent_dim: int, transforms: int = 3, bins: int = 8) -> None:
        super().__init__(encoder, latent_dim, 2 * latent_dim)
        self.flow: nn.Module = spline_flow(latent_dim, encoder.features_dim, transforms, bins)

    def law_of(self, features: Float[Tensor, "*b H"]) -> FlowLaw:
        loc, raw_scale = self.head(features).chunk(2, dim=-1)
        return FlowLaw(loc, positive(raw_scale), self.flow(features).transform)


class CategoricalPosterior(AmortizedPosterior):
    """One or several choices among equally many options, as one-hot vectors side by side.

    :param latent_dim: Z, the number of all options
    :param factors: number of choices; Z / factors options each
    """

    def __init__(self, encoder: Encoder, latent_dim: int, factors: int = 1) -> None:
        super().__init__(encoder, latent_dim, latent_dim)
        self.sizes: tuple[int, ...] = choice_sizes(latent_dim, factors)

    def law_of(self, features: Float[Tensor, "*b H"]) -> OneHots:
        return choices(self.head(features), self.sizes)


class SemiAmortizedPosterior(GaussianPosterior):
    """An encoder's guess, improved on each element by k steps uphill on its own ELBO (Kim et al. 2018).

    The steps are part of the network: gradients run through them into encoder, decoder and prior. A pass costs about
    k + 1 passes of the decoder forward and 2k backward.

    :param steps: k
    :param step_size: share of a natural gradient, (σ² ∂μ, ½ ∂log σ), which is taken at each step, at most one σ and a
        factor of e; unlike that of a plain gradient, it means the same for latents that much or little is known of
    :param num_samples: draws for each gradient
    """

    def __init__(
        self, encoder: Encoder, latent_dim: int, steps: int = 5, step_size: float = 0.1, num_samples: int = 1
    ) -> None:
        super().__init__(encoder, latent_dim)
        self.steps: int = dimension("steps", steps, 0)
        self.step_size: float = at_least("step_size", step_size, 0.0)
        self.num_samples: int = dimension("num_samples", num_samples)

    def infer(self, batch: Batch, bound: Bound) -> DiagonalNormal:
        guess = self(batch.context_observations, batch.context_actions, batch.context_lengths)
        loc, log_scale = guess.loc, guess.scale.log()
        learning = torch.is_grad_enabled()
        with torch.enable_grad(), twice_differentiable():
            for _ in range(self.steps):
                if not learning:
                    loc, log_scale = loc.detach(), log_scale.detach()
                if not loc.requires_grad:
                    loc, log_scale = loc.requires_grad_(), log_scale.requires_grad_()
                scale = log_scale.exp()
                q = DiagonalNormal(loc, scale)
                value = sum((bound(q).sum() for _ in range(1, self.num_samples)), bound(q).sum())
                by_loc, by_log_scale = torch.autograd.grad(value, (loc, log_scale), create_graph=learning)
                share = self.step_size / self.num_samples
                loc = loc + scale * (share * scale * by_loc).clamp(-1.0, 1.0)
                log_scale = log_scale + (0.5 * share * by_log_scale).clamp(-1.0, 1.0)
        q = DiagonalNormal(loc, log_scale.exp())
        return q if learning else DiagonalNormal(q.loc.detach(), q.scale.detach())


class PerDatapointPosterior(Posterior):
    """Mean and scale of each datum as parameters of their own: variational inference before amortization.

    Serves the data that it was made for, not new ones; ``batch.rows`` says which they are.

    :param num_data: N
    :param latent_dim: Z
    """

    def __init__(self, num_data: int, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.loc: nn.Parameter = nn.Parameter(torch.zeros(dimension("num_data", num_data), latent_dim))
        self.raw_scale: nn.Parameter = nn.Parameter(torch.full((num_data, latent_dim), UNIT_SCALE))

    def infer(self, batch: Batch, bound: Bound) -> DiagonalNormal:  # noqa: ARG002
        """:raises LatentRLError: the batch does not say which data it holds."""
        if batch.rows is None:
            raise LatentRLError("a per-datapoint posterior needs batch.rows, the numbers of the data in the batch")
        return DiagonalNormal(self.loc[batch.rows], positive(self.raw_scale[batch.rows]))


def spline_flow(latent_dim: int, context_dim: int, transforms: int, bins: int) -> nn.Module:
    """Coupling layers of rational-quadratic splines on [-5, 5], the identity outside."""
    width = max(32, 2 * latent_dim)
    return zuko.flows.NSF(
        latent_dim,
        context_dim,
        dimension("bins", bins, 2),
        transforms=dimension("transforms", transforms),
        passes=2,
        hidden_features=(width, width),
    )


def choice_sizes(latent_dim: int, factors: int) -> tuple[int, ...]:
    """Options of each of ``factors`` equal choices that fill ``latent_dim``."""
    if latent_dim % count("factors", factors, 1):
        raise LatentRLError(f"latent_dim = {latent_dim} options cannot be shared evenly by factors = {factors} choices")
    return (latent_dim // factors,) * factors
