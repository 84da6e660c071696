"""One flat description of a latent policy, for strings, the command line and saved files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from latentrl.checks import LatentRLError, count, one_of
from latentrl.decoders import (
    CategoricalDecoder,
    Decoder,
    GaussianDecoder,
    MixtureDecoder,
    TanhGaussianDecoder,
    box_corners,
)
from latentrl.model import LatentModel
from latentrl.nets import SequenceEncoder, TransitionEncoder
from latentrl.posteriors import CategoricalPosterior, GaussianPosterior, Posterior
from latentrl.priors import CategoricalPrior, ConditionalPrior, MixturePrior, Prior, StandardNormalPrior, VampPrior


@dataclass(frozen=True)
class LatentConfig:
    """Describes a :class:`LatentModel`; :meth:`build` makes it for given spaces.

    Unknown names are errors that list the choices.
    """

    latent_dim: int = 8
    """Z; 0 is a policy without latent: an MLP, or with ``decoder="mixture"`` a mixture density network."""
    posterior: str = "gaussian"
    """"gaussian" or "categorical" (Z choices)."""
    prior: str = "vamp"
    """"normal" N(0, I), "conditional" p(z|s), "mixture" of Gaussians, "vamp"; "categorical" with that posterior."""
    decoder: str = "auto"
    """"gaussian", "tanh_gaussian", "mixture", "categorical"; "auto": categorical for Discrete, else gaussian."""
    n_components: int = 64
    """Components of a mixture or VampPrior; fewer than demonstrations, or the prior can only memorise."""
    decoder_components: int = 20
    """Components of a mixture decoder."""
    hidden: tuple[int, ...] = (128, 128, 128)
    """Layer sizes of the decoder."""
    encoder_hidden: tuple[int, ...] = (128, 128)
    """Layer sizes of transition encoders and conditional priors; a sequence encoder takes the last one."""
    hold: int = 0
    """Steps over which one latent is held: 0 the episode, k steps, 1 every step."""
    context_length: int = 32
    """Steps of a segment that the posterior sees, evenly spaced over it."""

    def __post_init__(self) -> None:
        one_of("posterior", self.posterior, POSTERIORS)
        one_of("prior", self.prior, PRIORS)
        one_of("decoder", self.decoder, {"auto", *DECODERS})
        for name, minimum in {
            "latent_dim": 0, "n_components": 1, "decoder_components": 1, "hold": 0, "context_length": 2,
        }.items():  # fmt: skip
            count(name, getattr(self, name), minimum)
        for name in ("hidden", "encoder_hidden"):
            sizes = getattr(self, name)
            if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
                raise LatentRLError(f"{name} must be positive layer sizes such as (128, 128), but {sizes!r} was given")
        if self.latent_dim and (self.posterior == "categorical") != (self.prior == "categorical"):
            raise LatentRLError(
                f"posterior={self.posterior!r} and prior={self.prior!r} live on different latents: "
                "a categorical posterior goes with the categorical prior"
            )

    @property
    def context_steps(self) -> int | None:
        """T' of the posterior's input; None where it sees one transition."""
        if self.hold == 1:
            return None
        return self.context_length if self.hold == 0 else min(self.hold, self.context_length)

    def build(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> LatentModel:
        """Make the model with fresh weights.

        :raises LatentRLError: where the decoder does not suit the action space
        """
        observation_dim = _size("observation", observation_space)
        action_dim = _size("action", action_space)
        decoder = DECODERS[self._decoder_for(action_space)](self, observation_dim, action_space)
        if self.latent_dim == 0:
            return LatentModel(None, None, decoder)
        steps = self.context_steps
        encoder = (
            TransitionEncoder(observation_dim, action_dim, self.encoder_hidden)
            if steps is None
            else SequenceEncoder(observation_dim, action_dim, steps, features_dim=self.encoder_hidden[-1])
        )
        posterior = POSTERIORS[self.posterior](encoder, self.latent_dim)
        return LatentModel(posterior, PRIORS[self.prior](self, observation_dim, posterior), decoder)

    def _decoder_for(self, action_space: spaces.Space[Any]) -> str:
        discrete = isinstance(action_space, spaces.Discrete)
        name = ("categorical" if discrete else "gaussian") if self.decoder == "auto" else self.decoder
        if discrete != (name == "categorical"):
            fit = "decoder='categorical'" if discrete else "'gaussian', 'tanh_gaussian' or 'mixture'"
            raise LatentRLError(f"decoder={name!r} does not fit the action space {action_space}: use {fit}")
        return name


def _size(what: str, space: spaces.Space[Any]) -> int:
    """Number of features of a space."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape))
    raise LatentRLError(f"{what} space {space} is not supported: use a Box or a Discrete space")


POSTERIORS: dict[str, type[GaussianPosterior] | type[CategoricalPosterior]] = {
    "gaussian": GaussianPosterior,
    "categorical": CategoricalPosterior,
}

PRIORS: dict[str, Callable[[LatentConfig, int, Posterior], Prior]] = {
    "normal": lambda c, _o, _q: StandardNormalPrior(c.latent_dim),
    "conditional": lambda c, o, _q: ConditionalPrior(o, c.latent_dim, c.encoder_hidden),
    "mixture": lambda c, _o, _q: MixturePrior(c.latent_dim, c.n_components),
    "vamp": lambda c, _o, q: VampPrior(q, c.n_components, c.context_steps),
    "categorical": lambda c, _o, _q: CategoricalPrior(c.latent_dim),
}

DECODERS: dict[str, Callable[[LatentConfig, int, Any], Decoder]] = {
    "gaussian": lambda c, o, a: GaussianDecoder(o, c.latent_dim, _size("action", a), c.hidden),
    "tanh_gaussian": lambda c, o, a: TanhGaussianDecoder(o, c.latent_dim, *box_corners(a.low, a.high), c.hidden),
    "mixture": lambda c, o, a: MixtureDecoder(o, c.latent_dim, _size("action", a), c.decoder_components, c.hidden),
    "categorical": lambda c, o, a: CategoricalDecoder(o, c.latent_dim, int(a.n), c.hidden),
}
