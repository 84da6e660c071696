"""Traversals: which latents are tried, that the agent plays them, what is drawn, and that learning does not notice."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Figure, configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from latentrl import Demonstrations, LatentRLError
from latentrl.sb3 import LatentBC, LatentNoiseExtractor, LatentNoiseWrapper, LatentPPO, traversal_figures
from latentrl.sb3.latent_noise import NOISE, OBSERVATION
from latentrl.sb3.traversal import LatentTraversal, player_of
from latentrl.sb3.traversal_figures import picture_figure
from latentrl.sb3.traversal_rows import Moments, Row, overlay

STEPS, OPTIONS = 4, {"n_steps": 16, "batch_size": 8, "seed": 0, "device": "cpu"}
BOX = spaces.Box(-1, 1, (2,))


class Plane(gym.Env):
    """Actions move a point, from a start that the seed decides; pictures show how far it is right."""

    def __init__(self, render_mode: str | None = None, shape: tuple[int, ...] = (2,)) -> None:
        self.observation_space, self.action_space = spaces.Box(-9, 9, shape), spaces.Box(-1, 1, (2,))
        self.render_mode = render_mode
        self.metadata = {"render_modes": ["rgb_array"]}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed, options=options)
        self.place, self.steps = self.np_random.uniform(-1, 1, 2).astype(np.float32), 0
        return self._see(), {}

    def _see(self) -> Any:
        return np.resize(self.place, self.observation_space.shape)

    def step(self, action: Any) -> Any:
        self.place, self.steps = self.place + action, self.steps + 1
        return self._see(), 0.0, self.steps == STEPS, False, {}

    def render(self) -> Any:
        picture = np.full((8, 20, 3), 255, np.uint8)
        picture[:, int(self.place[0] + 9)] = 0
        return picture


def agent(env: Any = None, **policy_kwargs: Any) -> LatentPPO:
    env = env or make_vec_env(Plane, 2, seed=0)
    return LatentPPO("LatentPolicy", env, **OPTIONS, policy_kwargs={"latent_dim": 2, **policy_kwargs})


def obedient(made: LatentPPO) -> LatentPPO:
    """Its action is its latent."""
    policy = made.policy
    policy.mlp_extractor.policy_net = torch.nn.Linear(4, 2, bias=False)
    policy.action_net = torch.nn.Identity()
    with torch.no_grad():
        policy.mlp_extractor.policy_net.weight.copy_(torch.eye(2, 4).roll(2, 1))
    return made


def drawn(made: Any, monkeypatch: pytest.MonkeyPatch, watch: LatentTraversal) -> tuple[list[Row], Any]:
    """What one picture shows."""
    seen: list[Any] = []
    for name in ("path_figure", "picture_figure"):
        real = getattr(traversal_figures, name)
        monkeypatch.setattr(traversal_figures, name, lambda *given, real=real: (seen.append(given), real(*given))[1])
    watch.init_callback(made)
    made._setup_learn(10)
    watch.on_training_start({}, {})
    watch.on_step()
    assert len(seen) == 1
    return seen[0]


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("hold", [0, 3])
def test_every_latent_is_played_from_the_same_start(
    hold: int, normalized: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paths end where the latents lead, in the environment's own units, last step included."""
    envs = [make_vec_env(Plane, 2, seed=seed) for seed in (0, 1)]
    if normalized:
        envs = [VecNormalize(env, training=not index) for index, env in enumerate(envs)]
        envs[0].obs_rms.update(np.random.default_rng(0).normal(1.0, 3.0, (100, 2)))
    made = obedient(agent(envs[0], hold=hold))
    watch = LatentTraversal(envs[1], tmp_path, eval_freq=1, values=(-0.5, 0.0, 1.0))
    rows, shown = drawn(made, monkeypatch, watch)
    assert [row.names for row in rows] == [["−0.5 sd", "mean", "+1 sd"]] * 2
    starts = [Plane().reset(seed=seed)[0] for seed in (0, 1)]
    for d, paths in enumerate(shown):
        for value, of_latent in zip((-0.5, 0.0, 1.0), paths, strict=True):
            for start, path in zip(starts, of_latent, strict=True):
                step = value * np.eye(2)[d]
                np.testing.assert_allclose(path, start + np.outer(np.arange(STEPS + 1), step), atol=1e-5)
    assert (tmp_path / "traversal_0.png").stat().st_size > 5000
    if normalized:  # as the agent sees them where it learns, or it would not do what it does there
        assert np.array_equal(envs[1].obs_rms.mean, envs[0].obs_rms.mean)


