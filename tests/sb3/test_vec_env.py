"""The adapter against stable-baselines3's own DummyVecEnv over the same task and the same random numbers."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from latentrl import LatentRLError
from latentrl.sb3 import TorchVecEnvAdapter
from latentrl_envs import TorchEnv, TorchVectorEnv
from tests.envs.tasks_table import Talking, Tripping
from tests.envs.test_vector import Stream

MODES = ["SameStep", "Disabled"]


def adapted(env_id: str, n: int = 4, mode: str = "SameStep", **kwargs: Any) -> TorchVecEnvAdapter:
    return TorchVecEnvAdapter(gym.make_vec(f"latentrl_envs:latentrl/{env_id}", n, autoreset_mode=mode, **kwargs))


def dummy(task: type, n: int, limit: int, seed: int) -> DummyVecEnv:
    """SB3's own, fed with the numbers of our rows."""
    env = DummyVecEnv([lambda: TimeLimit(TorchEnv(task()), limit)] * n)
    for i, single in enumerate(env.envs):
        single.unwrapped.np_random = Stream(seed + i)
    return env


@pytest.mark.parametrize("task", [Tripping, Talking])
@pytest.mark.parametrize("mode", MODES)
def test_steps_and_infos_equal_those_of_dummy_vec_env(task: type, mode: str) -> None:
    n, limit, seed = 3, 6, 11
    ours = TorchVecEnvAdapter(TorchVectorEnv(task(), n, limit, dtype="float64", autoreset_mode=mode))
    theirs = dummy(task, n, limit, seed)
    close = {"rtol": 0, "atol": 1e-5}  # theirs rounds its observations to float32
    ours.seed(seed)
    np.testing.assert_allclose(ours.reset(), theirs.reset(), **close)
    assert ours.reset_infos == theirs.reset_infos
    generator, limits, ends = np.random.default_rng(0), 0, 0
    for _ in range(60):
        action = generator.uniform(-3, 3, (n, 1))
        (*said, infos), (*reference, expected) = ours.step(action), theirs.step(action)
        for mine, their in zip(said, reference, strict=True):
            np.testing.assert_allclose(mine, their, **close)
        for mine, their in zip(infos, expected, strict=True):
            assert mine.keys() == their.keys()
            if "terminal_observation" in their:
                np.testing.assert_allclose(mine.pop("terminal_observation"), their.pop("terminal_observation"), **close)
                ends += 1
            limits += their["TimeLimit.truncated"]
            assert mine == pytest.approx(their, abs=1e-5)
        assert ours.reset_infos == [pytest.approx(info, abs=1e-5) for info in theirs.reset_infos]
    assert 0 < limits < ends  # both kinds of end occurred
    assert (said[1].dtype, said[2].dtype) == (np.float32, bool)


@pytest.mark.parametrize(
    ("algorithm", "env_id"), [(PPO, "CartPole-v1"), (DQN, "CartPole-v1"), (A2C, "Pendulum-v1"), (SAC, "Pendulum-v1")]
)
def test_stock_algorithms_learn_and_are_evaluated(algorithm: Any, env_id: str) -> None:
    short = {"learning_starts": 32} if algorithm in (DQN, SAC) else {"n_steps": 16}
    env = VecNormalize(VecMonitor(adapted(env_id)), norm_reward=False)
    agent = algorithm("MlpPolicy", env, seed=0, device="cpu", **short).learn(80)
    mean, _ = evaluate_policy(agent, VecMonitor(adapted(env_id, n=2)), n_eval_episodes=2)
    assert np.isfinite(mean)


def test_seed_is_used_once_and_makes_the_same_episode() -> None:
    env = adapted("CartPole-v1")
    env.seed(3)
    first, second = env.reset(), env.reset()
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)
    assert not np.array_equal(first, second)


def test_attributes_belong_to_the_batch() -> None:
    env = adapted("Pendulum-v1", n=3)
    assert env.get_attr("num_envs") == [3, 3, 3]
    assert env.get_attr("device", indices=[0]) == [env.env.unwrapped.device]
    assert env.env_is_wrapped(gym.Wrapper, indices=1) == [False]
    assert env.render_mode is None
    env.set_attr("note", "hello")
    assert env.get_attr("note", indices=2) == ["hello"]
    with pytest.raises(LatentRLError, match="without indices"):
        env.set_attr("note", "hello", indices=0)
    with pytest.raises(LatentRLError, match="'seed' on the vector environment"):
        env.env_method("seed")
    with pytest.warns(UserWarning, match="no pictures"):
        assert env.get_images() == [None] * 3
    env.close()


