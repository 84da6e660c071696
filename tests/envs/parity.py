"""How a task is compared with Gymnasium's own environment."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from latentrl_envs import Task

Policy = Callable[[np.ndarray], Any]


def assert_same_steps(
    task: Task, theirs: gym.Env, states: np.ndarray, actions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compare one step from each state in float64, to 1e-9; return the next states and which of them are terminal."""
    following, seen, rewards, ends = [], [], [], []
    for state, action in zip(states, actions, strict=True):
        theirs.reset()  # or a step after a termination would be another kind of step
        theirs.state = state
        observation, reward, terminated, *_ = theirs.step(action)
        following.append(theirs.state)
        seen.append(observation)
        rewards.append(reward)
        ends.append(terminated)

    state, action = torch.from_numpy(states), torch.from_numpy(actions)
    ours = task.transition(state, action)
    np.testing.assert_allclose(ours, following, rtol=0, atol=1e-9)
    np.testing.assert_allclose(task.reward(state, action, ours), rewards, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(task.terminal(ours), ends)
    np.testing.assert_allclose(task.observation(ours), seen, rtol=1e-6, atol=1e-6)  # they are float32
    return np.array(following), np.array(ends)


def assert_same_episode(env_id: str, policy: Policy, seed: int, atol: float, **kwargs: Any) -> tuple[int, bool, bool]:
    """Compare an episode through ``gym.make``: the same seed, and the actions that ``policy`` makes of Gymnasium's
    observations. Return its length and how it ended: (steps, terminated, truncated)."""
    ours, theirs = gym.make(f"latentrl_envs:latentrl/{env_id}", **kwargs), gym.make(env_id, **kwargs)
    seen, expected = ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0]
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-7)
    steps, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        action = policy(expected)
        seen, reward, *end = ours.step(action)[:4]
        expected, their_reward, terminated, truncated, _ = theirs.step(action)
        np.testing.assert_allclose(seen, expected, rtol=0, atol=atol)
        assert reward == pytest.approx(their_reward, rel=0, abs=atol)
        assert end == [terminated, truncated]
        steps += 1
    return steps, terminated, truncated


def assert_same_pictures(env_id: str, action: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the pictures of the start and of three steps, pixel for pixel."""
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    ours = gym.make(f"latentrl_envs:latentrl/{env_id}", render_mode="rgb_array")
    theirs = gym.make(env_id, render_mode="rgb_array")
    for env in (ours, theirs):
        env.reset(seed=1)
    start = ours.render()
    np.testing.assert_array_equal(start, theirs.render())
    for _ in range(3):
        for env in (ours, theirs):
            env.step(action)
        np.testing.assert_array_equal(ours.render(), theirs.render())
    assert not np.array_equal(start, ours.render())
    for env in (ours, ours, theirs):
        env.close()
