"""What is particular to single priors."""

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import Tensor

from latentrl import LatentRLError
from latentrl.distributions import DiagonalNormal
from latentrl.encoders import Encoder, TransitionEncoder
from latentrl.posteriors import CategoricalPosterior, GaussianPosterior, PerDatapointPosterior
from latentrl.priors import (
    CategoricalPrior,
    FlowPrior,
    GaussianPrior,
    MixturePrior,
    Prior,
    StandardNormalPrior,
    VampPrior,
    farthest_points,
)


def test_farthest_points_covers_clusters_and_never_repeats_before_it_must() -> None:
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    points = centers.repeat(5, 1) + 0.01 * torch.randn(20, 2)
    assert sorted((farthest_points(points, 4) % 4).tolist()) == [0, 1, 2, 3]
    assert len(set(farthest_points(points, 20).tolist())) == 20
    assert sorted(farthest_points(points[:3], 6).tolist()) == [0, 0, 1, 1, 2, 2]


def test_vamp_is_the_mixture_of_its_posteriors() -> None:
    posterior = GaussianPosterior(TransitionEncoder(3, 1, (8,)), 2)
    prior = VampPrior(posterior, 5)
    with torch.no_grad():
        prior.logits.copy_(torch.randn(5))
    z = torch.randn(9, 2)
    q = posterior.law(prior.pseudo_inputs)
    expected = (prior.logits.log_softmax(0) + q.log_prob(z.unsqueeze(1))).logsumexp(1)
    torch.testing.assert_close(prior(torch.zeros(9, 3)).log_prob(z), expected, rtol=1e-4, atol=1e-4)


def test_vamp_does_not_own_the_posterior() -> None:
    posterior = GaussianPosterior(TransitionEncoder(3, 1, (8,)), 2)
    assert {name for name, _ in VampPrior(posterior, 5).named_parameters()} == {"logits", "pseudo_inputs"}


def test_seeding_puts_components_on_the_data() -> None:
    posterior = GaussianPosterior(TransitionEncoder(3, 1, (8,)), 2)
    inputs = torch.randn(40, 4)
    vamp, mixture = VampPrior(posterior, 5), MixturePrior(2, 5)
    vamp.seed_from(posterior, inputs)
    mixture.seed_from(posterior, inputs)
    assert all((inputs == row).all(-1).any() for row in vamp.pseudo_inputs)
    q = posterior.law(inputs)
    assert isinstance(q, DiagonalNormal)
    assert all((q.loc == row).all(-1).any() for row in mixture.loc)


def test_a_mixture_is_placed_where_it_is_told_to() -> None:
    """The density is scipy's; what is placed is not seeded."""
    weights, loc, scale = [0.7, 0.1], [[0.0, 1.0], [-2.0, 3.0]], [[0.5, 1.0], [2.0, 0.001]]
    z = torch.randn(50, 2)
    densities = [multivariate_normal(m, np.square(s)).logpdf(z) for m, s in zip(loc, scale, strict=True)]
    for learned, shares in ((True, (0.875, 0.125)), (False, (0.5, 0.5))):
        prior = MixturePrior(2, 2, learned)
        prior.place(weights, loc, scale)
        assert bool(prior.seeded)  # also where it is loaded
        prior.seed_from(GaussianPosterior(TransitionEncoder(3, 1, (8,)), 2), torch.randn(40, 4))
        expected = logsumexp(np.log(shares)[:, None] + densities, 0)
        assert prior(torch.zeros(50, 0)).log_prob(z).detach().numpy() == pytest.approx(expected, rel=1e-4)
    prior.place(weights, loc, [[200.0, 1.0], [1e4, 1.0]])  # far above where an exponential ends
    wide = [multivariate_normal(m, np.square(s)).logpdf(z) for m, s in zip(loc, [[200, 1], [1e4, 1]], strict=True)]
    expected = logsumexp(np.log(0.5) + np.array(wide), 0)
    assert prior(torch.zeros(50, 0)).log_prob(z).detach().numpy() == pytest.approx(expected, rel=1e-4)
    for wrong in (
        (weights[:1], loc, scale),
        (weights, loc, [[1.0, 1.0], [1.0, 0.0]]),
        (weights, [[0.0, np.nan]] * 2, scale),
    ):
        with pytest.raises(LatentRLError, match=r"must be of shape .*, finite and above"):
            prior.place(*wrong)


