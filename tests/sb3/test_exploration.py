"""Rewards for exploration against what is known of a channel and of a linear Gaussian model; files; agents."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.distributions import MultivariateNormal

from latentrl import Demonstrations, LatentRLError
from latentrl.sb3 import ModeCoverage, evaluate_behaviour
from latentrl.sb3.exploration import ExplorationCallback, NoveltyReward, SkillReward
from latentrl.sb3.exploration_bonus import CLIP, ExplorationBonus
from latentrl.sb3.latent_noise import LatentNoiseWrapper, NormalNoise
from tests.sb3.agents_table import BOX, VECTOR, Toy

QUICK: dict[str, Any] = {
    "batch_size": 64, "train_every": 16, "hidden": (16,), "learning_rate": 1e-2, "seed": 0, "device": "cpu",
}  # fmt: skip


class Channel(gym.Env):
    """A skill of K that is held for 3 steps, and a state that is another of K symbols with probability ``flip``."""

    def __init__(self, skills: int, flip: float) -> None:
        self.skills, self.flip = skills, flip
        self.observation_space = spaces.Dict(skill=spaces.MultiBinary(skills), seen=spaces.Box(-9, 9, (1,)))
        self.action_space = BOX

    def _seen(self, symbol: float) -> dict[str, Any]:
        one_hot = np.eye(self.skills, dtype=np.int8)[self.skill]
        return {"skill": one_hot, "seen": np.array([symbol], np.float32)}

    def reset(self, *, seed: int | None = None, **_: Any) -> Any:
        super().reset(seed=seed)
        self.skill, self.count = int(self.np_random.integers(self.skills)), 0
        return self._seen(-9.0), {}

    def step(self, action: Any) -> Any:  # noqa: ARG002
        self.count += 1
        other = (self.skill + self.np_random.integers(1, self.skills)) % self.skills
        symbol = other if self.np_random.random() < self.flip else self.skill
        return self._seen(float(symbol)), float(self.count), False, self.count == 3, {}


class Correlated(gym.Env):
    """A skill z ~ N(0, 1) and a state with correlation ``rho``, both new at each step."""

    def __init__(self, rho: float) -> None:
        self.rho, self.action_space = rho, BOX
        self.observation_space = spaces.Dict(skill=NormalNoise(1), seen=spaces.Box(-99, 99, (1,)))

    def _seen(self) -> dict[str, Any]:
        told = self.rho * self.z + math.sqrt(1 - self.rho**2) * self.np_random.standard_normal(1)
        self.z = self.np_random.standard_normal(1)
        return {"skill": self.z.astype(np.float32), "seen": told.astype(np.float32)}

    def reset(self, *, seed: int | None = None, **_: Any) -> Any:
        super().reset(seed=seed)
        self.z = np.zeros(1)
        return self._seen(), {}

    def step(self, action: Any) -> Any:  # noqa: ARG002
        return self._seen(), 0.0, False, False, {}


class Drawn(gym.Env):
    """States from a law; ``law`` can be changed on the way."""

    def __init__(self, law: Any, size: int = 2) -> None:
        self.law, self.observation_space, self.action_space = law, spaces.Box(-99, 99, (size,)), BOX

    def reset(self, *, seed: int | None = None, **_: Any) -> Any:
        super().reset(seed=seed)
        return self.law(self.np_random).astype(np.float32), {}

    def step(self, action: Any) -> Any:  # noqa: ARG002
        return self.law(self.np_random).astype(np.float32), 0.0, False, False, {}


def run(env: Any, steps: int, start: bool = True) -> list[Any]:
    """What each step returned."""
    if start:
        env.seed(0)
        env.reset()
    return [env.step(np.zeros((env.num_envs, 2), np.float32)) for _ in range(steps)]


@pytest.mark.parametrize(("skills", "flip"), [(2, 0.0), (4, 0.0), (2, 0.25), (3, 2 / 3)])
def test_the_bound_approaches_the_information_from_below(skills: int, flip: float) -> None:
    """I(z; s') = log K − H(flip) − flip log(K − 1) in closed form: log K without flips, 0 where all symbols are equal.

    The expectation is a sum over all z and s', without chance, so it is a bound up to rounding.
    """
    env = SkillReward(DummyVecEnv([lambda: Channel(skills, flip)] * 16), "skill", **QUICK)
    run(env, 200)
    noise = 0.0 if flip == 0 else -flip * math.log(flip / (skills - 1)) - (1 - flip) * math.log(1 - flip)
    information = math.log(skills) - noise
    z, s = (part.ravel() for part in np.meshgrid(range(skills), range(skills)))
    joint = np.where(z == s, 1 - flip, flip / (skills - 1)) / skills
    nats = env.nats({"skill": np.eye(skills)[z], "seen": s[:, None].astype(np.float32)})
    assert information - 0.03 <= joint @ nats <= information + 1e-6
    assert (nats <= math.log(skills) + 1e-6).all()


def test_normal_skills() -> None:
    """I = −½ log(1 − ρ²); the mean over 2000 fresh pairs, at most 4 standard errors above (false alarm
    3e-5) and 0.05 more below."""
    env = SkillReward(DummyVecEnv([lambda: Correlated(0.8)] * 16), "skill", **QUICK)
    run(env, 250)
    z = np.random.default_rng(0).standard_normal((2000, 1))
    s = 0.8 * z + 0.6 * np.random.default_rng(1).standard_normal((2000, 1))
    nats = env.nats({"skill": z.astype(np.float32), "seen": s.astype(np.float32)})
    error = nats.std() / math.sqrt(2000)
    assert -0.05 - 4 * error <= nats.mean() + 0.5 * math.log(1 - 0.64) <= 4 * error


def test_a_narrow_posterior_punishes_no_more_than_the_cut() -> None:
    """Of two dimensions, −5 nats each; what is above passes."""
    env = SkillReward(LatentNoiseWrapper(DummyVecEnv([Toy] * 4), 2), **QUICK)
    nats = np.array([-1e4, -10.5, -9.5, 3.0])
    np.testing.assert_array_equal(env._bonus(nats), [-10.0, -10.0, -9.5, 3.0])
    np.testing.assert_array_equal(skilled()._bonus(nats), nats)


def skilled(**options: Any) -> SkillReward:
    return SkillReward(LatentNoiseWrapper(DummyVecEnv([Toy] * 4), 3, kind="categorical"), **{**QUICK, **options})


def novel(**options: Any) -> NoveltyReward:
    return NoveltyReward(DummyVecEnv([Toy] * 4), **{**QUICK, **options})


def channel(**options: Any) -> SkillReward:
    return SkillReward(DummyVecEnv([lambda: Channel(3, 0.2)] * 4), "skill", **{**QUICK, **options})


@pytest.mark.parametrize("make", [skilled, channel])
def test_rewards_are_of_the_state_reached_and_the_skill_played(make: Any) -> None:
    """Also where an episode ends, and another one has begun with another skill."""
    env = make(scale=2.0, extrinsic=0.5)
    key = env.skill_key
    run(env, 20)
    env.train_every, ends = 10**9, 0  # it learns no more, but moments go on
    seen = env.reset()
    for _ in range(20):
        before = seen
        seen, rewards, dones, infos = env.step(np.zeros((4, 2), np.float32))
        reached = {name: part.copy() for name, part in seen.items()}
        for i in np.flatnonzero(dones):
            for name in reached:
                reached[name][i] = infos[i]["terminal_observation"][name]
        bonus = env.nats({**reached, key: before[key]})
        within = env.venv.unwrapped.buf_rews if key == "skill" else env.venv.venv.buf_rews
        np.testing.assert_allclose(rewards, 0.5 * within + 2.0 * bonus, rtol=1e-5, atol=1e-5)
        ends += dones.sum()
    assert ends


def test_novelty_is_the_negative_elbo() -> None:
    """A linear model, of which −log p(x) is a Gaussian's: never below it (4 standard errors: false alarm 3e-5),
    and at most 0.3 above.

    States are Gaussian with covariance I + 3·11ᵀ, so that one latent suffices.
    """
    law = lambda generator: generator.standard_normal(3) + math.sqrt(3) * generator.standard_normal()  # noqa: E731
    env = NoveltyReward(DummyVecEnv([lambda: Drawn(law, 3)] * 16), latent_dim=1, **{**QUICK, "hidden": ()})
    run(env, 300)
    generator = np.random.default_rng(0)
    states = np.array([law(generator) for _ in range(1000)], np.float32)
    nats = env.nats(states)
    decoder = env.model.decoder
    with torch.no_grad():
        made = decoder(torch.zeros(1, 0), torch.zeros(1, 1))
        weight: Any = decoder.head.weight  # type: ignore[union-attr]
        exact = MultivariateNormal(made.loc[0], weight @ weight.T + made.scale.square().reshape(-1).diag())
        log_p = exact.log_prob(env._standardized(torch.as_tensor(states))).numpy()
    gap = nats + log_p
    assert -4 * gap.std() / math.sqrt(1000) <= gap.mean() <= 0.3
    # −E log p is at least the entropy of standardised states with correlation 3/4, up to what clipping takes.
    correlation = np.full((3, 3), 0.75) + 0.25 * np.eye(3)
    entropy = 1.5 * math.log(2 * math.pi * math.e) + 0.5 * math.log(np.linalg.det(correlation))
    assert -0.1 <= -log_p.mean() - entropy <= 0.3


def test_what_is_visited_becomes_familiar_and_the_rest_does_not() -> None:
    places = {"left": np.array([-1.0, 0.0]), "right": np.array([1.0, 1.0])}
    around = lambda name: lambda generator: places[name] + 0.2 * generator.standard_normal(2)  # noqa: E731
    env = NoveltyReward(DummyVecEnv([lambda: Drawn(around("left"))] * 8), **QUICK)
    generator = np.random.default_rng(0)
    at = {name: np.array([around(name)(generator) for _ in range(50)], np.float32) for name in places}
    run(env, 20)
    first = {name: env.nats(states).mean() for name, states in at.items()}
    run(env, 150, start=False)
    second = {name: env.nats(states).mean() for name, states in at.items()}
    assert second["left"] < first["left"] - 0.3
    assert second["right"] > second["left"] + 15
    # Half of them go right: the first visits are worth most.
    env.set_attr("law", around("right"), indices=range(4))
    bonuses = np.array([rewards for _, rewards, *_ in run(env, 150, start=False)])
    assert (bonuses[0, :4] == CLIP).all()
    assert abs(bonuses[0, 4:]).max() < CLIP
    assert bonuses[-30:, :4].mean() < 1
    assert env.nats(at["right"]).mean() < second["right"] - 10


def test_bonus_is_standardised_and_an_outlier_does_not_silence_it() -> None:
    env = novel()
    run(env, 60)
    moments = env._statistics["nats"]
    mean, deviation, count = moments.mean, math.sqrt(moments.var), moments.count
    nats = np.array([mean - deviation, mean + 1e6, mean, mean + 2 * deviation])
    np.testing.assert_allclose(env._bonus(nats), [-1, CLIP, 0, 2], atol=1e-3)
    assert moments.count == pytest.approx(count + 4)
    assert math.sqrt(moments.var) < 1.2 * deviation
    # States come from one law. Of 4 · 100 bonuses, with forgetting over 200.
    bonuses = np.concatenate([rewards for _, rewards, *_ in run(novel(extrinsic=0.0, buffer_size=200), 200)[100:]])
    assert abs(bonuses.mean()) < 0.3
    assert bonuses.std() == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("make", [skilled, novel])
def test_seeds_reproduce_and_leave_the_agents_random_numbers_alone(make: Any) -> None:
    def rewards(**options: Any) -> Any:
        env = make(**options)
        state = torch.get_rng_state()
        made = np.array([step[1] for step in run(env, 30)])
        assert torch.equal(torch.get_rng_state(), state)
        return made

    np.testing.assert_array_equal(rewards(), rewards())
    assert not np.array_equal(rewards(), rewards(seed=1))
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(rewards(seed=None))
    np.testing.assert_array_equal(*drawn)
    assert not np.array_equal(drawn[0], rewards(seed=None))


@pytest.mark.parametrize("make", [skilled, novel])
def test_generators_of_gpus_are_left_alone(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks are on the CPU, and the agent may be on a GPU; torch.manual_seed would seed that."""
    monkeypatch.setattr(torch.random, "manual_seed", None)
    monkeypatch.setattr(torch, "manual_seed", None)
    run(make(seed=0), 30)


@pytest.mark.parametrize("make", [skilled, channel, novel])
@pytest.mark.parametrize("buffer_size", [100, 1000])
def test_a_restored_reward_goes_on_bit_for_bit(make: Any, buffer_size: int, tmp_path: Path) -> None:
    env = make(buffer_size=buffer_size, scale=0.5)
    run(env, 40)
    env.save(tmp_path / "reward.npz")
    loaded = type(env).load(tmp_path / "reward.npz", make().venv, device="cpu")
    env.venv = make().venv
    assert (loaded.seen, loaded.scale, loaded.buffer_size) == (160, 0.5, buffer_size)
    for mine, theirs in zip(run(env, 40), run(loaded, 40), strict=True):
        np.testing.assert_array_equal(mine[1], theirs[1])
    assert loaded.updates == env.updates > 15
    states = zip(env.model.state_dict().values(), loaded.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, path = skilled(), tmp_path / "reward.npz"
    env.save(path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            env.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["reward.npz"]
    with pytest.raises(LatentRLError, match=r"NoveltyReward.load|SkillReward.load"):
        NoveltyReward.load(path, DummyVecEnv([Toy]))
    four = LatentNoiseWrapper(DummyVecEnv([Toy]), 4, kind="categorical")
    with pytest.raises(LatentRLError, match=r"sizes \(3, 3\), but here they have \(4, 3\)"):
        SkillReward.load(path, four)
    with pytest.raises(LatentRLError, match=r"latents are of another kind, choices or numbers.*size mismatch"):
        SkillReward.load(path, LatentNoiseWrapper(DummyVecEnv([Toy]), 3))
    with pytest.raises(LatentRLError, match="no file"):
        SkillReward.load(tmp_path / "none.npz", four)
    for content in (b"", b"no archive", before[:200]):
        path.write_bytes(content)
        with pytest.raises(LatentRLError, match=r"cannot be read: give what SkillReward\.save wrote"):
            SkillReward.load(path, four)


@pytest.mark.parametrize("make", [skilled, novel])
def test_evaluation_shows_true_rewards(make: Any) -> None:
    env = make(training=False)
    for _, rewards, _, _ in run(env, 20):
        np.testing.assert_allclose(rewards, -0.5)  # action 0 lies 0.5 from the best in both dimensions
    assert (env.updates, env.seen, env.figures()) == (0, 0, {})


@pytest.mark.parametrize("make", [skilled, novel])
def test_agents_learn_log_and_are_saved(make: Any, tmp_path: Path) -> None:
    """With normalisation outside, and evaluation in between."""
    keys = {"norm_obs_keys": ["observation"]} if make is skilled else {}
    evaluation = VecNormalize(make(training=False), training=False, **keys)
    agent = PPO(
        "MultiInputPolicy" if make is skilled else "MlpPolicy",
        VecNormalize(make(), **keys), seed=0, device="cpu", n_steps=16, batch_size=16, n_epochs=1,
    )  # fmt: skip
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    saving = ExplorationCallback(32, str(tmp_path / "runs"), name_prefix="agent")
    watching = EvalCallback(evaluation, eval_freq=40, n_eval_episodes=2, verbose=0, warn=False)
    agent.learn(64 * 4, callback=[saving, watching], log_interval=1)
    assert watching.last_mean_reward < 0
    name = "skill" if make is skilled else "novelty"
    logged = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    assert {f"exploration/{name}_{key}" for key in ("bonus", "reward", "nats", "loss")} <= set(logged)
    made = sorted(file.name for file in (tmp_path / "runs").iterdir())
    assert made == sorted(f"agent_{middle}{steps}_steps.{end}" for steps in (128, 256)
                          for middle, end in (("", "zip"), (f"{name}_", "npz")))  # fmt: skip
    agent.logger.close()
    reward = type(make()).load(tmp_path / "runs" / f"agent_{name}_256_steps.npz", make().venv, device="cpu")
    loaded = PPO.load(tmp_path / "runs" / "agent_256_steps", VecNormalize(reward, **keys), device="cpu")
    loaded.learn(64, reset_num_timesteps=False, callback=ExplorationCallback())
    assert reward.seen == 256 + 64


@pytest.mark.parametrize("normalised", [False, True])
def test_off_policy(normalised: bool) -> None:
    """The buffer holds the bonus, and no VecNormalize keeps it from there."""
    inner = novel(extrinsic=0.0)
    agent = SAC(
        "MlpPolicy", VecNormalize(inner) if normalised else inner, seed=0, device="cpu", learning_starts=8,
        batch_size=8, policy_kwargs={"net_arch": [8]},
    )  # fmt: skip
    added: list[np.ndarray] = []
    step = inner.step_wait
    inner.step_wait = lambda: (made := step(), added.append(made[1].copy()))[0]  # type: ignore[method-assign]
    agent.learn(80, callback=ExplorationCallback())
    assert (inner.seen, inner.updates) == (80, 2)
    np.testing.assert_array_equal(agent.replay_buffer.rewards[:20], added)
    assert np.abs(added).max() > 0
    with pytest.raises(LatentRLError, match=r"go outside: VecNormalize\(NoveltyReward\(env\)\)"):
        NoveltyReward(VecNormalize(DummyVecEnv([Toy])), **QUICK)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4),
        spaces.MultiDiscrete([3, 2]),
        spaces.Box(0, 255, (6, 5, 3), np.uint8),
        spaces.Dict(where=VECTOR, choice=spaces.Discrete(3), bits=spaces.MultiBinary(2)),
    ],
)
def test_observations_of_other_kinds(space: spaces.Space) -> None:
    env = NoveltyReward(DummyVecEnv([lambda: Toy(space)] * 2), **QUICK)
    run(env, 60)
    assert env.updates
    assert all(np.isfinite(value) for value in env.figures().values())


