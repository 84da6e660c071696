"""Bounds and their gradients against quadrature and the exact marginal, and what they refuse."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch import distributions as td

from latentrl import LatentConfig, LatentModel, LatentRLError
from latentrl.decoders import GaussianDecoder
from latentrl.distributions import GaussianMixture
from latentrl.encoders import TransitionEncoder
from latentrl.estimators import DeltaMethod, Estimator, MeasureValued, RunningMean, ScoreFunction
from latentrl.nets import ObservationTrunk
from latentrl.objectives import importance_bound, vade_bound
from latentrl.posteriors import GaussianPosterior
from latentrl.priors import MixturePrior
from latentrl.types import Batch
from tests.examples_table import DECODERS, POSTERIORS, PRIORS, A, O, Z
from tests.linear_gaussian import Conjugate, Fixed, FixedPrior, Linear
from tests.test_model import _spaces


def test_with_the_exact_posterior_it_is_the_marginal() -> None:
    exact = Conjugate(latent=1)
    model = exact.model(exact.posterior_mean, exact.posterior_covariance.diagonal().sqrt().expand(4, 1).clone())
    for k in (1, 7):
        torch.testing.assert_close(importance_bound(model, exact.batch, k).value, exact.log_marginal())


def test_one_sample_is_the_elbo() -> None:
    """Means of 1000 draws of both agree within 4.5 standard errors (false alarm 7e-6)."""
    exact = Conjugate()
    model = exact.model(exact.posterior_mean + 0.3, torch.full_like(exact.posterior_mean, 0.4))
    expected = exact.log_marginal() - exact.kl_to_posterior(model.infer(exact.batch))  # type: ignore[arg-type]
    with torch.no_grad():
        draws = torch.stack([importance_bound(model, exact.batch, 1).value for _ in range(1000)])
    z = (draws.mean(0) - expected) / (draws.std(0) / 1000**0.5)
    assert float(z.detach().abs().max()) < 4.5


def test_what_has_no_density_has_no_bound() -> None:
    config = LatentConfig(latent_dim=0, decoder="diffusion", hold=1, hidden=(8,))
    model = config.build(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)))
    with pytest.raises(LatentRLError, match="DiffusionDecoder has no density"):
        importance_bound(model, Batch.full(torch.zeros(4, 3), torch.zeros(4, 2)), 5)


def test_training_on_it_raises_it() -> None:
    model = LatentModel(POSTERIORS["gaussian of a transition"](), PRIORS["mixture"](), DECODERS["gaussian"](Z))
    batch = Batch.full(torch.randn(32, O), torch.randn(32, A))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = float(importance_bound(model, batch, 10).value.mean())
    for _ in range(40):
        optimizer.zero_grad()
        (-importance_bound(model, batch, 10).surrogate.mean()).backward()
        optimizer.step()
    assert float(importance_bound(model, batch, 10).value.mean()) > first + 0.1


def test_without_latent_it_is_the_likelihood() -> None:
    batch = Batch.full(torch.randn(3, O), torch.randn(3, A))
    plain = LatentConfig(latent_dim=0, hold=1).build(*_spaces())
    torch.testing.assert_close(importance_bound(plain, batch, 5).value, plain.log_likelihood(batch).value)
    with pytest.raises(LatentRLError, match="num_samples"):
        importance_bound(plain, batch, 0)


# -- forms of the ELBO, and VaDE's bound, against quadrature -----------------------------------------------------


class Numbers(NamedTuple):
    """A two-dimensional Gaussian q and a mixture prior, in float64."""

    loc: Tensor
    scale: Tensor
    logits: Tensor
    means: Tensor
    spreads: Tensor


class RowMixture(nn.Module):
    """A mixture prior with parameters for each row of the batch."""

    latent_dim = 2

    def __init__(self, logits: Tensor, means: Tensor, spreads: Tensor) -> None:
        super().__init__()
        self.logits, self.means, self.spreads = nn.Parameter(logits), nn.Parameter(means), nn.Parameter(spreads)

    def forward(self, observations: Tensor) -> GaussianMixture:  # noqa: ARG002
        return GaussianMixture(self.logits, self.means, self.spreads)


WEIGHT = torch.tensor([[1.0, -0.5], [0.3, 0.8], [0.0, 1.2]], dtype=torch.float64)
ACTION = torch.tensor([0.7, -0.4, 1.1], dtype=torch.float64)
ROWS, BETA = 40_000, 0.6


def numbers(components: int) -> Numbers:
    """With overlapping components of unequal weight."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    made = (
        draw(2),
        draw(2).mul(0.3).exp() * 0.6,
        draw(components),
        draw(components, 2),
        draw(components, 2).mul(0.3).exp(),
    )
    return Numbers(*(x.requires_grad_() for x in made))