def test_a_flow_fits_a_banana() -> None:
    """z₂ = z₁² + .3 ε: a Gaussian misses ½ log(1 + 2 / .09) = 1.57 nats of its negative entropy, a flow little."""

    def banana(size: int) -> Tensor:
        z, noise = torch.randn(2, size)
        return torch.stack([z, z.square() + 0.3 * noise], -1)

    def gap(prior: Prior) -> float:
        """−entropy − E log p on fresh draws, after maximum likelihood: the divergence that is left."""
        optimizer = torch.optim.Adam(prior.parameters(), 0.02)
        observations = torch.zeros(1, 0)
        for _ in range(150):
            optimizer.zero_grad()
            (-prior(observations).log_prob(banana(256)).mean()).backward()
            optimizer.step()
        with torch.no_grad():
            held_out = float(prior(observations).log_prob(banana(20_000)).mean())
        return -(math.log(2 * math.pi * math.e) + math.log(0.3)) - held_out

    assert gap(GaussianPrior(2)) == pytest.approx(0.5 * math.log(1 + 2 / 0.09), abs=0.15)
    assert 0.0 < gap(FlowPrior(2)) < 0.3


def after_training(prior: Prior, observations: Tensor) -> Prior:
    """A few updates with weight decay, which moves whatever is not kept out."""
    optimizer = torch.optim.AdamW(prior.parameters(), 0.1, weight_decay=0.5)
    values = torch.eye(4)[torch.tensor([0, 0, 0, 1, 1, 2])]
    for _ in range(3):
        optimizer.zero_grad()
        (-prior(observations).log_prob(values).sum()).backward()
        optimizer.step()
    return prior


@pytest.mark.parametrize("observation_dim", [None, 3])
def test_weights_that_are_not_learned_stay_equal(observation_dim: int | None) -> None:
    observations = torch.randn(6, 3)
    for learned in (True, False):
        mixture = after_training(MixturePrior(4, 3, learned, observation_dim, (8,)), observations)(observations)
        assert bool((mixture.log_weights.exp() - 1 / 3).abs().max() < 1e-6) != learned
    categorical = CategoricalPrior(4, 1, False, observation_dim, (8,))
    assert not [p for p in categorical.parameters() if p.requires_grad]
    torch.testing.assert_close(categorical(observations).probs.expand(6, 4), torch.full((6, 4), 0.25))
    learned = after_training(CategoricalPrior(4, 1, True, observation_dim, (8,)), observations)
    assert bool((learned(observations).probs - 0.25).abs().max() > 0.01)


@pytest.mark.parametrize("learn_inputs", [True, False])
@pytest.mark.parametrize("learn_weights", [True, False])
def test_vamp_moves_what_it_is_told_to(learn_inputs: bool, learn_weights: bool) -> None:
    posterior = GaussianPosterior(TransitionEncoder(3, 1, (8,)), 4)
    prior = VampPrior(posterior, 5, learn_inputs=learn_inputs, learn_weights=learn_weights)
    prior.owner = posterior
    inputs, logits = prior.pseudo_inputs.detach().clone(), prior.logits.detach().clone()
    after_training(prior, torch.zeros(6, 3))
    assert bool((prior.pseudo_inputs == inputs).all()) != learn_inputs
    assert bool((prior.logits == logits).all()) != learn_weights


class Mean(Encoder):
    """Of the steps of a sequence."""

    features_dim = 5

    def features(self, inputs: Tensor, lengths: Any = None) -> Tensor:  # noqa: ARG002
        return inputs.sum(1) / inputs.shape[1] * (inputs.shape[2] / 5)


def test_vamp_refuses_posteriors_that_it_cannot_mix() -> None:
    construct = inspect.unwrap(VampPrior.__init__)  # without the type checks of the tests
    with pytest.raises(LatentRLError, match="amortized posterior"):
        construct(VampPrior.__new__(VampPrior), PerDatapointPosterior(9, 2), 4)
    with pytest.raises(LatentRLError, match=r"does not read pseudo-inputs \(8, 5\): give as length the steps"):
        VampPrior(GaussianPosterior(Mean(3, 2), 4), 8)
    with pytest.raises(LatentRLError, match="finite set"):
        VampPrior(CategoricalPosterior(TransitionEncoder(3, 1, (8,)), 4), 4)


def test_standard_normal_follows_its_dtype() -> None:
    prior = StandardNormalPrior(2)
    assert prior(torch.zeros(1, 3)).sample().dtype == torch.float32
    assert prior.double()(torch.zeros(1, 3)).sample().dtype == torch.float64


def test_learned_priors_start_where_they_say() -> None:
    """A Gaussian prior and a flow's own Gaussian start at N(0, I)."""
    law = GaussianPrior(3)(torch.zeros(1, 0))
    torch.testing.assert_close(law.loc, torch.zeros(3))
    torch.testing.assert_close(law.stddev, torch.ones(3), atol=2e-4, rtol=0)
