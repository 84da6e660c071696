"""Training latent policies: updates, devices, checkpoints and what watches over them."""

from latentrl.noise import CorrectiveNoise
from latentrl.training.trainer import ElboTrainer

__all__ = ["CorrectiveNoise", "ElboTrainer"]
