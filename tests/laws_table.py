"""One table of laws; what holds for every distribution is tested over each row in test_distributions.py.

A new law adds one row here. All parameters are in double precision; ``batch_shape`` is (B,).
"""

from collections.abc import Callable

import torch
import zuko
from torch import Tensor
from torch.distributions import Distribution

from latentrl.distributions import (
    Bernoullis,
    DiagonalNormal,
    DiscretizedLogistic,
    FlowLaw,
    FullGaussianMixture,
    FullNormal,
    GaussianMixture,
    Mixture,
    OneHot,
    OneHots,
    StandardNormal,
    TanhNormal,
)

B, K = 3, 4
SIZES = (2, 3, 4)
LOW, HIGH = torch.tensor([-2.0, 1.0]).double(), torch.tensor([1.0, 1.5]).double()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tril(*shape: int, seed: int = 0) -> Tensor:
    """Lower-triangular matrices with positive diagonals."""
    raw = draw(*shape, shape[-1], seed=seed)
    return raw.tril(-1) + torch.diag_embed((0.4 * raw.diagonal(dim1=-2, dim2=-1)).exp())


def scales(*shape: int, seed: int = 0) -> Tensor:
    return (0.4 * draw(*shape, seed=seed)).exp()


def _spline(dtype: torch.dtype) -> zuko.lazy.Flow:
    """Two coupling layers of splines far from the identity, the same in both precisions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = zuko.flows.NSF(2, 3, 4, transforms=2, passes=2, hidden_features=(8,))
    for parameter in flow.requires_grad_(False).parameters():
        parameter.mul_(1.5)
    return flow.to(dtype)


SPLINES = {dtype: _spline(dtype) for dtype in (torch.float32, torch.float64)}


def flow(loc: Tensor, scale: Tensor, context: Tensor) -> FlowLaw:
    return FlowLaw(loc, scale, SPLINES[loc.dtype](context).transform)


def inverse_flow(loc: Tensor, scale: Tensor, context: Tensor) -> FlowLaw:
    return FlowLaw(loc, scale, SPLINES[loc.dtype](context).transform.inv)


def tanh(loc: Tensor, scale: Tensor) -> TanhNormal:
    return TanhNormal(loc, scale, LOW.to(loc.dtype), HIGH.to(loc.dtype))


LAWS: dict[str, tuple[Callable[..., Distribution], tuple[Tensor, ...]]] = {  # batch_shape (B,)
    "normal": (DiagonalNormal, (draw(B, 2), scales(B, 2, seed=1))),
    "normal, shared scales": (DiagonalNormal, (draw(B, 2), scales(2, seed=1))),
    "normal, one scale": (DiagonalNormal, (draw(B, 2), torch.tensor(0.7).double())),
    "standard normal": (StandardNormal, (torch.zeros(B, 2).double(), torch.ones(B, 2).double())),
    "full": (FullNormal, (draw(B, 2), tril(B, 2, seed=1))),
    "full, one location": (FullNormal, (draw(2), tril(B, 2, seed=1))),
    "full, one covariance": (FullNormal, (draw(B, 2), tril(2, seed=1))),
    "tanh": (tanh, (0.3 * draw(B, 2), 0.4 * torch.ones(B, 2).double())),
    "mixture": (GaussianMixture, (draw(B, K), 2 * draw(B, K, 2, seed=1), scales(B, K, 2, seed=2))),
    "mixture, shared": (GaussianMixture, (draw(B, K), 2 * draw(K, 2, seed=1), scales(K, 2, seed=2))),
    "mixture, one scale": (GaussianMixture, (draw(K), 2 * draw(B, K, 2, seed=1), torch.tensor(0.5).double())),
    "full mixture": (FullGaussianMixture, (draw(B, K), 2 * draw(B, K, 2, seed=1), tril(B, K, 2, seed=2))),
    "full mixture, shared": (FullGaussianMixture, (draw(B, K), 2 * draw(K, 2, seed=1), tril(K, 2, seed=2))),
    "full mixture, shared covariances": (
        FullGaussianMixture,
        (draw(B, K), 2 * draw(B, K, 2, seed=1), tril(K, 2, seed=2)),
    ),
    "mixture of tanhs": (
        lambda w, m, s: Mixture(w, tanh(m, s)),
        (draw(B, K), 0.3 * draw(K, 2), 0.4 * torch.ones(K, 2).double()),
    ),
    "mixture of flows": (
        lambda w, *p: Mixture(w, flow(*p)),
        (draw(B, K), 2 * draw(K, 2), scales(K, 2, seed=1), draw(K, 3, seed=2)),
    ),
    "flow": (flow, (draw(B, 2), scales(B, 2, seed=1), draw(B, 3, seed=2))),
    "inverse flow": (inverse_flow, (draw(B, 2), scales(B, 2, seed=1), draw(B, 3, seed=2))),
    "discretized logistic": (
        lambda m, s: DiscretizedLogistic(m, s, LOW.to(m.dtype), HIGH.to(m.dtype), 12),
        (draw(B, 2), 0.3 * scales(B, 2, seed=1)),
    ),
    "one-hot": (OneHot, (draw(B, K),)),
    "one-hots": (lambda w: OneHots(w, SIZES), (draw(B, sum(SIZES)),)),
    "equal one-hots": (lambda w: OneHots(w, (3, 3)), (draw(B, 6),)),
    "bernoullis": (Bernoullis, (draw(B, K),)),
}
FINITE = ["one-hot", "one-hots", "equal one-hots", "bernoullis"]
CONTINUOUS = [name for name in LAWS if name not in FINITE]
BOXED = ["tanh", "mixture of tanhs", "discretized logistic"]


def law(name: str) -> Distribution:
    build, parameters = LAWS[name]
    return build(*parameters)