def rows(given: Numbers, gaussian_prior: bool = False) -> tuple[LatentModel, Batch]:
    """One datum ROWS times, with parameters of its own each time: so many independent replicates of a gradient."""
    loc, scale, logits, means, spreads = (x.detach().expand(ROWS, *x.shape).clone() for x in given)
    prior = FixedPrior(means[:, 0], spreads[:, 0]) if gaussian_prior else RowMixture(logits, means, spreads)
    model = LatentModel(Fixed(loc, scale), prior, Linear(WEIGHT, torch.full((3,), 0.7).double()))
    action = ACTION.expand(ROWS, 3)
    return model, Batch.full(torch.zeros_like(action), action)


class Expected(NamedTuple):
    """Parts of the bounds by Gauss-Hermite quadrature, written with torch's own laws; differentiable."""

    log_likelihood: Tensor
    entropy: Tensor
    log_prior: Tensor
    by_component: Tensor
    """E_q of Σ_c p(c|z) (E_q[log p(z|c)] + log π_c − log p(c|z))."""
    pointwise: Tensor
    """E_q of Σ_c p(c|z) (log p(z|c) + log π_c − log p(c|z))."""


def expectations(given: Numbers) -> Expected:
    nodes, weights = (torch.tensor(x) for x in np.polynomial.hermite_e.hermegauss(40))
    grid, weight = torch.cartesian_prod(nodes, nodes), torch.cartesian_prod(weights, weights).prod(-1) / (2 * math.pi)
    z = given.loc + given.scale * grid
    log_p = td.Normal(z @ WEIGHT.T, 0.7).log_prob(ACTION).sum(-1)
    components = td.Independent(td.Normal(given.means, given.spreads), 1)
    prior = td.MixtureSameFamily(td.Categorical(logits=given.logits), components)
    log_weights, each = given.logits.log_softmax(-1), components.log_prob(z.unsqueeze(-2))
    responsibility = (log_weights + each).log_softmax(-1)

    def total(values: Tensor) -> Tensor:
        return (weight * values).sum()

    closed = (weight.unsqueeze(-1) * each).sum(0)
    return Expected(
        total(log_p),
        td.Independent(td.Normal(given.loc, given.scale), 1).entropy(),
        total(prior.log_prob(z)),
        total((responsibility.exp() * (closed + log_weights - responsibility)).sum(-1)),
        total((responsibility.exp() * (each + log_weights - responsibility)).sum(-1)),
    )


def assert_gradients(model: LatentModel, value: Tensor, exact: Tensor, names: dict[str, Tensor]) -> None:
    """Mean over rows of each parameter's gradient against the exact one, within 4.5 standard errors (7e-6 each)."""
    references = torch.autograd.grad(exact, [*names.values()])
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(value, [parameters[name] for name in names])
    for name, gradient, reference in zip(names, gradients, references, strict=True):
        draws = gradient * ROWS
        error = draws.std(0) / math.sqrt(ROWS)
        off = (draws.mean(0) - reference).abs()
        assert bool((off < 4.5 * error + 1e-9).all()), name


@pytest.mark.parametrize("form", ["kl", "entropy"])
@pytest.mark.parametrize("components", [1, 3])
def test_both_forms_are_the_same_bound(form: str, components: int) -> None:
    """Value and gradient of E_q[log p(a|z)] − β KL for a Gaussian and a mixture prior: means over 40 000 replicates.
    Twenty numbers at most within 4.5 errors: 1.4e-4 a case.
    """
    given = numbers(components)
    model, batch = rows(given, gaussian_prior=components == 1)
    parts = expectations(given)
    exact = parts.log_likelihood + BETA * (parts.log_prior + parts.entropy)
    terms = model.elbo(batch, BETA, form=form)  # type: ignore[arg-type]
    values = terms.log_likelihoods - BETA * terms.kls
    assert abs(float((values.mean() - exact.detach()) / (values.std() / math.sqrt(ROWS)))) < 4.5
    assert float(-terms.loss.detach()) == pytest.approx(float(values.mean()), rel=1e-6)
    names = {"posterior.loc": given.loc, "posterior.scale": given.scale}
    if components > 1:
        names |= {"prior.logits": given.logits, "prior.means": given.means, "prior.spreads": given.spreads}
    assert_gradients(model, -terms.loss, exact, names)


