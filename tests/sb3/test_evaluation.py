"""Evaluation of behaviour against stable-baselines3's own, and what its record says."""

import copy
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from latentrl import Demonstrations, LatentRLError, metrics
from latentrl.data import played
from latentrl.metrics import behaviour_entropy, conditional_entropy
from latentrl.sb3 import (
    Evaluation,
    LatentBC,
    LatentNoiseWrapper,
    ModeCoverage,
    encode,
    evaluate_behaviour,
    evaluation,
    held_out,
)

LINE = spaces.Box(-100.0, 100.0, (1,))


class Count(gym.Env):
    """An episode of environment k has k + 1 steps; it shows 10 k + step, and rewards go up to 1 and down again."""

    observation_space, action_space = LINE, spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, number: int, told: dict[str, Any] | None = None) -> None:
        self.number, self.told, self.episode = number, told, -1

    def _seen(self) -> np.ndarray:
        return np.array([10.0 * self.number + self.steps], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed, options=options)
        self.steps, self.episode = 0, self.episode + 1
        return self._seen(), {}

    def step(self, action: Any) -> Any:  # noqa: ARG002
        self.steps += 1
        over = self.steps > self.number
        reward = 1.0 if self.steps == 1 else -0.25
        told = {name: value(self) if callable(value) else value for name, value in (self.told or {}).items()}
        return self._seen(), reward, over, False, told if over else {}


class Still:
    """Remembers with what it was asked; its state counts its calls since an episode started."""

    def __init__(self) -> None:
        self.starts: list[Any] = []
        self.deterministic: list[bool] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        self.starts.append(np.array(episode_start))
        self.deterministic.append(deterministic)
        number = len(next(iter(observation.values()))) if isinstance(observation, dict) else len(observation)
        count = np.zeros(number) if state is None else np.where(episode_start, 0, state[0])
        return np.zeros((number, 1), np.float32), (count + 1,)


def counting(*numbers: int, **told: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda n=n: Count(n, told) for n in numbers])


def test_each_environment_plays_its_share() -> None:
    """Ten episodes over three: 3, 3 and 4, though the first are over after one step and the last after five."""
    found = evaluate_behaviour(Still(), counting(0, 2, 4), 10)
    assert np.bincount(found.environments).tolist() == [3, 3, 4]
    assert found.lengths.tolist() == [[1, 3, 5][i] for i in found.environments]
    assert found.returns == pytest.approx([[1.0, 0.5, 0.0][i] for i in found.environments])
    assert (found.max_rewards == 1.0).all()
    assert found.successes is found.modes is found.trajectories is None
    assert found.ms_per_action > 0


def test_states_restart_where_episodes_do() -> None:
    policy = Still()
    evaluate_behaviour(policy, counting(1), 3)
    assert np.ravel(policy.starts).tolist() == [True, False] * 3
    assert not any(policy.deterministic)
    evaluate_behaviour(policy, counting(1), 1, deterministic=True)
    assert policy.deterministic[-1]


def test_environments_that_have_played_all_of_theirs_do_not_start_again_and_again() -> None:
    """One episode of a step, and one of six steps beside it, in which the first environment starts anew each time it
    does, and at no other."""
    policy = Still()
    evaluate_behaviour(policy, counting(1, 5), 2)
    assert np.stack(policy.starts)[:, 0].tolist() == [True, False] * 3
    assert np.stack(policy.starts)[:, 1].tolist() == [True, *[False] * 5]


