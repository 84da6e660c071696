"""Latents as actions: what is played is what the cloned policy plays, by whole plans and to the end of the episode."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize, VecTransposeImage

from latentrl import Demonstrations, LatentRLError
from latentrl.sb3 import CloneTerm, DemonstrationReplayBuffer, LatentBC, LatentPolicy
from latentrl.sb3.latent_actions import LatentActionEnv, LatentActionWrapper
from latentrl.sb3.latent_kinds import LatentBox, LatentDiscrete, LatentMultiDiscrete
from tests.sb3.agents_table import AGENTS, BOX, VECTOR, Toy
from tests.sb3.off_policy_table import shown

SMALL: dict[str, Any] = {"latent_dim": 2, "hidden": (8,), "prior": "normal", "context_length": 4}
PICTURE = spaces.Box(0, 255, (6, 5, 3), np.uint8)


def policy(observation_space: spaces.Space = VECTOR, action_space: spaces.Space = BOX, **options: Any) -> LatentPolicy:
    return LatentPolicy(observation_space, action_space, lambda _: 1e-3, **{**SMALL, **options})


class Told(Toy):
    """Remembers what was done in its episode; rewards are powers of two, so that any sum tells its terms."""

    def reset(self, **options: Any) -> Any:
        self.actions: list[Any] = []
        self.observations = [super().reset(**options)[0]]
        return self.observations[0], {}

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        observation, _, *ends, info = super().step(action)
        self.observations.append(observation)
        return observation, 2.0 ** (len(self.actions) - 1), *ends, info


class Ended(Told):
    """The same, and its last episode after a VecEnv has started the next one."""

    last: "tuple[list[Any], list[Any]] | None" = None

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        if truncated:
            self.last = self.observations, self.actions
        return observation, reward, terminated, truncated, info


def told(count: int, *arguments: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: Told(*arguments)] * count)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prior": "vamp", "n_components": 3},
        {"prior": "mixture", "n_components": 3},
        {"prior": "gaussian", "prior_sees_state": True, "encoder_hidden": (8,)},
        {"prior": "normal", "latent_clip": 0.5},
        {"hold": 1, "chunk": 3},
    ],
)
def test_plays_what_predict_plays(options: dict[str, Any]) -> None:
    """Action u stands for mean + deviation · u of the prior, whatever the prior."""
    cloned = policy(**options)
    if cloned.config.prior_sees_state:  # it starts out the same for all states
        torch.nn.init.normal_(cloned.model.prior.numbers.from_features.weight)  # type: ignore[union-attr]
    env = LatentActionWrapper(told(3), cloned)
    assert env.action_space == LatentBox(-3, 3, (2,))
    seen = env.reset()
    generator = np.random.default_rng(0)
    for _ in range(3):
        actions = generator.uniform(-3, 3, (3, 2)).astype(np.float32)
        with torch.no_grad():
            law = cloned.model.latent_law(torch.as_tensor(seen))
            z = (law.mean + law.stddev * torch.as_tensor(actions)).numpy()
        if cloned.config.latent_clip:
            z = z.clip(-0.5, 0.5)
        expected, _ = cloned.predict(seen, latent=z)
        np.testing.assert_allclose(env.decode(seen, z), expected, rtol=0, atol=0)
        seen, *_ = env.step(actions)
        played = [done[-1] for done in env.get_attr("actions")]
        np.testing.assert_allclose(played, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["latent SAC", "latent TD3", "latent PPO, episode", "latent PPO, 3 steps, gaussian"])
@pytest.mark.parametrize("prior", ["normal", "gaussian"])
def test_plays_the_latents_of_an_agent_that_was_cloned_into(name: str, prior: str) -> None:
    agent = AGENTS[name].make(Toy(), policy_kwargs={} if "TD3" in name else {"prior": prior})
    clone = LatentBC(agent, demonstrations=shown(BOX), noise=None)
    env, cloned = LatentActionWrapper(told(2), clone), clone.policy
    seen = env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (2, cloned.config.latent_dim)).astype(np.float32)
    with torch.no_grad():
        law = cloned.model.latent_law(torch.as_tensor(seen))
        z = (law.mean + law.stddev * torch.as_tensor(actions)).numpy()
    env.step(actions)
    played = [done[-1] for done in env.get_attr("actions")]
    np.testing.assert_allclose(played, cloned.predict(seen, latent=z)[0], rtol=0, atol=1e-6)


def test_units_of_a_prior_without_moments() -> None:
    """A flow's, against 40 000 draws: within 5 standard errors of the wrapper's own 4096 (false alarms below 1e-5)."""
    cloned, state = policy(prior="flow"), torch.get_rng_state()
    env = LatentActionWrapper(told(1), cloned)
    assert torch.equal(torch.get_rng_state(), state)
    zero, one = (
        env.latent_actions.latents(env.reset(), np.zeros((1, 2))),
        env.latent_actions.latents(None, np.ones((1, 2))),
    )
    with torch.no_grad():
        draws = cloned.model.sample_latent(torch.zeros(40_000, 3)).numpy()
    deviation = draws.std(0)
    np.testing.assert_allclose(zero[0], draws.mean(0), rtol=0, atol=5 * deviation.max() / 61)
    np.testing.assert_allclose((one - zero)[0], deviation, rtol=5 / 61)
    again = LatentActionWrapper(told(1), cloned)
    np.testing.assert_array_equal(again.latent_actions.latents(None, np.zeros((1, 2))), zero)


def test_units_can_be_given() -> None:
    cloned = policy(prior="gaussian")
    env = LatentActionWrapper(told(2), cloned, reach=1.5, loc=[1.0, -1.0], scale=2.0)
    assert env.action_space == LatentBox(-1.5, 1.5, (2,))
    actions = np.array([[0.0, 0.0], [1.5, -1.0]], np.float32)
    np.testing.assert_array_equal(env.latent_actions.latents(None, actions), [[1, -1], [4, -3]])


@pytest.mark.parametrize("factors", [1, 2])
def test_choices(factors: int) -> None:
    cloned = policy(latent_dim=6, posterior="categorical", prior="categorical", factors=factors)
    env = LatentActionWrapper(told(3), cloned)
    single = LatentActionEnv(Told(), cloned)
    assert env.action_space == single.action_space
    if factors == 1:
        assert env.action_space == LatentDiscrete(6)
        actions, z = np.array([0, 5, 2]), np.eye(6)[[0, 5, 2]]
    else:
        assert env.action_space == LatentMultiDiscrete([3, 3])
        actions = np.array([[0, 0], [2, 1], [1, 2]])
        z = np.concatenate([np.eye(3)[actions[:, 0]], np.eye(3)[actions[:, 1]]], -1)
    seen = env.reset()
    env.step(actions)
    played = [done[0] for done in env.get_attr("actions")]
    np.testing.assert_array_equal(played, cloned.predict(seen, latent=z)[0])
    alone, _ = single.reset()
    single.step(actions[1])
    np.testing.assert_array_equal(single.unwrapped.actions[0], cloned.predict(alone, latent=z[1])[0])
    PPO("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu").learn(48)


@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (PICTURE, BOX),
        (spaces.Box(0, 255, (3, 6, 5), np.uint8), BOX),
        (spaces.Dict(picture=PICTURE, numbers=VECTOR, choice=spaces.Discrete(3)), BOX),
        (spaces.Discrete(4), BOX),
        (VECTOR, spaces.Discrete(3)),
        (VECTOR, spaces.MultiBinary(4)),
        (VECTOR, spaces.MultiDiscrete([3, 2])),
        (VECTOR, spaces.Box(-1, 1, (2, 2))),
        (VECTOR, spaces.Box(np.array([-1.0, 0.0]), np.array([3.0, 0.5]), dtype=np.float64)),
    ],
)
def test_spaces(observations: spaces.Space, actions: spaces.Space) -> None:
    trunk: dict[str, Any] = {}
    if isinstance(observations, spaces.Box) and observations.dtype == np.uint8:
        trunk = {"features_extractor_class": FlattenExtractor}
    if isinstance(observations, spaces.Dict):
        trunk = {"features_extractor_class": Flat}
    cloned = policy(observations, actions, **trunk)
    env, single = (
        LatentActionWrapper(told(2, observations, actions), cloned),
        LatentActionEnv(Told(observations, actions), cloned),
    )
    seen, z = env.reset(), np.array([[1.0, -1.0], [0.3, 2.0]], np.float32)
    env.step(z)
    played = np.array([done[0] for done in env.get_attr("actions")])
    np.testing.assert_array_equal(played, cloned.predict(seen, latent=z)[0])
    alone, _ = single.reset()
    single.step(z[0])
    np.testing.assert_array_equal(single.unwrapped.actions[0], cloned.predict(alone, latent=z[0])[0])
    if observations == PICTURE:  # as stable-baselines3 turns it around the wrapper
        turned = VecTransposeImage(env)
        turned.reset()
        turned.step(z)


class Flat(CombinedExtractor):
    """CombinedExtractor without convolutions, for pictures of a few pixels."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        numbers = {
            name: spaces.Box(0, 1, (int(np.prod(part.shape)),)) if part == observation_space["picture"] else part
            for name, part in observation_space.spaces.items()
        }
        super().__init__(spaces.Dict(numbers))
        self.extractors["picture"] = torch.nn.Flatten()


