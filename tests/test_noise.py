"""Corrective noise found in data, against dynamics that are known."""

import numpy as np
import pytest
from gymnasium import spaces

from latentrl import CorrectiveNoise, Demonstrations, LatentRLError
from latentrl.noise import REACH


def driven(transition: np.ndarray, through: np.ndarray, noise: float = 0.0, steps: int = 50) -> Demonstrations:
    """20 episodes of s' = A s + B a + noise, with random smooth actions."""
    generator = np.random.default_rng(0)
    size, actions = through.shape
    observations, played = [], []
    for _ in range(20):
        state, action = generator.normal(size=size), np.zeros(actions)
        for _ in range(steps):
            action = 0.8 * action + generator.normal(size=actions)
            observations.append(state)
            played.append(action)
            state = transition @ state + through @ action + noise * generator.normal(size=size)
    return Demonstrations.from_arrays(np.array(observations), np.array(played), np.full(20, steps))


def test_velocity_control() -> None:
    """Positions that velocities add to, the velocities themselves, and a clock: as one would set it by hand."""
    transition = np.diag([1.0, 1.0, 0.0, 0.0, 1.0])
    through = np.array([[1.0, 0.0], [0.0, 0.5], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    found = CorrectiveNoise.estimate(driven(transition, through), steps=8.0)
    assert found is not None
    assert found.gain is not None
    expected = np.zeros((2, 5))
    expected[0, 0], expected[1, 1] = -1 / 8, -2 / 8
    np.testing.assert_allclose(found.gain, expected, atol=1e-3)
    assert found.std[4] == 0.0
    # Velocities change by what is left of them and a fresh draw; positions by the velocity.
    data = driven(transition, through)
    inside = np.arange(len(data)) % 50 != 49
    change = np.diff(data.observations, axis=0)[inside[:-1]]
    np.testing.assert_allclose(found.std[:4], REACH * np.sqrt((change**2).mean(0))[:4], rtol=1e-5)


@pytest.mark.parametrize(("keeps", "gain"), [(0.6, None), (0.95, -(0.95 - 0.875) / 0.4)])
def test_what_decays_by_itself_needs_no_gain(keeps: float, gain: float | None) -> None:
    found = CorrectiveNoise.estimate(driven(np.array([[keeps]]), np.array([[0.4]])))
    assert found is not None
    if gain is None:
        assert found.gain is None
    else:
        assert found.gain is not None
        np.testing.assert_allclose(found.gain, [[gain]], rtol=1e-2)


def test_what_moves_by_itself_gets_none() -> None:
    """Inertia: the action is an acceleration that noise drowns."""
    transition, through = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.01]])
    assert CorrectiveNoise.estimate(driven(transition, through, noise=0.1)) is None


def test_constant_features_and_short_data() -> None:
    data = driven(np.diag([1.0, 1.0]), np.array([[1.0], [0.0]]))
    still = Demonstrations.from_arrays(
        np.where([True, False], data.observations, 3.0), data.actions, data.episode_lengths
    )
    found = CorrectiveNoise.estimate(still)
    assert found is not None
    assert found.std[1] == 0.0
    assert CorrectiveNoise.estimate(data.select([0, 1]).select([0])) is not None
    few = Demonstrations.from_arrays(data.observations[:4], data.actions[:4], [4])
    assert CorrectiveNoise.estimate(few) is None


def test_choices_are_refused() -> None:
    data = driven(np.eye(1), np.eye(1))
    choices = Demonstrations.from_arrays(
        data.observations, np.zeros(len(data), dtype=np.int64), data.episode_lengths, action_space=spaces.Discrete(2)
    )
    with pytest.raises(LatentRLError, match="action space is Discrete"):
        CorrectiveNoise.estimate(choices)
