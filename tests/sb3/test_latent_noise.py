"""Noise as an observation: its law, how long it is held, and what stock algorithms make of it."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from latentrl import LatentRLError
from latentrl.sb3.latent_noise import LatentNoiseExtractor, LatentNoiseWrapper, NormalNoise
from tests.sb3.agents_table import VECTOR, Toy

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
NOISE = "latent_noise"
KINDS = ["normal", "categorical"]
ON_POLICY: dict[str, Any] = {"n_steps": 16}
OFF_POLICY: dict[str, Any] = {"learning_starts": 8, "batch_size": 8, "buffer_size": 500, "gradient_steps": 2}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "PPO": ON_POLICY | {"batch_size": 16},
    "A2C": ON_POLICY,
    "SAC": OFF_POLICY,
    "TD3": OFF_POLICY,
    "DQN": OFF_POLICY,
    "TQC": OFF_POLICY,
}


def noisy(space: spaces.Space = VECTOR, n: int = 2, *, discrete: bool = False, dim: int = 3, **how: Any) -> VecEnv:
    act = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (2,))
    return LatentNoiseWrapper(make_vec_env(lambda: Toy(space, act), n), dim, **how)


def agent(name: str, env: VecEnv | None = None, extractor: dict[str, Any] | None = None, **options: Any) -> Any:
    made = {"PPO": PPO, "A2C": A2C, "SAC": SAC, "TD3": TD3, "DQN": DQN}.get(name)
    if made is None:
        made = pytest.importorskip("sb3_contrib").TQC
    kwargs = {"features_extractor_class": LatentNoiseExtractor, "net_arch": [16]}
    if extractor:
        kwargs["features_extractor_kwargs"] = extractor
    env = noisy(discrete=name == "DQN") if env is None else env
    options = {"seed": 0, "device": "cpu"} | ALGORITHMS[name] | options
    return made("MultiInputPolicy", env, policy_kwargs=kwargs, **options)


def seen_by(env: VecEnv, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise (T + 1, n, ...) and dones (T, n) under zero actions."""
    noise, dones = [env.reset()[NOISE]], []
    for _ in range(steps):
        observations, _, done, _ = env.step(np.zeros((env.num_envs, 2), np.float32))
        noise.append(observations[NOISE])
        dones.append(done)
    return np.stack(noise), np.stack(dones)


class Uneven(gym.Env):
    """Episodes of given lengths, one after another, and an observation that says when it was made."""

    observation_space = spaces.Box(0, 1000, (1,))
    action_space = spaces.Box(-1, 1, (2,))

    def __init__(self, lengths: list[int]) -> None:
        self.lengths, self.episode = lengths, -1

    def reset(self, *, seed: int | None = None, **_: Any) -> Any:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return np.zeros(1, np.float32), {}

    def step(self, _: Any) -> Any:
        self.t += 1
        over = self.t == self.lengths[self.episode % len(self.lengths)]
        return np.full(1, self.t, np.float32), 0.0, over, False, {}


# --- the noise -------------------------------------------------------------------------------------------------------


def test_normal_noise_is_normal_and_independent() -> None:
    """Kolmogorov–Smirnov of 12 samples of 2000, and χ² of all squares, at 1e-4 each; 66 correlations between and 12
    within, at 4.5 deviations: a false alarm in 1 of 500 seeds."""
    env = LatentNoiseWrapper(DummyVecEnv([lambda: Uneven([8])] * 4), 3, hold=1)
    env.seed(0)
    noise, _ = seen_by(env, 1999)
    columns = noise.reshape(2000, 12).astype(float)
    assert all(stats.kstest(column, "norm").pvalue > 1e-4 for column in columns.T)
    assert 5e-5 < stats.chi2(columns.size).cdf((columns**2).sum()) < 1 - 5e-5
    between = np.corrcoef(columns.T)[np.triu_indices(12, 1)]
    within = [np.corrcoef(column[1:], column[:-1])[0, 1] for column in columns.T]
    assert np.abs([*between, *within]).max() * np.sqrt(2000) < 4.5


