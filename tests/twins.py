"""The library's laws put together from torch's own pieces, to compare with."""

import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    TanhTransform,
    TransformedDistribution,
    Uniform,
)

from latentrl.distributions import (
    Bernoullis,
    DiagonalNormal,
    DiscretizedLogistic,
    FlowLaw,
    FullNormal,
    Mixture,
    OneHots,
    TanhNormal,
)
from tests.laws_table import B, K


def twin(q: Distribution) -> Distribution:
    """The same law put together from torch's own pieces."""
    if isinstance(q, DiagonalNormal):
        return Independent(Normal(q.loc, q.stddev), 1)
    if isinstance(q, FullNormal):
        return MultivariateNormal(q.loc, scale_tril=q.scale_tril)
    if isinstance(q, TanhNormal):
        moves = [TanhTransform(), AffineTransform(q.center, q.half_width, event_dim=1)]
        return TransformedDistribution(Independent(Normal(q.base.loc, q.base.stddev), 1), moves)
    if isinstance(q, FlowLaw):
        base = Independent(Normal(torch.zeros_like(q.loc), 1.0), 1)
        return TransformedDistribution(base, [q.transform, AffineTransform(q.loc, q.scale, event_dim=1)])
    if isinstance(q, Mixture):
        shape = (B, K)
        return MixtureSameFamily(Categorical(logits=q.log_weights.expand(shape)), twin(q.components.expand(shape)))
    if isinstance(q, DiscretizedLogistic):
        edges = q.low + torch.arange(q.bins + 1).unsqueeze(-1) * (q.high - q.low) / q.bins
        cdf = ((edges.unsqueeze(-2) - q.loc) / q.scale).sigmoid()
        cdf[0], cdf[-1] = 0.0, 1.0
        intervals = Uniform(
            *(e.mT.unsqueeze(0).expand(B, -1, -1) for e in (edges[:-1], edges[1:])), validate_args=False
        )
        return Independent(MixtureSameFamily(Categorical(cdf.diff(dim=0).permute(1, 2, 0)), intervals), 1)
    if isinstance(q, Bernoullis):
        return Independent(Bernoulli(logits=q.logits), 1)
    return OneHotCategorical(logits=q.logits)


def twin_log_prob(q: Distribution, value: Tensor) -> Tensor:
    if isinstance(q, OneHots):
        pieces = zip(q.logits.split(q.sizes, -1), value.split(q.sizes, -1), strict=True)
        return sum(OneHotCategorical(logits=w).log_prob(v) for w, v in pieces)
    return twin(q).log_prob(value)
