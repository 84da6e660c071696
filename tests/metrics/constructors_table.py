"""The functions of latentrl.metrics."""

import numpy as np

from latentrl import metrics
from tests.constructors_table import Row

PATHS = np.random.default_rng(0).normal(size=(8, 4, 2))
COUNTS = np.array([3, 4])
ROWS = {
    "mean": Row(metrics.mean, {"values": [1.0, 2.0]}, lambda m, _: m.value),
    "share": Row(metrics.share, {"successes": 1, "total": 2}, lambda m, _: [m.value, *m.ci]),
    "behaviour_entropy": Row(
        metrics.behaviour_entropy, {"counts": COUNTS, "confidence": 0.95}, lambda m, _: [m.value, *m.ci]
    ),
    "conditional_entropy": Row(metrics.conditional_entropy, {"counts": COUNTS[None]}, lambda m, _: [m.value, *m.ci]),
    "modes_covered": Row(metrics.modes_covered, {"counts": COUNTS, "minimum": 5}, lambda m, _: m),
    "best_of_k": Row(metrics.best_of_k, {"samples": PATHS[None], "truths": PATHS}, lambda m, _: list(m)),
    "energy_score": Row(metrics.energy_score, {"samples": PATHS[None].repeat(2, 0), "truths": PATHS}, lambda m, _: m),
    "kde_nll": Row(
        metrics.kde_nll,
        {"samples": PATHS[:, None], "truths": PATHS[:1], "floor": -20.0, "resolution": 0.1},
        lambda m, _: m,
    ),
    "find_modes": Row(
        metrics.find_modes,
        {"trajectories": PATHS, "minimum": 3, "alarm": 0.05, "quantile": 0.95, "seed": 0},
        lambda m, _: [m.labels, m.threshold],
    ),
    "nearest_demonstration": Row(
        metrics.nearest_demonstration,
        {"rollouts": PATHS, "demonstrations": PATHS, "measure": "time", "points": 10},
        lambda m, _: list(m),
    ),
    "resample": Row(metrics.resample, {"trajectory": PATHS[0], "points": 5}, lambda m, _: m),
    "distances": Row(metrics.distances, {"trajectories": PATHS, "references": PATHS}, lambda m, _: m),
    "dtw": Row(metrics.dtw, {"first": PATHS, "second": PATHS}, lambda m, _: m),
    "energy_distance": Row(metrics.energy_distance, {"first": PATHS, "second": PATHS}, lambda m, _: m),
    "leave_one_out": Row(metrics.leave_one_out, {"references": PATHS, "modes": np.arange(8) // 4}, lambda m, _: m),
    "variety": Row(metrics.variety, {"trajectories": PATHS, "modes": np.arange(8) // 4}, lambda m, _: m),
}
