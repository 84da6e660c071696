"""Spaces of latents as actions, which are told from those of an environment's own actions."""

from gymnasium import spaces


class OfLatents:
    """Before a space: it equals none of other actions, however alike. Or stable-baselines3 would load an agent where
    its latents are taken for actions."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OfLatents) and super().__eq__(other)

    def __repr__(self) -> str:
        return f"Latent{super().__repr__()}"


class LatentBox(OfLatents, spaces.Box):
    """Continuous latents."""


class LatentDiscrete(OfLatents, spaces.Discrete):
    """Latents of one choice."""


class LatentMultiDiscrete(OfLatents, spaces.MultiDiscrete):
    """Latents of several choices."""
