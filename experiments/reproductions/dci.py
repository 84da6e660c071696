"""Disentanglement, completeness and informativeness of codes for known factors (Eastwood & Williams 2018)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrl.checks import require


def importances(codes: NDArray[Any], values: NDArray[Any]) -> tuple[NDArray[np.float64], list[float]]:
    """Of each code for each factor (Z, 5), by random forests, and how often these are right on the other half."""
    forests = require("sklearn.ensemble", "judge")
    half, columns, accuracies = len(codes) // 2, [], []
    for column in values.T:
        forest = forests.RandomForestClassifier(50, max_depth=10, random_state=0).fit(codes[:half], column[:half])
        columns.append(forest.feature_importances_)
        accuracies.append(float(forest.score(codes[half:], column[half:])))
    return np.array(columns).T, accuracies


def disentanglement(importance: NDArray[np.float64]) -> tuple[float, float]:
    """D and C of Eastwood & Williams 2018, section 2: 1 where each code says something of one factor alone, and each
    factor is in one code alone; 0 where importance (Z, V) is spread evenly."""

    def concentration(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        shares = rows / rows.sum(1, keepdims=True).clip(1e-12)
        return 1.0 + np.where(shares > 0, shares * np.log(shares.clip(1e-300)), 0.0).sum(1) / np.log(rows.shape[1])

    weight = importance.sum(1) / importance.sum()
    return float((weight * concentration(importance)).sum()), float(concentration(importance.T).mean())
