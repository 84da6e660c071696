"""Demonstrations by agents of stable-baselines3: rolled out, or taken from a replay buffer.

``Demonstrations.from_sb3_agent`` and ``from_replay_buffer`` call this file, the only one of their readers that knows
stable-baselines3.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_wrapper

from latentrl.checks import LatentRLError, count
from latentrl.data.mapped import BLOCK
from latentrl.data.reading import Episodes
from latentrl.sb3.latent_noise import without_noise
from latentrl.sb3.seeding import frozen, seeded


def agent_arguments(agent: Any, env: Any, episodes: int, deterministic: bool, seed: int | None) -> dict[str, Any]:
    """Arguments of ``Demonstrations.from_arrays``; for parameters see ``Demonstrations.from_sb3_agent``.

    Observations and rewards are those of the environment, before ``VecNormalize`` and without the noise of a
    ``LatentNoiseWrapper``; actions are those that it was given.
    An agent that learned in ``VecNormalize`` sees normalised observations, with its own statistics where the
    environments are not wrapped in it. Statistics do not change, and rewards for exploration are left out. Of N
    environments each plays as many episodes as any other, or one more: taking the first to end would prefer short ones.
    """
    count("episodes", episodes, 1)
    if not isinstance(env, VecEnv | gym.Env):
        raise LatentRLError(
            f"{type(env).__name__} is no environment: give a gymnasium.Env or stable-baselines3's VecEnv"
        )
    venv = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    inside = unwrap_vec_wrapper(venv, VecNormalize)
    outside = getattr(agent, "get_vec_normalize_env", lambda: None)() if inside is None else None
    space = venv.observation_space if inside is None or not inside.norm_obs else inside.venv.observation_space
    if flatdim(space) != flatdim(venv.observation_space):
        raise LatentRLError("VecNormalize is inside of wrappers that change observations: wrap it around them")
    space = without_noise(space)
    quota = (episodes + np.arange(venv.num_envs)[::-1]) // venv.num_envs
    with frozen(venv), seeded(agent, venv, seed):
        played = _play(agent, venv, inside, outside, quota, deterministic)
    read = Episodes(sum(len(steps) for steps in played))
    for number, steps in enumerate(played):
        seen, actions, rewards = zip(*steps, strict=True)
        read.add(f"episode {number}", _stacked(seen), np.stack(actions), np.array(rewards, np.float32))
    return read.arguments(space, venv.action_space)


def _play(
    agent: Any, venv: VecEnv, inside: Any, outside: Any, quota: NDArray[np.int64], deterministic: bool
) -> list[list[tuple[Any, Any, float]]]:
    """(observation, action, reward) of every step of ``quota`` (environments,) episodes, those of one after another."""
    finished: list[list[Any]] = [[] for _ in quota]
    running: list[list[Any]] = [[] for _ in quota]
    observations, state, starts = venv.reset(), None, np.ones(venv.num_envs, bool)
    while any(len(done) < wanted for done, wanted in zip(finished, quota, strict=True)):
        seen = observations if inside is None or not inside.norm_obs else inside.get_original_obs()
        shown = observations if outside is None else outside.normalize_obs(observations)
        actions, state = agent.predict(shown, state, starts, deterministic)
        observations, rewards, starts, _ = venv.step(actions)
        seen = without_noise(seen)
        gains = rewards if inside is None else inside.get_original_reward()
        for i in range(venv.num_envs):
            if len(finished[i]) == quota[i]:
                continue
            # Copies, because environments may write into the same arrays again.
            running[i].append((_row(seen, i), np.array(actions[i]), float(gains[i])))
            if starts[i]:
                finished[i].append(running[i])
                running[i] = []
    return [steps for done in finished for steps in done]


def _row(values: Any, i: int) -> Any:
    return (
        {name: np.array(part[i]) for name, part in values.items()} if isinstance(values, dict) else np.array(values[i])
    )


def _stacked(rows: tuple[Any, ...]) -> Any:
    if isinstance(rows[0], dict):
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return np.stack(rows)


def replay_arguments(buffer: Any, action_space: spaces.Space[Any] | None) -> dict[str, Any]:
    """Arguments of ``Demonstrations.from_arrays``; for parameters see ``Demonstrations.from_replay_buffer``.

    Episodes of one environment after those of another, the oldest first. An episode ends where the environment ended or
    was cut off, and where the next observation is not the one that follows. What the buffer cut, at its oldest end or
    because the episode is not over yet, counts as an episode of its own. The noise of a ``LatentNoiseWrapper`` is left
    out.
    """
    if not isinstance(buffer, ReplayBuffer):
        raise LatentRLError(f"{type(buffer).__name__} is no replay buffer: give a ReplayBuffer or DictReplayBuffer")
    if buffer.size() == 0:
        raise LatentRLError("the replay buffer is empty: let the agent learn first")
    rows = (
        np.arange(buffer.pos) if not buffer.full else (buffer.pos + np.arange(buffer.buffer_size)) % buffer.buffer_size
    )
    if buffer.full and buffer.optimize_memory_usage:
        rows = rows[1:]  # its observation has been overwritten by what came after the newest
    space: Any = without_noise(buffer.observation_space)
    observations = without_noise(buffer.observations)
    shape, scaled = buffer.action_space.shape or (), isinstance(buffer.action_space, spaces.Box)
    played = Episodes(len(rows) * buffer.n_envs)
    for i in range(buffer.n_envs):
        ends = buffer.dones[rows, i].astype(bool)
        ends[:-1] |= _broken(buffer, rows, i)
        ends[-1] = True
        for part in np.split(rows, np.flatnonzero(ends[:-1]) + 1):
            seen = (
                {name: observations[name][part, i].reshape(-1, *space[name].shape) for name in space.spaces}
                if isinstance(observations, dict)
                else observations[part, i].reshape(-1, *space.shape)
            )
            actions = buffer.actions[part, i].reshape(-1, *shape)
            if scaled and action_space is not None:
                actions = _unscaled(actions, action_space)
            record = f"environment {i}, from row {part[0]} of the buffer"
            played.add(record, seen, actions, buffer.rewards[part, i])
    kept = spaces.Box(-1.0, 1.0, shape) if scaled else buffer.action_space
    return played.arguments(space, kept if action_space is None else action_space)


def _broken(buffer: Any, rows: NDArray[np.int64], i: int) -> NDArray[np.bool_]:
    """(len(rows) - 1,): whether the next row does not go on from where this one led."""
    broken = np.zeros(len(rows) - 1, bool)
    if buffer.optimize_memory_usage:
        return broken  # what came after is not kept beside it
    before = buffer.observations if isinstance(buffer.observations, dict) else {"": buffer.observations}
    after = buffer.next_observations if isinstance(buffer.observations, dict) else {"": buffer.next_observations}
    for name, values in before.items():
        step = max(1, BLOCK // max(1, values[0, i].nbytes))
        for first in range(0, len(broken), step):
            these, following = rows[first : first + step + 1][:-1], rows[first + 1 : first + step + 1]
            differ = after[name][these, i] != values[following, i]
            broken[first : first + step] |= differ.reshape(len(these), -1).any(1)
    return broken


def _unscaled(actions: NDArray[Any], space: spaces.Space[Any]) -> NDArray[Any]:
    if not isinstance(space, spaces.Box) or space.shape != actions.shape[1:]:
        raise LatentRLError(
            f"action space {space} does not fit actions of shape {actions.shape[1:]}: give the environment's"
        )
    values = space.low + 0.5 * (actions + 1.0) * (space.high - space.low)
    return values.clip(space.low, space.high).astype(np.float32)
