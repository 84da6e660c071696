"""``latentrl gradients``: rollout-gradient estimators over tasks, horizons, noise and stiffness."""

from latentrl.gradients.run import GradientsConfig, run_gradients

__all__ = ["GradientsConfig", "run_gradients"]