def test_a_plan_is_one_step() -> None:
    """Plans of 3 actions in episodes of 8: steps of 3, 3 and 2, each from the observation where it began."""
    cloned = policy(chunk=3)
    env = LatentActionEnv(Told(), cloned)
    assert env.hold == 3
    env.reset(seed=0)
    z, said = np.array([[1.0, -1.0], [0.5, 0.5], [-2.0, 0.0]], np.float32), []
    for latent in z:
        said.append(env.step(latent))
    observations, actions = env.unwrapped.observations, env.unwrapped.actions
    assert [reward for _, reward, *_ in said] == [1 + 2 + 4, 8 + 16 + 32, 64 + 128]
    assert [(ended, limit) for *_, ended, limit, _ in said] == [(False, False), (False, False), (False, True)]
    assert [info["latent_steps"] for *_, info in said] == [3, 3, 2]
    for start, latent, (seen, *_, info) in zip((0, 3, 6), z, said, strict=True):
        steps = info["latent_steps"]
        np.testing.assert_array_equal(seen, observations[start + steps])
        with torch.no_grad():
            plan = cloned.model.act(torch.as_tensor(observations[start])[None], torch.as_tensor(latent)[None])
        np.testing.assert_array_equal(actions[start : start + steps], plan.reshape(3, 2)[:steps].clamp(-1, 1))


