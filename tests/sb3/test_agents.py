"""What stable-baselines3 expects of a policy class, for every latent policy."""

import copy
import inspect
import itertools
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize
from torch import Tensor, nn

from latentrl import LatentRLError
from tests.sb3.agents_table import AGENTS, BOX, CELLS, SPACES, VECTOR, Toy

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
ON_POLICY = [name for name, agent in AGENTS.items() if issubclass(agent.algorithm, OnPolicyAlgorithm)]


WAYS = [cell for cell in CELLS if cell[1] in ("box", "choice", "choices", "bits")]
"""Each agent with each kind of action."""
STACKED = ("mixture PPO", "latent PPO, episode", "latent SAC, categorical", "latent TD3")
"""Agents that see several pictures at once."""


def takes(name: str, option: str) -> bool:
    """Whether the algorithm has such an argument."""
    return option in inspect.signature(AGENTS[name].algorithm).parameters


def trained(name: str, space: str = "box", **options: Any) -> BaseAlgorithm:
    agent = AGENTS[name]
    return agent.make(Toy(action_space=SPACES[space]), **options).learn(agent.steps)


def observations(agent: BaseAlgorithm, count: int = 6) -> Any:
    agent.observation_space.seed(0)
    drawn = [agent.observation_space.sample() for _ in range(count)]
    return {k: np.stack([o[k] for o in drawn]) for k in drawn[0]} if isinstance(drawn[0], dict) else np.stack(drawn)


def same_actions(one: Any, other: Any, seen: Any) -> bool:
    return bool(np.array_equal(one.predict(seen, deterministic=True)[0], other.predict(seen, deterministic=True)[0]))


@pytest.mark.parametrize(("name", "space"), CELLS)
def test_learns_and_plays_inside_its_space(name: str, space: str) -> None:
    agent = trained(name, space)
    for deterministic in (False, True):
        actions, _ = agent.predict(observations(agent), deterministic=deterministic)
        assert all(SPACES[space].contains(action) for action in actions)


def check_optimisers(policy: nn.Module, twice: Iterable[nn.Parameter] = ()) -> None:
    """Each parameter is in one optimiser; those of targets in none."""
    found = [optimiser for module in policy.modules() if (optimiser := getattr(module, "optimizer", None))]
    ours = [id(p) for optimiser in dict.fromkeys(found) for group in optimiser.param_groups for p in group["params"]]
    wanted = [p for key, p in policy.named_parameters() if "target" not in key]
    assert sorted(ours) == sorted(map(id, [*wanted, *twice]))


@pytest.mark.parametrize(("name", "space"), WAYS)
def test_every_parameter_is_trained_by_one_optimiser(name: str, space: str) -> None:
    bonus = {"ent_coef": 0.01} if takes(name, "ent_coef") else {}
    agent = AGENTS[name].make(Toy(action_space=SPACES[space]), **bonus)
    before = {key: value.clone() for key, value in agent.policy.state_dict().items()}
    check_optimisers(agent.policy)
    agent.learn(AGENTS[name].steps)
    for key, value in agent.policy.named_parameters():
        assert not torch.equal(value, before[key]), key


@pytest.mark.parametrize(("name", "space"), [cell for cell in CELLS if cell[0] in ON_POLICY])
def test_ratio_is_one_before_the_first_update(name: str, space: str) -> None:
    agent = AGENTS[name].make(Toy(action_space=SPACES[space]))
    agent.policy.set_training_mode(False)
    _, callback = agent._setup_learn(32)
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    for batch in agent.rollout_buffer.get(16):
        actions = batch.actions.long().flatten() if space == "choice" else batch.actions
        _, log_prob, _ = agent.policy.evaluate_actions(batch.observations, actions)
        torch.testing.assert_close((log_prob - batch.old_log_prob).exp(), torch.ones(16), atol=1e-5, rtol=0)


