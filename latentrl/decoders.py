"""Decoders p(a|s, z): modules whose forward takes observations and latents and returns a law over actions.

Observations (B, O) go with z (..., B, Z); observations (B, T, O) with z (..., B, Z) held over the T steps. The law
has batch_shape (..., B) or (..., B, T) and event_shape (A,), in raw action units. With ``observation_dim = 0`` a
decoder looks at the latent alone, p(a|z), whatever observations it is given: where these have no features either, it is
the p(x|z) of a variational autoencoder.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, count, dimension
from latentrl.distributions import (
    Bernoullis,
    DiagonalNormal,
    DiscretizedLogistic,
    GaussianMixture,
    NearestComponent,
    OneHots,
    TanhNormal,
    choices,
)
from latentrl.nets import Centers, ConditionedTrunk, DecoderTrunk, ScaleKind, UnboundedScale, Unstandardize, positive

MakeTrunk = Callable[[int, int], DecoderTrunk]
"""(O, Z) -> a trunk."""
Hidden = Sequence[int] | MakeTrunk
"""Layer sizes of a perceptron over (s, z), or what makes another trunk."""


class Decoder(nn.Module):
    """Base of decoders."""

    has_density: ClassVar[bool] = True
    """The law's ``log_prob`` is a log-density, not something else to be maximised."""

    def forward(self, observations: Float[Tensor, "*b O"], z: Tensor) -> Distribution:
        raise NotImplementedError


class NetworkDecoder(Decoder):
    """Base of decoders with a trunk over (s, z) and a linear head."""

    def __init__(self, observation_dim: int, latent_dim: int, hidden: Hidden, outputs: int) -> None:
        super().__init__()
        make: MakeTrunk = hidden if callable(hidden) else partial(ConditionedTrunk, hidden=hidden)
        self.trunk: DecoderTrunk = make(observation_dim, latent_dim)
        self.head: nn.Linear = nn.Linear(self.trunk.features_dim, outputs)


class GaussianDecoder(NetworkDecoder):
    """N(μ(s, z), diag σ²).

    :param scale: "shared", one σ for all actions (in units of their spread) and states; "per_dimension", one each for
        all states; "state", read off (s, z)
    """

    def __init__(
        self,
        observation_dim: int,
        latent_dim: int,
        action_dim: int,
        hidden: Hidden = (128, 128, 128),
        scale: ScaleKind = "per_dimension",
    ) -> None:
        super().__init__(observation_dim, latent_dim, hidden, dimension("action_dim", action_dim))
        self.raw_units: Unstandardize = Unstandardize(action_dim, "action")
        self.sigma: UnboundedScale = UnboundedScale(self.trunk.features_dim, action_dim, scale)

    def forward(self, observations: Float[Tensor, "*b O"], z: Tensor) -> DiagonalNormal:
        features = self.trunk(observations, z)
        return DiagonalNormal(self.raw_units(self.head(features)), self.raw_units.scale(self.sigma(features)))


