"""CartPole against Gymnasium's own."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv

from latentrl_envs import CartPole
from tests.envs.parity import assert_same_episode, assert_same_pictures, assert_same_steps


def balance(seen: np.ndarray) -> int:
    """Push towards where the pole falls: keeps it up for as long as one likes."""
    return int(seen @ (0.1, 0.2, 1.0, 0.5) > 0)


@pytest.mark.parametrize("sutton_barto_reward", [False, True])
def test_one_step_equals_gymnasium(sutton_barto_reward: bool) -> None:
    rng = np.random.default_rng(0)
    # A third of the states lies close to each edge or beyond it, the rest inside.
    states = rng.uniform(-1, 1, (10_000, 4)) * (3.0, 3.0, 0.3, 3.0)
    theirs = CartPoleEnv(sutton_barto_reward=sutton_barto_reward)
    task = CartPole(sutton_barto_reward=sutton_barto_reward)
    following, ends = assert_same_steps(task, theirs, states, rng.integers(0, 2, 10_000))
    x, angle = following[:, 0], following[:, 2]
    for met in (x < -2.4, x > 2.4, angle < -np.pi / 15, angle > np.pi / 15):
        assert 500 < (met & ends).sum() == met.sum()
    assert (~ends).sum() > 2000


@pytest.mark.parametrize("at", [0, 2])
def test_the_edge_itself_is_inside(at: int) -> None:
    edge = (2.4, 0, 12 * 2 * np.pi / 360)[at]
    state = torch.zeros(4, 4, dtype=torch.float64)
    state[:, at] = torch.tensor([edge, -edge, np.nextafter(edge, 9), -np.nextafter(edge, 9)])
    assert CartPole().terminal(state).tolist() == [False, False, True, True]


@pytest.mark.parametrize("sutton_barto_reward", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_same_seed_gives_the_same_falling_episode(seed: int, sutton_barto_reward: bool) -> None:
    """A random episode lasts 100 steps once in 2000 times: 2e-3 for five seeds."""
    rng = np.random.default_rng(seed)
    steps, terminated, truncated = assert_same_episode(
        "CartPole-v1", lambda _: rng.integers(2), seed, atol=1e-6, sutton_barto_reward=sutton_barto_reward
    )
    assert (terminated, truncated) == (True, False)
    assert steps < 100


def test_same_seed_gives_the_same_balanced_episode() -> None:
    assert assert_same_episode("CartPole-v1", balance, seed=0, atol=1e-6) == (500, False, True)


def test_a_batch_of_balanced_poles_is_truncated_together() -> None:
    env = gym.make_vec("latentrl_envs:latentrl/CartPole-v1", num_envs=4)
    seen, _ = env.reset(seed=0)
    for step in range(1, 501):
        seen, rewards, terminated, truncated, _ = env.step(np.array([balance(row.numpy()) for row in seen]))
        assert rewards.tolist() == [1.0] * 4
        assert not terminated.any()
        assert truncated.tolist() == [step == 500] * 4


def test_spaces_are_gymnasiums() -> None:
    theirs, ours = CartPoleEnv(), CartPole()
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)


def test_picture_is_gymnasiums(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_pictures("CartPole-v1", 1, monkeypatch)


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_bad_choice_of_reward(value: object) -> None:
    with pytest.raises(ValueError, match="sutton_barto_reward must be True or False"):
        CartPole(sutton_barto_reward=value)