def test_categorical_noise_is_uniform() -> None:
    """χ² of single choices and of pairs of successive ones, of 2 environments, at 1e-4 each."""
    env = LatentNoiseWrapper(DummyVecEnv([lambda: Uneven([8])] * 2), 4, hold=1, kind="categorical")
    env.seed(0)
    noise, _ = seen_by(env, 1999)
    assert noise.shape == (2000, 2)
    assert stats.chisquare(np.bincount(noise.ravel(), minlength=4)).pvalue > 1e-4
    for row in noise.T:
        assert stats.chisquare(np.bincount(row[::2] * 4 + row[1::2], minlength=16)).pvalue > 1e-4
    assert stats.chisquare(np.bincount(noise[:, 0] * 4 + noise[:, 1], minlength=16)).pvalue > 1e-4


@pytest.mark.parametrize("hold", [0, 1, 2, 3])
def test_held_as_long_as_a_loop_by_hand_says(hold: int) -> None:
    """Every observation is given the number of its segment by hand; noises agree where the numbers do, and only there.
    A terminal observation belongs to the segment in which the episode would have gone on."""
    lengths = [[3, 5, 1, 6], [4, 2]]
    env = LatentNoiseWrapper(DummyVecEnv([lambda own=own: Uneven(own) for own in lengths]), 2, hold)
    env.seed(0)
    first = env.reset()
    assert (first["observation"] == 0).all()
    segments: dict[tuple[int, int], list[np.ndarray]] = {(i, 0): [first[NOISE][i]] for i in range(2)}
    number, age, ends = [0, 0], [0, 0], 0
    for _ in range(60):
        observations, _, dones, infos = env.step(np.zeros((2, 2)))
        for i in range(2):
            age[i] += 1
            if hold and age[i] == hold:
                number[i], age[i] = number[i] + 1, 0
            if dones[i]:
                last = infos[i]["terminal_observation"]
                assert last["observation"] > 0 == observations["observation"][i]
                segments.setdefault((i, number[i]), []).append(last[NOISE])
                number[i], age[i], ends = number[i] + 1, 0, ends + 1
            segments.setdefault((i, number[i]), []).append(observations[NOISE][i])
    assert ends > 20
    assert all((noise == segment[0]).all() for segment in segments.values() for noise in segment)
    assert len({segment[0].tobytes() for segment in segments.values()}) == len(segments)


