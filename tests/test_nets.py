"""Networks: standardisation, trunks."""

import pytest
import torch

from latentrl import nets
from latentrl.decoders import GaussianDecoder
from latentrl.encoders import TransitionEncoder
from latentrl.nets import ConditionedTrunk, Standardize, Unstandardize, positive
from latentrl.priors import FlowPrior, GaussianPrior


def test_unstandardize_scales_deviations() -> None:
    """Deviations in raw units are the data's spread times the standardised ones, floor included."""
    units = Unstandardize(2, "action")
    data = torch.randn(1000, 2) * torch.tensor([3.0, 0.01]) + 5.0
    units.fit(data)
    unbounded = torch.tensor([[0.3, -2.0], [-50.0, 1.0]])
    torch.testing.assert_close(units.scale(unbounded), data.std(0, correction=0) * positive(unbounded))


def test_moments_are_those_of_all_data_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of columns side by side."""
    data = torch.randn(1000, 3) * torch.tensor([3.0, 0.01, 1.0]) + 50.0
    data[:, 2] = 7.0
    whole, parts = Standardize(5, "transition"), Standardize(5, "transition")
    whole.fit(torch.cat([data, data[:, :2]], -1))
    monkeypatch.setattr(nets, "AT_ONCE", 40)
    parts.fit(data, data[:, :2])
    for name in ("gain", "shift"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    assert parts.gain[2] == 1.0


@pytest.mark.parametrize("hidden", [(), (8,), (8, 8)])
@pytest.mark.parametrize("latent_dim", [0, 3])
def test_a_segment_is_its_steps_one_by_one(hidden: tuple[int, ...], latent_dim: int) -> None:
    trunk = ConditionedTrunk(4, latent_dim, hidden)
    observations, z = torch.randn(5, 7, 4), torch.randn(2, 5, latent_dim)
    together = trunk(observations, z) if latent_dim else trunk(observations, z[0])
    alone = torch.stack([trunk(observations[:, t], z if latent_dim else z[0]) for t in range(7)], -2)
    torch.testing.assert_close(together, alone)
    assert together.shape[-1] == trunk.features_dim


def test_without_hidden_layers_models_are_linear() -> None:
    """The mean at the sum of two inputs is the sum of their means, less that at 0."""
    decoder, encoder = GaussianDecoder(4, 3, 2, hidden=()), TransitionEncoder(4, 2, hidden=())
    priors = GaussianPrior(3, 4, hidden=()), FlowPrior(3, 4, hidden=())
    (s, t), (z, w) = torch.randn(2, 5, 4), torch.randn(2, 5, 3)
    mean = decoder(s + t, z + w).mean + decoder(0 * s, 0 * z).mean
    torch.testing.assert_close(mean, decoder(s, z).mean + decoder(t, w).mean)
    assert encoder(s, s[:, :2]).shape == (5, encoder.features_dim) == (5, 6)
    assert all(prior(s).loc.shape == (5, 3) for prior in priors)