def kinds(name: str) -> dict[str, spaces.Space]:
    """Observations that are no vectors, by the policies that read them."""
    stem, picture = AGENTS[name].policy.removesuffix("Policy"), spaces.Box(0, 255, (36, 36, 3), np.uint8)
    both = spaces.Dict(picture=picture, numbers=VECTOR, choice=spaces.Discrete(3))
    return {f"{stem}CnnPolicy": picture, f"{stem}MultiInputPolicy": both}


@pytest.mark.parametrize("name", ON_POLICY)
def test_ratio_is_one_of_pictures_and_parts(name: str) -> None:
    """In the second rollout, too, into which latents are held; with one extractor for both, or two."""
    for (policy, space), shared in itertools.product(kinds(name).items(), (False, True)):
        agent = AGENTS[name].make(Toy(space), policy, policy_kwargs={"share_features_extractor": shared})
        agent.policy.set_training_mode(False)
        _, callback = agent._setup_learn(64)
        for _ in range(2):
            agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
        for batch in agent.rollout_buffer.get(16):
            _, log_prob, _ = agent.policy.evaluate_actions(batch.observations, batch.actions)
            torch.testing.assert_close((log_prob - batch.old_log_prob).exp(), torch.ones(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", AGENTS)
def test_parameters_of_pictures_and_parts_are_in_one_optimiser(name: str) -> None:
    """With one extractor for both, or two. One that TD3's actor shares is in its critic's as well, which has no
    gradient for it: so it is in the parent."""
    for (kind, space), shared in itertools.product(kinds(name).items(), (False, True)):
        policy = AGENTS[name].make(Toy(space), kind, policy_kwargs={"share_features_extractor": shared}).policy
        twice = shared and issubclass(AGENTS[name].algorithm, TD3)
        check_optimisers(policy, policy.actor.features_extractor.parameters() if twice else ())


@pytest.mark.parametrize("name", AGENTS)
def test_agents_of_pictures_and_parts_are_saved(name: str, tmp_path: Path) -> None:
    for policy, space in kinds(name).items():
        agent = AGENTS[name].make(Toy(space), policy)
        seen = observations(agent)
        agent.save(tmp_path / "agent.zip")
        agent.policy.save(str(tmp_path / "policy.zip"))
        other = AGENTS[name].make(Toy(space), policy, seed=7)
        other.set_parameters(agent.get_parameters())
        for twin in (
            AGENTS[name].algorithm.load(tmp_path / "agent.zip", device="cpu"),
            type(agent.policy).load(str(tmp_path / "policy.zip"), device="cpu"),
            other,
            *copies(agent.policy),
        ):
            assert same_actions(agent, twin, seen)


@pytest.mark.gpu
@pytest.mark.parametrize("name", AGENTS)
def test_what_a_gpu_learned_a_cpu_plays(name: str, tmp_path: Path) -> None:
    agent = AGENTS[name].make(make_vec_env(Toy, 2, seed=0), device="cuda").learn(AGENTS[name].steps)
    agent.save(tmp_path / "agent.zip")
    loaded = AGENTS[name].algorithm.load(tmp_path / "agent.zip", device="cpu")
    seen = observations(agent)
    played = [one.predict(seen, deterministic=True)[0] for one in (agent, loaded)]
    np.testing.assert_allclose(*played, atol=1e-4)


@pytest.mark.parametrize(("name", "space"), CELLS)
def test_deterministic_is_deterministic_and_the_rest_is_not(name: str, space: str) -> None:
    """Forty stochastic choices among at least four agree in 4⁻⁴⁰."""
    agent = AGENTS[name].make(Toy(action_space=SPACES[space]))
    seen = observations(agent, 40)
    assert same_actions(agent, agent, seen)
    assert not np.array_equal(agent.predict(seen)[0], agent.predict(seen)[0])


@pytest.mark.parametrize(("name", "space"), WAYS)
def test_saved_and_loaded(name: str, space: str, tmp_path: Path) -> None:
    agent = trained(name, space)
    seen = observations(agent)
    agent.save(tmp_path / "agent.zip")
    loaded = AGENTS[name].algorithm.load(tmp_path / "agent.zip", env=agent.get_env())
    assert same_actions(agent, loaded, seen)
    loaded.learn(AGENTS[name].steps)
    agent.policy.save(str(tmp_path / "policy.zip"))
    assert same_actions(agent, type(agent.policy).load(str(tmp_path / "policy.zip"), device="cpu"), seen)
    other = AGENTS[name].make(Toy(action_space=SPACES[space]), seed=7)
    assert space != "box" or not same_actions(agent, other, seen)
    other.set_parameters(agent.get_parameters())
    assert same_actions(agent, other, seen)
    weights = agent.policy.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in other.policy.state_dict().items())


@pytest.mark.parametrize("name", AGENTS)
def test_a_saved_policy_shares_its_extractor_as_before(name: str, tmp_path: Path) -> None:
    """Where that is not the default."""
    shared = name not in ON_POLICY
    policy = AGENTS[name].make(Toy(), policy_kwargs={"share_features_extractor": shared}).policy
    policy.save(str(tmp_path / "policy.zip"))
    assert type(policy).load(str(tmp_path / "policy.zip"), device="cpu").share_features_extractor is shared


def copies(policy: Any) -> list[Any]:
    return [copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))]