def test_terminal_observation_carries_the_noise_that_was_held() -> None:
    env = LatentNoiseWrapper(DummyVecEnv([lambda: Uneven([4])] * 2), 2)
    before = env.reset()[NOISE]
    for _ in range(4):
        observations, _, dones, infos = env.step(np.zeros((2, 2)))
    assert dones.all()
    for i in range(2):
        np.testing.assert_array_equal(infos[i]["terminal_observation"][NOISE], before[i])
        assert not np.isin(observations[NOISE][i], before[i]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_noise(kind: str) -> None:
    def run(seed: int) -> np.ndarray:
        env = noisy(hold=2, kind=kind, dim=9)
        env.reset()
        env.seed(seed)
        return seen_by(env, 30)[0]

    np.testing.assert_array_equal(run(5), run(5))
    assert not np.array_equal(run(5), run(6))
    twins = noisy(kind=kind, dim=9), noisy(kind=kind, dim=9)
    assert not np.array_equal(*(seen_by(env, 30)[0] for env in twins))  # unseeded


def test_noise_is_not_what_environments_draw_with_the_same_seed() -> None:
    class Drawing(Uneven):
        def reset(self, **how: Any) -> Any:
            super().reset(**how)
            self.drawn = self.np_random.standard_normal(3, np.float32)
            return np.zeros(1, np.float32), {}

    env = LatentNoiseWrapper(DummyVecEnv([lambda: Drawing([3])] * 2), 3)
    env.seed(5)
    noise = env.reset()[NOISE]
    assert not np.isin(noise, np.stack(env.get_attr("drawn"))).any()


def test_observations_are_no_views() -> None:
    env = noisy()
    one = env.reset()[NOISE]
    kept = one.copy()
    env.reset()
    np.testing.assert_array_equal(one, kept)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_can_be_chosen(kind: str) -> None:
    env = VecNormalize(noisy(hold=1, kind=kind, dim=4), norm_obs_keys=["observation"])
    env.seed(0)
    shared, own = (2, [3, 0]) if kind == "categorical" else (np.full(4, 0.5), np.arange(8).reshape(2, 4))
    for chosen in (shared, own):
        env.hold_noise(chosen)
        noise, dones = seen_by(env, 20)
        assert dones.any()
        np.testing.assert_array_equal(noise, np.broadcast_to(chosen, noise.shape))
    env.hold_noise(None)
    bad = [4, [1], [1, 2, 3], 0.5] if kind == "categorical" else [1.0, np.zeros(3), np.full(4, np.nan), ["a"] * 4]
    for values in bad:
        with pytest.raises(LatentRLError, match="noise to hold"):
            env.hold_noise(values)
    noise, _ = seen_by(env, 20)
    assert len(np.unique(noise)) > 3  # one of four choices is missed in some 40 draws once in 40 000 times


def test_space_of_normal_noise() -> None:
    space = NormalNoise(3, seed=0)
    drawn = space.sample()
    assert drawn in space
    assert drawn.dtype == space.dtype == np.float32
    for other in (drawn[:2], np.full(3, np.inf), np.array(["a", "b", "c"])):
        assert other not in space
    for twin in (copy.deepcopy(space), pickle.loads(pickle.dumps(space)), NormalNoise(3)):
        assert twin == space
    assert space != NormalNoise(4)
    assert spaces.MultiBinary(3) not in (space,)
    columns = np.stack([space.sample() for _ in range(2000)]).T
    assert all(stats.kstest(column, "norm").pvalue > 1e-4 for column in columns)  # false alarms: 3e-4


# --- other wrappers --------------------------------------------------------------------------------------------------


def test_normalised_outside_and_only_where_asked() -> None:
    """Uniform numbers end 1.8 deviations out, the raw ones from 5 on: below 1e-9."""
    inner = noisy(spaces.Box(5, 9, (3,)))
    env = VecNormalize(inner, norm_obs_keys=["observation"])
    env.reset()
    for _ in range(50):
        observations, _, dones, infos = env.step(np.zeros((2, 2), np.float32))
        np.testing.assert_array_equal(observations[NOISE], inner._noise)
        for i in np.flatnonzero(dones):
            assert infos[i]["terminal_observation"]["observation"].mean() < 4  # normalised
            assert infos[i]["terminal_observation"][NOISE] in inner.noise_space
    assert np.abs(observations["observation"]).max() < 4
    with pytest.raises(ValueError, match=f"{NOISE} is of type NormalNoise.*norm_obs_keys"):
        VecNormalize(noisy())
    for inside in (VecNormalize(make_vec_env(Toy, 2)), VecFrameStack(VecNormalize(make_vec_env(Toy, 2)), 2)):
        with pytest.raises(LatentRLError, match=r"VecNormalize\(LatentNoiseWrapper\(env\), norm_obs_keys"):
            LatentNoiseWrapper(inside)


def test_frames_are_stacked_inside() -> None:
    env = LatentNoiseWrapper(VecFrameStack(make_vec_env(Toy, 2), 4), 3)
    assert env.reset()["observation"].shape == (2, 12)
    noise, dones = seen_by(env, 20)
    assert noise.shape == (21, 2, 3)
    changed = (noise[1:] != noise[:-1]).any(-1)
    np.testing.assert_array_equal(changed, dones)
    with pytest.raises(TypeError, match="NormalNoise"):
        VecFrameStack(noisy(), 2)


@pytest.mark.parametrize("normalised", [False, True])
def test_replay_buffers_remember_the_noise(normalised: bool) -> None:
    env: VecEnv = LatentNoiseWrapper(DummyVecEnv([lambda: Uneven([7, 5])] * 2), 2, hold=3)
    if normalised:
        env = VecNormalize(env, norm_obs_keys=["observation"])
    model = agent("SAC", env, learning_starts=1000).learn(120)
    buffer = model.replay_buffer
    noise, after = buffer.observations[NOISE][:60], buffer.next_observations[NOISE][:60]
    age, done = buffer.next_observations["observation"][:60, :, 0], buffer.dones[:60].astype(bool)
    assert done.sum() > 10
    due = age % 3 == 0  # episodes of 7 and 5 steps never end where noise is due
    np.testing.assert_array_equal((noise == after).all(-1), ~due)
    np.testing.assert_array_equal((noise[1:] == after[:-1]).all(-1), ~done[:-1])
    batch = buffer.sample(50, env=model.get_vec_normalize_env())
    stored = {row.tobytes() for row in noise.reshape(-1, 2)}
    assert all(row.tobytes() in stored for row in batch.observations[NOISE].numpy())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_evaluated_while_learning(name: str) -> None:
    """Without disturbing it: the same weights as without evaluation."""

    def normalised() -> VecNormalize:
        return VecNormalize(noisy(discrete=name == "DQN"), norm_obs_keys=["observation"])

    found = []
    for watch in (None, EvalCallback(normalised(), eval_freq=5, n_eval_episodes=2, verbose=0)):
        model = agent(name, normalised())
        model.learn(64, callback=watch)
        found.append(model.policy.state_dict())
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
    assert np.isfinite(evaluate_policy(model, model.get_env(), 2)[0])


def test_environments_without_the_wrapper_are_refused(tmp_path: Path) -> None:
    model = agent("PPO")
    model.save(tmp_path / "agent.zip")
    for other in (make_vec_env(Toy, 2), noisy(dim=4), noisy(kind="categorical")):
        with pytest.raises(ValueError, match=f"do not match.*{NOISE}"):
            model.set_env(other)
        with pytest.raises(ValueError, match=f"do not match.*{NOISE}"):
            PPO.load(tmp_path / "agent.zip", env=other, device="cpu")
    parts = spaces.Dict(a=VECTOR, b=spaces.Discrete(3))
    model = agent("PPO", noisy(parts)).learn(32)
    with pytest.raises(LatentRLError, match="has a, b: wrap the environment"):
        evaluate_policy(model, make_vec_env(lambda: Toy(parts), 1), 1)


# --- the extractor ---------------------------------------------------------------------------------------------------


def latents(model: BaseAlgorithm, extractor: LatentNoiseExtractor, observations: dict[str, np.ndarray]) -> torch.Tensor:
    tensors, _ = model.policy.obs_to_tensor(observations)
    with torch.no_grad():
        return model.policy.extract_features(tensors, extractor)[:, extractor.extractor.features_dim :]


@pytest.mark.parametrize("name", ["PPO", "SAC"])
@pytest.mark.parametrize("kind", KINDS)
def test_latent_starts_as_the_noise(name: str, kind: str) -> None:
    """In spite of the orthogonal initialisation of on-policy policies."""
    env = noisy(kind=kind)
    model = agent(name, env)
    observations = env.reset()
    z = latents(model, getattr(model, "actor", model.policy).features_extractor, observations)
    wanted = np.eye(3)[observations[NOISE]] if kind == "categorical" else observations[NOISE]
    np.testing.assert_allclose(z, wanted, atol=2e-3)


def test_latent_is_mean_plus_deviation_times_noise() -> None:
    """Against NumPy in float64."""
    extractor = LatentNoiseExtractor(noisy().observation_space)
    torch.nn.init.normal_(extractor.weight)
    torch.nn.init.normal_(extractor.bias)
    s, noise = torch.randn(5, 3), torch.randn(5, 3)
    out = extractor({"observation": s, NOISE: noise}).detach().numpy()
    weight, bias = (p.detach().double().numpy() for p in (extractor.weight, extractor.bias))
    mean, raw = np.split(s.double().numpy() @ weight.T + bias, 2, axis=1)
    expected = mean + (np.log1p(np.exp(raw)) + 1e-4) * noise.double().numpy()
    np.testing.assert_allclose(out, np.concatenate([s, expected], 1), rtol=1e-5, atol=1e-5)
    assert extractor.features_dim == 6


def test_features_come_from_what_suits_the_observation() -> None:
    picture = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    parts = spaces.Dict(picture=picture, numbers=VECTOR, choice=spaces.Discrete(3))
    for space, kind, size in (
        (VECTOR, FlattenExtractor, 3),
        (picture, NatureCNN, 512),
        (parts, CombinedExtractor, 262),
    ):
        made = LatentNoiseExtractor(noisy(space).observation_space)
        assert type(made.extractor) is kind
        assert made.features_dim == size + 3
    small = LatentNoiseExtractor(noisy(picture).observation_space, NatureCNN, {"features_dim": 7})
    assert small.features_dim == 10
    with pytest.raises(LatentRLError, match="wrap the environment in LatentNoiseWrapper"):
        LatentNoiseExtractor(VECTOR)
    with pytest.raises(LatentRLError, match="wrap the environment in LatentNoiseWrapper"):
        agent("PPO", make_vec_env(lambda: Toy(parts), 2))


@pytest.mark.parametrize("shape", [(3, 36, 36), (36, 36, 3)])
@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_pictures(name: str, shape: tuple[int, ...]) -> None:
    env = noisy(spaces.Box(0, 255, shape, np.uint8), discrete=name == "DQN")
    model = agent(name, env, {"features_extractor_kwargs": {"features_dim": 8}})
    assert isinstance(model.get_env(), VecTransposeImage) == (shape[0] == 36)
    assert model.observation_space["observation"].shape == (3, 36, 36)
    model.learn(32)
    raw = env.reset()
    turned = raw | {"observation": raw["observation"].transpose(0, 3, 1, 2)} if shape[0] == 36 else raw
    actions = [model.predict(seen, deterministic=True)[0] for seen in (raw, turned)]
    np.testing.assert_array_equal(*actions)


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(4), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3), spaces.Box(-1, 1, (2, 2))],
    ids=repr,
)
@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_observations_of_all_flat_spaces(name: str, space: spaces.Space) -> None:
    """As one-hot vectors, or as they are; the agent learns and plays by them."""
    env = noisy(space)
    model = agent(name, env).learn(48)
    assert LatentNoiseExtractor(env.observation_space).features_dim == spaces.flatdim(space) + 3
    assert np.isfinite(evaluate_policy(model, env, 2)[0])


