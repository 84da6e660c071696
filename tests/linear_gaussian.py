"""Linear-Gaussian models, of which the marginal, the posterior and the best bounds are known in closed form."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from latentrl import LatentModel
from latentrl.distributions import DiagonalNormal, FullNormal
from latentrl.encoders import Encoder
from latentrl.estimators import Pathwise
from latentrl.model import Elbo
from latentrl.posteriors import GaussianPosterior, Posterior
from latentrl.priors import StandardNormalPrior
from latentrl.schedules import Schedule
from latentrl.types import Batch, Estimate


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


class Same(Encoder):
    """Features that are the inputs themselves: what a linear head reads off them is linear in the data."""

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__(observation_dim, action_dim)
        self.features_dim = self.input_dim

    def features(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return inputs


class Cubature(Pathwise):
    """E_q f, exact for Gaussian q and f of degree 3 or less: the mean over points ±√D standard deviations along each
    of the D axes (McNamee & Stenger 1967)."""

    def forward(self, q: Distribution, f, num_samples=None) -> Estimate:  # type: ignore[no-untyped-def]  # noqa: ARG002
        size = q.event_shape[0]
        axes = math.sqrt(size) * torch.cat([torch.eye(size), -torch.eye(size)]).to(q.mean)
        axes = axes.reshape(2 * size, *[1] * len(q.batch_shape), size)
        if isinstance(q, FullNormal):
            step = (q.scale_tril @ axes.unsqueeze(-1)).squeeze(-1)
        else:
            assert isinstance(q, DiagonalNormal)
            step = q.scale * axes
        values = f(q.mean + step).mean(0)
        return Estimate(values.detach(), values)


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

    def best_diagonal(self) -> DiagonalNormal:
        """The mean-field law nearest to the posterior: its mean, and one over the diagonal of its precision."""
        scale = self.posterior_covariance.inverse().diagonal().rsqrt()
        return DiagonalNormal(self.posterior_mean, scale.expand_as(self.posterior_mean))

    def model(self, loc: Tensor, scale: Tensor) -> LatentModel:
        return self.model_with(Fixed(loc, scale))

    def model_with(self, posterior: Posterior | Fixed) -> LatentModel:
        return LatentModel(posterior, FixedPrior(self.prior_loc, self.prior_scale), Linear(self.weight, self.noise))

    @property
    def batch(self) -> Batch:
        return Batch.full(self.observations, self.actions, torch.arange(len(self.actions)))


class LinearVAE:
    """x = W z + s ε, with float64 encoder and decoder to learn, on data whose covariance has given eigenvalues exactly.

    What β does to it is known (reverse water-filling): along a principal direction of variance λ, w² = (λ − βs²)₊ and
    the KL is ½ log(λ / βs²)₊.

    :param variances: the eigenvalues λ
    :param noise: s²
    """

    def __init__(self, variances: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5), noise: float = 0.25) -> None:
        size = len(variances)
        basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q
        self.root = torch.tensor(variances, dtype=torch.float64).sqrt().unsqueeze(-1) * basis
        self.weight = nn.Parameter(0.3 * torch.randn(size, size, dtype=torch.float64))
        decoder = Linear(self.weight, torch.tensor(noise).sqrt())
        self.model = LatentModel(GaussianPosterior(Same(0, size), size), StandardNormalPrior(size), decoder).double()

    def batch(self, size: int | None = None) -> Batch:
        """2D data with exactly that covariance, or ``size`` fresh draws from the Gaussian that has it."""
        dims = len(self.root)
        if size is None:
            white = math.sqrt(dims) * torch.cat([torch.eye(dims), -torch.eye(dims)])
        else:
            white = torch.randn(size, dims)
        x = white.double() @ self.root
        return Batch(torch.zeros_like(x), x, x[:, :0], x)

    def train(self, schedule: Schedule, steps: int, learning_rate: float, batch_size: int | None = None) -> list[Elbo]:
        """Adam under a schedule, as the trainer does it; without ``batch_size``, on exact gradients."""
        optimizer = torch.optim.Adam(self.model.parameters(), learning_rate)
        estimator = Cubature() if batch_size is None else None
        batch = self.batch()
        history = []
        for step in range(steps):
            if batch_size is not None:
                batch = self.batch(batch_size)
            terms = self.model.elbo(batch, partial(schedule, step), estimator)
            optimizer.zero_grad()
            terms.loss.backward()
            optimizer.step()
            if hasattr(schedule, "observe"):
                schedule.observe(step, terms.kl, terms.reconstruction)
            history.append(terms)
        return history

    @torch.no_grad()
    def directions(self) -> Tensor:
        """Mean KL of each latent dimension, the largest first."""
        q = self.model.infer(self.batch())
        assert isinstance(q, DiagonalNormal)
        return (0.5 * (q.variance + q.loc.square() - 1.0) - q.scale.log()).mean(0).sort(descending=True).values


class Loss(nn.Module):
    """The loss of the ELBO as a module's output."""

    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return self.model.elbo(batch, 0.7, num_samples=2).loss


def loss_of_parameters(model: LatentModel, batch: Batch) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The loss, with its noise held, as a function of all parameters, and their values: what ``gradcheck`` takes."""
    module = Loss(model)
    names, values = zip(*module.named_parameters(), strict=True)

    def loss(*parameters: Tensor) -> Tensor:
        torch.manual_seed(1)
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (batch,))

    return loss, values
