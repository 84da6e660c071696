"""Trunks of decoders that read a history of observations: recurrent, and a transformer.

Like :class:`~latentrl.nets.ConditionedTrunk` they take observations (B, O) with z (..., B, Z), or (B, T, O) with z held
over the T steps, and give features (..., B, [T,] H'). Here O = H·F: the last H observations of F features side by side,
the oldest first. Nothing is remembered from call to call.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentrl.checks import LatentRLError, count, dimension, layer_sizes
from latentrl.nets import MLP, DecoderTrunk, Standardize

Hidden = Sequence[int]


class HistoryTrunk(DecoderTrunk):
    """Base of both: standardises, and gives the network all steps of all segments as rows of one batch.

    :param observation_dim: O, all of the history
    :param latent_dim: Z; 0 for a policy without latent
    :param history: H
    :raises LatentRLError: a decoder of the latent alone, which has no history
    """

    def __init__(self, observation_dim: int, latent_dim: int, history: int) -> None:
        super().__init__()
        observation_dim = dimension("observation_dim", observation_dim, 0)
        if observation_dim == 0:
            raise LatentRLError("a decoder of the latent alone has no history to read: take the trunk 'mlp'")
        self.observation_scale: Standardize = Standardize(observation_dim, "observation")
        self.history: int = count("history", history, 1)
        if observation_dim % self.history:
            raise LatentRLError(
                f"observation_dim={observation_dim} features are not those of history={history} observations: give a "
                "multiple of it"
            )
        self.frame_dim: int = observation_dim // self.history
        self.latent_dim: int = dimension("latent_dim", latent_dim, 0)

    def forward(self, observations: Float[Tensor, "*b O"], z: Tensor) -> Tensor:
        frames = self.observation_scale(observations).unflatten(-1, (self.history, self.frame_dim))
        if self.latent_dim == 0:
            z = observations[..., :0]
        elif observations.dim() == 3:
            z = z.unsqueeze(-2).expand(*z.shape[:-1], observations.shape[1], -1)
        shape = z.shape[:-1]
        frames = frames.expand(*shape, -1, -1)
        rows = self.features(frames.flatten(0, -3), z.flatten(0, -2))
        return rows.reshape(*shape, -1)

    def features(self, frames: Float[Tensor, "N H F"], z: Float[Tensor, "N Z"]) -> Float[Tensor, "N D"]:
        """Features of standardised histories and their latents."""
        raise NotImplementedError


class GRUTrunk(HistoryTrunk):
    """A gated recurrent network over the history, which sees z at each step; then a perceptron (Cho et al. 2014).

    :param hidden: size of the recurrent state, and of the layers behind it
    """

    def __init__(self, observation_dim: int, latent_dim: int, hidden: Hidden, history: int) -> None:
        super().__init__(observation_dim, latent_dim, history)
        hidden = _widths(hidden)
        self.net: nn.GRU = nn.GRU(self.frame_dim + self.latent_dim, hidden[0], batch_first=True)
        self.head: MLP = MLP(hidden)
        self.features_dim: int = hidden[-1]

    def features(self, frames: Float[Tensor, "N H F"], z: Float[Tensor, "N Z"]) -> Float[Tensor, "N D"]:
        inputs = torch.cat([frames, z.unsqueeze(1).expand(-1, self.history, -1)], -1)
        return self.head(self.net(inputs)[0][:, -1])


class TransformerTrunk(HistoryTrunk):
    """Self-attention over z, the history, and one query for each action that is planned; features of the queries.

    The decoder of ACT (Zhao et al. 2023, section IV-C) with one stack instead of encoder and decoder. The features of
    a plan of T actions are those of its queries side by side.

    :param hidden: widths of the layers, which must all be the same
    :param chunk: T, actions of a plan
    :param heads: attention heads; must divide the width
    """

    def __init__(
        self, observation_dim: int, latent_dim: int, hidden: Hidden, history: int, chunk: int = 1, heads: int = 4
    ) -> None:
        super().__init__(observation_dim, latent_dim, history)
        hidden, heads = _widths(hidden), count("heads", heads, 1)
        width = hidden[0]
        if len(set(hidden)) > 1 or width % heads:
            raise LatentRLError(
                f"a transformer's layers are as wide as one another, and a multiple of {heads}: give hidden such as "
                f"(128, 128), not {tuple(hidden)}"
            )
        self.from_frame: nn.Linear = nn.Linear(self.frame_dim, width)
        self.from_latent: nn.Linear | None = nn.Linear(latent_dim, width) if latent_dim else None
        # Of the small size that GPT-2 starts them with: positions, and what a query asks for.
        self.places: nn.Parameter = nn.Parameter(0.02 * torch.randn(self.history, width))
        self.queries: nn.Parameter = nn.Parameter(0.02 * torch.randn(dimension("chunk", chunk), width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.net: nn.TransformerEncoder = nn.TransformerEncoder(layer, len(hidden), enable_nested_tensor=False)
        self.norm: nn.LayerNorm = nn.LayerNorm(width)
        self.features_dim: int = chunk * width

    def features(self, frames: Float[Tensor, "N H F"], z: Float[Tensor, "N Z"]) -> Float[Tensor, "N D"]:
        tokens = [self.from_frame(frames) + self.places, self.queries.expand(frames.shape[0], -1, -1)]
        if self.from_latent is not None:
            tokens.append(self.from_latent(z).unsqueeze(1))
        asked = slice(self.history, self.history + len(self.queries))
        return self.norm(self.net(torch.cat(tokens, 1))[:, asked]).flatten(1)


def _widths(hidden: Hidden) -> tuple[int, ...]:
    """Sizes of at least one layer."""
    sizes = layer_sizes("hidden", hidden)
    count("the number of layers in hidden", len(sizes), 1)
    return sizes
