"""Laws that torch lacks, or that it validates, synchronises or draws in ways that hot paths cannot afford.

Every class is a ``torch.distributions.Distribution`` with ``batch_shape`` (..., B) and ``event_shape`` (Z,) or (A,).
Arguments are not validated here: modules that build these laws make them valid by construction.
Gaussian noise is drawn out of place with ``torch.randn``, so that ``torch.func.vmap(..., randomness="different")``
works; torch's own ``Normal.rsample`` fails there.
"""

from latentrl.distributions.discrete import Bernoullis, DiscretizedLogistic, OneHot, OneHots, choices
from latentrl.distributions.divergence import ANALYTIC_KL, MonteCarlo, monte_carlo_kl
from latentrl.distributions.flows import FlowLaw
from latentrl.distributions.gaussian import DiagonalNormal, FullNormal, StandardNormal
from latentrl.distributions.law import Law, Remembering
from latentrl.distributions.mixtures import FullGaussianMixture, GaussianMixture, Mixture, NearestComponent
from latentrl.distributions.squashed import TanhNormal

__all__ = [
    "ANALYTIC_KL",
    "Bernoullis",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "FlowLaw",
    "FullGaussianMixture",
    "FullNormal",
    "GaussianMixture",
    "Law",
    "Mixture",
    "MonteCarlo",
    "NearestComponent",
    "OneHot",
    "OneHots",
    "Remembering",
    "StandardNormal",
    "TanhNormal",
    "choices",
    "monte_carlo_kl",
]
