"""One table of model members; the laws in test_members.py run over every row.

A new posterior, prior or decoder adds one row here.
"""

from collections.abc import Callable

import torch

from latentrl.decoders import CategoricalDecoder, Decoder, GaussianDecoder, MixtureDecoder, TanhGaussianDecoder
from latentrl.nets import SequenceEncoder, TransitionEncoder
from latentrl.posteriors import CategoricalPosterior, GaussianPosterior, Posterior
from latentrl.priors import CategoricalPrior, ConditionalPrior, MixturePrior, Prior, StandardNormalPrior, VampPrior

O, A, Z, T = 5, 2, 3, 12  # noqa: E741  (the glossary's letters)

POSTERIORS: dict[str, Callable[[], Posterior]] = {
    "gaussian of a transition": lambda: GaussianPosterior(TransitionEncoder(O, A, (16, 16)), Z),
    "gaussian of a segment": lambda: GaussianPosterior(SequenceEncoder(O, A, T, (8, 8), features_dim=16), Z),
    "categorical of a transition": lambda: CategoricalPosterior(TransitionEncoder(O, A, (16, 16)), Z),
    "categorical of a segment": lambda: CategoricalPosterior(SequenceEncoder(O, A, T, (8, 8), features_dim=16), Z),
}

PRIORS: dict[str, Callable[[], Prior]] = {
    "normal": lambda: StandardNormalPrior(Z),
    "conditional": lambda: ConditionalPrior(O, Z, (16,)),
    "mixture": lambda: MixturePrior(Z, 4),
    "vamp of transitions": lambda: _vamp(POSTERIORS["gaussian of a transition"](), None),
    "vamp of segments": lambda: _vamp(POSTERIORS["gaussian of a segment"](), T),
    "categorical": lambda: CategoricalPrior(Z),
}

DECODERS: dict[str, Callable[[int], Decoder]] = {
    "gaussian": lambda z: GaussianDecoder(O, z, A, (16, 16)),
    "gaussian, scale of the state": lambda z: GaussianDecoder(O, z, A, (16, 16), state_dependent_scale=True),
    "tanh_gaussian": lambda z: TanhGaussianDecoder(O, z, torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 4.0]), (16, 16)),
    "mixture": lambda z: MixtureDecoder(O, z, A, 3, (16, 16)),
    "categorical": lambda z: CategoricalDecoder(O, z, A, (16, 16)),
}


def _vamp(posterior: Posterior, length: int | None) -> VampPrior:
    prior = VampPrior(posterior, 4, length)
    prior.owner = posterior  # alive and saved with the prior when it is tested alone
    return prior
