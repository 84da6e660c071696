"""Gradient estimators, one signature: ``estimator(q, f, num_samples) -> Estimate(value, surrogate)``."""

from latentrl.estimators.base import Estimator, Trajectories
from latentrl.estimators.baselines import LeaveOneOut, RunningMean
from latentrl.estimators.pathwise import Pathwise
from latentrl.estimators.rollout import LikelihoodRatio, RolloutEstimator
from latentrl.estimators.score_function import ScoreFunction

__all__ = [
    "Estimator",
    "LeaveOneOut",
    "LikelihoodRatio",
    "Pathwise",
    "RolloutEstimator",
    "RunningMean",
    "ScoreFunction",
    "Trajectories",
]
