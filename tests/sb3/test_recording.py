"""Demonstrations by agents: rollouts and replay buffers of stable-baselines3, filled by its own algorithms."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from latentrl import Demonstrations, LatentRLError
from latentrl.sb3 import LatentBC, LatentNoiseExtractor, LatentNoiseWrapper


class Corridor(gym.Env[Any, Any]):
    """Counts: the observation is (episode, step), the reward the step. Episodes are 2, 3, 4, 2, … steps long."""

    observation_space: Any = spaces.Box(-np.inf, np.inf, (2,))
    action_space: Any = spaces.Box(np.float32([-1.0, 0.0]), np.float32([3.0, 10.0]))

    def __init__(self, first: int = 0) -> None:
        self.episode, self.step_number = first - 1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.episode, self.step_number = self.episode + 1, 0
        return self.see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action, self.action_space.dtype))
        self.step_number += 1
        over = self.step_number == 2 + self.episode % 3
        by_itself = over and self.episode % 2 == 0
        return self.see(), float(self.step_number), by_itself, over and not by_itself, {}

    def see(self) -> Any:
        return np.array([self.episode, self.step_number], np.float32)


class Named(Corridor):
    observation_space: Any = spaces.Dict(where=Corridor.observation_space, step=spaces.Discrete(9))

    def see(self) -> Any:
        return {"where": super().see(), "step": self.step_number}


class Copycat:
    """An agent that plays the step it is shown, and how often it was asked since the episode began."""

    def predict(self, observation: Any, state: Any, episode_start: Any, deterministic: bool) -> Any:
        shown = observation["where"] if isinstance(observation, dict) else observation
        age = np.where(episode_start, 0, 0 if state is None else state[0] + 1)
        noise = torch.rand(len(shown)).numpy() * (not deterministic)
        return np.stack([np.clip(shown[:, 1], -1, 3), age + noise], 1).astype(np.float32), (age,)


def check(data: Demonstrations, episodes: list[int]) -> None:
    """These episodes of the corridor, whole and in order."""
    assert data.episode_lengths.tolist() == [2 + episode % 3 for episode in episodes]
    steps = np.concatenate([np.arange(length) for length in data.episode_lengths])
    where = data.observations["where"] if isinstance(data.observations, dict) else data.observations
    assert where[:, 0].tolist() == np.repeat(episodes, data.episode_lengths).tolist()
    assert where[:, 1].tolist() == steps.tolist()
    assert data.rewards is not None
    assert data.rewards.tolist() == (steps + 1).tolist()
    assert data.actions[:, 1].tolist() == steps.tolist()  # the state of the agent goes with the episode


@pytest.mark.parametrize("made", [Corridor, Named])
def test_rollouts(made: Any) -> None:
    data = Demonstrations.from_sb3_agent(Copycat(), made(), 4)
    check(data, [0, 1, 2, 3])
    assert (data.observation_space, data.action_space) == (made.observation_space, made.action_space)
    venv = DummyVecEnv([lambda: made(0), lambda: made(100), lambda: made(200)])
    check(Demonstrations.from_sb3_agent(Copycat(), venv, 7), [0, 1, 2, 100, 101, 200, 201])


class Camera(Corridor):
    observation_space: Any = spaces.Box(0, 255, (4, 5, 3), np.uint8)

    def see(self) -> Any:
        return np.full((4, 5, 3), 20 * self.episode + self.step_number, np.uint8)


def test_pictures() -> None:
    """Of rollouts and of a buffer: as the environment gave them."""
    shown = 20 * np.repeat(np.arange(3), [2, 3, 4]) + [0, 1, 0, 1, 2, 0, 1, 2, 3]
    buffer = ReplayBuffer(50, Camera.observation_space, Camera.action_space, "cpu")
    venv = DummyVecEnv([Camera])
    seen: Any = venv.reset()
    for _ in range(9):
        following, rewards, dones, infos = venv.step(np.zeros((1, 2), np.float32))
        buffer.add(seen, following, np.zeros((1, 2), np.float32), rewards, dones, infos)
        seen = following
    for data in (
        Demonstrations.from_sb3_agent(Still(), Camera(), 3),
        Demonstrations.from_replay_buffer(buffer, Camera.action_space),
    ):
        assert data.observation_space == Camera.observation_space
        assert data.observations.dtype == np.uint8
        assert (data.observations == shown[:, None, None, None]).all()
        assert data.episode_lengths.tolist() == [2, 3, 4]


class Still:
    """Does nothing, whatever it sees."""

    def predict(self, observation: Any, state: Any, episode_start: Any, deterministic: bool) -> Any:
        del state, episode_start, deterministic
        return np.zeros((len(observation), 2), np.float32), None


def test_observations_are_stored_as_they_were() -> None:
    venv = VecNormalize(DummyVecEnv([lambda: Corridor(0), lambda: Corridor(100)]))
    venv.reset()
    for _ in range(20):
        venv.step(np.zeros((2, 2), np.float32))
    for part in venv.venv.envs:  # type: ignore[attr-defined]
        part.unwrapped.episode = 100 * (part.unwrapped.episode >= 100) - 1
    mean, training = venv.obs_rms.mean.copy(), venv.training
    data = Demonstrations.from_sb3_agent(Copycat(), venv, 4)
    check(data, [0, 1, 100, 101])
    assert data.observation_space == Corridor.observation_space
    shown = (data.observations[:, 1] - venv.obs_rms.mean[1]) / np.sqrt(venv.obs_rms.var[1] + venv.epsilon)
    np.testing.assert_allclose(data.actions[:, 0], shown.clip(-1, 3), atol=1e-5)
    assert (venv.obs_rms.mean == mean).all()
    assert venv.training == training


def test_an_agent_that_learned_in_vec_normalize_sees_what_it_knows() -> None:
    venv = VecNormalize(DummyVecEnv([Corridor]))
    agent: Any = Copycat()
    agent.get_vec_normalize_env = lambda: venv
    venv.obs_rms.mean = np.array([0.0, 1.0])
    data = Demonstrations.from_sb3_agent(agent, Corridor(), 2)
    check(data, [0, 1])
    np.testing.assert_allclose(data.actions[:, 0], data.observations[:, 1] - 1.0, atol=1e-4)


class Noisy(Copycat):
    """Copies what it is shown beside the noise."""

    def predict(self, observation: Any, state: Any, episode_start: Any, deterministic: bool) -> Any:
        shown = {name: part for name, part in observation.items() if name != "latent_noise"}
        return super().predict(shown.get("observation", shown), state, episode_start, deterministic)


@pytest.mark.parametrize("kind", ["normal", "categorical"])
@pytest.mark.parametrize("made", [Corridor, Named])
def test_noise_beside_the_observation_is_left_out(made: Any, kind: str) -> None:
    """In rollouts, and of what an agent has kept."""
    venv = LatentNoiseWrapper(DummyVecEnv([made]), 3, kind=kind)
    data = Demonstrations.from_sb3_agent(Noisy(), venv, 4)
    check(data, [0, 1, 2, 3])
    assert data.observation_space == made.observation_space
    kwargs = {"features_extractor_class": LatentNoiseExtractor, "net_arch": [4]}
    agent = SAC("MultiInputPolicy", venv, learning_starts=10**9, buffer_size=50, policy_kwargs=kwargs)
    agent.learn(9)
    data = Demonstrations.from_replay_buffer(agent.replay_buffer, agent.action_space)
    assert data.observation_space == made.observation_space
    where = data.observations["where"] if isinstance(data.observations, dict) else data.observations
    assert where[:, 1].tolist() == [step for length in data.episode_lengths for step in range(length)]


def test_seeds(two_ways: Demonstrations) -> None:
    first, again, other = (
        Demonstrations.from_sb3_agent(Copycat(), Corridor(), 3, deterministic=False, seed=seed) for seed in (1, 1, 2)
    )
    assert (first.actions == again.actions).all()
    assert (first.actions != other.actions).any()
    state = torch.random.get_rng_state()
    Demonstrations.from_sb3_agent(Copycat(), Corridor(), 1, deterministic=False, seed=1)
    assert (torch.random.get_rng_state() == state).all()
    agent = LatentBC(demonstrations=two_ways, device="cpu", policy_kwargs={"latent_dim": 1, "hidden": (8,)})
    agent.learn(2)
    env = gym.wrappers.TimeLimit(Walk(), 5)
    data = Demonstrations.from_sb3_agent(agent, env, 2, seed=0)
    assert data.episode_lengths.tolist() == [5, 5]


class Walk(gym.Env[Any, Any]):
    observation_space: Any = spaces.Box(-np.inf, np.inf, (2,))
    action_space: Any = spaces.Box(-1.5, 1.5, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.asarray(action, np.float32), 0.0, False, False, {}


def test_bad_rollouts() -> None:
    with pytest.raises(LatentRLError, match="episodes must be a whole number"):
        Demonstrations.from_sb3_agent(Copycat(), Corridor(), 0)
    with pytest.raises(LatentRLError, match="str is no environment: give a gymnasium"):
        Demonstrations.from_sb3_agent(Copycat(), "Pendulum-v1", 1)
    stacked = VecFrameStack(VecNormalize(DummyVecEnv([Corridor])), 2)
    with pytest.raises(LatentRLError, match="VecNormalize is inside of wrappers"):
        Demonstrations.from_sb3_agent(Copycat(), stacked, 1)


def fill(buffer: Any, made: Any, steps: int) -> list[tuple[int, int, int]]:
    """Play the corridor into a buffer as off-policy algorithms do; (environment, episode, step) of what is kept."""
    venv = DummyVecEnv([lambda i=i: made(100 * i) for i in range(buffer.n_envs)])
    seen, log = venv.reset(), []
    for _ in range(steps):
        where = seen["where"] if isinstance(seen, dict) else seen
        log.append([(int(episode), int(step)) for episode, step in where])
        played = np.stack([where[:, 1] - 1.0, where[:, 1]], 1)
        following, rewards, dones, infos = venv.step(played)
        kept = {name: part.copy() for name, part in following.items()} if isinstance(seen, dict) else following.copy()
        for i in np.flatnonzero(dones):
            last = infos[i]["terminal_observation"]
            for name in kept if isinstance(kept, dict) else ():
                kept[name][i] = last[name]
            if not isinstance(kept, dict):
                kept[i] = last
        scaled = 2.0 * (played - [-1.0, 0.0]) / [4.0, 10.0] - 1.0
        buffer.add(seen, kept, scaled.astype(np.float32), rewards, dones, infos)
        seen = following
    kept_rows = log[-buffer.buffer_size :] if steps >= buffer.buffer_size else log
    return [(i, *row[i]) for i in range(buffer.n_envs) for row in kept_rows]


@pytest.mark.parametrize("size", [50, 11])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize(("made", "kind"), [(Corridor, ReplayBuffer), (Named, DictReplayBuffer)])
def test_replay_buffers(size: int, n_envs: int, made: Any, kind: Any) -> None:
    """Also when it is full and the newest rows have taken the place of the oldest."""
    space = Corridor.action_space
    buffer = kind(size * n_envs, made.observation_space, space, "cpu", n_envs=n_envs)
    kept = fill(buffer, made, 17)
    data = Demonstrations.from_replay_buffer(buffer, space)
    where = data.observations["where"] if kind is DictReplayBuffer else data.observations
    assert where.tolist() == [[episode, step] for _, episode, step in kept]
    np.testing.assert_allclose(data.actions, np.stack([where[:, 1] - 1.0, where[:, 1]], 1), atol=1e-5)
    breaks = [0, *(k for k in range(1, len(kept)) if kept[k][:2] != kept[k - 1][:2])]
    assert data.episode_starts.tolist() == breaks
    assert data.rewards is not None
    assert data.rewards.tolist() == (where[:, 1] + 1).tolist()
    stored = Demonstrations.from_replay_buffer(buffer)
    assert stored.action_space == spaces.Box(-1.0, 1.0, (2,))
    assert stored.actions[0].tolist() == buffer.actions[buffer.pos if buffer.full else 0, 0].tolist()


def test_the_row_that_a_saving_buffer_has_lost_is_left_out() -> None:
    options: dict[str, Any] = {"optimize_memory_usage": True, "handle_timeout_termination": False}
    buffer = ReplayBuffer(11, Corridor.observation_space, Corridor.action_space, "cpu", **options)
    kept = fill(buffer, Corridor, 17)
    data = Demonstrations.from_replay_buffer(buffer)
    assert data.observations.tolist() == [[episode, step] for _, episode, step in kept[1:]]


def test_an_episode_that_was_broken_off_ends() -> None:
    """The environment was reset without an end, as where ``learn`` is called again."""
    buffer = ReplayBuffer(50, Corridor.observation_space, Corridor.action_space, "cpu")
    fill(buffer, Corridor, 7)
    fill(buffer, Corridor, 2)
    assert Demonstrations.from_replay_buffer(buffer).episode_lengths.tolist() == [2, 3, 2, 2]


def test_what_sac_and_dqn_did() -> None:
    """The rows of their own buffers, in an environment with a time limit. No one of 600 uniform actions beyond three
    quarters: 1e-75.
    """
    agent = SAC("MlpPolicy", make_vec_env("Pendulum-v1", 2), learning_starts=10**9, policy_kwargs={"net_arch": [4]})
    agent.learn(600)
    data = Demonstrations.from_replay_buffer(agent.replay_buffer, agent.action_space)
    assert data.episode_lengths.tolist() == [200, 100, 200, 100]
    assert np.abs(data.actions).max() > 1.5
    # What the task does with an action tells that it is the action: gravity and torque make the next speed.
    (cosine, sine, speed), torque = data.observations[:199].T, data.actions[:199, 0]
    del cosine
    np.testing.assert_allclose(
        (speed + (15 * sine + 3 * torque) * 0.05).clip(-8, 8), data.observations[1:200, 2], atol=1e-4
    )
    dqn = DQN("MlpPolicy", "CartPole-v1", learning_starts=10**9, policy_kwargs={"net_arch": [4]}, seed=0)
    dqn.learn(100)
    data = Demonstrations.from_replay_buffer(dqn.replay_buffer)
    assert data.action_space == dqn.action_space
    assert data.actions.shape == (100,)
    again = Demonstrations.from_sb3_agent(dqn, gym.make("CartPole-v1"), 2, seed=3)
    actions, _ = dqn.predict(again.observations, deterministic=True)
    np.testing.assert_array_equal(again.actions, actions)


def test_bad_buffers() -> None:
    buffer = ReplayBuffer(50, Corridor.observation_space, Corridor.action_space, "cpu")
    with pytest.raises(LatentRLError, match="the replay buffer is empty"):
        Demonstrations.from_replay_buffer(buffer)
    with pytest.raises(LatentRLError, match="NoneType is no replay buffer"):
        Demonstrations.from_replay_buffer(None)
    fill(buffer, Corridor, 3)
    with pytest.raises(LatentRLError, match="does not fit actions of shape"):
        Demonstrations.from_replay_buffer(buffer, spaces.Box(-1, 1, (3,)))
    buffer.rewards[1] = np.nan
    with pytest.raises(LatentRLError, match="environment 0, from row 0 of the buffer: rewards holds NaN"):
        Demonstrations.from_replay_buffer(buffer)
