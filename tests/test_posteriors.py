"""Posteriors against known best answers: what training finds, which bound is above which, and what is refused."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from latentrl import LatentConfig, LatentModel, LatentRLError
from latentrl.decoders import GaussianDecoder
from latentrl.distributions import DiagonalNormal, FullNormal
from latentrl.encoders import Encoder
from latentrl.estimators import DeltaMethod
from latentrl.posteriors import (
    CategoricalPosterior,
    FlowPosterior,
    FullGaussianPosterior,
    GaussianPosterior,
    MixturePosterior,
    PerDatapointPosterior,
    Posterior,
    SemiAmortizedPosterior,
)
from latentrl.priors import GaussianPrior, StandardNormalPrior
from latentrl.types import Batch
from tests.linear_gaussian import Conjugate, Cubature, Same, loss_of_parameters


def climb(model: LatentModel, batch: Batch) -> float:
    """Maximise the exact ELBO of a Gaussian posterior over the posterior's parameters; the ELBO found."""
    assert model.posterior is not None
    parameters = [*model.posterior.parameters()]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=100, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = model.elbo(batch, estimator=Cubature()).loss
        value.backward()
        return value

    optimizer.step(loss)
    return -float(loss().detach())


MEAN_FIELD = {
    "per datapoint": lambda: PerDatapointPosterior(16, 2),
    "amortized": lambda: GaussianPosterior(Same(3, 3), 2),
}


@pytest.mark.parametrize("name", MEAN_FIELD)
def test_mean_field_finds_the_best_diagonal(name: str) -> None:
    """Its mean is the posterior's and its variances are one over the diagonal of the precision Λ.

    The gap to the marginal likelihood is then KL(q ‖ p(z|x)) = ½ (Σ log Λ_dd − log |Λ|).
    """
    exact = Conjugate(batch=16)
    model = exact.model_with(MEAN_FIELD[name]().double())
    bound = climb(model, exact.batch)
    q, best = model.infer(exact.batch), exact.best_diagonal()
    torch.testing.assert_close(q.mean, best.loc, atol=1e-3, rtol=0)
    torch.testing.assert_close(q.variance, best.variance, atol=0, rtol=1e-3)
    precision = exact.posterior_covariance.inverse()
    gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    assert gap > 0.02  # there is something to miss
    assert bound == pytest.approx(float(exact.log_marginal().mean() - gap), abs=1e-5)


def test_full_covariance_finds_the_posterior() -> None:
    """Mean, covariance, and a bound that is the marginal likelihood itself."""
    exact = Conjugate(batch=16)
    model = exact.model_with(FullGaussianPosterior(Same(3, 3), 2).double())
    bound = climb(model, exact.batch)
    q = model.infer(exact.batch)
    assert isinstance(q, FullNormal)
    torch.testing.assert_close(q.loc, exact.posterior_mean, atol=1e-3, rtol=0)
    torch.testing.assert_close(q.covariance_matrix, exact.posterior_covariance.expand(16, 2, 2), atol=1e-3, rtol=0)
    assert bound == pytest.approx(float(exact.log_marginal().mean()), abs=1e-5)


