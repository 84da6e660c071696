"""What is particular to single priors."""

import torch

from latentrl.distributions import DiagonalNormal
from latentrl.encoders import TransitionEncoder
from latentrl.posteriors import GaussianPosterior
from latentrl.priors import MixturePrior, VampPrior, farthest_points


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
