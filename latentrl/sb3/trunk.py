"""stable-baselines3's features extractors as trunks of latent models."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import (
    is_image_space,
    is_image_space_channels_first,
    maybe_transpose,
    preprocess_obs,
)
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import VecTransposeImage
from torch import Tensor, nn

from latentrl.checks import LatentRLError
from latentrl.data.mapped import Rows
from latentrl.nets import ObservationTrunk
from latentrl.spaces import SUPPORTED

PASS = 1024
"""Most observations that go through an extractor at once where no gradient is asked for, to bound its memory."""
SMALLEST_PICTURE = 36
"""Pixels a side that NatureCNN's convolutions need."""


class FeaturesTrunk(ObservationTrunk):
    """Any of stable-baselines3's features extractors, on raw observations, flat (..., O_raw) -> (..., H).

    Observations are preprocessed as stable-baselines3 does: pictures channel-first and divided by 255, choices as
    one-hot vectors. Beyond that, choices may start anywhere and MultiDiscrete may have any shape.

    :param observation_space: of the observations; :func:`latentrl.spaces.raw` flattens them
    :param features_extractor_class: None takes NatureCNN for pictures, CombinedExtractor for a Dict, and
        FlattenExtractor for the rest
    :param features_extractor_kwargs: further arguments of its constructor
    :param normalize_images: divide pictures by 255
    :raises LatentRLError: a space or class that does not fit, or pictures too small for the default
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
    ) -> None:
        super().__init__()
        self._normalize_images = normalize_images
        parts = _parts(observation_space)
        for leaf in parts.values():
            if not isinstance(leaf, SUPPORTED):
                raise LatentRLError(
                    f"a trunk does not read {leaf}: use Box, Discrete, MultiDiscrete, MultiBinary or a Dict of these"
                )
        if named := [name for name in parts if name and not _names_a_module(name)]:
            raise LatentRLError(
                f"torch cannot name a module {named[0]!r}, as the extractor does by the observation's name: give it "
                "another, of letters, digits and underscores"
            )
        self._leaves = tuple((name, leaf, int(np.prod(leaf.shape or ()))) for name, leaf in parts.items())
        self._seen = _seen(observation_space)
        if features_extractor_class is None:
            features_extractor_class = default_extractor(self._seen)
        elif not (
            isinstance(features_extractor_class, type) and issubclass(features_extractor_class, BaseFeaturesExtractor)
        ):
            raise LatentRLError(
                f"features_extractor_class must be a subclass of stable-baselines3's BaseFeaturesExtractor, but "
                f"{features_extractor_class!r} was given"
            )
        self.extractor: BaseFeaturesExtractor = features_extractor_class(
            self._seen, **(features_extractor_kwargs or {})
        )
        self.features_dim: int = int(self.extractor.features_dim)

    def forward(self, observations: Shaped[Tensor, "*b O"]) -> Float[Tensor, "*b H"]:
        flat = observations.reshape(-1, observations.shape[-1])
        passes = (flat,) if torch.is_grad_enabled() else flat.split(PASS)
        features = [
            self.extractor(preprocess_obs(self._unflat(rows), self._seen, self._normalize_images)) for rows in passes
        ]
        return (features[0] if len(features) == 1 else torch.cat(features)).reshape(*observations.shape[:-1], -1)

    def _unflat(self, flat: Shaped[Tensor, "N O"]) -> Any:
        """Observations in the shapes that the extractor knows, by name where the space is a Dict."""
        pieces = flat.split([size for _, _, size in self._leaves], -1)
        parts = {name: _shaped(leaf, piece) for (name, leaf, _), piece in zip(self._leaves, pieces, strict=True)}
        return parts if isinstance(self._seen, spaces.Dict) else parts[""]


def make_trunk(
    space: spaces.Space[Any],
    features_extractor_class: type[BaseFeaturesExtractor] | None,
    features_extractor_kwargs: dict[str, Any] | None,
) -> FeaturesTrunk | None:
    """The trunk that is asked for or that pictures and Dicts need; None where the observations are features already.

    :raises LatentRLError: arguments for no extractor
    """
    needed = isinstance(space, spaces.Dict) or is_image_space(space)
    if features_extractor_class is not None or needed:
        return FeaturesTrunk(space, features_extractor_class, features_extractor_kwargs)
    if features_extractor_kwargs:
        raise LatentRLError(
            f"features_extractor_kwargs are given, but {space} needs no extractor: give features_extractor_class too"
        )
    return None


def _names_a_module(name: str) -> bool:
    return "." not in name and not hasattr(nn.ModuleDict, name)


def has_pictures(space: spaces.Space[Any]) -> bool:
    """Whether a space or a part of it holds pictures."""
    return any(is_image_space(leaf) for leaf in _parts(space).values())


def check_extractor(policy: BaseModel) -> None:
    """:raises LatentRLError: observations that an agent's policy does not read with its features extractor"""
    space, extractor = policy.observation_space, policy.features_extractor_class
    if isinstance(space, spaces.Dict) and extractor is FlattenExtractor:
        raise LatentRLError(
            f"{type(policy).__name__} does not read observations with parts, such as {space}: take its MultiInput "
            "form, 'LatentMultiInputPolicy' or 'MixtureMultiInputPolicy'"
        )
    if not isinstance(space, spaces.Dict) and extractor is CombinedExtractor:
        raise LatentRLError(
            f"{type(policy).__name__} reads observations with parts, not {space}: take 'LatentPolicy' or "
            "'MixturePolicy', or for pictures the Cnn form"
        )
    if extractor in (NatureCNN, CombinedExtractor):
        _refuse_small(space)