def test_values_are_in_units_of_the_prior_at_the_start() -> None:
    made = agent(prior="gaussian")
    observations = np.array([[0.3, -2.0], [1.0, 1.0]], np.float32)
    with torch.no_grad():
        for parameter in made.policy.prior.parameters():
            parameter += torch.randn_like(parameter)
        law = made.policy.prior(torch.as_tensor(observations[:1]))
    rows = player_of(made, made.env).rows(observations, np.array([-2.0, 0.0]), [1])
    mean, sd = (part[0].numpy() for part in (law.loc, law.scale))
    np.testing.assert_allclose(rows[0].latents, [mean - 2.0 * sd * [0, 1], mean], rtol=1e-5)
    assert rows[0].title == "$z_{1}$"


def test_mixtures_are_moved_about_their_mean() -> None:
    made = agent(prior="mixture", n_components=3)
    law = made.policy.prior(torch.zeros(1, 2))
    (row, _) = player_of(made, made.env).rows(np.zeros((1, 2), np.float32), np.array([0.0, 1.0]), None)
    weights = law.log_weights.exp().detach().numpy()[0]
    mean = weights @ law.loc.detach().numpy()[0]
    second = weights @ (law.loc.square() + law.scale.square()).detach().numpy()[0]
    expected = [mean, mean + np.array([np.sqrt(second[0] - mean[0] ** 2), 0])]
    np.testing.assert_allclose(row.latents, expected, rtol=1e-4)


def test_choices_are_tried_one_after_another() -> None:
    made = agent(prior="categorical", latent_dim=3)
    (row,) = player_of(made, made.env).rows(np.zeros((2, 2), np.float32), np.zeros(1), None)
    np.testing.assert_array_equal(row.latents, np.eye(3))
    assert row.names == ["choice 0", "choice 1", "choice 2"]


def clone(**config: Any) -> LatentBC:
    rng = np.random.default_rng(0)
    data = Demonstrations.from_arrays(
        rng.normal(size=(60, 2)).astype(np.float32),
        rng.normal(size=(60, 2)).clip(-1, 1).astype(np.float32),
        [10] * 6,
        spaces.Box(-9, 9, (2,)),
        BOX,
    )
    small = {"latent_dim": 4, "hidden": (8,), "n_components": 2, "context_length": 5, **config}
    return LatentBC(demonstrations=data, policy_kwargs=small, batch_size=4, seed=0, device="cpu")


def test_a_clone_is_drawn_while_it_learns(tmp_path: Path) -> None:
    made = clone()
    made.learn(4, callback=LatentTraversal(Plane(), tmp_path, eval_freq=2, dimensions=[3]))
    assert {path.name for path in tmp_path.iterdir()} == {"traversal_2.png", "traversal_4.png"}


def test_a_prior_that_sees_a_history_is_shown_the_first_observation_as_all_of_it() -> None:
    made = clone(history=3, prior="gaussian", prior_sees_state=True)
    seen = np.array([[0.3, -0.2]], np.float32)
    (row, *_) = player_of(made, make_vec_env(Plane, 1)).rows(seen, np.zeros(1), None)
    _, state = made.predict(seen, deterministic=True)
    np.testing.assert_allclose(row.latents[0], state[0][0], atol=1e-6)


def test_each_of_several_choices_is_moved_alone() -> None:
    made = clone(posterior="categorical", prior="categorical", factors=2)
    rows = player_of(made, make_vec_env(Plane, 1)).rows(np.zeros((1, 2), np.float32), np.zeros(1), None)
    assert [row.title for row in rows] == ["$z_{0}$", "$z_{1}$"]
    np.testing.assert_array_equal(rows[0].latents[:, :2], np.eye(2))
    np.testing.assert_array_equal(rows[1].latents[:, 2:], np.eye(2))
    assert (rows[0].latents[:, 2:] == rows[0].latents[0, 2:]).all()


