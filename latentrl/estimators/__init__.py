"""Gradient estimators, one signature: ``estimator(q, f, num_samples) -> Estimate(value, surrogate)``."""

from latentrl.estimators.base import Estimator, Trajectories
from latentrl.estimators.baselines import LawBaseline, LearnedBaseline, LeaveOneOut, RunningMean
from latentrl.estimators.combinations import AlphaOrder, Combination, InverseVariance, TotalPropagation
from latentrl.estimators.delta_method import DeltaMethod
from latentrl.estimators.disarm import DisArm
from latentrl.estimators.enumerate import Enumerate
from latentrl.estimators.measure_valued import MeasureValued
from latentrl.estimators.multi_sample import DReG, ImportanceWeighted, MultiSample, StickingTheLanding, Vimco
from latentrl.estimators.muprop import MuProp
from latentrl.estimators.optimal_baseline import OptimalBaseline
from latentrl.estimators.pathwise import Pathwise
from latentrl.estimators.rebar import Rebar, Relax
from latentrl.estimators.relaxed import GumbelSoftmax, StraightThrough
from latentrl.estimators.rollout import LikelihoodRatio, RolloutEstimator, ShortHorizon, ValueFunction
from latentrl.estimators.score_function import ScoreFunction

__all__ = [
    "AlphaOrder",
    "Combination",
    "DReG",
    "DeltaMethod",
    "DisArm",
    "Enumerate",
    "Estimator",
    "GumbelSoftmax",
    "ImportanceWeighted",
    "InverseVariance",
    "LawBaseline",
    "LearnedBaseline",
    "LeaveOneOut",
    "LikelihoodRatio",
    "MeasureValued",
    "MuProp",
    "MultiSample",
    "OptimalBaseline",
    "Pathwise",
    "Rebar",
    "Relax",
    "RolloutEstimator",
    "RunningMean",
    "ScoreFunction",
    "ShortHorizon",
    "StickingTheLanding",
    "StraightThrough",
    "TotalPropagation",
    "Trajectories",
    "ValueFunction",
    "Vimco",
]
