"""Networks: multilayer perceptrons, the trunk of decoders, standardisation kept inside the modules."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from latentrl.checks import LatentRLError, dimension, layer_sizes, one_of

Kind = Literal["observation", "action", "transition"]
UNIT_SCALE = math.log(math.e - 1.0)
"""Where softplus is 1."""
SCALE_FLOOR = 1e-4
"""Smallest standard deviation of a law, in standardised units: data without spread must not make a density infinite."""
TRUNK_ROWS = 4096
"""Observations whose features behind a trunk are looked at, evenly spaced among all."""
AT_ONCE = 4_000_000
"""Numbers whose moments are taken in one piece: 32 MB in float64."""
MOST_CLUSTERED = 20_000
"""Data, evenly spaced among all, that k-means looks at."""


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention and recurrent layers by kernels whose gradients have gradients."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
        yield


class Fitted(nn.Module):
    """Base of modules that look at the data once, before training.

    :param kind: the data that :meth:`LatentModel.standardize` fits it to; a transition is observation and action joined
    """

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind

    def fit(self, *data: Float[Tensor, "N _"]) -> None:
        """Set the buffers from the data: columns that lie side by side."""
        raise NotImplementedError


class Affine(Fitted):
    """x -> shift + gain · x, the identity until it is fitted to data; one fused operation.

    Modules own their standardisation, so they take and give raw units, and a saved policy carries it along. Fitting
    sets shift and gain from the mean and standard deviation of data; a constant feature keeps its scale.

    :param size: number of features
    :param kind: as for :class:`Fitted`
    """

    shift: Tensor
    gain: Tensor

    def __init__(self, size: int, kind: Kind) -> None:
        super().__init__(kind)
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("gain", torch.ones(size))

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        if x.shape[-1] != len(self.gain):  # one feature would broadcast
            raise LatentRLError(f"the {self.kind}s have {x.shape[-1]} features, but {len(self.gain)} are expected")
        return torch.addcmul(self.shift, self.gain, x)


class Standardize(Affine):
    """Raw units to standardised ones, (x − mean) / std."""

    def fit(self, *data: Float[Tensor, "N _"]) -> None:
        mean, spread = _moments(*data)
        self.gain.copy_(1.0 / spread)
        self.shift.copy_(-mean / spread)


class Unstandardize(Affine):
    """Standardised units to raw ones, mean + std · x."""

    floor: Tensor

    def __init__(self, size: int, kind: Kind) -> None:
        super().__init__(size, kind)
        self.register_buffer("floor", torch.full((size,), SCALE_FLOOR))

    def fit(self, *data: Float[Tensor, "N _"]) -> None:
        mean, spread = _moments(*data)
        self.gain.copy_(spread)
        self.shift.copy_(mean)
        self.floor.copy_(SCALE_FLOOR * spread)

    def scale(self, unbounded: Tensor) -> Float[Tensor, "*batch D"]:
        """Standard deviations in raw units, std · :func:`positive` (unbounded), in two operations.

        :param unbounded: (..., D), or (..., 1) for one that all dimensions share
        """
        return torch.addcmul(self.floor, self.gain, F.softplus(unbounded))


class Centers(Fitted):
    """k-means of the data's actions in standardised units; random until they are fitted.

    :param number: K
    :param size: A
    """

    centers: Tensor
    """(K, A)"""

    def __init__(self, number: int, size: int) -> None:
        super().__init__("action")
        self.register_buffer("centers", torch.randn(number, size))

    def fit(self, *data: Float[Tensor, "N _"]) -> None:
        from scipy.cluster.vq import kmeans2  # here, as it takes a fifth of a second to import

        mean, spread = _moments(*data)
        rows = evenly(len(data[0]), MOST_CLUSTERED)
        scaled = ((torch.cat([part[rows] for part in data], -1).double() - mean) / spread).cpu().numpy()
        distinct = np.unique(scaled, axis=0)
        if len(distinct) > len(self.centers):
            centers, _ = kmeans2(scaled, len(self.centers), iter=50, minit="++", seed=0)
        else:  # each has a center of its own, some several, of which the first is taken
            centers = np.resize(distinct, self.centers.shape)
        self.centers.copy_(torch.as_tensor(centers))


def evenly(number: int, most: int) -> Tensor:
    """Up to ``most`` of so many rows, evenly spaced."""
    return torch.linspace(0, number - 1, min(number, most), dtype=torch.float64).long()


def _moments(*data: Float[Tensor, "N _"]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of columns in float64; 1 in place of a deviation that is nothing beside the rounding.

    Nothing as large as the data is made, which may take most of the memory.
    """
    found = {id(part): _moments_of(part) for part in data}
    mean, spread = (torch.cat([found[id(part)][i] for part in data]) for i in (0, 1))
    return mean, torch.where(spread > 1e-6 * mean.abs(), spread, torch.ones_like(spread))


