"""latentrl: latent-variable policies for stable-baselines3 and Gymnasium."""

from importlib.metadata import PackageNotFoundError, version

from latentrl.checks import LatentRLError
from latentrl.config import LatentConfig
from latentrl.data import Demonstrations
from latentrl.model import LatentModel
from latentrl.training import CorrectiveNoise

try:
    __version__ = version("latentrl")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

__all__ = ["CorrectiveNoise", "Demonstrations", "LatentConfig", "LatentModel", "LatentRLError"]
