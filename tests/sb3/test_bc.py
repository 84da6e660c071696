"""LatentBC as a stable-baselines3 algorithm: learn, predict, evaluate, save, load, log."""

import base64
import json
import math
import re
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from latentrl import CorrectiveNoise, Demonstrations, LatentConfig, LatentRLError
from latentrl.estimators import LeaveOneOut, Pathwise, Rebar, RunningMean, ScoreFunction, Vimco
from latentrl.sb3 import LatentBC, LatentPolicy, defaults
from latentrl.sb3.bc_log import UpdateBar
from latentrl.sb3.defaults import default_noise
from latentrl.schedules import Constant, KLConstraint, KLRange

TRACE = "latentrl_envs:latentrl/Trace-v0"
SMALL = {"latent_dim": 2, "hidden": (16,), "n_components": 4, "context_length": 6}


@pytest.fixture
def trace_demos() -> Demonstrations:
    """8 episodes of 100 steps in Trace, half up, half down."""
    env = gym.make(TRACE)
    observations, actions = [], []
    for episode in range(8):
        observation, _ = env.reset(seed=episode)
        for step in range(100):
            action = np.array([0.3, (-1) ** episode * np.sin(step / 20)], np.float32)
            observations.append(observation)
            actions.append(action)
            observation, *_ = env.step(action)
    return Demonstrations.from_arrays(
        np.array(observations), np.array(actions), [100] * 8, env.observation_space, env.action_space
    )


def small(demonstrations: Demonstrations | None, **options: Any) -> LatentBC:
    kwargs = {**SMALL, **options.pop("policy_kwargs", {})}
    return LatentBC(demonstrations=demonstrations, policy_kwargs=kwargs, batch_size=8, seed=0, device="cpu", **options)


@pytest.mark.parametrize("vec_env", [DummyVecEnv, SubprocVecEnv])
def test_loaded_policy_evaluates(trace_demos: Demonstrations, tmp_path: Path, vec_env: type) -> None:
    small(trace_demos).learn(5).save(tmp_path / "bc")
    env = make_vec_env(TRACE, n_envs=2, vec_env_cls=vec_env)
    agent = LatentBC.load(tmp_path / "bc", env)
    for deterministic in (True, False):
        rewards, lengths = evaluate_policy(
            agent, env, n_eval_episodes=4, deterministic=deterministic, return_episode_rewards=True
        )
        assert (rewards, lengths) == ([0.0] * 4, [100] * 4)
    env.close()


@pytest.mark.parametrize("hold", [0, 5, 1])
@pytest.mark.parametrize("prior", ["normal", "vamp"])
def test_save_and_load_predict_alike(trace_demos: Demonstrations, tmp_path: Path, hold: int, prior: str) -> None:
    agent = small(trace_demos, policy_kwargs={"hold": hold, "prior": prior}).learn(3)
    agent.save(tmp_path / "bc.zip")
    loaded = LatentBC.load(tmp_path / "bc.zip", device="cpu")
    observation = trace_demos.observations[:6]
    for arguments in ({"deterministic": True}, {"deterministic": False}, {"latent": np.array([0.5, -1.0])}):
        torch.manual_seed(4)
        mine, state = agent.predict(observation, **arguments)  # type: ignore[arg-type]
        torch.manual_seed(4)
        theirs, other = loaded.predict(observation, **arguments)  # type: ignore[arg-type]
        np.testing.assert_array_equal(mine, theirs)
        assert state is not None
        assert other is not None
        np.testing.assert_array_equal(state[0], other[0])


