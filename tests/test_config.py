"""LatentConfig builds what it says, and refuses the rest with the choices."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from latentrl import LatentConfig, LatentRLError
from latentrl.decoders import CategoricalDecoder, GaussianDecoder, MixtureDecoder, TanhGaussianDecoder
from latentrl.nets import SequenceEncoder, TransitionEncoder
from latentrl.types import Batch

BOX = spaces.Box(-1.0, 1.0, (3,))
ACTIONS = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))


@pytest.mark.parametrize("prior", ["normal", "conditional", "mixture", "vamp", "categorical"])
@pytest.mark.parametrize("hold", [0, 4, 1])
def test_every_prior_at_every_hold(prior: str, hold: int) -> None:
    posterior = "categorical" if prior == "categorical" else "gaussian"
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
    ],
)
def test_decoders(decoder: str, action_space: spaces.Space[Any], kind: type) -> None:
    assert type(LatentConfig(decoder=decoder).build(BOX, action_space).decoder) is kind


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
        ({"prior": "vampprior"}, "unknown prior 'vampprior': choose one of 'categorical', 'conditional', 'mixture'"),
        ({"posterior": "flow"}, "unknown posterior 'flow'"),
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
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LatentRLError, match=message):
        LatentConfig(**options)


@pytest.mark.parametrize(
    ("options", "observation_space", "action_space", "message"),
    [
        ({"decoder": "gaussian"}, BOX, spaces.Discrete(3), "use decoder='categorical'"),
        ({"decoder": "categorical"}, BOX, ACTIONS, "use 'gaussian', 'tanh_gaussian' or 'mixture'"),
        ({"decoder": "tanh_gaussian"}, BOX, spaces.Box(-np.inf, np.inf, (2,)), "bounded action box"),
        ({"decoder": "tanh_gaussian"}, BOX, spaces.Box(np.zeros(2, np.float32), np.float32([0, 1])), "low < high"),
        ({}, spaces.Dict({"a": BOX}), ACTIONS, "observation space .* is not supported"),
        ({}, BOX, spaces.MultiBinary(3), "action space .* is not supported"),
    ],
)
def test_bad_spaces(
    options: dict[str, Any], observation_space: spaces.Space[Any], action_space: spaces.Space[Any], message: str
) -> None:
    with pytest.raises(LatentRLError, match=message):
        LatentConfig(**options).build(observation_space, action_space)
