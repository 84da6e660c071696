"""The face to stable-baselines3; nothing outside this package imports it."""

from latentrl.sb3.bc import LatentBC
from latentrl.sb3.policy import LatentPolicy

__all__ = ["LatentBC", "LatentPolicy"]
