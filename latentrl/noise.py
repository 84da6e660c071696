"""Corrective noise: the cure for covariate shift in cloning."""

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from latentrl.checks import LatentRLError, at_least, dimension, instance
from latentrl.data.checks import as_array
from latentrl.data.demonstrations import Demonstrations

CONTROLLED = 0.9
"""Share of a feature's change that the action must explain for the feature to count as controlled directly."""
REACH = 2.0
"""Standard deviation of the estimated noise in changes of one step (root mean square); chosen on handwriting, where
half of it is too little to come back from what cloning gets wrong."""


@dataclass(frozen=True)
class CorrectiveNoise:
    """Noise on what the decoder sees, with a target that leads back: the cure for covariate shift in cloning.

    The policy is trained at s + δ, δ ~ N(0, diag std²), on a + gain·δ, so that it learns to return to what the
    demonstrator did instead of drifting away (the idea of DART, Laskey et al. 2017, without a demonstrator at hand).

    :param std: (O,) standard deviation of δ in observation units; 0 leaves a feature alone
    :param gain: (A, O) change of the action per unit of δ; None trains on the unchanged action
    """

    std: NDArray[np.float32]
    gain: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", as_array("noise std", self.std).astype(np.float32))
        if self.std.ndim != 1 or not ((self.std >= 0) & np.isfinite(self.std)).all():
            raise LatentRLError("noise std must be one finite number ≥ 0 per observation feature")
        if self.gain is not None:
            object.__setattr__(self, "gain", as_array("noise gain", self.gain).astype(np.float32))
            if self.gain.ndim != 2 or self.gain.shape[1] != len(self.std):
                raise LatentRLError(f"noise gain must have shape (A, {len(self.std)}), but it is {self.gain.shape}")
            if not np.isfinite(self.gain).all():
                raise LatentRLError("noise gain must be finite: look at what it was divided by")

    @classmethod
    def velocity_control(
        cls, observation_dim: int, position: slice, position_std: float, velocity_std: float, steps: float = 8.0
    ) -> "CorrectiveNoise":
        """For observations (position, velocity, …) and velocity actions: head back within about ``steps`` steps.

        :param position: where the positions stand; the velocities are expected right behind them
        """
        start, stop, _ = instance("position", position, slice).indices(dimension("observation_dim", observation_dim))
        size = stop - start
        if size < 1 or stop + size > observation_dim:
            raise LatentRLError(
                f"positions {position} and as many velocities behind them do not fit {observation_dim} features: "
                "say where the positions stand, such as slice(0, 2)"
            )
        std = np.zeros(observation_dim, dtype=np.float32)
        std[start:stop] = at_least("position_std", position_std, 0.0)
        std[stop : stop + size] = at_least("velocity_std", velocity_std, 0.0)
        gain = np.zeros((size, observation_dim), dtype=np.float32)
        gain[:, start:stop] = -np.eye(size) / at_least("steps", steps, 1.0)
        return cls(std, gain)

    @classmethod
    def estimate(cls, demonstrations: Demonstrations, steps: float = 8.0) -> "CorrectiveNoise | None":
        """Noise on what actions control directly, in proportion to its change in one step, found in the data.

        A linear model s' = A s + B a + c is fitted to all steps. A feature is controlled directly where the action
        explains at least :data:`CONTROLLED` of what the state leaves open of its change: the position under velocity
        control, not a clock and not what moves by inertia or on contact. A deviation of such a feature shall fall to
        (1 − 1/steps) of itself in one step; where it does not by itself, the gain makes up for the rest through B.

        :return: None where actions control nothing directly
        :raises LatentRLError: observations or actions that are no numbers
        """
        instance("demonstrations", demonstrations, Demonstrations)
        at_least("steps", steps, 1.0)
        for what, space in (("observation", demonstrations.observation_space), ("action", demonstrations.action_space)):
            if not isinstance(space, spaces.Box):
                raise LatentRLError(f"corrective noise needs numbers, but the {what} space is {space}: leave it out")
        states, actions = (
            np.asarray(values, dtype=np.float64).reshape(len(demonstrations), -1)
            for values in (demonstrations.observations, demonstrations.actions)
        )
        inside = np.ones(len(states), dtype=bool)
        inside[demonstrations.episode_starts + demonstrations.episode_lengths - 1] = False
        now = np.flatnonzero(inside)
        if len(now) <= states.shape[1] + actions.shape[1] + 1:
            return None
        change = states[now + 1] - states[now]
        left_open = change - _fit(states[now], change)[1]
        (weights, fitted) = _fit(np.concatenate([states[now], actions[now]], 1), change)
        spread = left_open.var(0)
        explained = 1.0 - (change - fitted).var(0) / np.maximum(spread, 1e-12 * change.var(0) + 1e-300)
        controlled = (explained >= CONTROLLED) & (spread > 1e-9 * states.var(0))
        if not controlled.any():
            return None
        std = REACH * np.sqrt((change**2).mean(0)) * controlled
        observation_dim = states.shape[1]
        keeps = 1.0 + weights[:observation_dim].diagonal()  # A's diagonal: what stays of a deviation
        surplus = np.where(controlled, np.maximum(keeps - (1.0 - 1.0 / steps), 0.0), 0.0)
        through = weights[observation_dim:].T * (surplus > 0)[:, None]
        return cls(std, -np.linalg.pinv(through, rcond=1e-3) * surplus if surplus.any() else None)


def _fit(inputs: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least squares with an intercept and a trace of ridge: weights (inputs, targets), and what they predict."""
    mean, spread = inputs.mean(0), inputs.std(0) + 1e-12
    scaled = (inputs - mean) / spread
    gram = scaled.T @ scaled + 1e-6 * len(scaled) * np.eye(scaled.shape[1])
    weights = np.linalg.solve(gram, scaled.T @ (targets - targets.mean(0)))
    return weights / spread[:, None], scaled @ weights + targets.mean(0)