def _moments_of(data: Float[Tensor, "N D"]) -> tuple[Tensor, Tensor]:
    if data.numel() <= AT_ONCE:
        data = data.double()
        return data.mean(0), data.std(0, correction=0)
    blocks = data.split(max(1, AT_ONCE // data.shape[1]))
    mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / len(data)
    squares = torch.stack([(block.double() - mean).square().sum(0) for block in blocks]).sum(0)
    return mean, (squares / len(data)).sqrt()


class MLP(nn.ModuleList):
    """A perceptron with layers of the given sizes and SiLU after each one, the last included."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__(nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes))

    def forward(self, x: Float[Tensor, "*b D"]) -> Float[Tensor, "*b H"]:
        for layer in self:
            x = F.silu(layer(x))
        return x


class ObservationTrunk(nn.Module):
    """Base of networks that turn raw observations, flat (..., O), into the features that a policy works on."""

    features_dim: int

    def forward(self, observations: Tensor) -> Tensor:
        raise NotImplementedError


class DecoderTrunk(nn.Module):
    """Base of networks over observations and latents, whose features make the law of a decoder."""

    features_dim: int

    def forward(self, observations: Float[Tensor, "*b O"], z: Tensor) -> Tensor:
        """Observations (B, O) with z (..., B, Z), or (B, T, O) with z (..., B, Z) held over T."""
        raise NotImplementedError


class ConditionedTrunk(DecoderTrunk):
    """Perceptron over (observation, latent).

    With z held over a segment, the first layer is split in two summands: z's is computed once per segment and
    broadcast over the steps, instead of z being copied to every step.

    :param observation_dim: O; 0 makes a network of the latent alone, whatever the observations
    :param latent_dim: Z; 0 makes a plain perceptron over observations
    :param hidden: layer sizes; with none, the features are the inputs, and a linear head makes a linear model
    """

    def __init__(self, observation_dim: int, latent_dim: int, hidden: Sequence[int] = (128, 128, 128)) -> None:
        super().__init__()
        observation_dim = dimension("observation_dim", observation_dim, 0)
        self.observation_scale: Standardize = Standardize(observation_dim, "observation")
        sizes = [observation_dim + dimension("latent_dim", latent_dim, 0), *layer_sizes("hidden", hidden)]
        self.net: MLP = MLP(sizes)
        self.observation_dim = observation_dim
        self.features_dim: int = sizes[-1]

    def forward(self, observations: Float[Tensor, "*b O"], z: Tensor) -> Tensor:
        if self.observation_dim == 0:
            observations = observations[..., :0]
        scaled = self.observation_scale(observations)
        if z.shape[-1] == 0:
            return self.net(scaled)
        if observations.dim() == 2 or len(self.net) == 0:
            if observations.dim() == 3:
                z = z.unsqueeze(-2).expand(*z.shape[:-1], observations.shape[1], -1)
            if z.dim() > scaled.dim():
                scaled = scaled.expand(*z.shape[:-1], -1)
            return self.net(torch.cat([scaled, z], dim=-1))
        first, size = self.net[0], observations.shape[-1]
        assert isinstance(first, nn.Linear)
        from_latent = F.linear(z, first.weight[:, size:]).unsqueeze(-2)
        hidden = F.silu(F.linear(scaled, first.weight[:, :size], first.bias) + from_latent)
        for layer in islice(self.net, 1, None):
            hidden = F.silu(layer(hidden))
        return hidden


def positive(raw: Tensor) -> Tensor:
    """Standard deviations from unbounded numbers: softplus with a floor of 10⁻⁴.

    Made contiguous first: on the half of a chunked tensor, softplus is several times slower on a CPU.
    """
    return F.softplus(raw.contiguous()).add_(SCALE_FLOOR)


class LowerTriangular(nn.Module):
    """Lower-triangular matrices (..., D, D) from their diagonals and the D(D − 1)/2 entries below, row by row.

    :param size: D
    """

    source: Tensor
    zero: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size: int = size
        self.below: int = size * (size - 1) // 2
        source = torch.full((size, size), size + self.below)  # of the zero at the end
        rows, columns = torch.tril_indices(size, size, -1)
        source[rows, columns] = size + torch.arange(self.below)
        source.fill_diagonal_(0).diagonal().add_(torch.arange(size))
        self.register_buffer("source", source.flatten(), persistent=False)
        self.register_buffer("zero", torch.zeros(1), persistent=False)

    def forward(self, diagonal: Float[Tensor, "*b D"], below: Float[Tensor, "*b E"]) -> Float[Tensor, "*b D D"]:
        entries = torch.cat([diagonal, below, self.zero.expand(*diagonal.shape[:-1], 1)], -1)
        return entries.index_select(-1, self.source).unflatten(-1, (self.size, self.size))


ScaleKind = Literal["shared", "per_dimension", "state"]
SCALE_KINDS = ("shared", "per_dimension", "state")


class UnboundedScale(nn.Module):
    """Unbounded numbers that make standard deviations, for actions in standardised units.

    :param features_dim: size of the features
    :param size: number of standard deviations
    :param kind: "shared", one for all dimensions and states; "per_dimension", one each for all states; "state", read
        off the features
    """

    def __init__(self, features_dim: int, size: int, kind: ScaleKind = "per_dimension") -> None:
        super().__init__()
        one_of("scale", kind, SCALE_KINDS)
        self.raw: nn.Parameter = nn.Parameter(torch.full((1 if kind == "shared" else size,), UNIT_SCALE))
        self.from_features: nn.Linear | None = nn.Linear(features_dim, size, bias=False) if kind == "state" else None

    def forward(self, features: Float[Tensor, "*b H"]) -> Tensor:
        """(*b, size), or (1,) or (size,) where they are the same for all features."""
        return self.raw if self.from_features is None else F.linear(features, self.from_features.weight, self.raw)


class StateParameters(nn.Module):
    """Numbers that make a law: free, or read off the state.

    :param initial: (n,), where they start; what is read off the state is added to it
    :param observation_dim: O; None where they do not depend on the state
    :param hidden: layer sizes between state and numbers
    """

    def __init__(
        self, initial: Float[Tensor, " n"], observation_dim: int | None = None, hidden: Sequence[int] = (128, 128)
    ) -> None:
        super().__init__()
        self.free: nn.Parameter = nn.Parameter(initial)
        self.trunk: ConditionedTrunk | None = None
        if observation_dim is not None:
            self.trunk = ConditionedTrunk(observation_dim, 0, hidden)
            self.from_features: nn.Linear = nn.Linear(self.trunk.features_dim, len(initial), bias=False)

    def forward(self, observations: Float[Tensor, "*b O"]) -> Float[Tensor, "*c n"]:
        """(n,), or (*b, n) where they depend on the state."""
        if self.trunk is None:
            return self.free
        features = self.trunk(observations, observations[..., :0])
        return F.linear(features, self.from_features.weight, self.free)
