"""Encoders against torch's own layers and a formula of the paper."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from latentrl import LatentRLError
from latentrl.encoders import GRUEncoder, SequenceEncoder, TransformerEncoder, TransitionEncoder, _positions


def test_inputs_are_standardised_and_joined() -> None:
    encoder = TransitionEncoder(2, 1, (4,))
    observations, actions = 5.0 + 3.0 * torch.randn(500, 2), -torch.ones(500, 1) + 0.1 * torch.randn(500, 1)
    encoder.scale.fit(torch.cat([observations, actions], -1))
    inputs = encoder.inputs(observations, actions)
    torch.testing.assert_close(inputs.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [12, 13])
def test_patches_are_strided_convolutions(length: int) -> None:
    """Against conv1d with zeros behind the end."""
    encoder = SequenceEncoder(2, 1, length, (5, 6), stride=4, features_dim=7)
    inputs = torch.randn(3, length, 3)
    hidden = inputs.mT
    for layer in encoder.convolutions:
        assert isinstance(layer, nn.Linear)
        kernel = layer.weight.unflatten(1, (4, -1)).mT
        hidden = F.silu(F.conv1d(F.pad(hidden, (0, -hidden.shape[-1] % 4)), kernel, layer.bias, stride=4))
    expected = F.silu(encoder.head(hidden.mT.flatten(1)))
    torch.testing.assert_close(encoder.features(inputs), expected)


def test_patches_refuse_padded_sequences() -> None:
    encoder = SequenceEncoder(2, 1, 8)
    with pytest.raises(LatentRLError, match="GRU or a transformer"):
        encoder(torch.zeros(2, 8, 2), torch.zeros(2, 8, 1), torch.tensor([3, 8]))


@pytest.mark.parametrize("layers", [1, 2])
def test_gru_gives_the_state_of_packed_sequences(layers: int) -> None:
    encoder = GRUEncoder(2, 1, 6, layers)
    inputs, lengths = torch.randn(5, 9, 3), torch.tensor([4, 9, 1, 9, 6])
    packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    _, state = encoder.net(packed)
    torch.testing.assert_close(encoder.features(inputs, lengths), state[-1])
    torch.testing.assert_close(encoder.features(inputs), encoder.features(inputs, torch.full((5,), 9)))


def test_positions() -> None:
    """sin and cos of t / 10⁴^(2i/H), section 3.5 of the paper, the sines first."""
    table = _positions(torch.arange(50), 8, torch.float64)
    for t in range(50):
        angles = [t / 1e4 ** (2 * i / 8) for i in range(4)]
        expected = [*map(math.sin, angles), *map(math.cos, angles)]
        assert table[t].tolist() == pytest.approx(expected, abs=1e-12)


def test_transformer_knows_the_order_of_steps() -> None:
    """Without positions, an average over steps would not."""
    encoder = TransformerEncoder(2, 1, 8, layers=1, heads=2)
    inputs = torch.randn(4, 6, 3)
    assert not torch.allclose(encoder.features(inputs), encoder.features(inputs.flip(1)), atol=1e-3)


def test_transformer_needs_room_for_its_heads() -> None:
    with pytest.raises(LatentRLError, match="multiple of 2·heads = 8"):
        TransformerEncoder(2, 1, 12, heads=4)