def test_noise_is_not_novel_and_features_are_the_users() -> None:
    inside = LatentNoiseWrapper(DummyVecEnv([Toy] * 4), 5)
    assert NoveltyReward(inside, **QUICK).feature_dim == 3
    env = NoveltyReward(inside, features=lambda seen: seen["observation"][:, :1], **QUICK)
    assert env.feature_dim == 1
    run(env, 30)
    seen = env.reset()
    changed = {"observation": seen["observation"] * [[1, 5, 5]], "latent_noise": seen["latent_noise"] + 1}
    np.testing.assert_array_equal(env.nats(seen), env.nats(changed))


def test_bad_input() -> None:
    def ends_badly(generator: np.random.Generator) -> Any:
        return np.full(2, np.nan) if generator.random() < 0.5 else np.zeros(2)

    plain = DummyVecEnv([Toy])
    wrong: tuple[tuple[type[ExplorationBonus], Any, dict[str, Any], str], ...] = (
        (SkillReward, plain, {}, r"LatentNoiseWrapper\(env, n_skills"),
        (SkillReward, LatentNoiseWrapper(plain, 3), {"skill_key": "skill"}, "'skill' from the observation"),
        (NoveltyReward, Toy(), {}, "takes a VecEnv"),
        (NoveltyReward, plain, {"scale": -1.0}, "scale must be"),
        (NoveltyReward, plain, {"latent_dim": 0}, "latent_dim must be"),
        (NoveltyReward, plain, {"hidden": (0,)}, "hidden must be"),
        (NoveltyReward, plain, {"buffer_size": 10}, "buffer_size must be"),
        (NoveltyReward, DummyVecEnv([lambda: Toy(spaces.Box(0, 255, (84, 84, 3), np.uint8))]), {}, "give features="),
        (SkillReward, DummyVecEnv([lambda: Toy(spaces.Dict(latent_noise=spaces.Discrete(2)))]), {}, "0 features"),
    )
    for kind, venv, options, complaint in wrong:
        with pytest.raises(LatentRLError, match=complaint):
            kind(venv, **options)
    for values in ([0, 0, 0], [1, 1, 0], [1, 0.5, 0]):
        skill = spaces.Box(np.float32(values), np.float32(values))
        shown = DummyVecEnv([lambda skill=skill: Toy(spaces.Dict(skill=skill, seen=VECTOR))])
        with pytest.raises(LatentRLError, match="must be one-hot"):
            SkillReward(shown, "skill", **QUICK).reset()
    with pytest.raises(LatentRLError, match="not finite"):
        run(NoveltyReward(DummyVecEnv([lambda: Drawn(ends_badly)]), **QUICK), 30)
    silent = DummyVecEnv([Toy])
    wait = silent.step_wait
    silent.step_wait = lambda: (*(made := wait())[:3], [{} for _ in made[3]])  # type: ignore[method-assign]
    with pytest.raises(LatentRLError, match=r"without infos\[i\]\['terminal_observation'\]"):
        run(NoveltyReward(silent, **QUICK), 30)
    with pytest.raises(LatentRLError, match="rewards named novelty, novelty would write over each other's files"):
        PPO("MlpPolicy", NoveltyReward(novel(), **QUICK), device="cpu").learn(1, callback=ExplorationCallback())
    with pytest.raises(LatentRLError, match="has no SkillReward or NoveltyReward"):
        PPO("MlpPolicy", plain, n_steps=16, batch_size=16, device="cpu").learn(16, callback=ExplorationCallback())
    with pytest.raises(LatentRLError, match="give save_path"):
        ExplorationCallback(save_freq=10)