@pytest.mark.parametrize(("hold", "length"), [(2, 2), (0, 8)])
def test_a_latent_is_held_and_the_policy_looks_at_each_state(hold: int, length: int) -> None:
    cloned = policy(hold=1)  # of the policy itself; here the agent says how long
    env = LatentActionEnv(Told(), cloned, hold=hold)
    env.reset(seed=0)
    z = np.array([1.0, -1.0], np.float32)
    *_, info = env.step(z)
    assert info["latent_steps"] == len(env.unwrapped.actions) == length
    for observation, action in zip(env.unwrapped.observations, env.unwrapped.actions, strict=False):
        np.testing.assert_array_equal(action, cloned.predict(observation, latent=z)[0])


def test_a_latent_that_outlives_a_plan() -> None:
    """5 steps with plans of 3: a new plan at the fourth, under the same latent."""
    cloned = policy(chunk=3)
    env = LatentActionEnv(Told(), cloned, hold=5)
    env.reset(seed=0)
    z = np.array([1.0, -1.0], np.float32)
    env.step(z)
    for step in (0, 3):
        expected = cloned.predict(env.unwrapped.observations[step], latent=z)[0]
        np.testing.assert_array_equal(env.unwrapped.actions[step], expected)


def test_episodes_of_plans_in_a_vec_env() -> None:
    """Each environment by itself: what ends inside a plan ends there, and what is left is not played in the next."""
    cloned = policy(chunk=3)
    inside = [Ended(steps=4), Ended(steps=6)]
    env = DummyVecEnv([lambda i=i: LatentActionEnv(Monitor(inside[i]), cloned) for i in (0, 1)])  # type: ignore[misc]
    env.reset()
    z = np.array([[1.0, -1.0], [0.5, 0.5]], np.float32)
    env.step(z)
    seen, rewards, dones, infos = env.step(z)
    assert (rewards.tolist(), dones.tolist()) == ([8, 8 + 16 + 32], [True, True])
    for i, (steps, episode) in enumerate(zip((1, 3), inside, strict=True)):
        assert (infos[i]["latent_steps"], infos[i]["TimeLimit.truncated"]) == (steps, True)
        assert episode.last is not None
        np.testing.assert_array_equal(infos[i]["terminal_observation"], episode.last[0][-1])
        np.testing.assert_array_equal(seen[i], episode.observations[0])
        assert episode.actions == []
        assert infos[i]["episode"]["l"] == len(episode.last[1])


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_agents_learn_and_leave_the_decoder_alone(algorithm: Any, tmp_path: Path) -> None:
    short = {"n_steps": 16, "batch_size": 16} if algorithm is PPO else {"learning_starts": 8, "batch_size": 8}
    cloned = policy()
    env = LatentActionWrapper(told(2), cloned)
    inside = env.latent_actions.policy
    before = [value.clone() for value in inside.state_dict().values()]
    agent = algorithm("MlpPolicy", env, seed=0, device="cpu", policy_kwargs={"net_arch": [8]}, **short).learn(40)
    assert all(torch.equal(a, b) for a, b in zip(before, inside.state_dict().values(), strict=True))
    assert not any(parameter.requires_grad for parameter in inside.parameters())
    assert not inside.training
    assert all(env.action_space.contains(action) for action in agent.predict(env.reset())[0])
    agent.save(tmp_path / "agent")
    algorithm.load(tmp_path / "agent", env=env, device="cpu")
    judged = LatentActionWrapper(VecMonitor(told(2)), cloned)
    watch = EvalCallback(judged, n_eval_episodes=2, eval_freq=8, verbose=0)
    agent.set_env(LatentActionWrapper(told(2), cloned))
    agent.learn(40, callback=watch)
    assert np.isfinite(watch.last_mean_reward)
    with pytest.raises(ValueError, match="Action spaces do not match"):
        algorithm.load(tmp_path / "agent", env=told(2), device="cpu")