def test_decomposition_of_a_mixtures_log_density() -> None:
    """E_q[log p(z)] = E_q Σ_c p(c|z) (log p(z|c) + log π_c − log p(c|z)), at every z and so in the mean."""
    parts = expectations(numbers(3))
    torch.testing.assert_close(parts.pointwise, parts.log_prior)
    model, batch = rows(numbers(3))
    p, z = model.prior(batch.start), torch.randn(ROWS, 2).double()  # type: ignore[misc]
    chosen = p.responsibilities(z)
    inside = (chosen * (p.component_log_prob(z) + p.log_weights - chosen.log())).sum(-1)
    torch.testing.assert_close(inside, p.log_prob(z))


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("estimator", [None, MeasureValued(), DeltaMethod(), ScoreFunction(RunningMean())], ids=str)
def test_vade_bound_against_quadrature(draws: int, estimator: Estimator | None) -> None:
    """Value and gradients, log π_c counted once; below the ELBO, which sums c out. Twenty numbers at most within 4.5
    errors: 1.4e-4 a case.
    """
    given = numbers(3)
    model, batch = rows(given)
    parts = expectations(given)
    exact = parts.log_likelihood + parts.entropy + parts.by_component
    estimate = vade_bound(model, batch, draws, estimator)
    off = (estimate.value.mean() - exact.detach()) / (estimate.value.std() / math.sqrt(ROWS))
    assert abs(float(off)) < 4.5
    names = {
        "posterior.loc": given.loc,
        "posterior.scale": given.scale,
        "prior.logits": given.logits,
        "prior.means": given.means,
        "prior.spreads": given.spreads,
    }
    assert_gradients(model, estimate.surrogate.mean(), exact, names)
    elbo = parts.log_likelihood + parts.entropy + parts.log_prior
    assert float(exact.detach()) < float(elbo.detach()) - 0.02


def test_vade_bound_of_one_component_is_the_elbo() -> None:
    """Draw by draw: nothing is left to choose."""
    given = numbers(1)
    model, batch = rows(given)
    gaussian, _ = rows(given, gaussian_prior=True)
    torch.manual_seed(1)
    bound = vade_bound(model, batch)
    torch.manual_seed(1)
    terms = gaussian.elbo(batch)
    torch.testing.assert_close(bound.value, terms.log_likelihoods - terms.kls)
    torch.testing.assert_close(-bound.surrogate.mean(), terms.loss)


@pytest.mark.parametrize(
    ("posterior", "prior"),
    [("full of a transition", "mixture"), ("gaussian of a transition", "normal"), ("mixture of a transition", "flow")],
)
def test_vade_bound_refuses_other_laws(posterior: str, prior: str) -> None:
    model = LatentModel(POSTERIORS[posterior](), PRIORS[prior](), DECODERS["gaussian"](Z))
    batch = Batch.full(torch.randn(3, O), torch.randn(3, A))
    with pytest.raises(LatentRLError, match="a mixture of diagonal Gaussians as prior"):
        vade_bound(model, batch)


def test_vade_bound_needs_a_draw_and_a_latent() -> None:
    model, batch = rows(numbers(3))
    with pytest.raises(LatentRLError, match="num_samples"):
        vade_bound(model, batch, 0)
    plain = LatentConfig(latent_dim=0, hold=1).build(*_spaces())
    with pytest.raises(LatentRLError, match="needs a latent"):
        vade_bound(plain, Batch.full(torch.randn(3, O), torch.randn(3, A)))


class Widened(ObservationTrunk):
    """Features twice the observation, with another sign in the second half."""

    features_dim = 2 * O

    def forward(self, observations: Tensor) -> Tensor:
        return torch.cat([observations, -observations], -1)


def test_bounds_see_what_the_trunk_makes_of_observations() -> None:
    """The same as without a trunk, on its features, with a prior that reads them."""
    posterior = GaussianPosterior(TransitionEncoder(2 * O, A, (8,)), Z)
    parts = posterior, MixturePrior(Z, 3, observation_dim=2 * O, hidden=(8,)), GaussianDecoder(2 * O, Z, A, (8,))
    observations, actions = torch.randn(6, O), torch.randn(6, A)
    raw, features = Batch.full(observations, actions), Batch.full(Widened()(observations), actions)
    for bound in (vade_bound, importance_bound):
        torch.manual_seed(0)
        with_trunk = bound(LatentModel(*parts, trunk=Widened()), raw, 2).value
        torch.manual_seed(0)
        torch.testing.assert_close(with_trunk, bound(LatentModel(*parts), features, 2).value)