def test_what_plays_in_the_agents_environments_finds_true_rewards() -> None:
    """Evaluation and recording: the bonus neither learns nor counts, and goes on as before."""
    env = VecNormalize(novel(extrinsic=0.0))
    agent = PPO("MlpPolicy", env, n_steps=32, batch_size=32, seed=0, device="cpu").learn(256)
    inner = env.venv
    assert isinstance(inner, NoveltyReward)
    before = inner.seen, inner.updates, env.obs_rms.count
    found = evaluate_behaviour(agent, env, 4, seed=0)
    judged = novel(extrinsic=0.0)
    watch = ModeCoverage(VecNormalize(judged), 2, n_eval_episodes=4, eval_freq=64, verbose=0, warn=False)
    watch._log_success_callback = lambda *_: None  # type: ignore[method-assign]  # the task tells of no modes
    recorded = Demonstrations.from_sb3_agent(agent, env, 4)
    assert (inner.seen, inner.updates, env.obs_rms.count) == before
    assert (found.max_rewards <= 0.0).all()  # a bonus has both signs
    assert recorded.rewards is not None
    assert (recorded.rewards <= 0.0).all()
    assert inner.training
    assert env.training
    agent.learn(64, callback=watch)
    assert watch.last_mean_reward < 0.0
    assert judged.seen == 0


@pytest.mark.parametrize("make", [skilled, novel])
def test_rewards_that_are_made_anew_would_be_without_a_bonus(make: Any) -> None:
    """As HerReplayBuffer makes them; of environments to judge in they are the true ones."""

    class Asked(Toy):
        def compute_reward(self, *_: Any) -> float:
            return 3.0

    env = make()
    env.venv.unwrapped.envs = [Asked() for _ in range(4)]
    with pytest.raises(LatentRLError, match="HerReplayBuffer makes rewards anew"):
        env.env_method("compute_reward", 1, indices=[0])
    env.training = False
    assert env.env_method("compute_reward", 1, indices=[0]) == [3.0]


def test_skills_of_an_off_policy_agent() -> None:
    env = skilled(extrinsic=0.0)
    agent = SAC(
        "MultiInputPolicy", env, seed=0, device="cpu", learning_starts=8, batch_size=8, policy_kwargs={"net_arch": [8]}
    )
    agent.learn(160, callback=ExplorationCallback())
    assert env.seen == 160
    assert env.updates
    assert np.isfinite(agent.replay_buffer.rewards).all()