def test_observations_with_parts_cannot_be_adapted() -> None:
    class Parts(gym.vector.VectorEnv[Any, Any, Any]):
        metadata = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}  # noqa: RUF012
        num_envs, single_action_space = 1, gym.spaces.Discrete(2)
        single_observation_space: gym.Space[Any] = gym.spaces.Dict(a=gym.spaces.Box(-1, 1, (2,)))

    with pytest.raises(LatentRLError, match="observations must be one tensor"):
        TorchVecEnvAdapter(Parts())
    Parts.single_observation_space = gym.spaces.MultiBinary(3)  # which is one
    TorchVecEnvAdapter(Parts())


def test_what_cannot_be_adapted() -> None:
    with pytest.raises(LatentRLError, match="autoreset_mode='SameStep'"):
        adapted("Pendulum-v1", mode="NextStep")
    with pytest.raises(LatentRLError, match="takes a gymnasium VectorEnv"):
        TorchVecEnvAdapter(gym.make("latentrl_envs:latentrl/Pendulum-v1"))
    env = adapted("Pendulum-v1")
    env.set_options({"reset_mask": np.ones(4, dtype=bool)})
    with pytest.raises(LatentRLError, match="reset options"):
        env.reset()


class Counting(gym.Env[Any, Any]):
    """Ends after a number of steps, and says which it is at."""

    observation_space = gym.spaces.Box(0, 9, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, length: int) -> None:
        self.length, self.t = length, 0

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, _: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, self.t == self.length, False, {"t": self.t}


@pytest.mark.parametrize("mode", MODES)
def test_rows_that_go_on_keep_their_infos_and_statistics_inside_are_not_read(mode: str) -> None:
    autoreset = gym.vector.AutoresetMode(mode)
    made = gym.vector.SyncVectorEnv([lambda: Counting(2), lambda: Counting(3)], autoreset_mode=autoreset)
    env = TorchVecEnvAdapter(gym.wrappers.vector.RecordEpisodeStatistics(made))
    env.reset()
    env.step(np.zeros((2, 1)))
    _, _, dones, infos = env.step(np.zeros((2, 1)))
    assert dones.tolist() == [True, False]
    assert [info["t"] for info in infos] == [2, 2]
    assert ["terminal_observation" in info for info in infos] == [True, False]


@pytest.mark.parametrize("mode", MODES)
def test_memory_that_the_environment_writes_to_again_is_not_kept(mode: str) -> None:
    """stable-baselines3 adds an observation to its buffer after the next step."""
    lengths, autoreset = (2, 3), gym.vector.AutoresetMode(mode)
    made = gym.vector.SyncVectorEnv([lambda n=n: Counting(n) for n in lengths], copy=False, autoreset_mode=autoreset)
    env = TorchVecEnvAdapter(made)
    seen = [env.reset()]
    ends = []
    for _ in range(6):
        observations, _, _, infos = env.step(np.zeros((2, 1)))
        seen.append(observations)
        ends += [float(info["terminal_observation"][0]) for info in infos if "terminal_observation" in info]
    for row, length in enumerate(lengths):
        assert [float(o[row, 0]) for o in seen] == [step % length for step in range(7)]
    assert sorted(ends) == [2, 2, 2, 3, 3]


class Telling(Counting):
    """Says things of several shapes."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        *found, _ = super().step(action)
        return *found, {"parts": {"cost": 0.5 * self.t}, "x": np.arange(3) + self.t}  # type: ignore[return-value]


@pytest.mark.parametrize("mode", MODES)
def test_infos_with_parts_are_those_of_dummy_vec_env(mode: str) -> None:
    makers = [lambda: Telling(2), lambda: Telling(3)]
    ours = TorchVecEnvAdapter(gym.vector.SyncVectorEnv(makers, autoreset_mode=gym.vector.AutoresetMode(mode)))
    theirs = DummyVecEnv(makers)
    ours.reset(), theirs.reset()
    for _ in range(4):
        (*_, found), (*_, expected) = (env.step(np.zeros((2, 1))) for env in (ours, theirs))
        for one, other in zip(found, expected, strict=True):
            assert one["parts"] == other["parts"]
            np.testing.assert_array_equal(one["x"], other["x"])


def test_infos_without_masks_are_told_to_all() -> None:
    class Unmasked(gym.vector.VectorWrapper):
        def step(self, actions: Any) -> Any:
            *found, told = self.env.step(actions)
            return *found, told | {"elapsed": np.array([3, 4]), "fps": 3.0, "more": {"name": "a", "few": [1, 2, 3]}}

    made = gym.make_vec("latentrl_envs:latentrl/Pendulum-v1", 2, autoreset_mode="SameStep")
    env = TorchVecEnvAdapter(Unmasked(made))
    env.reset()
    infos = env.step(np.zeros((2, 1), np.float32))[3]
    assert [info["elapsed"] for info in infos] == [3, 4]
    assert all(info["fps"] == 3.0 and info["more"] == {"name": "a", "few": [1, 2, 3]} for info in infos)