class BoxDecoder(NetworkDecoder):
    """Base of decoders whose actions stay inside a box.

    :param low: lower corner of the box, (A,)
    :param high: upper corner, (A,)
    :param scale: as in :class:`GaussianDecoder`
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        observation_dim: int,
        latent_dim: int,
        low: Float[Tensor, " A"],
        high: Float[Tensor, " A"],
        hidden: Hidden = (128, 128, 128),
        scale: ScaleKind = "per_dimension",
    ) -> None:
        low, high = box_corners(low, high)
        super().__init__(observation_dim, latent_dim, hidden, len(low))
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.sigma: UnboundedScale = UnboundedScale(self.trunk.features_dim, len(low), scale)


class TanhGaussianDecoder(BoxDecoder):
    """A Gaussian squashed into the action box, for actions that must stay inside their bounds."""

    def forward(self, observations: Float[Tensor, "*b O"], z: Tensor) -> TanhNormal:
        features = self.trunk(observations, z)
        loc = self.head(features)
        return TanhNormal(loc, positive(self.sigma(features)).expand(loc.shape), self.low, self.high)


class MixtureDecoder(NetworkDecoder):
    """Mixture of K diagonal Gaussians per state: a mixture density network (Bishop 1994) where Z = 0.

    :param n_components: K
    """

    def __init__(
        self,
        observation_dim: int,
        latent_dim: int,
        action_dim: int,
        n_components: int,
        hidden: Hidden = (128, 128, 128),
    ) -> None:
        numbers = dimension("n_components", n_components) * (1 + dimension("action_dim", action_dim))
        super().__init__(observation_dim, latent_dim, hidden, numbers)
        self.raw_units: Unstandardize = Unstandardize(action_dim, "action")
        self.sigma: UnboundedScale = UnboundedScale(self.trunk.features_dim, n_components * action_dim, "state")
        self.n_components = n_components

    def forward(self, observations: Float[Tensor, "*b O"], z: Tensor) -> GaussianMixture:
        features = self.trunk(observations, z)
        outputs = self.head(features)
        logits, loc = outputs[..., : self.n_components], outputs[..., self.n_components :]
        loc, scale = (part.unflatten(-1, (self.n_components, -1)) for part in (loc, self.sigma(features)))
        return GaussianMixture(logits, self.raw_units(loc), self.raw_units.scale(scale))


class BinsDecoder(NetworkDecoder):
    """One of K bins of actions and an offset from its center: Behavior Transformers (Shafiullah et al. 2022, sec. 3).

    The centers are k-means of the data's actions. Trained on the likelihood of the bin that an action lies in and of
    its offset there; their focal loss is left out.

    :param n_bins: K
    """

    def __init__(
        self,
        observation_dim: int,
        latent_dim: int,
        action_dim: int,
        n_bins: int,
        hidden: Hidden = (128, 128, 128),
    ) -> None:
        numbers = dimension("bins", n_bins) * (1 + dimension("action_dim", action_dim))
        super().__init__(observation_dim, latent_dim, hidden, numbers)
        self.raw_units: Unstandardize = Unstandardize(action_dim, "action")
        self.sigma: UnboundedScale = UnboundedScale(self.trunk.features_dim, action_dim)
        self.bins: Centers = Centers(n_bins, action_dim)

    def forward(self, observations: Float[Tensor, "*b O"], z: Tensor) -> NearestComponent:
        features = self.trunk(observations, z)
        outputs, centers = self.head(features), self.bins.centers
        logits, offsets = outputs[..., : len(centers)], outputs[..., len(centers) :]
        loc = self.raw_units(centers + offsets.unflatten(-1, centers.shape))
        scale = self.raw_units.scale(self.sigma(features))
        return NearestComponent(logits, loc, scale, self.raw_units(centers), self.raw_units.gain)


class DiscretizedLogisticDecoder(BoxDecoder):
    """A logistic law over equal intervals of the action box: for pixels, and for actions clipped at their bounds.

    :param bins: number of intervals
    """

    def __init__(
        self,
        observation_dim: int,
        latent_dim: int,
        low: Float[Tensor, " A"],
        high: Float[Tensor, " A"],
        bins: int = 256,
        hidden: Hidden = (128, 128, 128),
        scale: ScaleKind = "per_dimension",
    ) -> None:
        super().__init__(observation_dim, latent_dim, low, high, hidden, scale)
        self.bins: int = count("bins", bins, 2)
        self.raw_units: Unstandardize = Unstandardize(len(low), "action")

    def forward(self, observations: Float[Tensor, "*b O"], z: Tensor) -> DiscretizedLogistic:
        features = self.trunk(observations, z)
        loc, scale = self.raw_units(self.head(features)), self.raw_units.scale(self.sigma(features))
        return DiscretizedLogistic(loc, scale, self.low, self.high, self.bins)


class BernoulliDecoder(NetworkDecoder):
    """A independent bits: MultiBinary actions, or binary data."""

    def __init__(
        self, observation_dim: int, latent_dim: int, action_dim: int, hidden: Hidden = (128, 128, 128)
    ) -> None:
        super().__init__(observation_dim, latent_dim, hidden, dimension("action_dim", action_dim))

    def forward(self, observations: Float[Tensor, "*b O"], z: Tensor) -> Bernoullis:
        return Bernoullis(self.head(self.trunk(observations, z)))


class CategoricalDecoder(NetworkDecoder):
    """One discrete action, or several side by side, as one-hot vectors.

    :param sizes: number of options of each
    """

    def __init__(
        self, observation_dim: int, latent_dim: int, sizes: Sequence[int], hidden: Hidden = (128, 128, 128)
    ) -> None:
        self.sizes: tuple[int, ...] = tuple(dimension("sizes", size) for size in sizes)
        count("the number of sizes", len(self.sizes), 1)
        super().__init__(observation_dim, latent_dim, hidden, sum(self.sizes))

    def forward(self, observations: Float[Tensor, "*b O"], z: Tensor) -> OneHots:
        return choices(self.head(self.trunk(observations, z)), self.sizes)


def box_corners(low: object, high: object) -> tuple[Tensor, Tensor]:
    """The flattened, finite corners of an action box as tensors.

    :raises LatentRLError: if a bound is infinite or a side has no width, because a squashed law needs both
    """
    try:
        corners = [torch.as_tensor(corner, dtype=torch.float32).flatten().clone() for corner in (low, high)]
    except (TypeError, ValueError, RuntimeError) as error:
        raise LatentRLError(
            f"low and high must be the corners of an action box, but {low!r}, {high!r} were given: {error}"
        ) from error
    if corners[0].shape != corners[1].shape:
        raise LatentRLError(
            f"low and high must have one number for each action, but have {len(corners[0])} and {len(corners[1])}"
        )
    if not all(bool(corner.isfinite().all()) for corner in corners):
        raise LatentRLError("this decoder needs a bounded action box: use decoder='gaussian' for this one")
    if not bool((corners[0] < corners[1]).all()):
        raise LatentRLError(
            "this decoder needs an action box with low < high in every dimension: give the demonstrations "
            "the task's action_space"
        )
    return corners[0], corners[1]