def test_the_range_of_the_kl_is_that_of_the_data_at_hand(trace_demos: Demonstrations, tmp_path: Path) -> None:
    """Log N of other data, with β = 1 where learning begins anew, and as it was where it goes on."""
    few, many = trace_demos.select(range(4)), trace_demos
    first = small(few, policy_kwargs={"n_components": 2}).learn(4)
    first.kl_weight._above = 0.5
    first.save(tmp_path / "bc")
    for reset, above in ((True, 0.0), (False, 0.5)):
        loaded = LatentBC.load(tmp_path / "bc", demonstrations=many, device="cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded.learn(1, reset_num_timesteps=reset)
        assert loaded.kl_weight.high == pytest.approx(np.log(many.num_episodes))
        assert loaded.kl_weight._above == pytest.approx(above, abs=0.1)
    given = LatentBC.load(tmp_path / "bc", demonstrations=many, device="cpu", kl_weight=(own := Constant(0.1)))
    assert given.learn(1).kl_weight is own


def test_loaded_agent_goes_on_where_it_stopped(trace_demos: Demonstrations, tmp_path: Path) -> None:
    """With the optimiser's state saved, the next update from a file equals the next update in memory."""
    agent = small(trace_demos, learning_rate=1e-3).learn(4)
    agent.save(tmp_path / "bc")
    loaded = LatentBC.load(tmp_path / "bc", demonstrations=trace_demos, device="cpu")
    assert (loaded.num_timesteps, loaded._n_updates) == (4, 4)
    for one in (agent, loaded):
        torch.manual_seed(9)
        one.learn(2, reset_num_timesteps=False)
        assert one.num_timesteps == 6
    for a, b in zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_same_seed_same_policy(trace_demos: Demonstrations) -> None:
    first, second = (small(trace_demos).learn(5) for _ in range(2))
    for a, b in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_failed_save_keeps_the_old_file(
    trace_demos: Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = small(trace_demos)
    agent.save(tmp_path / "bc")
    before = (tmp_path / "bc.zip").read_bytes()
    monkeypatch.setattr(agent, "get_parameters", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        agent.save(tmp_path / "bc")
    assert (tmp_path / "bc.zip").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["bc.zip"]


def test_demonstrations_are_not_saved(trace_demos: Demonstrations, tmp_path: Path) -> None:
    small(trace_demos).save(tmp_path / "bc")
    loaded = LatentBC.load(tmp_path / "bc")
    with pytest.raises(LatentRLError, match="give demonstrations= to LatentBC or to load"):
        loaded.learn(1)


class Counter(BaseCallback):
    def __init__(self, stop_at: int = 10**9) -> None:
        super().__init__()
        self.stop_at = stop_at

    def _on_step(self) -> bool:
        return self.n_calls < self.stop_at


def test_callbacks_and_progress_bar(trace_demos: Demonstrations, tmp_path: Path) -> None:
    env = make_vec_env(TRACE, n_envs=2)
    agent = small(trace_demos, env=env)
    counter = Counter()
    evaluation = EvalCallback(make_vec_env(TRACE, n_envs=2), eval_freq=4, n_eval_episodes=2, verbose=0)
    checkpoints = CheckpointCallback(save_freq=3, save_path=str(tmp_path))
    agent.learn(7, callback=[counter, evaluation, checkpoints], progress_bar=True)
    assert (counter.n_calls, counter.num_timesteps) == (7, 7)
    assert evaluation.last_mean_reward == 0.0
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == ["rl_model_3_steps.zip", "rl_model_6_steps.zip"]
    stopper = Counter(stop_at=2)
    assert small(trace_demos).learn(9, callback=stopper).num_timesteps == 2


def test_environments_come_later_and_are_not_normalised(trace_demos: Demonstrations, tmp_path: Path) -> None:
    """Observations that the policy was not cloned on would be played without a word."""
    agent = small(trace_demos, env=make_vec_env(TRACE))
    agent.set_env(VecNormalize(make_vec_env(TRACE, n_envs=3), norm_obs=False))
    judged = VecNormalize(make_vec_env(TRACE), norm_obs=False)
    watch = EvalCallback(judged, eval_freq=1, n_eval_episodes=1, verbose=0)
    agent.learn(1, callback=watch)
    assert np.isfinite(watch.last_mean_reward)
    agent.save(tmp_path / "agent")
    normalised = VecNormalize(make_vec_env(TRACE))
    for attempt in (
        lambda: small(trace_demos, env=normalised),
        lambda: agent.set_env(normalised),
        lambda: LatentBC.load(tmp_path / "agent", env=normalised),
    ):
        with pytest.raises(LatentRLError, match="give the env without it, or with norm_obs=False"):
            attempt()


def test_evaluation_does_not_disturb_training(trace_demos: Demonstrations) -> None:
    """predict leaves eval mode behind; the next update must not."""
    agent = small(trace_demos, env=make_vec_env(TRACE))
    modes = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            modes.append(self.model.policy.training)
            self.model.predict(trace_demos.observations[:1])
            return True

    agent.learn(3, callback=Look())
    assert modes == [True] * 3


def test_logger_writes_csv_and_tensorboard(trace_demos: Demonstrations, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    agent = small(trace_demos)
    agent.set_logger(configure(str(tmp_path / "logs"), ["csv", "tensorboard"]))
    agent.learn(4, log_interval=2)
    agent.logger.close()
    header, *rows = (tmp_path / "logs" / "progress.csv").read_text().splitlines()
    assert {"train/elbo", "train/kl", "train/reconstruction", "train/active_units", "train/kl_weight"} <= set(
        header.split(",")
    )
    assert len(rows) == 2
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))
    named = small(trace_demos, tensorboard_log=str(tmp_path / "board")).learn(2, tb_log_name="mine", log_interval=1)
    named.logger.close()
    assert named.logger.dir is not None
    assert Path(named.logger.dir).name == "mine_1"


def test_discrete_actions(tmp_path: Path) -> None:
    """Cloning 'act like the sign of the first observation' in a Discrete space."""
    observations = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    data = Demonstrations.from_arrays(
        observations, (observations[:, 0] > 0).astype(int), [20] * 20, action_space=spaces.Discrete(2)
    )
    # Without warm-up: a latent that is free at first learns to say the action itself, and p(z) knows no state.
    agent = LatentBC(
        demonstrations=data, policy_kwargs={**SMALL, "hold": 1}, batch_size=128, kl_warmup=0.0, seed=0, device="cpu"
    )
    with pytest.warns(UserWarning, match="has collapsed at update 200.*KLRange"):  # rightly: there is one behaviour
        agent.learn(400)
    played, _ = agent.predict(observations)
    assert (played == data.actions).mean() > 0.95
    agent.save(tmp_path / "bc")
    assert LatentBC.load(tmp_path / "bc").action_space == spaces.Discrete(2)


def test_kl_weight_is_faded_in(trace_demos: Demonstrations, tmp_path: Path) -> None:
    agent = small(trace_demos, kl_weight=2.0, kl_warmup=0.5)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(8, log_interval=1)
    agent.logger.close()
    header, *rows = (tmp_path / "progress.csv").read_text().splitlines()
    column = header.split(",").index("train/kl_weight")
    assert [float(row.split(",")[column]) for row in rows] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0]


def test_non_finite_loss_stops(trace_demos: Demonstrations) -> None:
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        small(trace_demos, learning_rate=1e30, kl_warmup=0.0).learn(20, log_interval=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"steps_per_segment": 0}, "steps_per_segment"),
        ({"kl_weight": -1.0}, "beta"),
        ({"kl_warmup": 1.5}, "kl_warmup is a share"),
        ({"device": "cuda:77"}, "device 'cuda:77' is not available"),
        ({"policy_kwargs": {"prior": "uniform"}}, "unknown prior 'uniform'"),
        ({"noise": CorrectiveNoise([1.0])}, "1 features, observations have 5"),
    ],
)
def test_bad_options(trace_demos: Demonstrations, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LatentRLError, match=message):
        LatentBC(demonstrations=trace_demos, **{"device": "cpu", **options}).learn(1)