def test_a_clone_of_stacked_observations_plays_in_stacked_environments() -> None:
    """As the refusal of histories advises."""
    stacked = VecFrameStack(told(2), 2)
    cloned = policy(stacked.observation_space)
    env = LatentActionWrapper(stacked, cloned)
    seen, z = env.reset(), np.array([[1.0, -1.0], [0.3, 2.0]], np.float32)
    assert seen.shape == (2, 6)
    env.step(z)
    played = np.array([done[0] for done in env.get_attr("actions")])
    np.testing.assert_array_equal(played, cloned.predict(seen, latent=z)[0])
    PPO("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu").learn(32)


def test_demonstrations_of_actions_are_not_taken_for_latents() -> None:
    """Where there are as many of both, and each is a box: for a term, a buffer, and a clone."""
    env, demonstrations = LatentActionWrapper(told(2), policy()), shown(BOX)
    agent = SAC("MlpPolicy", env, learning_starts=2, device="cpu")
    replay = {"replay_buffer_class": DemonstrationReplayBuffer}
    for use in (
        lambda given: agent.learn(4, callback=CloneTerm(given)),
        lambda given: LatentBC(agent, demonstrations=given),
        lambda given: SAC("MlpPolicy", env, **replay, replay_buffer_kwargs={"demonstrations": given}, device="cpu"),
    ):
        with pytest.raises(LatentRLError, match=r"agent's actions are latents, LatentBox.*dataclasses\.replace"):
            use(demonstrations)
        rewarded = replace(demonstrations, rewards=np.zeros(len(demonstrations), np.float32))
        use(replace(rewarded, action_space=env.action_space))


FINITE: dict[str, Any] = {"posterior": "categorical", "prior": "categorical"}


@pytest.mark.parametrize(
    ("actions", "options"),
    [
        (BOX, {}),
        (spaces.Discrete(4), {"latent_dim": 4, **FINITE}),
        (spaces.MultiDiscrete([2, 2]), {"latent_dim": 4, "factors": 2, **FINITE}),
    ],
    ids=["Box", "Discrete", "MultiDiscrete"],
)
def test_latents_are_no_actions_even_where_they_look_alike(
    actions: spaces.Space, options: dict[str, Any], tmp_path: Path
) -> None:
    """An agent of either is not loaded to the other; a copy, as processes and files make them, is the same space."""
    cloned = policy(VECTOR, actions, **options)
    inside = DummyVecEnv([lambda: Toy(VECTOR, actions)])
    env = LatentActionWrapper(inside, cloned, reach=1.0)
    space = env.action_space
    for twin in (copy.deepcopy(space), pickle.loads(pickle.dumps(space))):
        assert twin == space
        assert type(twin) is type(space)
        assert twin.contains(twin.sample())
    for one, other in ((env, inside), (inside, env)):
        PPO("MlpPolicy", one, device="cpu").save(tmp_path / "agent")
        PPO.load(tmp_path / "agent", env=one, device="cpu")
        with pytest.raises(ValueError, match=r"Action spaces do not match: .*Latent"):
            PPO.load(tmp_path / "agent", env=other, device="cpu")


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version", "ignore:.*alternative render modes")
@pytest.mark.parametrize("check", [gymnasium_check, sb3_check])
def test_environment_checkers(check: Any) -> None:
    check(LatentActionEnv(Told(), policy(), reach=1.0))


