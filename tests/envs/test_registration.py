"""The ids: what gym.make and gym.make_vec build from them."""

import importlib
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch

import latentrl_envs
from latentrl_envs import TorchEnv, TorchVectorEnv
from tests.envs.tasks_table import REGISTERED, Row, names

every_id = pytest.mark.parametrize("row", REGISTERED, ids=names)
LIMITS = {
    "acrobot": 500,
    "avoiding": 200,
    "ball wall": 20,
    "cartpole": 500,
    "cartpole swing-up": 240,
    "double pendulum": 200,
    "lqr": 50,
    "mountain car": 999,
    "multi goal": 30,
    "pendulum": 200,
    "pushing": 60,
    "trace": 100,
}


@every_id
def test_make_has_the_time_limit(row: Row) -> None:
    """Zero actions last to the limit, or until the task itself ends the episode."""
    env = gym.make(row.env_id)
    assert isinstance(env.unwrapped, TorchEnv)
    assert env.spec.max_episode_steps == LIMITS[row.name]
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, dtype=env.action_space.dtype)
    steps, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        terminated, truncated = env.step(action)[2:4]
        steps += 1
    assert truncated == (steps == LIMITS[row.name])


@every_id
def test_make_vec_has_the_time_limit(row: Row) -> None:
    """Zero actions: at the limit the rows are truncated that did not terminate before, and at no other step."""
    env = gym.make_vec(row.env_id, num_envs=8, device="cpu")
    assert isinstance(env, TorchVectorEnv)
    assert env.spec.max_episode_steps == LIMITS[row.name]
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, dtype=env.action_space.dtype)
    first_episode = torch.ones(8, dtype=torch.bool)
    for step in range(1, LIMITS[row.name] + 1):
        terminated, truncated = env.step(action)[2:4]
        first_episode &= ~terminated
        assert torch.equal(truncated, first_episode & (step == LIMITS[row.name]))


def test_arguments_go_through() -> None:
    assert gym.make("latentrl/Pendulum-v1", g=9.81).unwrapped.func_env.g == 9.81
    env = gym.make_vec(
        "latentrl/Trace-v0", num_envs=2, horizon=5, max_episode_steps=5, dtype="float64", autoreset_mode="SameStep"
    )
    seen, _ = env.reset(seed=0)
    assert (env.func_env.horizon, seen.dtype, env.autoreset_mode.value) == (5, torch.float64, "SameStep")
    assert [env.step(torch.zeros(2, 2))[3].all().item() for _ in range(5)] == [False] * 4 + [True]
    with pytest.raises(TypeError, match="gravity"):
        gym.make_vec("latentrl/Pendulum-v1", gravity=3.0)


@every_id
def test_specs_survive_pickle_and_json(row: Row) -> None:
    spec = gym.make(row.env_id).spec
    for again in (pickle.loads(pickle.dumps(spec)), gym.envs.registration.EnvSpec.from_json(spec.to_json())):
        assert again == spec
        assert gym.make(again).reset(seed=0)[0].shape == row.task.observation_space.shape
    batch = gym.make_vec(row.env_id, num_envs=3, device="cpu").spec
    assert gym.make_vec(pickle.loads(pickle.dumps(batch))).num_envs == 3
    batch.to_json()


@every_id
def test_sync_mode_still_works(row: Row) -> None:
    env = gym.make_vec(row.env_id, num_envs=2, vectorization_mode="sync")
    assert isinstance(env.reset(seed=0)[0], np.ndarray)


def test_a_second_import_neither_warns_nor_changes_the_registry() -> None:
    before = gym.spec("latentrl/Pendulum-v1")
    importlib.reload(latentrl_envs)
    assert gym.spec("latentrl/Pendulum-v1") is before


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "Pendulum-v1"])
def test_what_counts_as_solved_is_gymnasiums(name: str) -> None:
    assert gym.spec(f"latentrl/{name}").reward_threshold == gym.spec(name).reward_threshold