def test_bad_combinations(trace_demos: Demonstrations, two_ways: Demonstrations) -> None:
    with pytest.raises(LatentRLError, match="needs demonstrations or an env"):
        LatentBC()
    with pytest.raises(LatentRLError, match=r"observations have shape \(2,\) each, but the space is"):
        LatentBC(env=TRACE, demonstrations=two_ways)
    fast = Demonstrations.from_arrays(trace_demos.observations, trace_demos.actions * 10, trace_demos.episode_lengths)
    with pytest.raises(LatentRLError, match="actions lie outside Box"):
        LatentBC(env=TRACE, demonstrations=fast)
    with pytest.raises(LatentRLError, match="total_timesteps"):
        small(trace_demos).learn(0)
    for given in (vars(trace_demos), trace_demos.observations):
        with pytest.raises(LatentRLError, match=r"must be a latentrl\.Demonstrations, but"):
            LatentBC(demonstrations=given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Policy MlpPolicy unknown"):
        LatentBC("MlpPolicy", demonstrations=trace_demos)


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Discrete(4, start=1)])
def test_discrete_spaces_of_the_environment_count(space: spaces.Discrete) -> None:
    """Demonstrations that never use some actions, in an environment whose actions start elsewhere."""

    class Choices(gym.Env):  # type: ignore[type-arg]
        observation_space = spaces.Box(-1, 1, (2,))
        action_space = space

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:  # noqa: ARG002
            return np.zeros(2, np.float32), {}

    actions = np.arange(40) % 2 + 1
    observations = np.stack([actions - 1.5, np.zeros(40)], -1).astype(np.float32)
    data = Demonstrations.from_arrays(observations, actions, [10] * 4)
    agent = LatentBC(
        env=Choices(),
        demonstrations=data,
        policy_kwargs={"latent_dim": 0, "hold": 1, "hidden": (16,)},
        seed=0,
        device="cpu",
    ).learn(150)
    np.testing.assert_array_equal(agent.predict(observations)[0], actions)