def test_time_of_an_action_is_that_of_plans_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four calls one plans, and takes its second; the first is left out."""
    clock = iter(np.cumsum([0.0, 9.0, *([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0] * 20)]))
    monkeypatch.setattr(evaluation, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    found = evaluate_behaviour(Still(), DummyVecEnv([lambda: Count(16)]), 1)
    assert found.lengths.tolist() == [17]
    assert found.ms_per_action == pytest.approx(1000 / 4)


def test_equals_stable_baselines3() -> None:
    """Returns and lengths of an agent in CartPole, with a monitor and without, from one seed."""

    def envs(wrap: Any) -> DummyVecEnv:
        return DummyVecEnv([lambda n=n: wrap(gym.make("CartPole-v1", max_episode_steps=20 + n)) for n in range(3)])

    agent = PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
    for venv in (envs(Monitor), envs(lambda env: env), VecMonitor(envs(lambda env: env))):
        venv.seed(1)
        torch.manual_seed(1)
        returns, lengths = evaluate_policy(agent, venv, 8, deterministic=False, return_episode_rewards=True, warn=False)
        found = evaluate_behaviour(agent, venv, 8, seed=1)
        assert found.returns.tolist() == returns
        assert found.lengths.tolist() == lengths
        assert found.mean_return.value == pytest.approx(np.mean(returns))
        assert found.mean_return.ci == pytest.approx(stats.t.interval(0.95, 7, np.mean(returns), stats.sem(returns)))


def test_a_seed_gives_the_same_episodes_and_moves_nothing_else() -> None:
    """Five pairs of random CartPole returns agree in 7e-8."""
    agent, env = PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu"), gym.make("CartPole-v1")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = evaluate_behaviour(agent, env, 5, seed=2)
    assert torch.equal(torch.rand(1), expected)
    again, other = (evaluate_behaviour(agent, env, 5, seed=seed, trajectories=True) for seed in (2, 3))
    assert (again.returns == first.returns).all()
    assert (other.returns != first.returns).any()
    assert again.trajectories is not None
    assert [len(path) for path in again.trajectories] == first.lengths.tolist()


def test_a_seed_tells_the_random_actions_of_dqn_too() -> None:
    env = make_vec_env("CartPole-v1", 2, seed=0)
    agent = DQN("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu")
    agent.exploration_rate = 0.5
    agent.action_space.seed(9)
    following = [int(copy.deepcopy(agent.action_space).sample())]
    first, again = (evaluate_behaviour(agent, env, 6, seed=0).returns for _ in range(2))
    np.testing.assert_array_equal(first, again)
    shown = [Demonstrations.from_sb3_agent(agent, env, 4, deterministic=False, seed=0).actions for _ in range(2)]
    np.testing.assert_array_equal(*shown)
    assert [int(agent.action_space.sample())] == following


def test_trajectories_and_rewards_are_raw() -> None:
    """Through a VecNormalize that clips nearly everything, and is not trained by being evaluated in."""
    venv = VecNormalize(VecMonitor(counting(1, 3)), clip_obs=0.1, clip_reward=0.1)
    venv.reset()
    venv.step(np.zeros((2, 1), np.float32))
    before = venv.obs_rms.count, venv.ret_rms.count
    found = evaluate_behaviour(Still(), venv, 4, trajectories=True)
    assert (venv.obs_rms.count, venv.ret_rms.count) == before
    assert venv.training
    assert found.trajectories is not None
    for path, row in zip(found.trajectories, found.environments, strict=True):
        assert path[:, 0].tolist() == [[10, 11], [30, 31, 32, 33]][row]
    assert (found.max_rewards == 1.0).all()
    bare = VecNormalize(counting(1, 3), clip_reward=0.1)
    assert evaluate_behaviour(Still(), bare, 4).returns == pytest.approx(
        [[0.75, 0.25][i] for i in evaluate_behaviour(Still(), counting(1, 3), 4).environments]
    )


def test_an_agent_sees_a_bare_environment_as_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is shown is the same with and without its VecNormalize around the environments."""
    wrapped = VecNormalize(counting(1, 3))
    for _ in range(20):
        wrapped.step(np.zeros((2, 1), np.float32)) if wrapped.obs_rms.count > 1 else wrapped.reset()
    agent = PPO("MlpPolicy", wrapped, n_steps=4, batch_size=4, seed=0, device="cpu")
    seen: list[Any] = []
    playing = agent.predict
    monkeypatch.setattr(agent, "predict", lambda shown, *args: seen.append(shown.copy()) or playing(shown, *args))
    for env in (wrapped, counting(1, 3)):
        evaluate_behaviour(agent, env, 4, deterministic=True)
    behind, bare = np.split(np.stack(seen), 2)
    np.testing.assert_allclose(bare, behind, rtol=1e-6)
    assert np.abs(bare).max() < 10


class Named(gym.ObservationWrapper):
    """The observation in a dict."""

    observation_space = spaces.Dict({"place": LINE})

    def observation(self, observation: Any) -> Any:
        return {"place": observation}


def test_trajectories_of_dicts() -> None:
    found = evaluate_behaviour(Still(), DummyVecEnv([lambda: Named(Count(2))]), 2, trajectories=True)
    assert found.trajectories is not None
    assert [path["place"][:, 0].tolist() for path in found.trajectories] == [[20, 21, 22]] * 2