def test_sampled_gradients_find_the_best_diagonal_too() -> None:
    """Adam on one-draw-per-datum gradients, with a learning rate that falls to 0, ends within .01 of the best ELBO."""
    exact = Conjugate()
    model = exact.model_with(PerDatapointPosterior(4, 2).double())
    optimizer = torch.optim.Adam(model.posterior.parameters(), 0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        optimizer.zero_grad()
        model.elbo(exact.batch, num_samples=8).loss.backward()
        optimizer.step()
        cosine.step()
    q = model.infer(exact.batch)
    assert isinstance(q, DiagonalNormal)
    excess = exact.kl_to_posterior(q) - exact.kl_to_posterior(exact.best_diagonal())
    assert 0.0 <= float(excess.detach().mean()) < 0.01


def test_bounds_are_ordered() -> None:
    """Per-datapoint optimum ≥ k steps ≥ fewer steps ≥ the encoder alone, for the same encoder, as exact ELBOs.

    The steps climb sampled gradients, so k steps win on average: each paired difference over 64 data is above 4
    standard errors (were there no gain, that would happen once in 30 000 times).
    """
    exact = Conjugate(batch=64)
    posterior = SemiAmortizedPosterior(Same(3, 3), 2, step_size=0.02, num_samples=8).double()
    model = exact.model_with(posterior)

    def gap(steps: int) -> Tensor:
        posterior.steps = steps
        with torch.no_grad():
            q = model.infer(exact.batch)
        assert isinstance(q, DiagonalNormal)
        return exact.kl_to_posterior(q)

    amortized = exact.kl_to_posterior(posterior(exact.observations, exact.actions).expand((64,)))
    gaps = [gap(steps) for steps in (0, 1, 5, 25)]
    torch.testing.assert_close(gaps[0], amortized.detach())
    for worse, better in pairwise(gaps):
        gain = worse - better
        assert float(gain.mean() / (gain.std() / 8)) > 4
    assert bool((gaps[-1] >= exact.kl_to_posterior(exact.best_diagonal())).all())


# -- bimodal posteriors ----------------------------------------------------------------------------------------


class Distance(nn.Module):
    """p(a|z) = N((|z₁|, z₂), ½² I): the first action does not tell the sign of z₁."""

    def forward(self, observations: Tensor, z: Tensor) -> DiagonalNormal:  # noqa: ARG002
        loc = torch.stack([z[..., 0].square().add(1e-6).sqrt(), z[..., 1]], -1)
        return DiagonalNormal(loc, torch.full_like(z, 0.5))


def bimodal_gap(make: Callable[[Encoder], Posterior]) -> float:
    """log p(a) − ELBO in nats for a = (1, 0), which two equal modes explain, after training; both by quadrature.

    Where training starts decides whether one mode is enough for it, so the seed is one where it is not.
    """
    torch.manual_seed(2)
    posterior = make(Same(0, 2))
    model = LatentModel(posterior, StandardNormalPrior(2), Distance()).double()
    batch = Batch.full(torch.zeros(1, 0).double(), torch.tensor([[1.0, 0.0]]).double())
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(150):
        optimizer.zero_grad()
        model.elbo(batch, num_samples=32).loss.backward()
        optimizer.step()
    line = torch.linspace(-4.0, 4.0, 81, dtype=torch.float64)
    z = torch.cartesian_prod(line, line).unsqueeze(1)
    area = float(line[1] - line[0]) ** 2
    with torch.no_grad():
        joint = model.log_likelihood_given(batch, z) + model.prior(batch.start).log_prob(z)  # type: ignore[misc]
        q = model.infer(batch).log_prob(z)
        assert float(q.exp().sum()) * area == pytest.approx(1.0, abs=1e-2)
        marginal = (joint.logsumexp(0) + math.log(area)).item()
        return marginal - float((q.exp() * (joint - q)).sum()) * area


def test_flexible_posteriors_hold_both_modes() -> None:
    """A Gaussian settles on one of two modes; a mixture and a flow cover both. With other starts a flexible posterior,
    too, may settle on one mode: the seed is part of the test.
    """
    assert bimodal_gap(lambda encoder: GaussianPosterior(encoder, 2)) > 0.2
    assert bimodal_gap(lambda encoder: MixturePosterior(encoder, 2, 4)) < 0.05
    assert bimodal_gap(lambda encoder: FlowPosterior(encoder, 2)) < 0.08


# -- layouts and gradients -------------------------------------------------------------------------------------


def test_full_gaussian_reads_its_factor_row_by_row() -> None:
    """Head outputs are mean, diagonal before softplus, and the entries below it in the order of tril_indices."""
    posterior = FullGaussianPosterior(Same(1, 2), 3)
    x = torch.randn(5, 3)
    q = posterior(x[:, :1], x[:, 1:])
    outputs = posterior.head(x).detach().numpy()
    factor = np.zeros((5, 3, 3))
    factor[:, range(3), range(3)] = np.logaddexp(0.0, outputs[:, 3:6]) + 1e-4
    factor[:, 1, 0], factor[:, 2, 0], factor[:, 2, 1] = outputs[:, 6], outputs[:, 7], outputs[:, 8]
    np.testing.assert_allclose(q.scale_tril.detach().numpy(), factor, rtol=1e-5, atol=1e-7)
    reference = MultivariateNormal(q.loc, covariance_matrix=torch.tensor(factor @ factor.swapaxes(1, 2)).float())
    z = torch.randn(5, 3)
    torch.testing.assert_close(q.log_prob(z), reference.log_prob(z), rtol=1e-4, atol=1e-4)


def small_model(posterior: Posterior) -> LatentModel:
    return LatentModel(posterior, GaussianPrior(2), GaussianDecoder(1, 2, 2, (4,))).double()


def test_gradients_run_through_the_steps() -> None:
    """Finite differences of the ELBO after three steps, with the noise held, for every parameter: the step's own
    dependence on encoder, decoder and prior counts."""
    model = small_model(SemiAmortizedPosterior(Same(1, 2), 2, steps=3, step_size=0.2))
    batch = Batch.full(torch.randn(3, 1).double(), torch.randn(3, 2).double())
    loss, values = loss_of_parameters(model, batch)
    assert torch.autograd.gradcheck(loss, values)


def test_steps_without_learning_leave_nothing_behind() -> None:
    """Under no_grad the steps are taken all the same; no graph and no gradient remains."""
    posterior = SemiAmortizedPosterior(Same(1, 2), 2, steps=4)
    model = small_model(posterior)
    batch = Batch.full(torch.randn(3, 1).double(), torch.randn(3, 2).double())
    torch.manual_seed(1)
    with torch.no_grad():
        q = model.infer(batch)
    assert not q.mean.requires_grad
    assert not q.stddev.requires_grad
    assert q.mean.grad_fn is None
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.manual_seed(1)
    learned = model.infer(batch)
    torch.testing.assert_close(learned.mean.detach(), q.mean)
    assert not torch.allclose(q.mean, posterior(batch.observations, batch.actions).mean)


@pytest.mark.parametrize("size", [0.01, 1e4])
def test_a_step_is_a_share_of_the_natural_gradient_up_to_a_limit(size: float) -> None:
    """(σ² ∂μ, ½ ∂log σ), at most one σ and a factor of e."""
    posterior = SemiAmortizedPosterior(Same(1, 2), 2, steps=1, step_size=0.5).double()
    batch = Batch.full(torch.randn(3, 1).double(), torch.randn(3, 2).double())
    by_loc, by_log_scale = size * torch.tensor([1.0, -2.0]).double(), size * torch.tensor([-3.0, 1.0]).double()
    with torch.no_grad():
        guess = posterior(batch.observations, batch.actions)
        q = posterior.infer(batch, lambda q: (q.loc * by_loc + q.scale.log() * by_log_scale).sum(-1))
    small = size < 1.0
    moved = 0.5 * guess.scale**2 * by_loc if small else guess.scale * by_loc.sign()
    torch.testing.assert_close(q.loc, guess.loc + moved)
    widened = 0.25 * by_log_scale if small else by_log_scale.sign()
    torch.testing.assert_close(q.scale.log(), guess.scale.log() + widened)


# -- refusals --------------------------------------------------------------------------------------------------


def test_refusals() -> None:
    batch = Batch.full(torch.zeros(2, 1).double(), torch.zeros(2, 2).double())
    with pytest.raises(LatentRLError, match=r"needs batch\.rows"):
        small_model(PerDatapointPosterior(5, 2)).elbo(batch)
    with pytest.raises(LatentRLError, match="num_data"):
        PerDatapointPosterior(0, 2)
    with pytest.raises(LatentRLError, match="shared evenly by factors = 3"):
        CategoricalPosterior(Same(1, 2), 4, factors=3)
    with pytest.raises(LatentRLError, match="n_components"):
        MixturePosterior(Same(1, 2), 2, 0)
    with pytest.raises(LatentRLError, match="steps"):
        SemiAmortizedPosterior(Same(1, 2), 2, steps=-1)


def test_per_datapoint_serves_the_rows_it_is_asked_for() -> None:
    posterior = PerDatapointPosterior(5, 2)
    with torch.no_grad():
        posterior.loc.copy_(torch.arange(10.0).reshape(5, 2))
    rows = torch.tensor([3, 0, 3])
    q = posterior.infer(Batch.full(torch.zeros(3, 1), torch.zeros(3, 1), rows), lambda q: q.mean.sum(-1))
    assert q.mean.tolist() == [[6.0, 7.0], [0.0, 1.0], [6.0, 7.0]]
    torch.testing.assert_close(q.stddev, torch.ones(3, 2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("trunk", ["transformer", "gru"])
def test_steps_uphill_go_through_attention_and_recurrence(trunk: str) -> None:
    """Their fast kernels have no second derivative."""
    config = LatentConfig(latent_dim=2, posterior="semi_amortized", prior="normal", trunk=trunk, history=3, hold=1)
    model = config.build(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)))
    batch = Batch.full(torch.randn(4, 9), torch.randn(4, 2))
    for estimator in (None, DeltaMethod()):
        model.elbo(batch, estimator=estimator).loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("posterior", ["gaussian", "full", "mixture", "flow", "semi_amortized"])
def test_laws_are_of_full_precision_under_autocast(posterior: str) -> None:
    config = LatentConfig(latent_dim=2, posterior=posterior, prior="normal", hold=1)
    model = config.build(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)))
    batch = Batch.full(torch.randn(8, 3), torch.randn(8, 2))
    with torch.autocast("cpu", torch.bfloat16):
        q = model.infer(batch)
        z = q.rsample((200,))
        assert z.dtype == q.log_prob(z).dtype == torch.float32
        model.elbo(batch).loss.backward()
    # Rounded to bfloat16, about 170 would differ. That of a full covariance is a matrix product, which is rounded.
    assert len(z[:, 0, 0].unique()) > (100 if posterior == "full" else 195)
