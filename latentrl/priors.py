"""Priors p(z) and p(z|s): modules whose forward takes the observations at which z is drawn, (B, O).

The law that comes back has event_shape (Z,) and a batch_shape that broadcasts with (B,): priors that do not look at
the state return one law without batch dimension. A learned prior looks at the state where it is given an
``observation_dim``; ``hidden`` are then the layer sizes in between.

``seed_from(posterior, inputs, lengths)`` starts a prior where the posteriors of real data lie; the trainer calls it
once, when the share ``seed_at`` of training is over. Most priors have nothing to do there.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, dimension, layer_sizes
from latentrl.distributions import (
    DiagonalNormal,
    FlowLaw,
    FullGaussianMixture,
    FullNormal,
    GaussianMixture,
    Mixture,
    OneHots,
    StandardNormal,
    choices,
)
from latentrl.encoders import Lengths
from latentrl.nets import SCALE_FLOOR, UNIT_SCALE, StateParameters, positive
from latentrl.posteriors import AmortizedPosterior, CategoricalPosterior, choice_sizes, spline_flow

Hidden = Sequence[int]


class Prior(nn.Module):
    """Base of priors."""

    seed_at: ClassVar[float] = 0.0
    seeded: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim: int = dimension("latent_dim", latent_dim)
        self.register_buffer("seeded", torch.tensor(False))

    def forward(self, observations: Float[Tensor, "B O"]) -> Distribution:
        raise NotImplementedError

    def seed_from(self, posterior: AmortizedPosterior, inputs: Tensor, lengths: Lengths = None) -> None:
        """Start where the data is. ``inputs`` (N, [T,] D) are the posterior's standardised inputs, of which ``lengths``
        (N,) steps count; their last one is repeated behind."""


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


class GaussianPrior(Prior):
    """Learned N(μ, diag σ²), or p(z|s) = N(μ(s), diag σ²(s)), the conditional VAE's prior (Sohn et al. 2015)."""

    def __init__(self, latent_dim: int, observation_dim: int | None = None, hidden: Hidden = (128, 128)) -> None:
        super().__init__(latent_dim)
        initial = torch.cat([torch.zeros(latent_dim), torch.full((latent_dim,), UNIT_SCALE)])
        self.numbers: StateParameters = StateParameters(initial, observation_dim, hidden)

    def forward(self, observations: Float[Tensor, "B O"]) -> DiagonalNormal:
        loc, raw_scale = self.numbers(observations).chunk(2, dim=-1)
        return DiagonalNormal(loc, positive(raw_scale))