@pytest.mark.parametrize(("name", "space"), WAYS)
def test_copied_and_pickled(name: str, space: str) -> None:
    agent = trained(name, space)
    assert all(same_actions(agent, twin, observations(agent)) for twin in copies(agent.policy))


@pytest.mark.parametrize("name", STACKED)
def test_stacked_pictures(name: str, tmp_path: Path) -> None:
    """Two of three colours each, as stable-baselines3 stacks them."""
    policy, picture = next(iter(kinds(name).items()))
    env = VecFrameStack(AGENTS[name].wrap(make_vec_env(lambda: Toy(picture), 2, seed=0)), 2)
    agent = AGENTS[name].make(env, policy, wrapped=True).learn(AGENTS[name].steps)
    assert agent.observation_space.shape == (6, 36, 36)
    agent.save(tmp_path / "agent.zip")
    loaded = AGENTS[name].algorithm.load(tmp_path / "agent.zip", env=env, device="cpu")
    assert same_actions(agent, loaded, env.reset())
    assert np.isfinite(evaluate_policy(loaded, env, 2)[0])


@pytest.mark.parametrize("name", AGENTS)
def test_seeds_reproduce(name: str) -> None:
    runs = [trained(name, seed=seed).policy.state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    assert any(not torch.equal(runs[0][key], runs[2][key]) for key in runs[0])


@pytest.mark.parametrize("name", AGENTS)
def test_modes_of_dropout_and_the_like(name: str) -> None:
    agent = trained(name)
    agent.predict(observations(agent))
    assert not agent.policy.training
    # The last thing that learning does is a gradient step.
    agent.learn(AGENTS[name].steps)
    assert agent.policy.training


class Unsettled(FlattenExtractor):
    """Depends on its mode twice, by running statistics and by chance."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.layers = nn.Sequential(nn.BatchNorm1d(self.features_dim), nn.Dropout(0.5))

    def forward(self, observations: Tensor) -> Tensor:
        return self.layers(super().forward(observations))


@pytest.mark.parametrize("name", AGENTS)
def test_gradient_steps_alone_drop_and_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from_the_start = {"learning_starts": 0} if takes(name, "learning_starts") else {}
    agent = AGENTS[name].make(Toy(), policy_kwargs={"features_extractor_class": Unsettled}, **from_the_start)
    seen = observations(agent)

    def statistics() -> dict[str, Tensor]:
        assert same_actions(agent, agent, seen)
        return {key: value.clone() for key, value in agent.policy.state_dict().items() if "running" in key}

    before = statistics()
    with monkeypatch.context() as patch:
        patch.setattr(agent, "train", lambda *_, **__: None)
        agent.learn(AGENTS[name].steps)
    played = statistics()
    assert all(torch.equal(value, before[key]) for key, value in played.items())
    agent.learn(AGENTS[name].steps)
    assert not any(torch.equal(value, before[key]) for key, value in statistics().items())


def colours_last(observation: Any) -> Any:
    """Pictures as an environment with channels behind gives them."""
    if isinstance(observation, dict):
        return {key: colours_last(part) for key, part in observation.items()}
    return np.moveaxis(observation, -3, -1) if observation.dtype == np.uint8 else observation


@pytest.mark.parametrize("name", AGENTS)
def test_observations_of_other_kinds(name: str) -> None:
    """Extractors learn, and predict takes pictures in either order, one observation or several."""
    (cnn, picture), (multi, both) = kinds(name).items()
    first = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    in_parts = spaces.Dict(picture=first, numbers=VECTOR)
    for policy, space in ((cnn, picture), (cnn, first), (multi, both), (multi, in_parts)):
        agent = AGENTS[name].make(Toy(space), policy)
        before = {key: value.clone() for key, value in agent.policy.named_parameters()}
        agent.learn(AGENTS[name].steps)
        extractors = {key for key in before if "extractor" in key}
        assert extractors
        assert {key for key, value in agent.policy.named_parameters() if torch.equal(value, before[key])} == set()
        seen = observations(agent)
        actions = agent.predict(seen, deterministic=True)[0]
        assert all(BOX.contains(a) for a in actions)
        given = seen if space in (first, in_parts) else colours_last(seen)
        assert np.array_equal(agent.predict(given, deterministic=True)[0], actions)
        one = {key: part[0] for key, part in given.items()} if isinstance(given, dict) else given[0]
        np.testing.assert_allclose(agent.predict(one, deterministic=True)[0], actions[0], atol=1e-5)


@pytest.mark.parametrize("name", AGENTS)
def test_observations_of_all_flat_spaces(name: str, tmp_path: Path) -> None:
    for space in ("choice", "choices", "bits", "float64", "two-dimensional"):
        # With a seed, what is loaded would draw again what a file forgot.
        agent = AGENTS[name].make(Toy(SPACES[space]), seed=None).learn(AGENTS[name].steps)
        seen = observations(agent)
        assert all(BOX.contains(a) for a in agent.predict(seen)[0])
        agent.save(tmp_path / "agent.zip")
        loaded = AGENTS[name].algorithm.load(tmp_path / "agent.zip", env=agent.get_env())
        assert same_actions(agent, loaded, seen)


@pytest.mark.parametrize("name", AGENTS)
def test_plays_the_same_with_loaded_statistics(name: str, tmp_path: Path) -> None:
    def environments() -> Any:
        return AGENTS[name].wrap(make_vec_env(Toy, 2, seed=0))

    agent = AGENTS[name].make(VecNormalize(environments()), wrapped=True, seed=None).learn(AGENTS[name].steps)
    agent.save(tmp_path / "agent.zip")
    agent.get_vec_normalize_env().save(str(tmp_path / "statistics.pkl"))
    env = VecNormalize.load(str(tmp_path / "statistics.pkl"), environments())
    loaded = AGENTS[name].algorithm.load(tmp_path / "agent.zip", env=env)
    raw = 3.0 + observations(agent)
    seen = agent.get_vec_normalize_env().normalize_obs(raw)
    np.testing.assert_array_equal(loaded.get_vec_normalize_env().normalize_obs(raw), seen)
    assert same_actions(agent, loaded, seen)
    loaded.learn(AGENTS[name].steps)


@pytest.mark.parametrize(("name", "parts"), list(itertools.product(AGENTS, (False, True))))
def test_evaluations_do_not_disturb_learning(name: str, parts: bool) -> None:
    """With normalised and stacked observations, evaluated in the middle of rollouts: the same weights as without."""
    seen = spaces.Dict(one=VECTOR, other=BOX) if parts else VECTOR
    policy = (AGENTS[name].policy.removesuffix("Policy") + "MultiInputPolicy") if parts else None

    def environments(**options: Any) -> VecNormalize:
        stacked = VecFrameStack(AGENTS[name].wrap(make_vec_env(lambda: Toy(seen), 2, seed=0)), 2)
        return VecNormalize(stacked, norm_obs_keys=["one"] if parts else None, **options)

    agents = [AGENTS[name].make(environments(), policy, wrapped=True, seed=0) for _ in range(2)]
    watch = EvalCallback(environments(training=False), eval_freq=5, n_eval_episodes=2, verbose=0)
    for agent, callback in zip(agents, (None, watch), strict=True):
        agent.set_random_seed(0)  # both draw from torch's global generator
        agent.learn(4 * AGENTS[name].steps, callback=callback)
    assert watch.n_calls > 5
    first, second = (agent.policy.state_dict() for agent in agents)
    assert all(torch.equal(first[key], second[key]) for key in first)
    agents[0].set_env(environments())
    agents[0].learn(AGENTS[name].steps)


@pytest.mark.parametrize("name", AGENTS)
def test_bad_input(name: str) -> None:
    for wrong, message in AGENTS[name].wrong:
        with pytest.raises(LatentRLError, match=message):
            AGENTS[name].make(Toy(), policy_kwargs=wrong)
    with pytest.raises(LatentRLError, match=r"does not read observations with parts.*take its MultiInput form"):
        AGENTS[name].make(Toy(spaces.Dict(numbers=VECTOR)))
    cnn, multi = kinds(name)
    with pytest.raises(LatentRLError, match="reads observations with parts, not Box"):
        AGENTS[name].make(Toy(), multi)
    with pytest.raises(LatentRLError, match=r"pictures of \(20, 20\) pixels are too small"):
        AGENTS[name].make(Toy(spaces.Box(0, 255, (20, 20, 3), np.uint8)), cnn)
    with pytest.raises(AssertionError, match="only with images"):
        AGENTS[name].make(Toy(), cnn)
    several = spaces.Tuple([BOX, BOX]) if name in ON_POLICY else spaces.Discrete(3)
    with pytest.raises(AssertionError, match="only supports"):
        AGENTS[name].make(Toy(action_space=several))
    if takes(name, "use_sde"):
        with pytest.raises(LatentRLError, match="gSDE"):
            AGENTS[name].make(Toy(), use_sde=True)
    other = AGENTS[name].make(Toy(), policy_kwargs={"net_arch": [7]})
    with pytest.raises(RuntimeError, match="size mismatch"):
        AGENTS[name].make(Toy()).set_parameters(other.get_parameters())


ENDS: dict[str, Any] = {"box": (-0.5, 0.5), "choice": (0, 3), "choices": (0, [2, 1]), "bits": (0, 1)}
"""Between which two a reward chooses, by name of the space."""


class Sided(Toy):
    """Each action should be at one of two ends, by the sign of the first number that is seen.

    In units of their distance, an action at x costs x² or (1 − x)²: with eyes closed, a quarter at least.
    """

    def __init__(self, space: str) -> None:
        super().__init__(action_space=SPACES[space])
        self.ends = np.array(np.broadcast_arrays(*ENDS[space]), float)

    def reset(self, **options: Any) -> Any:
        self.seen, info = super().reset(**options)
        return self.seen, info

    def step(self, action: Any) -> Any:
        side = int(self.seen[0] > 0)
        miss = (action - self.ends[side]) / np.ptp(self.ends, 0)
        self.seen, _, *ends, info = super().step(action)
        return self.seen, -float(np.square(miss).mean()), *ends, info


QUICK = [("mixture PPO", "choice"), ("latent PPO, episode", "choice")]


@pytest.mark.parametrize(
    ("name", "space"),
    [cell if cell in QUICK else pytest.param(*cell, marks=pytest.mark.slow) for cell in CELLS if cell[1] in ENDS],
)
def test_learns_what_the_reward_asks_for(name: str, space: str) -> None:
    """Seeds 0 of environments and agent. A blind policy costs .25 a step at least, and less than half of that in 160
    steps once in 10¹⁷ (Hoeffding, whatever its actions)."""
    options, steps = AGENTS[name].lesson
    env = make_vec_env(lambda: Sided(space), 8, seed=0)
    agent = AGENTS[name].make(env, gamma=0.0, **options).learn(steps)
    assert evaluate_policy(agent, env, 20)[0] > -0.125 * 8
