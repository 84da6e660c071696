"""What tells whether a latent is used, and whether its prior draws what the posteriors of the data occupy."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

ACTIVE = 0.01
"""Variance of a posterior mean over the data from which on a latent dimension counts as active (Burda et al. 2016)."""
COLLAPSED = 0.1
"""Nats of mutual information below which the posterior says next to nothing about the data."""
TAIL = 0.05
"""Share of posterior draws that are allowed to be less likely than a prior draw outside of all holes."""


PAIRS = 2**20
"""Pairs of a posterior and a draw that are computed at once."""


class Diagnostics(NamedTuple):
    """Averages over a batch of N data; information and divergences in nats."""

    active_units: int
    """Latent dimensions whose posterior mean varies over the data (:data:`ACTIVE`)."""
    kl: float
    """Mean KL(q(z|x) ‖ p(z)): what the latent costs."""
    mutual_information: float
    """Estimate of I_q(x; z): mean log q(z|x) − log (1/N) Σ_n q(z|x_n), at most log N (Hoffman & Johnson 2016)."""
    aggregate_kl: float
    """KL(q(z) ‖ p(z)) of the aggregate posterior q(z) = (1/N) Σ_n q(z|x_n): the rest of the KL, which tells nothing
    of x but that the prior does not fit. With a prior of the state it is no divergence, and can be negative."""
    prior_holes: float
    """Share of prior draws that lie where no posterior is: less likely under the aggregate posterior than 95 % of its
    own draws (judged by the other data). 0.05 for a prior that fits, 1 for one that misses all behaviour."""
    reconstruction: float
    """E_q[log p(a|s, z)] of one element."""

    @property
    def collapsed(self) -> bool:
        """True where the posterior says next to nothing about the data (:data:`COLLAPSED`)."""
        return self.mutual_information < COLLAPSED

    @classmethod
    def without_latent(cls, reconstruction: float) -> "Diagnostics":
        """Of a policy that has none."""
        return cls(0, 0.0, 0.0, 0.0, 0.0, reconstruction)


def diagnose(q: Distribution, p: Distribution, z: Tensor, reconstruction: Tensor) -> Diagnostics:
    """Look at the posteriors of N data and at their prior.

    :param q: batch_shape (N,)
    :param p: batch_shape () or (N,)
    :param z: (N, Z), one draw from each posterior
    :param reconstruction: (N,), log p(a|s, z)
    """
    size = len(z)
    pairs = _table(q, z)
    own = pairs.diagonal()
    kl = (own - p.log_prob(z)).mean()
    information = (own - (pairs.logsumexp(1) - math.log(size))).mean()
    return Diagnostics(
        active_units=int((q.mean.var(0, correction=0) > ACTIVE).sum()),
        kl=float(kl),
        mutual_information=float(information),
        aggregate_kl=float(kl - information),
        prior_holes=_holes(pairs, _table(q, p.expand((size,)).sample())),
        reconstruction=float(reconstruction.mean()),
    )


def _table(q: Distribution, z: Tensor) -> Tensor:
    """log q_j(z_i), (N, N), so N stays moderate; in blocks, as each number takes Z of them on the way."""
    rows = max(1, PAIRS // len(z))
    return torch.cat([q.expand((1, len(z))).log_prob(block.unsqueeze(1)) for block in z.split(rows)])


def _holes(among_posteriors: Tensor, from_prior: Tensor) -> float:
    """Share of prior draws below the :data:`TAIL` quantile of the posterior draws' likelihood under the *other* data.

    Each posterior draw is likely under its own posterior, which no prior draw has.
    """
    size = len(among_posteriors)
    if size < 2:
        return math.nan
    themselves = torch.eye(size, dtype=torch.bool, device=among_posteriors.device)
    others = among_posteriors.masked_fill(themselves, -math.inf).logsumexp(1) - math.log(size - 1)
    threshold = others.quantile(TAIL)
    return float((from_prior.logsumexp(1) - math.log(size) < threshold).float().mean())