class MixturePrior(Prior):
    """Mixture of K diagonal Gaussians with learned means and scales (as in VaDE, Jiang et al. 2017).

    Clusters: ``prior(observations).responsibilities(z)`` is p(c|z).

    :param n_components: K
    :param learn_weights: whether the weights are learned too, or stay equal
    """

    # Posterior means say nothing before the encoder has learned; with the KL weight faded in, they do.
    seed_at: ClassVar[float] = 0.3

    def __init__(
        self,
        latent_dim: int,
        n_components: int,
        learn_weights: bool = True,
        observation_dim: int | None = None,
        hidden: Hidden = (128, 128),
    ) -> None:
        super().__init__(latent_dim)
        self.n_components: int = dimension("n_components", n_components)
        self.learn_weights: bool = learn_weights
        size = n_components * latent_dim
        initial = [
            torch.zeros(n_components if learn_weights else 0),
            torch.randn(size),
            torch.full((size,), UNIT_SCALE),
        ]
        self.numbers: StateParameters = StateParameters(torch.cat(initial), observation_dim, hidden)

    @property
    def loc(self) -> Float[Tensor, "K Z"]:
        """Component means; what is read off the state comes on top."""
        size = self.n_components * self.latent_dim
        return self.numbers.free[-2 * size : -size].unflatten(0, (self.n_components, self.latent_dim))

    def forward(self, observations: Float[Tensor, "B O"]) -> GaussianMixture:
        size = self.n_components * self.latent_dim
        numbers = self.numbers(observations)
        logits, loc, raw_scale = numbers.split([numbers.shape[-1] - 2 * size, size, size], -1)
        if not self.learn_weights:
            logits = loc.new_zeros(self.n_components)
        shape = (self.n_components, self.latent_dim)
        return GaussianMixture(logits, loc.unflatten(-1, shape), positive(raw_scale).unflatten(-1, shape))

    @torch.no_grad()
    def place(self, weights: Any, loc: Any, scale: Any) -> None:
        """Start as a known mixture, such as one fitted to posterior means (VaDE, §3.4), and learn from there on.

        :param weights: (K,) > 0, normalised here; equal where weights are not learned
        :param loc: (K, Z) means
        :param scale: (K, Z) standard deviations above 10⁻⁴
        :raises LatentRLError: other shapes, numbers that are not finite or too small
        """
        shapes = {"weights": (self.n_components,), "loc": self.loc.shape, "scale": self.loc.shape}
        given = {
            name: torch.as_tensor(value, dtype=self.loc.dtype, device=self.loc.device)
            for name, value in {"weights": weights, "loc": loc, "scale": scale}.items()
        }
        least = {"weights": 0.0, "loc": -torch.inf, "scale": SCALE_FLOOR}
        for name, value in given.items():
            if value.shape != shapes[name] or not bool((value.isfinite() & (value > least[name])).all()):
                raise LatentRLError(
                    f"{name} must be of shape {tuple(shapes[name])}, finite and above {least[name]:g}: give other than "
                    f"{value!r}"
                )
        above = given["scale"] - SCALE_FLOOR
        raw_scale = above + (-(-above).expm1()).log()  # log(exp(s) − 1), which does not overflow
        logits = (given["weights"] / given["weights"].sum()).log()[: self.n_components * self.learn_weights]
        self.numbers.free.copy_(torch.cat([logits, given["loc"].flatten(), raw_scale.flatten()]))
        self.seeded.fill_(True)

    @torch.no_grad()
    def seed_from(self, posterior: AmortizedPosterior, inputs: Tensor, lengths: Lengths = None) -> None:
        """Put the components at posterior means that lie far from one another, if they were not placed."""
        if self.seeded:
            return
        means = posterior.law(inputs, lengths).mean
        self.loc.copy_(means[farthest_points(means, self.n_components)])


class VampPrior(Prior):
    """Variational mixture of posteriors, p(z) = Σ_k w_k q(z|u_k), u_k pseudo-inputs (Tomczak & Welling 2018).

    The weights are learned too: with fewer components than kinds of behaviour, equal weights would force equal
    frequencies on them.

    :param posterior: the model's own posterior; it is referred to, not owned, so its parameters count once
    :param n_components: K
    :param length: T of the pseudo-segments; None for single transitions
    :param learn_inputs: whether the pseudo-inputs are learned, or stay the data that they started from
    :param learn_weights: whether the weights are learned, or stay equal
    :raises LatentRLError: the posterior is no function of data
    """

    def __init__(
        self,
        posterior: AmortizedPosterior,
        n_components: int,
        length: int | None = None,
        learn_inputs: bool = True,
        learn_weights: bool = True,
    ) -> None:
        if not isinstance(posterior, AmortizedPosterior):
            raise LatentRLError(
                "a VampPrior mixes what an encoder says of pseudo-inputs: give an amortized posterior, or another prior"
            )
        if isinstance(posterior, CategoricalPosterior):
            raise LatentRLError("a VampPrior mixes densities, not laws over a finite set: take a CategoricalPrior")
        super().__init__(posterior.latent_dim)
        steps = () if length is None else (dimension("length", length),)
        self.logits: nn.Parameter = nn.Parameter(
            torch.zeros(dimension("n_components", n_components)), requires_grad=bool(learn_weights)
        )
        inputs = torch.randn(n_components, *steps, posterior.encoder.input_dim)
        self.pseudo_inputs: nn.Parameter = nn.Parameter(inputs, requires_grad=bool(learn_inputs))
        self._check_readable(posterior)
        # A tuple hides the module from parameters() and state_dict(), and deepcopy and pickle still follow it.
        self._posterior = (posterior,)

    @torch.no_grad()
    def _check_readable(self, posterior: AmortizedPosterior) -> None:
        """:raises LatentRLError: pseudo-segments for an encoder of transitions, or of another length"""
        try:
            fits = posterior.law(self.pseudo_inputs).batch_shape == self.logits.shape
        except (RuntimeError, IndexError):
            fits = False
        if not fits:
            raise LatentRLError(
                f"the posterior does not read pseudo-inputs {tuple(self.pseudo_inputs.shape)}: give as length the "
                "steps of the segments that its encoder reads, or None where it reads transitions"
            )

    def forward(self, observations: Float[Tensor, "B O"]) -> Mixture:  # noqa: ARG002
        components = self._posterior[0].law(self.pseudo_inputs)
        if isinstance(components, DiagonalNormal):
            return GaussianMixture(self.logits, components.loc, components.scale)
        if isinstance(components, FullNormal):
            return FullGaussianMixture(self.logits, components.loc, components.scale_tril)
        return Mixture(self.logits, components)

    @torch.no_grad()
    def seed_from(self, posterior: AmortizedPosterior, inputs: Tensor, lengths: Lengths = None) -> None:  # noqa: ARG002
        """Copy segments that lie far from one another into the pseudo-inputs."""
        self.pseudo_inputs.copy_(inputs[farthest_points(inputs.flatten(1), len(self.pseudo_inputs))])