def test_trajectories_are_without_the_noise_of_a_wrapper() -> None:
    found = evaluate_behaviour(Still(), LatentNoiseWrapper(counting(2), 3), 1, trajectories=True)
    assert found.trajectories is not None
    assert found.trajectories[0][:, 0].tolist() == [20, 21, 22]


@pytest.mark.parametrize("name", ["success", "is_success"])
def test_modes_of_successes_are_counted(name: str) -> None:
    """Environments 0 … 3 are in modes of their numbers; 2 fails, and 1 every other time."""
    told = {"mode": lambda env: env.number, name: lambda env: env.number != 2 and (env.number != 1 or env.episode % 2)}
    found = evaluate_behaviour(Still(), counting(0, 1, 2, 3, **told), 24)
    assert found.modes is not None
    assert found.counts(4).tolist() == [6, 3, 0, 6]
    assert found.success_rate.value == 15 / 24
    assert found.entropy(4) == behaviour_entropy(np.array([6, 3, 0, 6]))
    assert found.covered(4) == 2
    assert found.covered(4, minimum=3) == 3
    with pytest.raises(LatentRLError, match=r"info\['mode'\] = 3: the environment must name one of 0 … 2"):
        found.counts(3)


def test_entropy_is_that_of_one_situation() -> None:
    """Each environment is a context; in the first one mode, in the second two alike, in the third nothing succeeds."""
    told = {
        "mode": lambda env: env.number * (1 + env.episode % 2),
        "context": lambda env: env.number,
        "success": lambda env: env.number != 2,
    }
    found = evaluate_behaviour(Still(), counting(0, 1, 2, **told), 24)
    assert found.contexts is not None
    assert sorted(found.contexts) == [0] * 8 + [1] * 8 + [2] * 8
    wanted = np.array([[8, 0, 0], [0, 4, 4], [0, 0, 0]])
    assert found.conditional_entropy(3) == conditional_entropy(wanted)
    assert found.conditional_entropy(3).value < found.entropy(3).value
    with pytest.raises(LatentRLError, match=r"no info\['context'\]: the environment must say"):
        evaluate_behaviour(Still(), counting(0, 1, mode=1), 4).conditional_entropy(2)


def test_what_was_not_told() -> None:
    """Without success every episode counts; without modes none can be counted."""
    assert evaluate_behaviour(Still(), counting(0, 1, mode=1), 4).counts(2).tolist() == [0, 4]
    silent = evaluate_behaviour(Still(), counting(0), 2)
    with pytest.raises(LatentRLError, match=r"no info\['mode'\]"):
        silent.counts(2)
    with pytest.raises(LatentRLError, match="must say"):
        _ = silent.success_rate
    with pytest.raises(LatentRLError, match="n_episodes must be"):
        evaluate_behaviour(Still(), counting(0), 0)
    assert isinstance(silent, Evaluation)


def test_failures_need_no_mode_in_the_callback() -> None:
    """Avoiding says −1 of what ended on no route."""
    told = {"mode": lambda env: env.number if env.number < 2 else -1, "success": lambda env: env.number < 2}
    watch = ModeCoverage(VecMonitor(counting(0, 1, 2, **told)), 2, n_eval_episodes=9, eval_freq=8, verbose=0)
    agent = PPO("MlpPolicy", VecMonitor(counting(3)), n_steps=8, batch_size=8, seed=0, device="cpu")
    agent.learn(8, callback=watch)
    assert watch.counts.tolist() == [3, 3]


@pytest.mark.parametrize("config", [{}, {"hold": 5}, {"hold": 1}, {"chunk": 4, "latent_dim": 0}], ids=str)
def test_held_out_is_cut_as_the_policy_plays(two_ways: Demonstrations, config: dict[str, Any]) -> None:
    train, others = two_ways.split(0.7)
    agent = LatentBC(demonstrations=train, policy_kwargs={"hidden": (8,), **config}, seed=0, device="cpu").learn(20)
    found = held_out(agent, others, 8)
    assert (found.likelihood.steps == 12).all()
    kept = agent.policy.config
    cut = played(others, kept.hold, kept.context_length, chunk=kept.chunk, pads=kept.pads)
    expected = metrics.held_out(agent.policy.model, cut, 8)
    assert (found.likelihood.values == expected.likelihood.values).all()
    assert (held_out(agent.policy, others, 8).bound.values == found.bound.values).all()