def test_a_continued_run_keeps_the_fade_and_the_prior(trace_demos: Demonstrations, tmp_path: Path) -> None:
    agent = small(trace_demos, policy_kwargs={"prior": "mixture"}, kl_weight=1.0).learn(10)
    assert bool(agent.policy.model.prior.seeded)  # type: ignore[union-attr]
    before = agent.policy.model.prior.loc.clone()  # type: ignore[union-attr]
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(90, reset_num_timesteps=False, log_interval=1)
    agent.logger.close()
    header, *rows = (tmp_path / "progress.csv").read_text().splitlines()
    column = header.split(",").index("train/kl_weight")
    assert {float(row.split(",")[column]) for row in rows} == {1.0}
    # 90 steps of at most 2e-3 each move a mean far less than seeding it anew would.
    assert float((agent.policy.model.prior.loc - before).abs().max().detach()) < 0.2  # type: ignore[union-attr]


def test_warm_start_keeps_units(trace_demos: Demonstrations) -> None:
    """set_parameters, then learn on other data: the loaded weights mean nothing in other units."""
    agent = small(trace_demos).learn(2)
    other = Demonstrations.from_arrays(
        trace_demos.observations * 2, trace_demos.actions * 2, trace_demos.episode_lengths
    )
    warm = small(other)
    warm.set_parameters(agent.get_parameters())
    warm.learn(1)
    gains = [one.policy.model.decoder.raw_units.gain for one in (agent, warm)]  # type: ignore[union-attr]
    torch.testing.assert_close(gains[0], gains[1])


def test_a_function_and_a_progress_bar(trace_demos: Demonstrations) -> None:
    calls: list[int] = []

    def callback(local: dict[str, Any], _: dict[str, Any]) -> bool:
        calls.append(local["self"].num_timesteps)
        return True

    small(trace_demos).learn(3, callback=callback, progress_bar=True)
    assert calls == [1, 2, 3]


@pytest.mark.parametrize(("decoder", "unit"), [("gaussian", r" nats"), ("diffusion", "")])
def test_what_the_bar_says(trace_demos: Demonstrations, decoder: str, unit: str) -> None:
    bar = UpdateBar()
    agent = small(trace_demos, policy_kwargs={"latent_dim": 0, "decoder": decoder, "hold": 1}).learn(3, callback=bar)
    assert re.fullmatch(rf"-?\d+\.\d\d{unit}", bar.pbar.desc.strip(": "))
    assert (bar.pbar.n, bar.pbar.total) == (agent.num_timesteps, 3)


@pytest.mark.parametrize(
    ("decoder", "options"),
    [("mixture", {"decoder_components": 4}), ("bins", {"decoder_components": 8}), ("diffusion", {})],
)
def test_policies_without_latent_learn_both_ways(
    two_ways: Demonstrations, decoder: str, options: dict[str, Any]
) -> None:
    """From the start half go up and half go down, and all to the right by 2, in units that are to be found. So few
    updates leave some of diffusion's draws in between. Of ten other seeds all pass."""
    shown = Demonstrations.from_arrays(two_ways.observations, 4.0 * two_ways.actions, two_ways.episode_lengths)
    kwargs = {"latent_dim": 0, "hold": 1, "decoder": decoder, "hidden": (64, 64), **options}
    agent = LatentBC(demonstrations=shown, policy_kwargs=kwargs, noise=None, seed=0, device="cpu").learn(300)
    right, up = agent.predict(np.zeros((200, 2), np.float32))[0].T / 4.0
    assert np.abs(right - 0.5).mean() < 0.1
    assert 0.3 < (up > 0).mean() < 0.7
    low, high = np.quantile(up, [0.05, 0.95])
    assert low < -0.7
    assert high > 0.7
    if decoder != "diffusion":
        assert (np.abs(np.abs(up) - 1.0) < 0.3).mean() > 0.9


