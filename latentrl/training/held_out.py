"""The bound on demonstrations that were held out: what tells learning from memorising."""

from typing import NamedTuple

import torch
from torch import Tensor

from latentrl.checks import LatentRLError
from latentrl.data.cuts import Cuts
from latentrl.model import LatentModel
from latentrl.posteriors import PerDatapointPosterior
from latentrl.randomness import same_randomness

ROWS, BYTES = 2**14, 2**25
"""Most rows, and bytes of observations, that are looked at at once; a segment that has more goes alone."""


class Bound(NamedTuple):
    """Averages over segments, in nats of one segment."""

    elbo: float
    """E_q[log p(a|s, z)] − KL, at β = 1."""
    reconstruction: float
    kl: float
    actions: float = 1.0
    """How many a segment has."""

    @property
    def per_action(self) -> float:
        """The bound in nats of one action, which does not depend on how data are cut into segments."""
        return self.elbo / self.actions


@torch.no_grad()
def held_out_bound(model: LatentModel, segments: Cuts, seed: int = 0, num_samples: int | None = None) -> Bound:
    """The ELBO of all steps of all segments, which may differ in length. Random numbers stay as they were.

    :param model: in evaluation mode
    :param segments: the data
    :param seed: of the draws of z: the same at each call, so that two bounds differ by the weights alone
    :param num_samples: draws of z per segment; None for as many as in training
    :raises LatentRLError: a posterior with parameters for each datum, which it has not for these
    """
    if isinstance(model.posterior, PerDatapointPosterior):
        raise LatentRLError(
            "a posterior with parameters for each datum says nothing of held-out data: use an amortized posterior"
        )
    reconstructions, kls, actions = [], [], 0
    with same_randomness(segments.device, seed):
        for index in groups(segments):
            batch = segments.batch(index)
            terms = model.elbo(batch, 1.0, None, num_samples)
            actions += batch.actions.shape[:-1].numel() * segments.chunk
            reconstructions.append(terms.log_likelihoods.double().sum())
            kls.append(terms.kls.double().sum())
    reconstruction, kl = (float(torch.stack(sums).sum()) / len(segments) for sums in (reconstructions, kls))
    return Bound(reconstruction - kl, reconstruction, kl, actions / len(segments))


def groups(segments: Cuts) -> list[Tensor]:
    """Indices of segments that are equally long and together small enough."""
    index = torch.arange(len(segments), device=segments.starts.device)
    rows = max(1, min(ROWS, BYTES // (4 * segments.observation_dim)))
    if segments.hold == 1:
        return list(index.split(rows))
    found: list[Tensor] = []
    for length in segments.lengths.unique().tolist():
        found += index[segments.lengths == length].split(max(1, rows // length))
    return found