def test_learning_raises_what_was_held_out(two_ways: Demonstrations) -> None:
    train, others = two_ways.split(0.7)
    agent = LatentBC(demonstrations=train, policy_kwargs={"hidden": (16,)}, seed=0, device="cpu").learn(1)
    before = held_out(agent, others, 20)
    agent.learn(100)
    after = held_out(agent, others, 20)
    assert after.likelihood.per_step.value > before.likelihood.per_step.value + 0.2
    assert (after.likelihood.values >= after.bound.values).all()


def test_held_out_sees_what_an_agent_sees(two_ways: Demonstrations) -> None:
    """Cloned into PPO behind a VecNormalize, the likelihood is that of PPO's own policy on normalised observations."""

    class Plane(Count):
        observation_space, action_space = spaces.Box(-100.0, 100.0, (2,)), spaces.Box(-1.5, 1.5, (2,))

    agent = PPO("MlpPolicy", VecNormalize(DummyVecEnv([lambda: Plane(0)])), seed=0, device="cpu")
    clone = LatentBC(agent, demonstrations=two_ways, noise=None).learn(5)
    found = held_out(clone, two_ways)
    seen = agent.get_vec_normalize_env().normalize_obs(two_ways.observations)
    inside = (np.abs(two_ways.actions) < 1.5).all(1).reshape(24, 12).all(1)
    with torch.no_grad():
        _, log_prob, _ = agent.policy.evaluate_actions(torch.as_tensor(seen), torch.as_tensor(two_ways.actions))
    expected = log_prob.numpy().reshape(24, 12).sum(1)
    np.testing.assert_allclose(found.likelihood.values[inside], expected[inside], rtol=1e-3)
    assert inside.sum() > 5
    with pytest.raises(LatentRLError, match="not for PPO: of an agent that was cloned into, give the LatentBC"):
        held_out(agent, two_ways)  # type: ignore[arg-type]


@pytest.mark.parametrize("config", [{}, {"hold": 5}, {"hold": 1}, {"hold": 6, "chunk": 3}], ids=str)
def test_latents_of_demonstrations(two_ways: Demonstrations, config: dict[str, Any]) -> None:
    """Episodes of other lengths in their own order: each row is the mode of its own segment."""
    data = Demonstrations.from_arrays(two_ways.observations, two_ways.actions, [12, 7, 10, 7, *[12] * 21])
    agent = LatentBC(demonstrations=data, policy_kwargs={"hidden": (8,), **config}, seed=0, device="cpu").learn(5)
    kept = agent.policy.config
    segments = played(data, kept.hold, kept.context_length, chunk=kept.chunk, pads=kept.pads).segments
    model = agent.policy.model.eval()
    with torch.no_grad():
        one_by_one = [model.infer(segments.batch(torch.tensor([i]))).mode[0].numpy() for i in range(len(segments))]
    state = torch.get_rng_state()
    found = encode(agent, data)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_allclose(found, one_by_one, rtol=1e-4, atol=1e-5)
    assert (encode(agent.policy, data) == found).all()
    assert len(found) == {0: 25, 1: 288, 5: 72, 6: 48}[kept.hold]  # no plan of 3 fits in the seventh step


@pytest.mark.filterwarnings("ignore:the latent has collapsed")
def test_the_latent_of_a_demonstration_plays_it_again(two_ways: Demonstrations) -> None:
    train, others = two_ways.split(0.7)
    config = {"hidden": (32,), "latent_dim": 2}
    agent = LatentBC(demonstrations=train, policy_kwargs=config, seed=0, device="cpu").learn(400)
    assert others.modes is not None
    latents = encode(agent, others)
    actions, _ = agent.predict(np.zeros((len(latents), 2), np.float32), latent=latents)
    assert (actions[:, 1] > 0).tolist() == (others.modes == 0).tolist()


def test_what_has_no_latents(two_ways: Demonstrations) -> None:
    without = LatentBC(demonstrations=two_ways, policy_kwargs={"hidden": (8,), "latent_dim": 0}, device="cpu")
    with pytest.raises(LatentRLError, match="no latent to encode"):
        encode(without, two_ways)


def test_what_an_agent_sees_is_not_known_of_its_policy_alone() -> None:
    agent = PPO("MlpPolicy", DummyVecEnv([lambda: Count(0)]), device="cpu")
    zeros = np.zeros((8, 1), np.float32)
    data = Demonstrations.from_arrays(zeros, zeros, [8], LINE, agent.action_space)
    clone = LatentBC(agent, demonstrations=data, noise=None)
    held_out(clone, data, 2)
    with pytest.raises(LatentRLError, match="held_out needs to know what the agent that was cloned into sees"):
        held_out(clone.policy, data, 2)