# --- the algorithms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_parameter_is_trained_by_one_optimiser(name: str) -> None:
    model = agent(name, noisy(discrete=name == "DQN", kind="categorical" if name == "A2C" else "normal"))
    before = copy.deepcopy(model.policy.state_dict())
    owners = [m for m in model.policy.modules() if isinstance(getattr(m, "optimizer", None), torch.optim.Optimizer)]
    ours = [id(p) for m in owners for group in m.optimizer.param_groups for p in group["params"]]
    wanted = {key: p for key, p in model.policy.named_parameters() if "target" not in key}
    assert sorted(ours) == sorted(map(id, wanted.values()))
    assert any(key.endswith("features_extractor.weight") for key in wanted)
    model.learn(48)
    for key, value in wanted.items():
        means_and_scales = key.endswith(("features_extractor.weight", "features_extractor.bias"))
        for part, old in zip(*(t.chunk(2 if means_and_scales else 1) for t in (value, before[key])), strict=True):
            assert not torch.equal(part, old), key


@pytest.mark.parametrize("name", ["PPO", "A2C"])
@pytest.mark.parametrize("hold", [0, 1, 3])
def test_ratio_is_one_before_the_first_update(name: str, hold: int) -> None:
    model = agent(name, noisy(hold=hold))
    _, callback = model._setup_learn(32)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 16)
    for batch in model.rollout_buffer.get(16):
        _, log_prob, _ = model.policy.evaluate_actions(batch.observations, batch.actions)
        torch.testing.assert_close((log_prob - batch.old_log_prob).exp(), torch.ones(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_saved_loaded_and_deterministic_given_the_noise(name: str, tmp_path: Path) -> None:
    env = noisy(discrete=name == "DQN")
    model = agent(name, env).learn(48)
    env.hold_noise(np.zeros(3))
    rows = [env.reset() for _ in range(30)]
    seen = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
    play: Callable[[Any, Any], np.ndarray] = lambda who, what: who.predict(what, deterministic=True)[0]  # noqa: E731
    actions = play(model, seen)
    np.testing.assert_array_equal(play(model, seen), actions)
    assert (play(model, seen | {NOISE: np.full((60, 3), 30.0, np.float32)}) != actions).any()
    model.save(tmp_path / "agent.zip")
    loaded = type(model).load(tmp_path / "agent.zip", env=env, device="cpu")
    np.testing.assert_array_equal(play(loaded, seen), actions)
    loaded.learn(48)
    model.policy.save(str(tmp_path / "policy.zip"))
    other = agent(name, noisy(discrete=name == "DQN"), seed=7)
    other.set_parameters(model.get_parameters())
    for twin in (
        type(model.policy).load(str(tmp_path / "policy.zip"), "cpu"),
        other,
        copy.deepcopy(model.policy),
        pickle.loads(pickle.dumps(model.policy)),
    ):
        np.testing.assert_array_equal(play(twin, seen), actions)
    model.set_env(noisy(discrete=name == "DQN"))
    model.learn(48)


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_training_reproduces(name: str) -> None:
    runs = [agent(name, noisy(hold=3), seed=seed).learn(48).policy.state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    assert any(not torch.equal(runs[0][key], runs[2][key]) for key in runs[0])


def test_stock_policies_need_no_extractor() -> None:
    assert PPO("MultiInputPolicy", noisy(), **ON_POLICY, batch_size=16, device="cpu").learn(32).num_timesteps == 32


def test_bad_input() -> None:
    plain = make_vec_env(Toy, 2)
    with pytest.raises(LatentRLError, match="takes a VecEnv"):
        LatentNoiseWrapper(Toy())
    for options, match in (
        ({"latent_dim": 0}, "latent_dim must be"),
        ({"hold": -1}, "hold must be"),
        ({"hold": 1.5}, "hold must be"),
        ({"kind": "uniform"}, "unknown kind 'uniform'"),
    ):
        with pytest.raises(LatentRLError, match=match):
            LatentNoiseWrapper(plain, **options)
    with pytest.raises(LatentRLError, match=f"already has a part '{NOISE}'"):
        LatentNoiseWrapper(LatentNoiseWrapper(plain))


# --- what it is good for ---------------------------------------------------------------------------------------------


class Patches(gym.Env):
    """Two patches, and nothing to see: to keep to the one that the episode began with pays, the less the more often it
    was begun with lately.

    A policy that goes to the first with probability p at every step, whatever happened, gets 1.0125 p(1 − p) ≤ 0.253 a
    step; choosing anew for each episode, with equal chances, and keeping to it, 0.45.
    """

    observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
    visits = 0.5

    def reset(self, *, seed: int | None = None, **_: Any) -> Any:
        super().reset(seed=seed)
        self.t, self.home = 0, -1
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        if self.t == 0:
            self.home = int(action)
            self.visits += 0.1 * (self.home - self.visits)
        self.t += 1
        worth = 1 - self.visits if self.home else self.visits
        return np.zeros(1, np.float32), worth * (action == self.home), self.t == 8, False, {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_held_noise_solves_what_no_policy_without_it_can(kind: str) -> None:
    env = LatentNoiseWrapper(DummyVecEnv([Patches] * 8), 2, kind=kind)
    schooling = {"n_steps": 64, "batch_size": 128, "n_epochs": 4, "gamma": 0.9, "learning_rate": 5e-3}
    model = agent("PPO", env, **schooling).learn(15_000)
    observations, earned = env.reset(), []
    for _ in range(400):
        observations, rewards, _, _ = env.step(model.predict(observations)[0])
        earned.append(rewards.mean())
    assert np.mean(earned) > 0.35