def test_what_is_found_where_nothing_is_said(
    two_ways: Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target KL from half a nat to the log of the segments' number; noise where actions move what is seen."""
    agent = small(two_ways).learn(20)
    assert isinstance(agent.kl_weight, KLRange)
    assert (agent.kl_weight.low, agent.kl_weight.high) == (0.5, math.log(24))
    agent.save(tmp_path / "bc")
    assert vars(LatentBC.load(tmp_path / "bc").kl_weight) == vars(agent.kl_weight)
    every_step = small(two_ways, policy_kwargs={"hold": 1}).learn(1)
    assert isinstance(every_step.kl_weight, KLRange)
    assert (every_step.kl_weight.low, every_step.kl_weight.high) == (0.0, math.log(len(two_ways)))
    noise = default_noise(two_ways, agent.policy.model, agent.policy.config)
    assert noise is not None
    assert noise.gain is not None
    np.testing.assert_allclose(noise.gain, -np.eye(2) / 8, atol=1e-3)
    for options in ({"chunk": 2}, {"decoder_sees_state": False}, {"decoder": "tanh_gaussian"}):
        assert default_noise(two_ways, agent.policy.model, LatentConfig(**options)) is None
    with pytest.raises(LatentRLError, match="decoder_sees_state=False: give it without gain"):
        small(two_ways, noise=noise, policy_kwargs={"decoder_sees_state": False})
    # Of many, some episodes from first to last: wherever the data lie, as a run may go on where there is more memory.
    monkeypatch.setattr(defaults, "MOMENTS", len(two_ways) // 3)
    np.save(tmp_path / "seen.npy", two_ways.observations)
    mapped = replace(two_ways, observations=np.load(tmp_path / "seen.npy", mmap_mode="r"))
    found = [default_noise(data, agent.policy.model, agent.policy.config) for data in (two_ways, mapped)]
    np.testing.assert_array_equal(found[0].std, found[1].std)
    assert not np.array_equal(found[0].std, noise.std)
    discrete = replace(two_ways, actions=np.zeros(len(two_ways), dtype=np.int64), action_space=spaces.Discrete(2))
    assert default_noise(discrete, agent.policy.model, agent.policy.config) is None
    with pytest.raises(LatentRLError, match="'auto' or None, but 'none' was given"):
        small(two_ways, noise="none")


def test_the_log_is_written_as_often_as_asked(two_ways: Demonstrations, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    for interval in (2, None):
        agent = small(two_ways)
        agent.set_logger(configure(None, []))
        monkeypatch.setattr(agent.logger, "dump", lambda step=0: written.append(step))
        agent.learn(5, log_interval=interval)
    assert written == [2, 4, 5, 5]
    with pytest.raises(LatentRLError, match="log_interval must be a whole number of at least 1"):
        small(two_ways).learn(1, log_interval=0)


def test_numbers_of_numpys_make_policies_that_are_saved(two_ways: Demonstrations, tmp_path: Path) -> None:
    kwargs = {"latent_dim": np.int64(2), "hidden": tuple(np.array([8, 8])), "temperature": np.float32(0.5)}
    agent = small(two_ways, policy_kwargs=kwargs, kl_weight=KLConstraint(np.log(24)))
    agent.learn(2, checkpoint=tmp_path / "run")
    agent.policy.save_pretrained(tmp_path / "policy")
    assert LatentPolicy.from_pretrained(tmp_path / "policy").config.latent_dim == 2


@pytest.mark.gpu
def test_an_estimator_of_a_gpu_is_saved_for_others(two_ways: Demonstrations, tmp_path: Path) -> None:
    estimator = ScoreFunction(RunningMean())
    agent = LatentBC(demonstrations=two_ways, policy_kwargs=SMALL, seed=0, device="cuda", estimator=estimator).learn(2)
    agent.save(tmp_path / "agent")
    assert {part.device.type for part in agent.estimator.state_dict().values()} == {"cuda"}
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        pickled = base64.b64decode(json.loads(archive.read("data"))["estimator"][":serialized:"])
    assert b"cuda" not in pickled


def test_any_estimator_trains(trace_demos: Demonstrations, tmp_path: Path) -> None:
    """The default is pathwise; a choice learns under REBAR; what cannot work says what can."""
    weights = [
        torch.cat([p.flatten() for p in small(trace_demos, **options).learn(3).policy.parameters()])
        for options in ({}, {"estimator": Pathwise()}, {"estimator": ScoreFunction(LeaveOneOut()), "num_samples": 3})
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    choice = {"posterior": "categorical", "prior": "categorical", "latent_dim": 4}
    agent = small(trace_demos, policy_kwargs=choice, estimator=Rebar(temperature=0.7)).learn(3)
    agent.save(tmp_path / "agent")
    loaded = LatentBC.load(tmp_path / "agent", demonstrations=trace_demos, device="cpu")
    assert float(loaded.estimator.temperature.detach()) == pytest.approx(0.7)
    loaded.learn(1)
    with pytest.raises(LatentRLError, match="use"):
        small(trace_demos, policy_kwargs=choice, estimator=Pathwise()).learn(1)
    with pytest.raises(LatentRLError, match="importance_bound"):
        small(trace_demos, estimator=Vimco())
