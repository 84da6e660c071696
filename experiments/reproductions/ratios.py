"""Signal-to-noise ratios ‖E g‖ / √tr Cov g of gradients: of an autoencoder's, and on a linear Gaussian.

The latter is that of Rainforth et al. (2018) and Tucker et al. (2019): p(z) = N(μ, I) and p(x|z) = N(z, I) in 20
dimensions; q(z|x) = N(A x + b, ⅔ I). At A = I/2, b = μ/2 it is the best of its kind; the gradient is that of weights
close by, where both papers look.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from experiments.records import spread
from experiments.vae import batch_of
from latentrl.distributions import DiagonalNormal
from latentrl.estimators import MultiSample
from latentrl.model import LatentModel
from latentrl.objectives import importance_bound
from latentrl.variance import gradient_variance

D, POINTS, OFF = 20, 64, 0.01
"""Dimensions; observations that a gradient is of; standard deviation of weights about the best ones."""
DRAWS = (1, 5, 50, 500)


def of_linear_gaussian(estimators: Mapping[str, MultiSample], replicates: int, seed: int) -> dict[str, list[float]]:
    """‖E g‖ / √tr Cov g of the gradient for A and b: by estimator, one for each K of :data:`DRAWS`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    mu = normal(D)
    x = mu + 2.0**0.5 * normal(POINTS, D)
    weights = {"A": 0.5 * torch.eye(D, dtype=torch.float64) + OFF * normal(D, D), "b": 0.5 * mu + OFF * normal(D)}
    one = torch.ones(D, dtype=torch.float64)

    def log_joint(z: Tensor) -> Tensor:
        return DiagonalNormal(mu, one).log_prob(z) + DiagonalNormal(z, one).log_prob(x)

    def measured(estimator: MultiSample, draws: int) -> float:
        def objective(given: dict[str, Tensor]) -> Tensor:
            q = DiagonalNormal(x @ given["A"].T + given["b"], (2.0 / 3.0) ** 0.5 * one)
            return estimator(q, log_joint, draws).surrogate.mean()

        return gradient_variance(objective, weights, replicates, chunk_size=10, seed=seed).snr

    return {name: [measured(estimator, draws) for draws in DRAWS] for name, estimator in estimators.items()}


class Surrogate(nn.Module):
    """What :func:`torch.func.functional_call` needs: the bound's surrogate as a forward pass."""

    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: Tensor, draws: int, estimator: MultiSample) -> Tensor:
        return importance_bound(self.model, batch_of(data), draws, estimator).surrogate.mean()


def of_encoder(
    model: LatentModel,
    estimators: Mapping[str, MultiSample],
    draws_of: Sequence[int],
    data: Tensor,
    replicates: int,
    seed: int,
) -> dict[str, list[float]]:
    """Of the gradient of the importance-weighted bound for the encoder: by estimator, one for each K."""
    surrogate = Surrogate(model)
    encoder = {name: p.detach() for name, p in surrogate.named_parameters() if name.startswith("model.posterior.")}

    def measured(estimator: MultiSample, draws: int) -> float:
        def objective(parameters: dict[str, Tensor]) -> Tensor:
            return functional_call(surrogate, parameters, (data, draws, estimator))

        return gradient_variance(objective, encoder, replicates, chunk_size=10, seed=seed).snr

    return {name: [measured(estimator, draws) for draws in draws_of] for name, estimator in estimators.items()}


def listed(where: str, ratios: Mapping[str, NDArray[np.float64]], draws: Sequence[int]) -> list[str]:
    """A table of ratios."""
    titles = " | ".join(f"K = {k}" for k in draws)
    lines = [f"\nSignal-to-noise ratio of the encoder's gradient, {where}:\n", f"| estimator | {titles} |"]
    lines.append("|---" * (1 + len(draws)) + "|")
    for name, values in ratios.items():
        lines.append(f"| {name} | " + " | ".join(spread(column) for column in values.T.tolist()) + " |")
    return lines
