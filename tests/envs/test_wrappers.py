"""Gymnasium's own wrappers around the vector environment, through ArrayConversion, beside those around its own."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import ArrayConversion, NormalizeObservation, RecordEpisodeStatistics

from latentrl_envs import TorchVectorEnv
from tests.envs.tasks_table import Tripping


def in_numpy(mode: str = "NextStep") -> ArrayConversion:
    env = TorchVectorEnv(Tripping(), 5, max_episode_steps=6, dtype="float64", autoreset_mode=mode)
    return ArrayConversion(env, env_xp=torch, target_xp=np)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_record_episode_statistics(mode: str) -> None:
    env, plain = RecordEpisodeStatistics(in_numpy(mode)), in_numpy(mode)
    env.reset(seed=0)
    plain.reset(seed=0)
    returns, lengths, seen = np.zeros(5), np.zeros(5, dtype=int), 0
    ended = np.zeros(5, dtype=bool)
    for action in np.random.default_rng(0).uniform(-2, 2, (40, 5, 1)):
        _, _, _, _, infos = env.step(action)
        _, rewards, terminations, truncations, _ = plain.step(action)
        if mode == "NextStep":  # the step that starts an episode is none of it
            returns[ended], lengths[ended] = 0, 0
            returns, lengths = returns + np.where(ended, 0, rewards), lengths + ~ended
        else:
            returns, lengths = returns + rewards, lengths + 1
        ended = terminations | truncations
        if ended.any():
            np.testing.assert_allclose(infos["episode"]["r"][ended], returns[ended])
            np.testing.assert_array_equal(infos["episode"]["l"][ended], lengths[ended])
            seen += ended.sum()
        if mode == "SameStep":
            returns[ended], lengths[ended] = 0, 0
    assert seen > 20


def test_normalize_observation() -> None:
    env = NormalizeObservation(in_numpy())
    env.reset(seed=0)
    observations = [env.step(action)[0] for action in np.random.default_rng(0).uniform(-2, 2, (300, 5, 1))]
    late = np.concatenate(observations[100:])
    np.testing.assert_allclose(late.mean(0), 0, atol=0.2)
    np.testing.assert_allclose(late.std(0), 1, atol=0.2)


def test_they_work_around_make_vec() -> None:
    env = gym.make_vec("latentrl_envs:latentrl/CartPole-v1", num_envs=3, device="cpu")
    env = RecordEpisodeStatistics(ArrayConversion(env, env_xp=torch, target_xp=np))
    env.reset(seed=0)
    for _ in range(60):
        *_, infos = env.step(np.ones(3, dtype=np.int64))
        if "episode" in infos:
            break
    assert infos["episode"]["l"].max() < 15  # a pole that is always pushed to one side falls soon
