"""Networks: multilayer perceptrons, encoders of transitions and segments, standardisation kept inside the modules."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["observation", "action"]


class Standardize(nn.Module):
    """(x − loc) / scale with loc and scale learned from data once, kept as buffers.

    Modules own their standardisation, so they take and give raw units, and a saved policy carries it along.

    :param size: number of features
    :param kind: which data :meth:`LatentModel.standardize` fits it to
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, size: int, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("loc", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def fit(self, data: Float[Tensor, "N D"]) -> None:
        """Set loc and scale to mean and standard deviation; a constant feature keeps scale 1."""
        spread = data.std(0, correction=0)
        self.loc.copy_(data.mean(0))
        self.scale.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        return (x - self.loc) / self.scale


def mlp(sizes: Sequence[int], activation: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """A perceptron with layers of the given sizes and an activation after each one, the last included."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """What all encoders share: raw observations and actions in, features (B, ``features_dim``) out.

    :meth:`inputs` standardises and joins; :meth:`features` is the network. They are apart because a VampPrior's
    pseudo-inputs live between the two.
    """

    features_dim: int

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.input_dim = observation_dim + action_dim
        self.observation_scale = Standardize(observation_dim, "observation")
        self.action_scale = Standardize(action_dim, "action")

    def inputs(self, observations: Float[Tensor, "*b O"], actions: Float[Tensor, "*b A"]) -> Float[Tensor, "*b D"]:
        """Standardised observations and actions side by side, D = O + A."""
        return torch.cat([self.observation_scale(observations), self.action_scale(actions)], dim=-1)

    def features(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, observations: Float[Tensor, "*b O"], actions: Float[Tensor, "*b A"]) -> Tensor:
        return self.features(self.inputs(observations, actions))


class TransitionEncoder(Encoder):
    """Perceptron over one transition: (B, O), (B, A) -> (B, H)."""

    def __init__(self, observation_dim: int, action_dim: int, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__(observation_dim, action_dim)
        self.net = mlp([self.input_dim, *hidden])
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
    """Perceptron over (observation, latent), the first layer split in two summands.

    With z held over a segment its summand is computed once per segment and broadcast over the steps, instead of
    being copied to every step.

    :param observation_dim: O
    :param latent_dim: Z; 0 makes a plain perceptron over observations
    :param hidden: layer sizes
    """

    def __init__(self, observation_dim: int, latent_dim: int, hidden: Sequence[int] = (128, 128, 128)) -> None:
        super().__init__()
        self.observation_scale = Standardize(observation_dim, "observation")
        self.from_observation = nn.Linear(observation_dim, hidden[0])
        self.from_latent = nn.Linear(latent_dim, hidden[0], bias=False) if latent_dim else None
        self.net = nn.Sequential(nn.SiLU(), mlp(hidden))
        self.features_dim = hidden[-1]

    def forward(self, observations: Float[Tensor, "*b O"], z: Tensor) -> Tensor:
        """Observations (B, O) with z (..., B, Z), or (B, T, O) with z (..., B, Z) held over T."""
        hidden = self.from_observation(self.observation_scale(observations))
        if self.from_latent is not None:
            shift = self.from_latent(z)
            hidden = hidden + (shift.unsqueeze(-2) if observations.dim() == 3 else shift)
        return self.net(hidden)


class PositiveScale(nn.Module):
    """Standard deviations: one free vector for all states, or a linear read-out of features.

    :param features_dim: size of the features
    :param size: number of standard deviations
    :param state_dependent: read them off the features instead of sharing them
    :param initial: starting value
    """

    def __init__(self, features_dim: int, size: int, state_dependent: bool = False, initial: float = 1.0) -> None:
        super().__init__()
        raw = torch.tensor(initial).expm1().log()
        self.raw = nn.Parameter(raw.repeat(size))
        self.from_features = nn.Linear(features_dim, size, bias=False) if state_dependent else None

    def forward(self, features: Float[Tensor, "*b H"]) -> Tensor:
        raw = self.raw if self.from_features is None else self.raw + self.from_features(features)
        return F.softplus(raw) + 1e-4
