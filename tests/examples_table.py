"""One table of model members; the laws in test_members.py run over every row.

A new posterior, prior or decoder adds one row here.
"""

from collections.abc import Callable
from functools import partial

import torch

from latentrl.decoders import (
    BernoulliDecoder,
    BinsDecoder,
    CategoricalDecoder,
    Decoder,
    DiscretizedLogisticDecoder,
    GaussianDecoder,
    MixtureDecoder,
    TanhGaussianDecoder,
)
from latentrl.encoders import Encoder, GRUEncoder, SequenceEncoder, TransformerEncoder, TransitionEncoder
from latentrl.posteriors import (
    AmortizedPosterior,
    CategoricalPosterior,
    FlowPosterior,
    FullGaussianPosterior,
    GaussianPosterior,
    MixturePosterior,
    SemiAmortizedPosterior,
)
from latentrl.priors import (
    CategoricalPrior,
    FlowPrior,
    GaussianPrior,
    MixturePrior,
    Prior,
    StandardNormalPrior,
    VampPrior,
)
from latentrl.trunks import GRUTrunk, TransformerTrunk

O, A, Z, T = 5, 2, 4, 12  # noqa: E741  (the glossary's letters)


def transition() -> Encoder:
    return TransitionEncoder(O, A, (16, 16))


def patches() -> Encoder:
    return SequenceEncoder(O, A, T, (8, 8), features_dim=16)


POSTERIORS: dict[str, Callable[[], AmortizedPosterior]] = {
    "gaussian of a transition": lambda: GaussianPosterior(transition(), Z),
    "gaussian of a segment": lambda: GaussianPosterior(patches(), Z),
    "gaussian of a segment by gru": lambda: GaussianPosterior(GRUEncoder(O, A, 16), Z),
    "gaussian of a segment by transformer": lambda: GaussianPosterior(TransformerEncoder(O, A, 16, heads=2), Z),
    "full of a transition": lambda: FullGaussianPosterior(transition(), Z),
    "full of a segment": lambda: FullGaussianPosterior(patches(), Z),
    "mixture of a transition": lambda: MixturePosterior(transition(), Z, 3),
    "flow of a transition": lambda: FlowPosterior(transition(), Z),
    "semi-amortized of a transition": lambda: SemiAmortizedPosterior(transition(), Z, steps=2),
    "categorical of a transition": lambda: CategoricalPosterior(transition(), Z),
    "categorical of a segment": lambda: CategoricalPosterior(patches(), Z),
    "two choices of a transition": lambda: CategoricalPosterior(transition(), Z, factors=2),
}

PRIORS: dict[str, Callable[[], Prior]] = {
    "normal": lambda: StandardNormalPrior(Z),
    "gaussian": lambda: GaussianPrior(Z),
    "gaussian of the state": lambda: GaussianPrior(Z, O, (16,)),
    "mixture": lambda: MixturePrior(Z, 4),
    "mixture of equal weights": lambda: MixturePrior(Z, 4, learn_weights=False),
    "mixture of the state": lambda: MixturePrior(Z, 4, observation_dim=O, hidden=(16,)),
    "vamp of transitions": lambda: _vamp(POSTERIORS["gaussian of a transition"](), None),
    "vamp of segments": lambda: _vamp(POSTERIORS["gaussian of a segment"](), T),
    "vamp of full covariances": lambda: _vamp(POSTERIORS["full of a transition"](), None),
    "vamp of flows": lambda: _vamp(POSTERIORS["flow of a transition"](), None),
    "flow": lambda: FlowPrior(Z),
    "flow of the state": lambda: FlowPrior(Z, O, (16,)),
    "categorical": lambda: CategoricalPrior(Z),
    "two choices": lambda: CategoricalPrior(Z, factors=2),
    "categorical of the state": lambda: CategoricalPrior(Z, observation_dim=O, hidden=(16,)),
}

LOW, HIGH = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 4.0])
DECODERS: dict[str, Callable[[int], Decoder]] = {
    "gaussian": lambda z: GaussianDecoder(O, z, A, (16, 16)),
    "gaussian, one scale": lambda z: GaussianDecoder(O, z, A, (16, 16), "shared"),
    "gaussian, scale of the state": lambda z: GaussianDecoder(O, z, A, (16, 16), "state"),
    "tanh_gaussian": lambda z: TanhGaussianDecoder(O, z, LOW, HIGH, (16, 16)),
    "mixture": lambda z: MixtureDecoder(O, z, A, 3, (16, 16)),
    "bins": lambda z: BinsDecoder(O, z, A, 3, (16, 16)),
    "gaussian of a gru": lambda z: GaussianDecoder(O, z, A, partial(GRUTrunk, hidden=(16, 16), history=O)),
    "mixture of a transformer": lambda z: MixtureDecoder(
        O, z, A, 3, partial(TransformerTrunk, hidden=(16, 16), history=O, chunk=2)
    ),
    "discretized_logistic": lambda z: DiscretizedLogisticDecoder(O, z, LOW, HIGH, 16, (16, 16)),
    "categorical": lambda z: CategoricalDecoder(O, z, (A,), (16, 16)),
    "bernoulli": lambda z: BernoulliDecoder(O, z, A, (16, 16)),
}
"""Two action features each; a product of choices has tests of its own."""


def _vamp(posterior: AmortizedPosterior, length: int | None) -> VampPrior:
    prior = VampPrior(posterior, 4, length)
    prior.owner = posterior  # alive and saved with the prior when it is tested alone
    return prior