def test_plans_under_a_latent_are_played_to_their_end() -> None:
    """With hold = 4 and plans of 3, as without steering: made at steps 0, 3, 4 and 7."""
    made = clone(hold=4, chunk=3)
    player = player_of(made, make_vec_env(Plane, 1))
    player.begin(np.full(4, 0.3, np.float32))
    left = []
    for _ in range(8):
        player.act(np.zeros((1, 2), np.float32), True)
        assert (player.state[0] == np.float32(0.3)).all()
        left.append(int(np.isfinite(player.state[2]).sum()) // 2)
    assert left == [2, 1, 0, 2, 2, 1, 0, 2]


@pytest.mark.parametrize("kind", ["normal", "categorical"])
def test_noise_is_held_and_let_go(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrapped() -> Any:
        return LatentNoiseWrapper(make_vec_env(Plane, 2, seed=0), 3, kind=kind)

    kwargs = {"features_extractor_class": LatentNoiseExtractor}
    made = PPO("MultiInputPolicy", wrapped(), **OPTIONS, policy_kwargs=kwargs)
    env, seen = wrapped(), []
    predict = made.predict
    monkeypatch.setattr(
        made,
        "predict",
        lambda observations, **options: (seen.append(observations), predict(observations, **options))[1],
    )
    rows, shown = drawn(made, monkeypatch, LatentTraversal(env, tmp_path, eval_freq=1, values=(-2, 2)))
    tried = np.concatenate([row.latents for row in rows])
    expected = (
        np.arange(3) if kind == "categorical" else np.stack([s * np.eye(3)[d] for d in range(3) for s in (-2, 2)])
    )
    np.testing.assert_array_equal(tried, expected)
    assert [len(of_row) for of_row in shown] == [len(row.latents) for row in rows]
    for index, observations in enumerate(seen):
        assert (observations[NOISE] == tried[index // STEPS]).all()
        assert observations[OBSERVATION].shape == (2, 2)
    first, second = (env.reset()[NOISE].copy() for _ in range(2))
    assert kind == "categorical" or (first != second).any()


def test_an_agent_with_a_memory_keeps_it_through_an_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    env = LatentNoiseWrapper(make_vec_env(Plane, 2, seed=0), 3)
    made = contrib.RecurrentPPO("MultiInputLstmPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu")
    states, predict = list[Any](), made.predict

    def remembering(observations: Any, state: Any = None, **options: Any) -> Any:
        states.append(state)
        return predict(observations, state=state, **options)

    monkeypatch.setattr(made, "predict", remembering)
    rows, _ = drawn(made, monkeypatch, LatentTraversal(env, tmp_path, eval_freq=1, values=(-2, 2)))
    episodes = sum(len(row.latents) for row in rows)
    assert [state is None for state in states] == [True, *[False] * (STEPS - 1)] * episodes


def test_pictures_of_several_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that moves right by one at each step."""
    made = agent(DummyVecEnv([lambda: Plane(shape=(3,))]))
    monkeypatch.setattr(type(made.policy), "predict", lambda *_: (np.array([[1.0, 0.0]]), None))
    env = DummyVecEnv([lambda: Plane("rgb_array", (3,))])
    rows, shown = drawn(made, monkeypatch, LatentTraversal(env, tmp_path, eval_freq=1, dimensions=[0], moments=4))
    start = int(Plane().reset(seed=0)[0][0] + 9)
    assert len(shown[0]) == len(rows[0].names) == 5
    darkness = 255.0 - shown[0][0][0, :, 0]
    np.testing.assert_allclose(darkness[start : start + 4] / 255, np.linspace(0.35, 1.0, 4), atol=0.01)
    assert darkness.sum() == darkness[start : start + 4].sum()


def test_one_picture_is_as_it_is_and_backgrounds_stay() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(overlay(pictures[:1]), pictures[0])
    np.testing.assert_array_equal(overlay(np.stack([pictures[0]] * 3)), pictures[0])


@pytest.mark.parametrize("length", [1, 5, 7, 100, 1001])
def test_moments_are_spread_evenly_and_few(length: int) -> None:
    kept, asked = Moments(4), []
    for step in range(length):
        kept.offer(lambda step=step: (asked.append(step), np.full((1, 1, 3), step))[1])
    found = kept.pictures()[:, 0, 0, 0]
    assert len(found) == min(4, length)
    assert found[0] == 0
    assert found[-1] >= 0.85 * (length - 1)
    gaps = np.diff(found)
    assert length < 8 or gaps.max() <= 1.5 * gaps.min()
    assert len(asked) <= 16 + 8 * np.log2(max(length / 16, 1)) + 8


def test_choices_are_broken_into_lines() -> None:
    names = [f"choice {i}" for i in range(7)]
    figure = picture_figure([Row("", names, np.eye(7))], [[np.zeros((4, 6, 3), np.uint8)] * 7])
    assert [axis.get_title() for axis in figure.axes] == names


def test_no_latent_stays_held_where_a_picture_fails(tmp_path: Path) -> None:
    noisy = LatentNoiseWrapper(make_vec_env(Plane, 1), 2)

    def fails(_: Any) -> Any:
        raise ZeroDivisionError

    made = PPO("MultiInputPolicy", LatentNoiseWrapper(make_vec_env(Plane, 1), 2), **OPTIONS)
    with pytest.raises(ZeroDivisionError):
        made.learn(64, callback=LatentTraversal(noisy, tmp_path, eval_freq=8, position=fails))
    assert not np.array_equal(noisy.reset()["latent_noise"], noisy.reset()["latent_noise"])


def test_learning_does_not_notice(tmp_path: Path) -> None:
    agents = [agent() for _ in range(2)]
    watch = LatentTraversal(make_vec_env(Plane, 2, seed=1), tmp_path, eval_freq=16, dimensions=[0], deterministic=False)
    for made, callback in zip(agents, (None, watch), strict=True):
        made.set_random_seed(0)
        made.learn(64, callback=callback)
    assert {path.name for path in tmp_path.iterdir()} == {"traversal_32.png", "traversal_64.png"}
    for first, second in zip(*(made.policy.parameters() for made in agents), strict=True):
        assert torch.equal(first, second)


def test_the_log_gets_the_figure_where_it_can_show_it(tmp_path: Path) -> None:
    made = agent()
    made.set_logger(configure(str(tmp_path / "log"), ["csv", "log", "json"]))
    kept: list[Any] = []
    record = made.logger.record
    made.logger.record = lambda key, value, *given, **options: (  # type: ignore[method-assign]
        kept.append(value) if key == "latent/traversal" else None,
        record(key, value, *given, **options),
    )
    made.learn(64, callback=LatentTraversal(Plane(), tmp_path / "pictures", eval_freq=16, dimensions=[0]))
    made.logger.close()
    assert kept
    assert all(isinstance(value, Figure) for value in kept)


def test_what_has_no_traversal_is_refused(tmp_path: Path) -> None:
    env = make_vec_env(Plane, 1)
    noisy = LatentNoiseWrapper(make_vec_env(Plane, 1), 2, hold=1)
    for made, shown, words in (
        (agent(hold=1), env, "hold=1 draws the latent anew"),
        (PPO("MixturePolicy", env, **OPTIONS), env, "MixtureActorCriticPolicy has no latent that is held"),
        (SAC("LatentPolicy", env, device="cpu"), env, "LatentSACPolicy has no latent that is held"),
        (PPO("MlpPolicy", env, **OPTIONS), noisy, "hold=1 draws the latent anew"),
        (clone(latent_dim=0), env, "latent_dim=0"),
        (agent(), make_vec_env(lambda: Plane(shape=(3,)), 1), "nothing to draw"),
    ):
        with pytest.raises(LatentRLError, match=words):
            made.learn(16, callback=LatentTraversal(shown, tmp_path))
    with pytest.raises(LatentRLError, match=r"dimensions \(2,\) of a latent that has 0 … 1"):
        agent().learn(16, callback=LatentTraversal(env, tmp_path, eval_freq=10**9, dimensions=[2]))
    with pytest.raises(LatentRLError, match="eval_env is not wrapped alike"):
        agent(VecNormalize(make_vec_env(Plane, 2))).learn(16, callback=LatentTraversal(env, tmp_path, eval_freq=10**9))
    for wrong, words in (
        ({"values": ()}, "values must be"),
        ({"eval_freq": 0}, "eval_freq"),
        ({"moments": 0}, "moments"),
    ):
        with pytest.raises(LatentRLError, match=words):
            LatentTraversal(env, tmp_path, **wrong)


def test_all_latents_are_seen_through_the_same_statistics(tmp_path: Path) -> None:
    """Those of the agent, which do not go on while they are tried, whatever the environment says of its training."""
    shown = VecNormalize(make_vec_env(Plane, 1, seed=1))
    made = agent(VecNormalize(make_vec_env(Plane, 2, seed=0)))
    counts: list[float] = []
    step = shown.step_wait
    shown.step_wait = lambda: (counts.append(shown.obs_rms.count), step())[1]  # type: ignore[method-assign]
    made.learn(16, callback=LatentTraversal(shown, tmp_path, eval_freq=16, dimensions=[0], position=lambda o: o[:, :2]))
    assert len(counts) > STEPS
    assert len(set(counts)) == 1
    assert shown.training
