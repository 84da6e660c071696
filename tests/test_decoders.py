"""Decoders: whose spread depends on what, in which units, and the laws against torch's and scipy's."""

import numpy as np
import pytest
import torch
from scipy.stats import logistic
from torch import Tensor
from torch import distributions as td

from latentrl import LatentRLError
from latentrl.decoders import (
    BernoulliDecoder,
    BinsDecoder,
    CategoricalDecoder,
    Decoder,
    DiscretizedLogisticDecoder,
    GaussianDecoder,
    MixtureDecoder,
    TanhGaussianDecoder,
    box_corners,
)
from latentrl.nets import Affine
from tests.examples_table import DECODERS, HIGH, LOW, A, O, Z


def standardize(decoder: Decoder, actions: Tensor) -> None:
    for module in decoder.modules():
        if isinstance(module, Affine) and module.kind == "action":
            module.fit(actions)


def inputs(batch: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, O), torch.randn(batch, Z)


@pytest.mark.parametrize("kind", ["shared", "per_dimension", "state"])
def test_kinds_of_scale(kind: str) -> None:
    """In units of the actions' spread, after a random change of all parameters."""
    decoder = GaussianDecoder(O, Z, A, (16,), kind)  # type: ignore[arg-type]
    spread = torch.tensor([2.0, 0.1])
    standardize(decoder, spread * torch.randn(100_000, A))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        if kind == "per_dimension":  # which may be alike by chance
            decoder.sigma.raw.copy_(torch.tensor([0.2, 1.0]))
    relative = decoder(*inputs()).stddev.detach() / spread
    over_states, over_dimensions = relative.std(0).max(), relative.std(1).max()
    assert bool(over_states > 0.01) == (kind == "state")
    assert bool(over_dimensions > 0.05) == (kind != "shared")
    assert decoder.sigma.raw.numel() == (1 if kind == "shared" else A)


