"""The parts that a :class:`~latentrl.LatentConfig` names, and how each is made."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from gymnasium import spaces

from latentrl.decoders import (
    BernoulliDecoder,
    BinsDecoder,
    CategoricalDecoder,
    Decoder,
    DiscretizedLogisticDecoder,
    GaussianDecoder,
    Hidden,
    MixtureDecoder,
    TanhGaussianDecoder,
    box_corners,
)
from latentrl.diffusion import DiffusionDecoder
from latentrl.encoders import Encoder, GRUEncoder, SequenceEncoder, TransformerEncoder
from latentrl.posteriors import (
    AmortizedPosterior,
    CategoricalPosterior,
    FlowPosterior,
    FullGaussianPosterior,
    GaussianPosterior,
    MixturePosterior,
    SemiAmortizedPosterior,
)
from latentrl.priors import (
    CategoricalPrior,
    FlowPrior,
    GaussianPrior,
    MixturePrior,
    Prior,
    StandardNormalPrior,
    VampPrior,
)
from latentrl.spaces import choice_counts
from latentrl.trunks import GRUTrunk, TransformerTrunk

Config: TypeAlias = Any
"""A LatentConfig, which imports this file."""


def fitting_decoders(space: spaces.Space[Any]) -> tuple[str, ...]:
    """Names of the decoders for an action space, the default first."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return ("categorical",)
    if isinstance(space, spaces.MultiBinary):
        return ("bernoulli",)
    return "gaussian", "tanh_gaussian", "mixture", "discretized_logistic", "bins", "diffusion"


def _box(config: Config, space: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Corners of the box of a chunk of actions."""
    low, high = box_corners(space.low, space.high)
    return low.repeat(config.chunk), high.repeat(config.chunk)


TRUNKS: dict[str, Callable[[Config], Hidden]] = {
    "mlp": lambda c: c.hidden,
    "gru": lambda c: partial(GRUTrunk, hidden=c.hidden, history=c.history),
    "transformer": lambda c: partial(TransformerTrunk, hidden=c.hidden, history=c.history, chunk=c.chunk),
}

ENCODERS: dict[str, Callable[[int, int, int, int], Encoder]] = {
    "patches": lambda o, a, length, features: SequenceEncoder(o, a, length, features_dim=features),
    "gru": lambda o, a, _length, features: GRUEncoder(o, a, features),
    "transformer": lambda o, a, _length, features: TransformerEncoder(o, a, features),
}

POSTERIORS: dict[str, Callable[[Config, Encoder], AmortizedPosterior]] = {
    "gaussian": lambda c, e: GaussianPosterior(e, c.latent_dim),
    "full": lambda c, e: FullGaussianPosterior(e, c.latent_dim),
    "mixture": lambda c, e: MixturePosterior(e, c.latent_dim, c.posterior_components),
    "flow": lambda c, e: FlowPosterior(e, c.latent_dim),
    "semi_amortized": lambda c, e: SemiAmortizedPosterior(e, c.latent_dim),
    "categorical": lambda c, e: CategoricalPosterior(e, c.latent_dim, c.factors),
}

PRIORS: dict[str, Callable[[Config, int | None, AmortizedPosterior], Prior]] = {
    "normal": lambda c, _o, _q: StandardNormalPrior(c.latent_dim),
    "gaussian": lambda c, o, _q: GaussianPrior(c.latent_dim, o, c.encoder_hidden),
    "mixture": lambda c, o, _q: MixturePrior(c.latent_dim, c.n_components, c.learn_prior_weights, o, c.encoder_hidden),
    "vamp": lambda c, _o, q: VampPrior(
        q, c.n_components, c.context_steps, c.learn_pseudo_inputs, c.learn_prior_weights
    ),
    "flow": lambda c, o, _q: FlowPrior(c.latent_dim, o, c.encoder_hidden),
    "categorical": lambda c, o, _q: CategoricalPrior(
        c.latent_dim, c.factors, c.learn_prior_weights, o, c.encoder_hidden
    ),
}

DECODERS: dict[str, Callable[[Config, int, int, Any], Decoder]] = {
    "gaussian": lambda c, o, a, _s: GaussianDecoder(o, c.latent_dim, a, c.network, c.decoder_scale),
    "tanh_gaussian": lambda c, o, _a, s: TanhGaussianDecoder(o, c.latent_dim, *_box(c, s), c.network, c.decoder_scale),
    "mixture": lambda c, o, a, _s: MixtureDecoder(o, c.latent_dim, a, c.decoder_components, c.network),
    "bins": lambda c, o, a, _s: BinsDecoder(o, c.latent_dim, a, c.decoder_components, c.network),
    "diffusion": lambda c, o, a, _s: DiffusionDecoder(o, c.latent_dim, a, c.network, sampling_steps=c.denoising_steps),
    "discretized_logistic": lambda c, o, _a, s: DiscretizedLogisticDecoder(
        o, c.latent_dim, *_box(c, s), c.bins, c.network, c.decoder_scale
    ),
    "categorical": lambda c, o, _a, s: CategoricalDecoder(o, c.latent_dim, choice_counts(s) * c.chunk, c.network),
    "bernoulli": lambda c, o, a, _s: BernoulliDecoder(o, c.latent_dim, a, c.network),
}
