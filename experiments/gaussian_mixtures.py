"""Mixtures of diagonal Gaussians: two data sets, expectation maximisation, and mixtures as a ``LatentModel``."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentrl.checks import require
from latentrl.decoders import GaussianDecoder
from latentrl.distributions import GaussianMixture
from latentrl.encoders import TransitionEncoder
from latentrl.model import LatentModel
from latentrl.posteriors import CategoricalPosterior
from latentrl.priors import CategoricalPrior

FLOOR = 1e-6
"""Added to every variance, as scikit-learn does."""


class Data(NamedTuple):
    """Points to fit, others to judge by, and what is known of them."""

    train: Float[Tensor, "N D"]
    test: Float[Tensor, "M D"]
    labels: Int[Tensor, " M"]
    """True components of the test points."""
    components: int
    plane: tuple[int, int]
    """The dimensions that are drawn."""
    law: GaussianMixture | None = None
    """What the points were drawn from."""


def data_sets() -> dict[str, Data]:
    """Four Gaussians in the plane, and Fisher's iris; both of about unit variance."""
    generator = torch.Generator().manual_seed(0)
    loc = torch.tensor([[-1.2, -0.8], [0.2, 0.9], [0.9, -0.3], [1.3, 1.2]], dtype=torch.float64)
    scale = torch.tensor([[0.3, 0.5], [0.6, 0.2], [0.25, 0.6], [0.2, 0.3]], dtype=torch.float64)
    weights = torch.tensor([0.35, 0.3, 0.2, 0.15], dtype=torch.float64)
    labels = weights.multinomial(1600, replacement=True, generator=generator)
    x = loc[labels] + scale[labels] * torch.randn(1600, 2, generator=generator, dtype=torch.float64)
    synthetic = Data(x[:400], x[400:], labels[400:], 4, (0, 1), GaussianMixture(weights.log(), loc, scale))
    iris = require("sklearn.datasets", "judge").load_iris()
    order = torch.randperm(150, generator=generator)
    x, labels = torch.from_numpy(iris.data)[order], torch.from_numpy(iris.target)[order]
    x = (x - x[:100].mean(0)) / x[:100].std(0)
    return {"synthetic": synthetic, "iris": Data(x[:100], x[100:], labels[100:], 3, (2, 3))}


def expectation_maximization(
    x: Float[Tensor, "N D"], law: GaussianMixture, tolerance: float = 1e-9
) -> tuple[GaussianMixture, list[float]]:
    """The mixture that EM reaches (Dempster et al. 1977), and the log-likelihood per point after each iteration.

    :param law: where it starts
    :param tolerance: it stops where an iteration gains less than this
    """
    curve = [float(law.log_prob(x).mean())]
    while len(curve) < 2 or curve[-1] - curve[-2] >= tolerance:
        share = law.responsibilities(x)
        size = share.sum(0)
        loc = share.T @ x / size[:, None]
        variance = share.T @ x.square() / size[:, None] - loc.square()
        law = GaussianMixture(size.log(), loc, (variance + FLOOR).sqrt())
        curve.append(float(law.log_prob(x).mean()))
    return law, curve[1:]


def scikit_learn(x: Float[Tensor, "N D"], law: GaussianMixture, tolerance: float = 1e-9) -> float:
    """The log-likelihood per point that scikit-learn's EM reaches from the same start."""
    judge = require("sklearn.mixture", "judge").GaussianMixture(
        law.log_weights.shape[-1],
        covariance_type="diag",
        tol=tolerance,
        reg_covar=FLOOR,
        max_iter=10_000,
        weights_init=law.log_weights.exp().numpy(),
        means_init=law.loc.numpy(),
        precisions_init=law.scale.pow(-2).numpy(),
    )
    return float(judge.fit(x.numpy()).score(x.numpy()))


def latent_mixture(x: Float[Tensor, "N D"], components: int) -> LatentModel:
    """One categorical latent and a Gaussian decoder: equally heavy unit Gaussians around random data.

    The encoder, whose q(c|x) stands for the responsibilities, knows nothing yet.
    """
    size = x.shape[-1]
    posterior = CategoricalPosterior(TransitionEncoder(0, size, (64,)), components)
    decoder = GaussianDecoder(0, components, size, (64,), scale="state")
    with torch.no_grad():
        eye = torch.eye(components)
        inverse = torch.linalg.pinv(decoder.trunk(eye[:, :0], eye))
        centers = x[torch.randperm(len(x))[:components]].to(inverse.dtype)
        decoder.head.weight.copy_((inverse @ (centers - decoder.head.bias)).T)
        decoder.sigma.from_features.weight.zero_()
    return LatentModel(posterior, CategoricalPrior(components), decoder).double()


@torch.no_grad()
def law_of(model: LatentModel) -> GaussianMixture:
    """The mixture that such a model is."""
    eye = torch.eye(model.latent_dim, dtype=torch.float64)
    components = model.decoder(eye[:, :0], eye)
    return GaussianMixture(model.prior(eye[:, :0]).logits, components.loc, components.scale)
