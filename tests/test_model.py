"""The bounds against exact answers, and what the model refuses."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from latentrl import LatentConfig, LatentModel, LatentRLError
from latentrl.distributions import DiagonalNormal
from latentrl.estimators import LeaveOneOut, Pathwise, ScoreFunction
from latentrl.types import Batch, Estimate
from tests.examples_table import DECODERS, POSTERIORS, PRIORS, A, O, T, Z


class Fixed(nn.Module):
    """A posterior with given mean and scale for each of the batch's rows."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.loc, self.scale, self.latent_dim = nn.Parameter(loc), nn.Parameter(scale), loc.shape[-1]

    def infer(self, batch: Batch, bound: object) -> DiagonalNormal:  # noqa: ARG002
        return DiagonalNormal(self.loc, self.scale)


class FixedPrior(Fixed):
    def forward(self, observations: Tensor) -> DiagonalNormal:  # noqa: ARG002
        return DiagonalNormal(self.loc, self.scale)


class Linear(nn.Module):
    """p(a|s, z) = N(W z + s, diag r²): conjugate to a Gaussian prior."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.weight, self.scale = weight, scale

    def forward(self, observations: Tensor, z: Tensor) -> DiagonalNormal:
        loc = z @ self.weight.T + observations
        return DiagonalNormal(loc, self.scale)


class Conjugate:
    """A linear-Gaussian model in float64 whose marginal and posterior are known."""

    def __init__(self, latent: int = 2, action: int = 3, batch: int = 4) -> None:
        generator = torch.Generator().manual_seed(3)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.weight, self.noise = normal(action, latent), normal(action).exp()
        self.prior_loc, self.prior_scale = normal(latent), normal(latent).exp()
        self.observations, self.actions = normal(batch, action), normal(batch, action)
        precision = self.prior_scale**-2
        noise_precision = (self.noise**-2).diag()
        self.posterior_covariance = (precision.diag() + self.weight.T @ noise_precision @ self.weight).inverse()
        residual = self.actions - self.observations
        self.posterior_mean = (
            precision * self.prior_loc + residual @ noise_precision @ self.weight
        ) @ self.posterior_covariance.T

    def log_marginal(self) -> Tensor:
        covariance = self.weight @ self.prior_scale.square().diag() @ self.weight.T + self.noise.square().diag()
        return MultivariateNormal(self.weight @ self.prior_loc + self.observations, covariance).log_prob(self.actions)

    def kl_to_posterior(self, q: DiagonalNormal) -> Tensor:
        exact = MultivariateNormal(self.posterior_mean, self.posterior_covariance)
        mine = MultivariateNormal(q.loc, torch.diag_embed(q.scale.square()))
        return torch.distributions.kl_divergence(mine, exact)

    def model(self, loc: Tensor, scale: Tensor) -> LatentModel:
        return LatentModel(
            Fixed(loc, scale), FixedPrior(self.prior_loc, self.prior_scale), Linear(self.weight, self.noise)
        )

    @property
    def batch(self) -> Batch:
        return Batch.full(self.observations, self.actions)


@pytest.mark.parametrize("kind", ["best diagonal", "shifted", "too wide", "too narrow"])
def test_log_marginal_is_elbo_plus_kl(kind: str) -> None:
    """log p(x) = ELBO + KL(q ‖ p(z|x)) for good and bad q, to 1e-5.

    The expectation of a quadratic under a Gaussian is taken exactly, by 2-D Gauss–Hermite quadrature.
    """
    exact = Conjugate()
    loc = exact.posterior_mean.clone()
    scale = exact.posterior_covariance.inverse().diagonal().rsqrt().expand_as(loc).clone()
    loc += {"shifted": 0.7}.get(kind, 0.0)
    scale *= {"too wide": 2.0, "too narrow": 0.3}.get(kind, 1.0)
    model = exact.model(loc, scale)
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    grid = torch.tensor([(a, b) for a in nodes for b in nodes])
    weight = torch.tensor([a * b for a in weights for b in weights]) / (2 * math.pi)

    class Quadrature(Pathwise):
        def forward(self, q, f, num_samples=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
            values = (weight[:, None] * f(q.loc + q.scale * grid[:, None])).sum(0)
            return Estimate(values.detach(), values)

    elbo = model.elbo(exact.batch, estimator=Quadrature())
    expected = exact.log_marginal() - exact.kl_to_posterior(DiagonalNormal(loc, scale))
    assert float(elbo.value.detach()) == pytest.approx(float(expected.mean()), abs=1e-5)
    assert float(-elbo.loss.detach()) == pytest.approx(float(expected.mean()), abs=1e-5)


@pytest.mark.parametrize("estimator", [Pathwise(), ScoreFunction(LeaveOneOut())], ids=["pathwise", "score"])
def test_elbo_estimate_is_unbiased(estimator: nn.Module) -> None:
    """Mean of 2000 ELBO estimates against the exact value; two-sided z-test at 1e-4."""
    exact = Conjugate()
    loc, scale = exact.posterior_mean + 0.3, torch.full_like(exact.posterior_mean, 0.5)
    model = exact.model(loc, scale)
    expected = (exact.log_marginal() - exact.kl_to_posterior(DiagonalNormal(loc, scale))).mean()
    values = torch.stack(
        [model.elbo(exact.batch, estimator=estimator, num_samples=2).value.detach() for _ in range(2000)]
    )
    assert abs(float((values.mean() - expected) / (values.std() / math.sqrt(2000)))) < 3.9


def test_importance_bound_tightens_to_the_marginal() -> None:
    """ELBO ≤ IWAE_K ≤ log p, monotone in K, within 4 standard errors (false alarm about 1e-4 per comparison)."""
    exact = Conjugate()
    # Wider than the exact posterior, so that the weights are bounded and their mean settles.
    widest = exact.posterior_covariance.diagonal().sqrt().max()
    model = exact.model(exact.posterior_mean + 0.2, (1.5 * widest).expand_as(exact.posterior_mean).clone())
    bounds = []
    for k in (1, 5, 50):
        draws = torch.stack([model.log_likelihood(exact.batch, k).value.mean() for _ in range(400)])
        bounds.append((float(draws.mean()), float(draws.std() / 20)))
    truth = float(exact.log_marginal().mean())
    for (low, low_se), (high, high_se) in zip(bounds, [*bounds[1:], (truth, 0.0)], strict=True):
        assert low < high + 4 * (low_se + high_se)
    assert bounds[0][0] < truth - 0.1  # the test would see a bound that is not one
    assert float(model.log_likelihood(exact.batch, 20_000).value.mean()) == pytest.approx(truth, abs=0.02)


def test_optimal_posterior_makes_every_weight_alike() -> None:
    """With q = p(z|x) the importance weights are constant: one sample gives log p(x) exactly."""
    exact = Conjugate(latent=1)
    model = exact.model(exact.posterior_mean, exact.posterior_covariance.diagonal().sqrt().expand(4, 1))
    weights = model.log_weights(exact.batch, 3)
    torch.testing.assert_close(weights, exact.log_marginal().expand(3, 4), atol=1e-8, rtol=0)


def test_beta_scales_the_kl_only() -> None:
    exact = Conjugate()
    model = exact.model(exact.posterior_mean, torch.ones_like(exact.posterior_mean))
    torch.manual_seed(1)
    one = model.elbo(exact.batch, beta=1.0)
    torch.manual_seed(1)
    three = model.elbo(exact.batch, beta=3.0)
    torch.testing.assert_close(three.reconstruction, one.reconstruction)
    torch.testing.assert_close(one.value - three.value, 2.0 * one.kl)


@pytest.mark.parametrize("prior", [name for name in PRIORS if "segment" not in name])
def test_sampled_and_closed_form_kl_agree(prior: str) -> None:
    """The KL that elbo reports, against 20 000 draws; within 5 standard errors."""
    discrete = prior == "categorical"
    posterior = POSTERIORS["categorical of a transition" if discrete else "gaussian of a transition"]()
    model = LatentModel(posterior, PRIORS[prior](), DECODERS["gaussian"](Z))
    batch = Batch.full(torch.randn(6, O), torch.randn(6, A))
    with torch.no_grad():
        q, p = posterior(batch.observations, batch.actions), model.prior(batch.observations)
        z = q.sample((20_000,))
        draws = (q.log_prob(z) - p.log_prob(z)).mean(1)
        reported = float(model.elbo(batch, num_samples=20_000).kl)
    assert abs(reported - float(draws.mean())) < 5 * 1.5 * float(draws.std()) / math.sqrt(20_000) + 1e-6


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_composition_trains(prior: str, decoder: str) -> None:
    """A few gradient steps on random data raise the ELBO."""
    kind = "categorical" if prior == "categorical" else "gaussian"
    segments = "segments" in prior
    posterior = POSTERIORS[f"{kind} of a {'segment' if segments else 'transition'}"]()
    made = PRIORS[prior]()
    if hasattr(made, "owner"):
        posterior = made.owner
    model = LatentModel(posterior, made, DECODERS[decoder](Z))
    steps = (T,) if segments else ()
    observations = torch.randn(32, *steps, O)
    actions = torch.rand(32, *steps, A)
    if decoder == "categorical":
        actions = torch.eye(A)[torch.randint(A, (32, *steps))]
    batch = Batch.full(observations, actions)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = float(model.elbo(batch, num_samples=8).value)
    for _ in range(30):
        optimizer.zero_grad()
        model.elbo(batch).loss.backward()
        optimizer.step()
    assert float(model.elbo(batch, num_samples=8).value) > first


def test_random_steps_estimate_the_segment() -> None:
    """The weighted sum over random steps is unbiased for the sum over the segment; z-test at 1e-4."""
    model = LatentConfig(latent_dim=0, hold=0, hidden=(8,)).build(*_spaces())
    observations, actions = torch.randn(1, T, O), torch.randn(1, T, A)
    empty = torch.empty(1, 0)
    exact = model.log_likelihood_given(Batch.full(observations, actions), empty).detach()
    rows = torch.randint(T, (4000, 3))
    batch = Batch(observations[0, rows], actions[0, rows], observations, actions, weight=torch.full((4000,), T / 3))
    draws = model.log_likelihood_given(batch, torch.empty(4000, 0)).detach()
    assert abs(float((draws.mean() - exact) / (draws.std() / math.sqrt(4000)))) < 3.9


def test_diagnostics_see_a_used_and_an_unused_latent() -> None:
    spread = torch.linspace(-6, 6, 32)[:, None].repeat(1, 2)
    used = LatentModel(
        Fixed(spread, torch.full((32, 2), 0.1)), FixedPrior(torch.zeros(2), 3 * torch.ones(2)), _decoder()
    )
    idle = LatentModel(
        Fixed(torch.zeros(32, 2), torch.ones(32, 2)), FixedPrior(torch.zeros(2), torch.ones(2)), _decoder()
    )
    batch = Batch.full(torch.zeros(32, O), torch.zeros(32, A))
    seen, blind = used.diagnostics(batch), idle.diagnostics(batch)
    assert (seen.active_units, blind.active_units) == (2, 0)
    assert (seen.collapsed, blind.collapsed) == (False, True)
    # 32 well separated posteriors tell their datum apart: the information is log 32.
    assert seen.mutual_information == pytest.approx(math.log(32), abs=0.2)
    assert blind.kl == pytest.approx(0.0, abs=1e-5)


def test_standardize_leaves_densities_in_raw_units() -> None:
    """Rescaling by c adds A log c to every log density."""
    config = LatentConfig(latent_dim=0, hold=1, hidden=(8,))
    observations, actions = torch.randn(200, O), torch.randn(200, A)
    torch.manual_seed(0)
    small = config.build(*_spaces())
    torch.manual_seed(0)
    large = config.build(*_spaces())
    small.standardize(observations, actions)
    large.standardize(observations * 100, actions * 100)
    one, _ = small.log_likelihood(Batch.full(observations, actions))
    hundred, error = large.log_likelihood(Batch.full(observations * 100, actions * 100))
    assert not error.any()
    torch.testing.assert_close(one - hundred, torch.full((200,), A * math.log(100)), rtol=1e-4, atol=1e-4)


def test_small_units_are_standardized_and_constants_are_left_alone() -> None:
    model = LatentConfig(latent_dim=0, hold=1, hidden=(8,)).build(*_spaces())
    observations = 1e-7 * torch.randn(50, O)
    observations[:, 0] = 7.0
    model.standardize(observations, torch.randn(50, A))
    scaled = model.decoder.trunk.observation_scale(observations)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(scaled[:, 1:].std(0, correction=0), torch.ones(O - 1))
    torch.testing.assert_close(scaled[:, 0], torch.zeros(50))


def test_the_score_function_gets_the_samples_its_baseline_needs() -> None:
    exact = Conjugate()
    model = exact.model(exact.posterior_mean, torch.ones_like(exact.posterior_mean))
    assert torch.isfinite(model.elbo(exact.batch, estimator=ScoreFunction(LeaveOneOut())).loss)


def test_a_subset_of_steps_has_no_likelihood_bound() -> None:
    model = LatentConfig(latent_dim=2, hidden=(8,), context_length=T, n_components=2).build(*_spaces())
    batch = Batch.full(torch.randn(3, T, O), torch.randn(3, T, A))._replace(weight=torch.ones(3))
    with pytest.raises(LatentRLError, match="needs all steps"):
        model.log_likelihood(batch)


def test_halves_of_a_latent_are_refused() -> None:
    with pytest.raises(LatentRLError, match="neither"):
        LatentModel(None, PRIORS["normal"](), _decoder())
    with pytest.raises(LatentRLError, match="same latent_dim"):
        LatentModel(POSTERIORS["gaussian of a transition"](), FixedPrior(torch.zeros(9), torch.ones(9)), _decoder())


def _decoder() -> nn.Module:
    return DECODERS["gaussian"](2)


def _spaces():  # type: ignore[no-untyped-def]
    from gymnasium import spaces

    return spaces.Box(-1, 1, (O,)), spaces.Box(-1, 1, (A,))