class FlowPrior(Prior):
    """A learned Gaussian bent by a neural spline flow (Durkan et al. 2019).

    It is laid out for densities of posterior draws: one pass of each network. Its own draws take two.

    :param transforms: number of coupling layers
    :param bins: of each spline
    """

    def __init__(
        self,
        latent_dim: int,
        observation_dim: int | None = None,
        hidden: Hidden = (128, 128),
        transforms: int = 3,
        bins: int = 8,
    ) -> None:
        super().__init__(latent_dim)
        context = (
            0
            if observation_dim is None
            else [dimension("observation_dim", observation_dim, 0), *layer_sizes("hidden", hidden)][-1]
        )
        initial = torch.cat([torch.zeros(latent_dim), torch.full((latent_dim,), UNIT_SCALE), torch.zeros(context)])
        self.numbers: StateParameters = StateParameters(initial, observation_dim, hidden)
        self.flow: nn.Module = spline_flow(latent_dim, context, transforms, bins)

    def forward(self, observations: Float[Tensor, "B O"]) -> FlowLaw:
        numbers = self.numbers(observations)
        loc, raw_scale = numbers[..., : 2 * self.latent_dim].chunk(2, dim=-1)
        context = numbers[..., 2 * self.latent_dim :] if numbers.shape[-1] > 2 * self.latent_dim else None
        return FlowLaw(loc, positive(raw_scale), self.flow(context).transform.inv)


class CategoricalPrior(Prior):
    """Learned probabilities of one or several choices.

    :param latent_dim: Z, the number of all options
    :param factors: number of choices; Z / factors options each
    :param learn_weights: whether the probabilities are learned, or stay equal
    """

    def __init__(
        self,
        latent_dim: int,
        factors: int = 1,
        learn_weights: bool = True,
        observation_dim: int | None = None,
        hidden: Hidden = (128, 128),
    ) -> None:
        super().__init__(latent_dim)
        self.sizes: tuple[int, ...] = choice_sizes(latent_dim, factors)
        if observation_dim is not None:
            dimension("observation_dim", observation_dim, 0)
        # Equal for all states, too, where they are not learned.
        self.numbers: StateParameters = StateParameters(
            torch.zeros(latent_dim), observation_dim if learn_weights else None, hidden
        )
        self.numbers.requires_grad_(bool(learn_weights))

    def forward(self, observations: Float[Tensor, "B O"]) -> OneHots:
        return choices(self.numbers(observations), self.sizes)


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
