"""The importance-weighted bound: its values against the exact marginal, its gradient, what it refuses."""

import pytest
import torch

from latentrl import LatentConfig, LatentModel, LatentRLError
from latentrl.objectives import importance_bound
from latentrl.types import Batch
from tests.examples_table import DECODERS, POSTERIORS, PRIORS, A, O, Z
from tests.test_model import Conjugate, _spaces


def test_with_the_exact_posterior_it_is_the_marginal() -> None:
    exact = Conjugate(latent=1)
    model = exact.model(exact.posterior_mean, exact.posterior_covariance.diagonal().sqrt().expand(4, 1).clone())
    for k in (1, 7):
        torch.testing.assert_close(importance_bound(model, exact.batch, k).value, exact.log_marginal())


def test_one_sample_is_the_elbo() -> None:
    """Means of 4000 draws of both agree within 4.5 standard errors (false alarm 7e-6)."""
    exact = Conjugate()
    model = exact.model(exact.posterior_mean + 0.3, torch.full_like(exact.posterior_mean, 0.4))
    expected = exact.log_marginal() - exact.kl_to_posterior(model.infer(exact.batch))  # type: ignore[arg-type]
    with torch.no_grad():
        draws = torch.stack([importance_bound(model, exact.batch, 1).value for _ in range(4000)])
    z = (draws.mean(0) - expected) / (draws.std(0) / 4000**0.5)
    assert float(z.detach().abs().max()) < 4.5


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


def test_refusals() -> None:
    discrete = LatentModel(
        POSTERIORS["categorical of a transition"](), PRIORS["categorical"](), DECODERS["gaussian"](Z)
    )
    batch = Batch.full(torch.randn(3, O), torch.randn(3, A))
    with pytest.raises(LatentRLError, match=r"OneHot has none: use model\.elbo"):
        importance_bound(discrete, batch, 4)
    plain = LatentConfig(latent_dim=0, hold=1).build(*_spaces())
    torch.testing.assert_close(importance_bound(plain, batch, 5).value, plain.log_likelihood(batch).value)
    with pytest.raises(LatentRLError, match="num_samples"):
        importance_bound(plain, batch, 0)
