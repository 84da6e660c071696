"""Networks: multilayer perceptrons, encoders of transitions and segments, standardisation kept inside the modules."""

import math
from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["observation", "action", "transition"]
UNIT_SCALE = math.log(math.e - 1.0)
"""Where softplus is 1."""
SCALE_FLOOR = 1e-4
"""Smallest standard deviation of a law, in standardised units: data without spread must not make a density infinite."""


class Affine(nn.Module):
    """x -> shift + gain · x, the identity until it is fitted to data; one fused operation.

    Modules own their standardisation, so they take and give raw units, and a saved policy carries it along.

    :param size: number of features
    :param kind: the data that :meth:`LatentModel.standardize` fits it to; a transition is observation and action joined
    """

    shift: Tensor
    gain: Tensor

    def __init__(self, size: int, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("gain", torch.ones(size))

    def fit(self, data: Float[Tensor, "N D"]) -> None:
        """Set shift and gain from the mean and standard deviation of data; a constant feature keeps its scale."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        return torch.addcmul(self.shift, self.gain, x)


class Standardize(Affine):
    """Raw units to standardised ones, (x − mean) / std."""

    def fit(self, data: Float[Tensor, "N D"]) -> None:
        mean, spread = _moments(data)
        self.gain.copy_(1.0 / spread)
        self.shift.copy_(-mean / spread)


class Unstandardize(Affine):
    """Standardised units to raw ones, mean + std · x."""

    floor: Tensor

    def __init__(self, size: int, kind: Kind) -> None:
        super().__init__(size, kind)
        self.register_buffer("floor", torch.full((size,), SCALE_FLOOR))

    def fit(self, data: Float[Tensor, "N D"]) -> None:
        mean, spread = _moments(data)
        self.gain.copy_(spread)
        self.shift.copy_(mean)
        self.floor.copy_(SCALE_FLOOR * spread)

    def scale(self, unbounded: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Standard deviations in raw units, std · :func:`positive` (unbounded), in two operations."""
        return torch.addcmul(self.floor, self.gain, F.softplus(unbounded))


def _moments(data: Float[Tensor, "N D"]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in float64; 1 in place of a deviation that is nothing beside the rounding."""
    data = data.double()
    mean, spread = data.mean(0), data.std(0, correction=0)
    return mean, torch.where(spread > 1e-6 * mean.abs(), spread, torch.ones_like(spread))


class MLP(nn.ModuleList):
    """A perceptron with layers of the given sizes and SiLU after each one, the last included."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__(nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes))

    def forward(self, x: Float[Tensor, "*b D"]) -> Float[Tensor, "*b H"]:
        for layer in self:
            x = F.silu(layer(x))
        return x


class Encoder(nn.Module):
    """What all encoders share: raw observations and actions in, features (B, ``features_dim``) out.

    :meth:`inputs` standardises and joins; :meth:`features` is the network. They are apart because a VampPrior's
    pseudo-inputs live between the two.
    """

    features_dim: int

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.input_dim = observation_dim + action_dim
        self.scale = Standardize(self.input_dim, "transition")

    def inputs(self, observations: Float[Tensor, "*b O"], actions: Float[Tensor, "*b A"]) -> Float[Tensor, "*b D"]:
        """Standardised observations and actions side by side, D = O + A."""
        return self.scale(torch.cat([observations, actions], dim=-1))

    def features(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, observations: Float[Tensor, "*b O"], actions: Float[Tensor, "*b A"]) -> Tensor:
        return self.features(self.inputs(observations, actions))


class TransitionEncoder(Encoder):
    """Perceptron over one transition: (B, O), (B, A) -> (B, H)."""

    def __init__(self, observation_dim: int, action_dim: int, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__(observation_dim, action_dim)
        self.net = MLP([self.input_dim, *hidden])
        self.features_dim = hidden[-1]

    def features(self, inputs: Float[Tensor, "*b D"]) -> Float[Tensor, "*b H"]:
        return self.net(inputs)


class SequenceEncoder(Encoder):
    """Strided convolutions over a segment of fixed length T, then one dense layer: (B, T, O), (B, T, A) -> (B, H).

    Kernels do not overlap (kernel = stride), so each convolution is one matrix product on a view: on a CPU several
    times faster than ``Conv1d`` at these sizes. Positions are kept (no pooling over time), because *when* a person
    turns is what tells two strokes apart.

    :param length: number of steps T of the segments that it reads
    :param channels: output channels of each convolution
    :param stride: kernel size and stride of each
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        length: int,
        channels: Sequence[int] = (64, 128),
        stride: int = 4,
        features_dim: int = 128,
    ) -> None:
        super().__init__(observation_dim, action_dim)
        self.length, self.stride = length, stride
        self.convolutions = nn.ModuleList()
        size = self.input_dim
        for width in channels:
            self.convolutions.append(nn.Linear(size * stride, width))
            size, length = width, -(-length // stride)
        self.head = nn.Linear(size * length, features_dim)
        self.features_dim = features_dim

    def features(self, inputs: Float[Tensor, "B T D"]) -> Float[Tensor, "B H"]:
        for convolution in self.convolutions:
            # Zeros behind the end fill the last patch.
            inputs = F.pad(inputs, (0, 0, 0, -inputs.shape[1] % self.stride))
            inputs = F.silu(convolution(inputs.reshape(len(inputs), -1, self.stride * inputs.shape[2])))
        return F.silu(self.head(inputs.flatten(1)))


class ConditionedTrunk(nn.Module):
    """Perceptron over (observation, latent).

    With z held over a segment, the first layer is split in two summands: z's is computed once per segment and
    broadcast over the steps, instead of z being copied to every step.

    :param observation_dim: O
    :param latent_dim: Z; 0 makes a plain perceptron over observations
    :param hidden: layer sizes
    """

    def __init__(self, observation_dim: int, latent_dim: int, hidden: Sequence[int] = (128, 128, 128)) -> None:
        super().__init__()
        self.observation_scale = Standardize(observation_dim, "observation")
        self.net = MLP([observation_dim + latent_dim, *hidden])
        self.features_dim = hidden[-1]

    def forward(self, observations: Float[Tensor, "*b O"], z: Tensor) -> Tensor:
        """Observations (B, O) with z (..., B, Z), or (B, T, O) with z (..., B, Z) held over T."""
        scaled = self.observation_scale(observations)
        if z.shape[-1] == 0:
            return self.net(scaled)
        if observations.dim() == 2:
            return self.net(torch.cat([scaled.expand(*z.shape[:-1], -1), z], dim=-1))
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


class UnboundedScale(nn.Module):
    """Unbounded numbers that make standard deviations: one free vector for all states, or a read-out of features.

    :param features_dim: size of the features
    :param size: number of standard deviations
    :param state_dependent: read them off the features instead of sharing them
    """

    def __init__(self, features_dim: int, size: int, state_dependent: bool = False) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.full((size,), UNIT_SCALE))
        self.from_features = nn.Linear(features_dim, size, bias=False) if state_dependent else None

    def forward(self, features: Float[Tensor, "*b H"]) -> Tensor:
        return self.raw if self.from_features is None else self.raw + self.from_features(features)
