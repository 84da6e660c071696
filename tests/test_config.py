"""LatentConfig builds what it says, and refuses the rest with the choices."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from latentrl import LatentConfig, LatentRLError
from latentrl.decoders import (
    BernoulliDecoder,
    CategoricalDecoder,
    DiscretizedLogisticDecoder,
    GaussianDecoder,
    MixtureDecoder,
    TanhGaussianDecoder,
)
from latentrl.encoders import GRUEncoder, SequenceEncoder, TransformerEncoder, TransitionEncoder
from latentrl.parts import POSTERIORS, PRIORS
from latentrl.spaces import size
from latentrl.types import Batch

BOX = spaces.Box(-1.0, 1.0, (3,))
ACTIONS = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))


PAIRS = [(q, p) for q in POSTERIORS for p in PRIORS if (q == "categorical") == (p == "categorical")]


@pytest.mark.parametrize(("posterior", "prior"), PAIRS)
@pytest.mark.parametrize("hold", [0, 4, 1])
def test_every_pair_at_every_hold(posterior: str, prior: str, hold: int) -> None:
    config = LatentConfig(latent_dim=4, prior=prior, posterior=posterior, n_components=5, hold=hold, hidden=(8,))
    model = config.build(BOX, ACTIONS)
    steps = () if config.context_steps is None else (config.context_steps,)
    batch = Batch.full(torch.randn(6, *steps, 3), torch.randn(6, *steps, 2))
    assert torch.isfinite(model.elbo(batch).loss)
    assert model.sample_latent(batch.start).shape == (6, 4)


@pytest.mark.parametrize(
    ("decoder", "action_space", "kind"),
    [
        ("auto", ACTIONS, GaussianDecoder),
        ("auto", spaces.Discrete(4), CategoricalDecoder),
        ("tanh_gaussian", ACTIONS, TanhGaussianDecoder),
        ("mixture", ACTIONS, MixtureDecoder),
        ("discretized_logistic", ACTIONS, DiscretizedLogisticDecoder),
        ("auto", spaces.MultiDiscrete([3, 2]), CategoricalDecoder),
        ("auto", spaces.MultiBinary(3), BernoulliDecoder),
    ],
)
@pytest.mark.parametrize("chunk", [1, 3])
def test_decoders(decoder: str, action_space: spaces.Space[Any], kind: type, chunk: int) -> None:
    model = LatentConfig(decoder=decoder, chunk=chunk).build(BOX, action_space)
    assert type(model.decoder) is kind
    action = model.act(torch.zeros(5, 3), torch.zeros(5, 8))
    assert action.shape == (5, chunk * size("action", action_space))


@pytest.mark.parametrize(
    ("encoder", "kind", "pads"),
    [("patches", SequenceEncoder, False), ("gru", GRUEncoder, True), ("transformer", TransformerEncoder, True)],
)
def test_encoders(encoder: str, kind: type, pads: bool) -> None:
    config = LatentConfig(encoder=encoder)
    assert type(config.build(BOX, ACTIONS).posterior.encoder) is kind  # type: ignore[union-attr]
    assert config.pads is pads


def test_who_sees_the_state() -> None:
    options: dict[str, Any] = {"prior": "gaussian", "hold": 1, "latent_dim": 2, "hidden": (8,)}
    blind = LatentConfig(decoder_sees_state=False, **options).build(BOX, ACTIONS)
    seeing = LatentConfig(prior_sees_state=True, **options).build(BOX, ACTIONS)
    here, there, z = torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 2)
    assert torch.equal(blind.act(here, z), blind.act(there, z))
    assert not torch.equal(seeing.act(here, z), seeing.act(there, z))
    assert torch.equal(blind.prior(here).mean, blind.prior(there).mean)  # type: ignore[misc]
    assert not torch.equal(seeing.prior(here).mean, seeing.prior(there).mean)  # type: ignore[misc]


def test_latents_are_clipped_to_act() -> None:
    model = LatentConfig(prior="normal", latent_clip=0.5, hold=1).build(BOX, ACTIONS)
    assert float(model.sample_latent(torch.zeros(100, 3)).abs().max()) == 0.5


def test_hold_chooses_the_encoder() -> None:
    def encoder(hold: int) -> Any:
        posterior = LatentConfig(hold=hold, context_length=16).build(BOX, ACTIONS).posterior
        assert posterior is not None
        return posterior.encoder

    assert type(encoder(1)) is TransitionEncoder
    assert [type(encoder(hold)) for hold in (0, 4)] == [SequenceEncoder, SequenceEncoder]
    assert [encoder(hold).length for hold in (0, 4, 40)] == [16, 4, 16]


def test_no_latent() -> None:
    model = LatentConfig(latent_dim=0, hold=1).build(BOX, ACTIONS)
    assert (model.posterior, model.prior, model.latent_dim) == (None, None, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "vampprior"}, "unknown prior 'vampprior': choose one of 'categorical', 'flow', 'gaussian'"),
        ({"posterior": "vamp"}, "unknown posterior 'vamp'"),
        ({"encoder": "lstm"}, "unknown encoder 'lstm'"),
        ({"decoder_scale": "none"}, "unknown decoder_scale 'none'"),
        ({"prior_sees_state": True}, "prior='vamp' does not look at the state"),
        ({"latent_clip": -1.0}, "latent_clip"),
        ({"chunk": 0}, "chunk"),
        ({"chunk": 5, "hold": 4}, "do not fit into hold=4"),
        ({"decoder": "tanh"}, "unknown decoder 'tanh'"),
        ({"latent_dim": -1}, "latent_dim must be a whole number of at least 0"),
        ({"n_components": 0}, "n_components must be a whole number of at least 1"),
        ({"n_components": True}, "n_components"),
        ({"n_components": 16.5}, "n_components must be a whole number"),
        ({"hold": -1}, "hold"),
        ({"hidden": ()}, "hidden must be positive layer sizes"),
        ({"hidden": (8, 0)}, "hidden must be positive layer sizes"),
        ({"posterior": "categorical"}, "a categorical posterior goes with the categorical prior"),
        ({"prior": "categorical"}, "a categorical posterior goes with the categorical prior"),
        ({"latents": "aggregate", "latent_dim": 0}, "it needs latent_dim ≥ 1"),
        ({"latents": "aggregate", "temperature": 0.5}, "temperature is for those of the prior"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LatentRLError, match=message):
        LatentConfig(**options)


@pytest.mark.parametrize(
    ("options", "observation_space", "action_space", "message"),
    [
        ({"decoder": "gaussian"}, BOX, spaces.Discrete(3), "use 'categorical'"),
        ({"decoder": "categorical"}, BOX, ACTIONS, "use 'gaussian' or 'tanh_gaussian' or 'mixture'"),
        ({"decoder": "tanh_gaussian"}, BOX, spaces.Box(-np.inf, np.inf, (2,)), "bounded action box"),
        ({"decoder": "tanh_gaussian"}, BOX, spaces.Box(np.zeros(2, np.float32), np.float32([0, 1])), "low < high"),
        ({}, spaces.Dict({"a": BOX}), ACTIONS, "observation space .* is not supported"),
        ({}, BOX, spaces.Dict({"a": BOX}), "action space .* is not supported"),
        ({"posterior": "categorical", "prior": "categorical", "factors": 3}, BOX, ACTIONS, "shared evenly"),
    ],
)
def test_bad_spaces(
    options: dict[str, Any], observation_space: spaces.Space[Any], action_space: spaces.Space[Any], message: str
) -> None:
    with pytest.raises(LatentRLError, match=message):
        LatentConfig(**options).build(observation_space, action_space)