def is_vector(space: spaces.Space[Any]) -> bool:
    """Whether observations are numbers to which noise can be added: a Box that holds no picture."""
    return isinstance(space, spaces.Box) and not is_image_space(space)


def channels_first(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space with its pictures (H, W, C) as (C, H, W), as stable-baselines3's VecTransposeImage shows them."""
    if isinstance(space, spaces.Dict):
        return _each(space, channels_first)
    if is_image_space(space) and not is_image_space_channels_first(space):  # type: ignore[arg-type]
        return VecTransposeImage.transpose_space(space)  # type: ignore[arg-type]
    return space


def values_channels_first(space: Any, values: Any) -> Any:
    """Values (N, *shape), or a dict of them, with pictures turned to channel-first where the space has them so."""
    if isinstance(values, dict) and isinstance(space, spaces.Dict):
        parts = space.spaces
        return {name: values_channels_first(parts.get(name), part) for name, part in values.items()}
    if isinstance(values, Rows):
        return Rows(values_channels_first(space, values.source), values.rows)
    fits = isinstance(values, np.ndarray) and values.ndim == 4 and is_image_space(space)
    return maybe_transpose(values, space) if fits else values


def _each(space: spaces.Dict, change: Callable[[spaces.Space[Any]], spaces.Space[Any]]) -> spaces.Dict:
    """The Dict with each of its parts changed; a new Dict of them would put the names in another order."""
    made = deepcopy(space)
    made.spaces.update({name: change(leaf) for name, leaf in space.spaces.items()})
    return made


def _parts(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    return space.spaces if isinstance(space, spaces.Dict) else {"": space}


def default_extractor(space: spaces.Space[Any]) -> type[BaseFeaturesExtractor]:
    """What stable-baselines3 takes for such observations.

    :raises LatentRLError: pictures too small for it
    """
    _refuse_small(space)
    if isinstance(space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(space) else FlattenExtractor


def _refuse_small(space: spaces.Space[Any]) -> None:
    """:raises LatentRLError: pictures that are too small for NatureCNN"""
    for leaf in _parts(space).values():
        pixels = channels_first(leaf).shape[1:] if is_image_space(leaf) else ()  # type: ignore[index]
        if pixels and min(pixels) < SMALLEST_PICTURE:
            raise LatentRLError(
                f"pictures of {pixels} pixels are too small for stable-baselines3's NatureCNN, which needs "
                f"{SMALLEST_PICTURE}: give another features_extractor_class"
            )


def _seen(leaf: spaces.Space[Any]) -> spaces.Space[Any]:
    """What the extractor is told: pictures channel-first, choices from 0 and in one row, no scalars."""
    if isinstance(leaf, spaces.Dict):
        return _each(leaf, _seen)
    if isinstance(leaf, spaces.Discrete):
        return spaces.Discrete(int(leaf.n))
    if isinstance(leaf, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(leaf.nvec.flatten())
    if isinstance(leaf, spaces.Box) and leaf.shape == ():
        return spaces.Box(leaf.low.reshape(1), leaf.high.reshape(1), (1,), leaf.dtype)
    return channels_first(leaf)


def _shaped(leaf: spaces.Space[Any], piece: Shaped[Tensor, "N D"]) -> Tensor:
    if isinstance(leaf, spaces.Discrete):
        return piece.squeeze(-1).long() - int(leaf.start)
    if isinstance(leaf, spaces.MultiDiscrete):
        return piece.long() - torch.as_tensor(leaf.start, device=piece.device).flatten()
    shape = leaf.shape or (1,)
    values = piece.unflatten(-1, shape)
    if is_image_space(leaf) and not is_image_space_channels_first(leaf):  # type: ignore[arg-type]
        return values.permute(0, 3, 1, 2)
    return values
