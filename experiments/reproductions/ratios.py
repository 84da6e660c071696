"""Signal-to-noise ratios of gradients, on the linear Gaussian of Rainforth et al. (2018) and Tucker et al. (2019).

p(z) = N(μ, I) and p(x|z) = N(z, I) in 20 dimensions; q(z|x) = N(A x + b, ⅔ I). At A = I/2, b = μ/2 it is the best of
its kind; the gradient is that of weights close by, where both papers look.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.records import spread
from latentrl.distributions import DiagonalNormal
from latentrl.estimators import MultiSample
from latentrl.variance import gradient_variance

D, POINTS, OFF = 20, 64, 0.01
"""Dimensions; observations that a gradient is of; standard deviation of weights about the best ones."""
DRAWS = (1, 5, 50, 500)


def signal_to_noise(estimators: Mapping[str, MultiSample], replicates: int, seed: int) -> dict[str, list[float]]:
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


def listed(where: str, ratios: Mapping[str, NDArray[np.float64]], draws: Sequence[int]) -> list[str]:
    """A table of ratios."""
    titles = " | ".join(f"K = {k}" for k in draws)
    lines = [f"\nSignal-to-noise ratio of the encoder's gradient, {where}:\n", f"| estimator | {titles} |"]
    lines.append("|---" * (1 + len(draws)) + "|")
    for name, values in ratios.items():
        lines.append(f"| {name} | " + " | ".join(spread(column) for column in values.T.tolist()) + " |")
    return lines