def test_gaussian_starts_in_the_data() -> None:
    """A head of zeros and untouched scales are the mean and the standard deviation of the data."""
    decoder = GaussianDecoder(O, Z, A)
    actions = torch.tensor([3.0, -40.0]) + torch.tensor([0.02, 5.0]) * torch.randn(1000, A)
    standardize(decoder, actions)
    with torch.no_grad():
        decoder.head.weight.zero_()
        decoder.head.bias.zero_()
    law = decoder(*inputs())
    torch.testing.assert_close(law.loc, actions.mean(0).expand(6, A), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(law.stddev, actions.std(0, correction=0).expand(6, A), rtol=1e-3, atol=0)


BLIND = {
    "gaussian": lambda: GaussianDecoder(0, Z, A, (16,)),
    "tanh_gaussian": lambda: TanhGaussianDecoder(0, Z, LOW, HIGH, (16,)),
    "mixture": lambda: MixtureDecoder(0, Z, A, 3, (16,)),
    "discretized_logistic": lambda: DiscretizedLogisticDecoder(0, Z, LOW, HIGH, 16, (16,)),
    "categorical": lambda: CategoricalDecoder(0, Z, (A,), (16,)),
    "bernoulli": lambda: BernoulliDecoder(0, Z, A, (16,)),
}


@pytest.mark.parametrize("name", BLIND)
def test_a_decoder_of_the_latent_alone(name: str) -> None:
    """With observation_dim = 0 the state has no influence, however many features it has; the latent has."""
    blind = BLIND[name]()
    observations, z = inputs()
    law = blind(observations, z)
    value = law.sample()
    for other in (10.0 * torch.randn(6, O), torch.randn(6, 3), torch.empty(6, 0)):
        torch.testing.assert_close(blind(other, z).log_prob(value), law.log_prob(value))
    segments = blind(torch.randn(6, 4, O), z).log_prob(value.unsqueeze(1))
    torch.testing.assert_close(segments, law.log_prob(value).unsqueeze(1).expand(6, 4))
    assert not torch.allclose(blind(observations, -z).log_prob(value), law.log_prob(value))


def test_categorical_sizes() -> None:
    """Choices among 2, 3 and 1 options: each block is a law of its own, and log densities add up."""
    decoder = CategoricalDecoder(O, Z, (2, 3, 1), (16,))
    observations, z = inputs()
    law = decoder(observations, z)
    logits = decoder.head(decoder.trunk(observations, z))
    value = law.sample()
    expected = torch.zeros(6)
    for block, part, probs in zip(*(x.split([2, 3, 1], -1) for x in (logits, value, law.probs)), strict=True):
        expected = expected + td.OneHotCategorical(logits=block).log_prob(part)
        torch.testing.assert_close(probs.sum(-1), torch.ones(6))
    torch.testing.assert_close(law.log_prob(value), expected)
    with pytest.raises(LatentRLError, match="sizes"):
        CategoricalDecoder(O, Z, (2, 0))


def test_discretized_logistic_in_raw_units() -> None:
    """After standardising, location and scale are raw; masses of the intervals are scipy's, tails at the edges."""
    decoder = DiscretizedLogisticDecoder(O, Z, LOW, HIGH, 8, (16,))
    standardize(decoder, torch.tensor([0.3, 2.0]) + torch.tensor([0.2, 0.7]) * torch.randn(5000, A))
    law = decoder(*inputs(1))
    width = (HIGH - LOW) / 8
    middles = LOW + (torch.arange(8)[:, None] + 0.5) * width
    edges = (LOW + torch.arange(1, 8)[:, None] * width).numpy()
    below = logistic.cdf(edges, law.loc.detach().numpy(), law.scale.detach().numpy())
    mass = np.diff(np.concatenate([np.zeros((1, A)), below, np.ones((1, A))]), axis=0)
    for row in range(8):
        log_density = law.log_prob(middles[row]).detach().numpy()
        assert log_density == pytest.approx(np.log(mass[row] / width.numpy()).sum(), rel=1e-3)
    features = decoder.trunk(*inputs(1))
    raw = torch.nn.functional.softplus(decoder.sigma(features)) + 1e-4
    gain, shift = decoder.raw_units.gain, decoder.raw_units.shift
    with torch.no_grad():
        decoder.head.weight.zero_()
        decoder.head.bias.zero_()
    torch.testing.assert_close(decoder(*inputs(1)).loc[0], shift)
    # Five standard errors of a mean of 5000, whose deviation is .7 at most: a false alarm in 10⁶.
    torch.testing.assert_close(shift, torch.tensor([0.3, 2.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(law.scale[0], gain * raw, rtol=1e-4, atol=0)
    assert 0.5 < float(gain[1]) < 0.9


def test_tanh_gaussian_and_mixture_against_torch() -> None:
    """In float64, with the parameters that the decoders give."""
    observations, z = (x.double() for x in inputs())
    squashed = TanhGaussianDecoder(O, Z, LOW, HIGH, (16,), "state").double()(observations, z)
    center, half = (0.5 * (HIGH + LOW)).double(), (0.5 * (HIGH - LOW)).double()
    base = td.Independent(td.Normal(squashed.base.loc, squashed.base.stddev), 1)
    expected = td.TransformedDistribution(base, [td.TanhTransform(), td.AffineTransform(center, half, 1)])
    value = squashed.sample()
    torch.testing.assert_close(squashed.log_prob(value), expected.log_prob(value), rtol=1e-6, atol=1e-6)
    assert bool(((value > LOW) & (value < HIGH)).all())

    mixture = MixtureDecoder(O, Z, A, 3, (16,)).double()(observations, z)
    parts = td.Independent(td.Normal(mixture.loc, mixture.scale), 1)
    reference = td.MixtureSameFamily(td.Categorical(logits=mixture.log_weights), parts)
    value = mixture.sample()
    torch.testing.assert_close(mixture.log_prob(value), reference.log_prob(value))
    assert float(mixture.scale.detach().std(0).min()) > 1e-3  # read off the state


@pytest.mark.parametrize("name", DECODERS)
def test_float64_agrees_with_float32(name: str) -> None:
    decoder = DECODERS[name](Z)
    observations, z = inputs()
    law = decoder(observations, z)
    value = law.sample()
    wide = decoder.double()(observations.double(), z.double())
    log_prob = wide.log_prob(value.double())
    assert log_prob.dtype == wide.mode.dtype == wide.sample().dtype == torch.float64
    torch.testing.assert_close(log_prob.float(), law.log_prob(value), rtol=1e-3, atol=1e-3)


def test_boxes_without_bounds_or_width_are_refused() -> None:
    low, high = box_corners(np.array([[-1.0, 0.0]]), np.array([[1.0, 2.0]]))
    assert (low.tolist(), high.tolist()) == ([-1.0, 0.0], [1.0, 2.0])
    with pytest.raises(LatentRLError, match="bounded action box"):
        box_corners([-1.0, -np.inf], [1.0, 1.0])
    with pytest.raises(LatentRLError, match="low < high"):
        box_corners([0.0, 0.0], [1.0, 0.0])


@pytest.mark.parametrize("decoder", [MixtureDecoder(3, 0, 2, 4, (8,)), BinsDecoder(3, 0, 2, 4, (8,))])
def test_empty_batches(decoder: Decoder) -> None:
    assert decoder(torch.empty(0, 3), torch.empty(0, 0)).sample().shape == (0, 2)


def test_a_box_is_copied() -> None:
    low, high = torch.full((2,), -1.0), torch.ones(2)
    decoder = TanhGaussianDecoder(3, 2, low, high)
    decoder.load_state_dict(TanhGaussianDecoder(3, 2, 2 * low, 2 * high).state_dict())
    assert low.tolist() == [-1.0, -1.0]
