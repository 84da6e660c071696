"""The single environment: Gymnasium's and SB3's own checkers, and what it says to bad input."""

import pickle
import warnings
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from latentrl_envs import CartPole, Pendulum, TorchEnv, Trace
from tests.envs.tasks_table import TASKS, Row, names


class Unseen(Pendulum):
    """A task without pictures."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}


@pytest.mark.parametrize("row", TASKS, ids=names)
def test_checkers_have_nothing_to_say(row: Row) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        gymnasium_check(TorchEnv(row.task), skip_render_check=True)
        sb3_check(TorchEnv(row.task))
    # Both checkers advise an action space of [-1, 1]; the tasks speak N m and mm. Gymnasium's suspects the infinite
    # bounds of its own CartPole's observations.
    advice = "infinity" if isinstance(row.task, CartPole) else "normalized"
    assert [str(w.message) for w in said if advice not in str(w.message)] == []


def test_checkers_are_silent_where_the_actions_are_normalised() -> None:
    pytest.importorskip("pygame")  # the checker draws a frame
    env = gym.make("latentrl_envs:latentrl/Trace-v0", max_speed=1.0).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(env)
        sb3_check(env)


@pytest.mark.parametrize("row", TASKS, ids=names)
def test_a_step_is_the_pure_functions(row: Row) -> None:
    env = TorchEnv(row.task)
    start, infos = env.reset(seed=4)
    state = row.task.initial(torch.from_numpy(np.random.default_rng(4).random(row.task.initial_noise_dim)))
    np.testing.assert_array_equal(start, row.task.observation(state).float())
    assert infos == {key: value.item() for key, value in row.task.state_info(state).items()}
    for action in row.actions(1, spread=1.5, steps=5)[:, 0]:
        following = row.task.transition(state, action)
        seen, reward, terminated, truncated, infos = env.step(action.numpy())
        assert infos == {key: value.item() for key, value in row.task.state_info(following).items()}
        np.testing.assert_array_equal(seen, row.task.observation(following).float())
        assert seen.dtype == env.observation_space.dtype
        assert (reward, terminated) == (row.task.reward(state, action, following), row.task.terminal(following))
        assert (type(reward), type(terminated), truncated) == (float, bool, False)
        state = following


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("latentrl_envs.pendulum:Pendulum", DummyVecEnv),
        ("tests.envs.test_single:Unseen", DummyVecEnv),
        ("tests.envs.test_single:Unseen", SubprocVecEnv),
    ],
)
def test_sb3_builds_and_steps_many(task: str, kind: type) -> None:
    """SB3 asks every environment for pictures first; one that has none must say so in the way that SB3 understands."""
    env_id = "latentrl_envs:latentrl/Pendulum-v1"
    env = make_vec_env(env_id, n_envs=2, vec_env_cls=kind, env_kwargs={"func_env": task})
    try:
        env.seed(0)
        assert env.reset().shape == (2, 3)
        for _ in range(3):
            seen, rewards, dones, _ = env.step(np.stack([env.action_space.sample()] * 2))
        assert np.isfinite(seen).all()
        assert rewards.shape == dones.shape == (2,)
    finally:
        env.close()


def test_reset_comes_first() -> None:
    env = TorchEnv(Pendulum(), render_mode="rgb_array")
    with pytest.raises(gym.error.ResetNeeded, match="before step"):
        env.step(np.zeros(1))
    with pytest.raises(gym.error.ResetNeeded, match="before render"):
        env.render()
    with pytest.raises(ValueError, match="takes no options"):
        env.reset(options={"x_init": 1.0})


@pytest.mark.parametrize("action", [np.zeros(2), np.zeros((1, 1)), 0.0, np.array([np.nan]), np.array([-np.inf])])
def test_bad_actions_leave_the_state_unharmed(action: np.ndarray) -> None:
    env, twin = TorchEnv(Pendulum()), TorchEnv(Pendulum())
    env.reset(seed=0), twin.reset(seed=0)
    with pytest.raises(ValueError, match=r"finite numbers of shape \(1,\)"):
        env.step(action)
    np.testing.assert_array_equal(env.step(np.ones(1))[0], twin.step(np.ones(1))[0])


def test_rendering_is_refused_or_explained() -> None:
    with pytest.raises(TypeError, match=r"one of \[\]"):
        TorchEnv(Unseen(), render_mode="rgb_array")
    env = TorchEnv(Pendulum())
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="without a render_mode"):
        assert env.render() is None


def test_pictures_in_a_window_and_as_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    window = gym.make("latentrl_envs:latentrl/Pendulum-v1", render_mode="human")
    window.reset(seed=0)
    window.step(np.ones(1, dtype=np.float32))
    window.close()
    film = gym.make("latentrl_envs:latentrl/Pendulum-v1", render_mode="rgb_array_list")
    film.reset(seed=0)
    film.step(np.ones(1, dtype=np.float32))
    assert [picture.shape for picture in film.render()] == [(500, 500, 3)] * 2
    film.close()


def test_pickle_goes_on_with_the_same_episode() -> None:
    env = TorchEnv(Trace(start_jitter=1.0))
    env.reset(seed=0)
    again = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(env.step(np.ones(2))[0], again.step(np.ones(2))[0])
    np.testing.assert_array_equal(env.reset()[0], again.reset()[0])


def test_another_default_device_changes_nothing() -> None:
    """Tensors of a single environment stay on the CPU; a device without values stands for a GPU."""
    found = []
    for device in ("cpu", "meta"):
        torch.set_default_device(device)
        try:
            env = gym.make("latentrl_envs:latentrl/Pendulum-v1")
            env.reset(seed=0)
            found.append(env.step(np.array([0.5], np.float32))[0])
        finally:
            torch.set_default_device(None)
    np.testing.assert_array_equal(*found)


def test_environments_of_one_task_are_seeded_apart() -> None:
    task = Pendulum()
    first, second = TorchEnv(task), TorchEnv(task)
    for env in (first, second):
        env.action_space.seed(0)
    drawn = [env.action_space.sample() for env in (first, second)]
    assert drawn[0] == drawn[1]