def test_a_copy_is_taken_and_no_random_number() -> None:
    cloned = policy()
    env = LatentActionWrapper(told(1), cloned)
    seen = env.reset()
    before, z = env.decode(seen, np.ones((1, 2))), np.ones((1, 2))
    state = torch.get_rng_state()
    env.step(z)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        cloned.model.decoder.head.weight.add_(1.0)  # type: ignore[operator, union-attr]
    np.testing.assert_array_equal(env.decode(seen, z), before)
    assert cloned.optimizer is not None
    assert all(parameter.requires_grad for parameter in cloned.parameters())


def test_normalised_outside() -> None:
    """The agent sees normalised observations and rewards, the decoder those that it was cloned on."""
    cloned = policy()
    env = VecNormalize(LatentActionWrapper(told(2), cloned))
    env.reset()
    z = np.array([[1.0, -1.0], [0.3, 2.0]], np.float32)
    for _ in range(3):
        raw = env.get_original_obs()
        env.step(z)
        played = [done[-1] for done in env.get_attr("actions")]
        np.testing.assert_array_equal(played, cloned.predict(raw, latent=z)[0])
    PPO("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu").learn(32)
    LatentActionWrapper(VecNormalize(told(2), norm_obs=False), cloned)
    with pytest.raises(LatentRLError, match=r"VecNormalize\(LatentActionWrapper"):
        LatentActionWrapper(VecNormalize(told(2)), cloned)


def test_sources(two_ways: Demonstrations, tmp_path: Path) -> None:
    agent = LatentBC(demonstrations=two_ways, policy_kwargs={**SMALL, "prior": "gaussian"}, batch_size=8, device="cpu")
    agent.learn(2)
    agent.save(tmp_path / "bc")
    agent.policy.save(str(tmp_path / "policy"))
    spaces_ = two_ways.observation_space, two_ways.action_space
    seen = two_ways.observations[:2]
    env = lambda source: LatentActionWrapper(told(2, *spaces_), source)  # noqa: E731
    expected = env(agent).decode(seen, np.ones((2, 2)))
    for source in (agent.policy, tmp_path / "bc", str(tmp_path / "bc.zip"), tmp_path / "policy"):
        np.testing.assert_array_equal(env(source).decode(seen, np.ones((2, 2))), expected)
    (tmp_path / "notes.txt").write_text("no agent")
    PPO("MlpPolicy", Toy(), device="cpu").save(tmp_path / "ppo")
    for source, complaint in (
        (tmp_path / "none", "there is no file"),
        (tmp_path / "notes.txt", "no saved agent"),
        (tmp_path / "ppo", "ActorCriticPolicy is no LatentPolicy: load other agents"),
        (agent.policy.model, "LatentBC, its LatentPolicy or the path"),
    ):
        with pytest.raises(LatentRLError, match=complaint):
            env(source)


def test_pickled() -> None:
    """As SubprocVecEnv does it."""
    env = LatentActionEnv(Told(), policy(prior="vamp", n_components=2))
    twin = pickle.loads(cloudpickle.dumps(env))
    seen, z = np.zeros(3, np.float32), np.ones(2)
    np.testing.assert_array_equal(env.decode(seen, z), twin.decode(seen, z))


