"""Variational autoencoders of binary images with networks of any shape, and how they are judged."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from experiments.vae import batch_of
from latentrl.cells import Record
from latentrl.distributions import MonteCarlo
from latentrl.encoders import Encoder
from latentrl.model import LatentModel
from latentrl.nets import DecoderTrunk

PIXELS = 784
LIKELIHOOD = ("−log p(x)", "Monte Carlo error", "error by the images")
"""What :func:`likelihood_of` tells."""
AT_ONCE = 10_000
"""Latents that are judged at once: a mixture compares each with all of its components."""


def perceptron(sizes: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """Dense layers of these sizes, with an activation behind each."""
    return nn.Sequential(*[part for pair in pairwise(sizes) for part in (nn.Linear(*pair), activation())])


class PlainEncoder(Encoder):
    """A network of data as they are."""

    def __init__(self, data_dim: int, net: nn.Module, features_dim: int) -> None:
        super().__init__(0, data_dim)
        self.net, self.features_dim = net, features_dim

    def features(self, inputs: Tensor, lengths: Any = None) -> Tensor:  # noqa: ARG002
        return self.net(inputs)


class PlainTrunk(DecoderTrunk):
    """A network of latents alone."""

    def __init__(self, net: nn.Module, features_dim: int) -> None:
        super().__init__()
        self.net, self.features_dim = net, features_dim

    def forward(self, observations: Tensor, z: Tensor) -> Tensor:  # noqa: ARG002
        return self.net(z)


@torch.no_grad()
def negative_elbo(model: LatentModel, data: Tensor) -> tuple[float, float]:
    """−ELBO and KL, averaged over the data, from one draw each."""
    terms = [model.elbo(batch_of(part), num_samples=1) for part in data.split(1_000)]
    likelihoods, kls = (torch.cat([getattr(term, name) for term in terms]) for name in ("log_likelihoods", "kls"))
    return float((kls - likelihoods).mean()), float(kls.mean())


def log_likelihood(model: LatentModel, test: Tensor, draws: int) -> MonteCarlo:
    """The importance-weighted bound of so many draws for each datum, and its standard error."""
    found = [model.log_likelihood(batch_of(part), draws) for part in test.split(max(1, AT_ONCE // draws))]
    return MonteCarlo(*(torch.cat([getattr(part, name) for part in found]) for name in MonteCarlo._fields))


def likelihood_of(found: MonteCarlo) -> Record:
    """The mean, its standard error for these images, and the one that comes from which images they are."""
    value, error = found
    errors = float(error.square().sum().sqrt()) / len(value), float(value.std()) / len(value) ** 0.5
    return dict(zip(LIKELIHOOD, (-float(value.mean()), *errors), strict=True))


def judge(model: LatentModel, test: Tensor, draws: int) -> Record:
    """The test likelihood by importance-weighted estimates, and how the latent is used.

    :raises FloatingPointError: weights that are not finite
    """
    if not all(bool(weights.isfinite().all()) for weights in model.parameters()):
        raise FloatingPointError
    value, kl = negative_elbo(model, test)
    return {
        **likelihood_of(log_likelihood(model, test, draws)),
        "−ELBO": value,
        "KL": kl,
        "active units": model.diagnostics(batch_of(test[:1_000])).active_units,
    }
