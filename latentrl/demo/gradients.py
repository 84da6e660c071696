"""Likelihood ratio against pathwise on Pendulum: how noisy the gradient of the same return is, by horizon.

The linear-Gaussian policy u ~ N(θ·(cos, sin, θ̇), 1) at θ = 0; 64 trajectories per gradient.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from latentrl.distributions import DiagonalNormal
from latentrl.estimators import LikelihoodRatio, Pathwise, RolloutEstimator
from latentrl.rollouts import ExpectedReturn
from latentrl.variance import GradientReport, gradient_variance, variance_ratio

TASK = "latentrl_envs:latentrl/Pendulum-v1"
TRAJECTORIES = 64
"""Per gradient; the leave-one-out baseline averages the other 63."""


def linear_gaussian(parameters: dict[str, Tensor], observation: Tensor) -> DiagonalNormal:
    """π(u|s) = N(θ·o(s), 1)."""
    loc = observation @ parameters["theta"].unsqueeze(-1)
    return DiagonalNormal(loc, torch.ones_like(loc))


def compare(
    horizons: tuple[int, ...], replicates: int, seed: int, device: str, progress: Callable[[int], None]
) -> dict[str, Any]:
    """One record per horizon; ``progress`` receives the number of environment steps per trajectory done so far."""
    task = gym.make_vec(TASK, num_envs=1, device=device).unwrapped.func_env  # type: ignore[attr-defined]
    estimators: dict[str, RolloutEstimator] = {"lr": LikelihoodRatio(), "rp": Pathwise()}
    parameters = {"theta": torch.zeros(3, device=device)}
    records: dict[str, Any] = {}
    done = 0
    for horizon in horizons:
        reports: dict[str, GradientReport] = {}
        for offset, (name, estimator) in enumerate(estimators.items()):
            objective = ExpectedReturn(task, linear_gaussian, estimator, horizon, TRAJECTORIES)
            reports[name] = gradient_variance(
                objective,
                parameters,
                replicates,
                reference=reports.get("lr"),
                chunk_size=160,
                seed=2 * seed + offset,
                batch_size=TRAJECTORIES,
                env_steps=objective.env_steps,
            )
            done += horizon
            progress(done)
        ratio = variance_ratio(reports["lr"], reports["rp"])
        records[str(horizon)] = {
            "variance_ratio": ratio.value,
            "ci": list(ratio.ci),
            "trustworthy": ratio.trustworthy,
            "cosine": reports["rp"].cosine,
            "likelihood_ratio": reports["lr"].to_dict(),
            "pathwise": reports["rp"].to_dict(),
        }
    return records