def test_bad_input() -> None:
    cloned, env = policy(), told(2)
    for options, complaint in (
        ({"reach": 0.0}, "reach must be"),
        ({"loc": [1.0, 2.0, 3.0]}, "give one number or 2"),
        ({"scale": [1.0, 0.0]}, "scale must be positive"),
    ):
        with pytest.raises(LatentRLError, match=complaint):
            LatentActionWrapper(env, cloned, **options)  # type: ignore[arg-type]
    finite = policy(posterior="categorical", prior="categorical")
    agents = LatentBC(SAC("LatentPolicy", Toy(), device="cpu"), demonstrations=shown(BOX), noise=None)
    wrong: tuple[tuple[Any, ...], ...] = (
        (env, policy(latent_dim=0), "latent_dim=0"),
        (env, agents.policy, "give the LatentBC that trained them"),
        (env, policy(chunk=3), r"lambda: LatentActionEnv\(env, policy\)"),
        (told(1, spaces.Box(-2, 2, (4,))), cloned, "observations are Box"),
        (told(1, VECTOR, spaces.Box(-2, 2, (3,))), cloned, "actions are Box"),
        (Told(), cloned, "LatentActionEnv"),
    )
    for venv, source, complaint in wrong:
        with pytest.raises(LatentRLError, match=complaint):
            LatentActionWrapper(venv, source)
    with pytest.raises(LatentRLError, match="choices among"):
        LatentActionWrapper(env, finite, loc=0.0)
    with pytest.raises(LatentRLError, match="there is LatentActionWrapper"):
        LatentActionEnv(env, cloned)  # type: ignore[arg-type]
    with pytest.raises(LatentRLError, match="actions are Box"):
        LatentActionEnv(Toy(VECTOR, spaces.Box(-2, 2, (3,))), cloned)
    with pytest.raises(LatentRLError, match="hold must be"):
        LatentActionEnv(Told(), cloned, hold=-1)
    for made, action in (
        (LatentActionWrapper(env, cloned), np.ones((2, 2))),
        (LatentActionEnv(Told(), cloned), np.ones(2)),
    ):
        with pytest.raises(LatentRLError, match="before reset"):
            made.step(action)  # type: ignore[attr-defined]
        made.reset()
        with pytest.raises(LatentRLError, match=r"latent actions have shape"):
            made.step(np.ones((2, 3))[: len(action)] if isinstance(made, LatentActionWrapper) else np.ones(3))
    assert isinstance(LatentActionEnv(Told(), cloned), gym.Wrapper)


def test_bounds_that_demonstrations_did_not_tell_are_the_environments() -> None:
    """Cloned from bare arrays, whose space spans what was seen: actions are clipped to that of the environment."""
    rng = np.random.default_rng(0)
    seen, actions = rng.normal(size=(40, 3)).astype(np.float32), rng.normal(size=(40, 2)).astype(np.float32)
    bare = Demonstrations.from_arrays(seen, 5.0 * actions, [8] * 5)
    agent = LatentBC(demonstrations=bare, policy_kwargs={"latent_dim": 2, "hidden": (8,), "n_components": 2}, seed=0)
    agent.learn(50)
    assert (agent.policy.action_space.high > 1.0).all()  # as large as what was seen
    env = LatentActionWrapper(DummyVecEnv([Toy]), agent)
    played = env.decode(10.0 * seen, rng.normal(size=(40, 2)))
    assert (np.abs(played) <= 1.0).all()
    assert (np.abs(played) == 1.0).any()


def test_what_an_agent_sees_normalised_its_clone_sees_so_here() -> None:
    """The statistics are those of when the wrapper was made."""
    venv = VecNormalize(told(2))
    agent = SAC("LatentPolicy", venv, policy_kwargs={"latent_dim": 2, "net_arch": [8]}, seed=0, device="cpu")
    data = Demonstrations.from_arrays(
        3.0 + np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32),
        np.zeros((40, 2), np.float32),
        [20, 20],
        VECTOR,
        agent.action_space,
    )
    clone = LatentBC(agent, demonstrations=data, seed=0, device="cpu")
    actions, single = LatentActionWrapper(told(2), clone), LatentActionEnv(Told(), clone)
    seen, z = 3.0 + np.ones((2, 3), np.float32), np.array([[0.5, -0.5], [1.0, 0.0]], np.float32)
    played = actions.decode(seen, z)
    np.testing.assert_array_equal(
        played, clone.policy.predict(venv.normalize_obs(seen), latent=z, deterministic=True)[0]
    )
    assert np.abs(played - clone.policy.predict(seen, latent=z, deterministic=True)[0]).max() > 1e-3
    venv.obs_rms.mean += 1.0
    np.testing.assert_array_equal(actions.decode(seen, z), played)
    np.testing.assert_allclose(single.decode(seen[0], z[0]), played[0], atol=1e-6)


@pytest.mark.parametrize("sees", [False, True])
def test_units_are_those_of_the_prior_at_any_temperature(sees: bool) -> None:
    options: Any = {"prior": "gaussian", "prior_sees_state": sees, "encoder_hidden": (8,)}
    torch.manual_seed(0)
    plain = policy(**options)
    cold = policy(**options, temperature=0.5)
    cold.load_state_dict(plain.state_dict())
    seen, one = np.zeros((1, 3), np.float32), np.ones((1, 2), np.float32)
    first, second = (LatentActionWrapper(told(1), made).latent_actions.latents(seen, one) for made in (plain, cold))
    np.testing.assert_array_equal(first, second)
