"""Encoders of what a posterior sees: transitions, segments of fixed length, sequences of any length.

Observations and actions in, features (B, ``features_dim``) out. Sequences that differ in length come padded to
(B, T, D), with ``lengths`` (B,); what stands behind a sequence's end has no influence on its features.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from latentrl.checks import LatentRLError, count, dimension, layer_sizes
from latentrl.nets import MLP, Standardize

Lengths = Int[Tensor, " B"] | None


class Encoder(nn.Module):
    """What all encoders share: raw observations and actions in, features (B, ``features_dim``) out.

    :meth:`inputs` standardises and joins; :meth:`features` is the network. They are apart because a VampPrior's
    pseudo-inputs live between the two.
    """

    features_dim: int

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        # Either may be left out, but not both.
        total = dimension("observation_dim", observation_dim, 0) + dimension("action_dim", action_dim, 0)
        self.input_dim: int = dimension("the size of a transition", total)
        self.scale: Standardize = Standardize(self.input_dim, "transition")

    def inputs(self, observations: Float[Tensor, "*b O"], actions: Float[Tensor, "*b A"]) -> Float[Tensor, "*b D"]:
        """Standardised observations and actions side by side, D = O + A."""
        return self.scale(torch.cat([observations, actions], dim=-1))

    def features(self, inputs: Tensor, lengths: Lengths = None) -> Tensor:
        """Features of standardised inputs; ``lengths`` None means that all T steps count."""
        raise NotImplementedError

    def forward(
        self, observations: Float[Tensor, "*b O"], actions: Float[Tensor, "*b A"], lengths: Lengths = None
    ) -> Tensor:
        return self.features(self.inputs(observations, actions), lengths)


class TransitionEncoder(Encoder):
    """Perceptron over one transition: (B, O), (B, A) -> (B, H)."""

    def __init__(self, observation_dim: int, action_dim: int, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__(observation_dim, action_dim)
        sizes = [self.input_dim, *layer_sizes("hidden", hidden)]
        self.net: MLP = MLP(sizes)
        self.features_dim: int = sizes[-1]

    def features(self, inputs: Float[Tensor, "*b D"], lengths: Lengths = None) -> Float[Tensor, "*b H"]:  # noqa: ARG002
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
        self.length: int = dimension("length", length)
        self.stride: int = dimension("stride", stride)
        self.convolutions: nn.ModuleList = nn.ModuleList()
        size = self.input_dim
        for width in layer_sizes("channels", channels):
            self.convolutions.append(nn.Linear(size * stride, width))
            size, length = width, -(-length // stride)
        self.head: nn.Linear = nn.Linear(size * length, dimension("features_dim", features_dim))
        self.features_dim: int = features_dim

    def features(self, inputs: Float[Tensor, "B T D"], lengths: Lengths = None) -> Float[Tensor, "B H"]:
        """:raises LatentRLError: for padded sequences, which only the other sequence encoders read."""
        if lengths is not None:
            raise LatentRLError(
                "the convolutional encoder reads segments of one length: use a GRU or a transformer for padded ones"
            )
        for convolution in self.convolutions:
            # Zeros behind the end fill the last patch.
            inputs = F.pad(inputs, (0, 0, 0, -inputs.shape[1] % self.stride))
            inputs = F.silu(convolution(inputs.reshape(len(inputs), -1, self.stride * inputs.shape[2])))
        return F.silu(self.head(inputs.flatten(1)))


class GRUEncoder(Encoder):
    """Gated recurrent network over a sequence; the state after the last step, (B, H) (Cho et al. 2014).

    :param features_dim: H, also the size of the state
    :param layers: recurrent layers
    """

    def __init__(self, observation_dim: int, action_dim: int, features_dim: int = 128, layers: int = 1) -> None:
        super().__init__(observation_dim, action_dim)
        self.net: nn.GRU = nn.GRU(
            self.input_dim, dimension("features_dim", features_dim), dimension("layers", layers), batch_first=True
        )
        self.features_dim: int = features_dim

    def features(self, inputs: Float[Tensor, "B T D"], lengths: Lengths = None) -> Float[Tensor, "B H"]:
        states, _ = self.net(inputs)
        if lengths is None:
            return states[:, -1]
        # It reads forwards, so padding changes nothing before it; to pack the batch would wait for a GPU.
        return states[torch.arange(len(states), device=states.device), lengths - 1]


class TransformerEncoder(Encoder):
    """Self-attention over a sequence with sinusoidal positions, averaged over its steps (Vaswani et al. 2017).

    :param features_dim: H, the width of the network
    :param layers: attention layers
    :param heads: attention heads; must divide ``features_dim``
    """

    def __init__(
        self, observation_dim: int, action_dim: int, features_dim: int = 128, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__(observation_dim, action_dim)
        if dimension("features_dim", features_dim) % (2 * count("heads", heads, 1)):
            raise LatentRLError(f"features_dim must be a multiple of 2·heads = {2 * heads}, but is {features_dim}")
        self.embedding: nn.Linear = nn.Linear(self.input_dim, features_dim)
        layer = nn.TransformerEncoderLayer(
            features_dim, heads, 2 * features_dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.net: nn.TransformerEncoder = nn.TransformerEncoder(
            layer, dimension("layers", layers), enable_nested_tensor=False
        )
        self.norm: nn.LayerNorm = nn.LayerNorm(features_dim)
        self.features_dim: int = features_dim

    def features(self, inputs: Float[Tensor, "B T D"], lengths: Lengths = None) -> Float[Tensor, "B H"]:
        steps = torch.arange(inputs.shape[1], device=inputs.device)
        hidden = self.embedding(inputs) + _positions(steps, self.features_dim, inputs.dtype)
        if lengths is None:
            return self.norm(self.net(hidden).mean(1))
        padding = steps >= lengths[:, None]
        hidden = self.net(hidden, src_key_padding_mask=padding).masked_fill(padding.unsqueeze(-1), 0.0)
        return self.norm(hidden.sum(1) / lengths[:, None])


def _positions(steps: Int[Tensor, " T"], width: int, dtype: torch.dtype) -> Float[Tensor, "T H"]:
    """Sines and cosines of wavelengths from 2π to 2π·10⁴ steps (Vaswani et al. 2017, section 3.5)."""
    frequency = torch.exp(torch.arange(0, width, 2, device=steps.device, dtype=dtype) * (-math.log(1e4) / width))
    angle = steps.to(dtype)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)
