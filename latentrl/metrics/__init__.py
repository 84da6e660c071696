"""What a cloned behaviour is worth: modes and their entropy, likelihood, distances to demonstrations, forecasts.

Trajectories are NumPy arrays (N, T, D) at equal times. Nothing here knows a task.
"""

from latentrl.metrics.arrays import Mean, mean, share
from latentrl.metrics.distances import (
    Nearest,
    distances,
    dtw,
    energy_distance,
    leave_one_out,
    nearest_demonstration,
    resample,
    variety,
)
from latentrl.metrics.entropy import Entropy, behaviour_entropy, conditional_entropy, modes_covered
from latentrl.metrics.forecasts import BestOfK, best_of_k, energy_score, kde_nll
from latentrl.metrics.likelihood import HeldOut, Score, held_out
from latentrl.metrics.modes import Modes, find_modes

__all__ = [
    "BestOfK",
    "Entropy",
    "HeldOut",
    "Mean",
    "Modes",
    "Nearest",
    "Score",
    "behaviour_entropy",
    "best_of_k",
    "conditional_entropy",
    "distances",
    "dtw",
    "energy_distance",
    "energy_score",
    "find_modes",
    "held_out",
    "kde_nll",
    "leave_one_out",
    "mean",
    "modes_covered",
    "nearest_demonstration",
    "resample",
    "share",
    "variety",
]
