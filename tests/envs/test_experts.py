"""The demonstrators: real rollouts, every mode as asked, and unevenness that is smooth."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from latentrl.data import Demonstrations
from latentrl_envs import Avoiding, MultiGoal, Pendulum
from latentrl_envs.experts import Episodes, demonstrate

MODES = {MultiGoal: 4, Avoiding: 24}
LIMITS = {MultiGoal: 30, Avoiding: 200}
both = pytest.mark.parametrize("task", [MultiGoal(), Avoiding()], ids=lambda task: type(task).__name__)


def split(episodes: Episodes, values: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(episodes.episode_lengths)[:-1])


@pytest.mark.parametrize("task", [MultiGoal(), MultiGoal(init_sigma=3.0), Avoiding()], ids=["near", "far", "avoiding"])
@pytest.mark.parametrize("noise", [0.0, 1.0, 1.5])
def test_every_episode_replays_and_succeeds_in_its_mode(task: MultiGoal | Avoiding, noise: float) -> None:
    """In float64, from the first observation on with the recorded actions alone; the end comes with the last one.

    From starts far from the origin some tries meet another goal first.
    """
    shown = demonstrate(task, 96, noise=noise, seed=1)
    steps = np.arange(shown.episode_lengths.max())[:, None]
    played = (steps < shown.episode_lengths).T
    actions, observations, rewards = (np.zeros((*played.shape, *x.shape[1:])) for x in (shown[1], shown[0], shown[2]))
    actions[played] = shown.actions
    first = np.cumsum(shown.episode_lengths) - shown.episode_lengths
    state = task.initial(torch.zeros(96, task.initial_noise_dim, dtype=torch.float64))
    state[:, :2] = torch.from_numpy(shown.observations[first])
    for t in range(len(steps)):
        action = torch.from_numpy(actions[:, t])
        observations[:, t] = task.observation(state)
        following = task.transition(state, action)
        rewards[:, t] = task.reward(state, action, following)
        last = t + 1 == shown.episode_lengths
        np.testing.assert_array_equal(task.terminal(following)[played[:, t]], last[played[:, t]])
        info = task.state_info(following)
        assert info["success"][last].all()
        np.testing.assert_array_equal(info["mode"][last], shown.modes[last])
        state = following
    np.testing.assert_allclose(shown.observations, observations[played], atol=1e-4)
    np.testing.assert_allclose(shown.rewards, rewards[played], rtol=1e-4, atol=1e-4)


@both
def test_the_arrays_are_what_demonstrations_take(task: MultiGoal | Avoiding) -> None:
    shown = demonstrate(task, 50)
    data = Demonstrations.from_arrays(
        **shown._asdict(), observation_space=task.observation_space, action_space=task.action_space
    )
    assert data.num_episodes == 50
    assert [x.dtype for x in shown] == [np.float32] * 3 + [np.int64] * 2
    assert len(shown.rewards) == len(shown.observations) == shown.episode_lengths.sum()
    assert shown.episode_lengths.max() <= LIMITS[type(task)]
    assert gym.spec(f"latentrl/{type(task).__name__}-v0").max_episode_steps == LIMITS[type(task)]


@both
def test_modes_are_balanced_and_in_random_order(task: MultiGoal | Avoiding) -> None:
    """Nine modes of 101 episodes give one a further one: eight seeds agree once in 16 000; of 24 modes never."""
    modes = demonstrate(task, 101).modes
    counts = np.bincount(modes, minlength=MODES[type(task)])
    assert counts.max() - counts.min() == 1
    assert (np.diff(modes) < 0).any()
    others = [np.bincount(demonstrate(task, 101, seed=seed).modes, minlength=len(counts)) for seed in range(1, 9)]
    assert len({tuple(other) for other in others}) > 1  # which modes come once more is random


def test_weights_are_shares() -> None:
    assert np.bincount(demonstrate(MultiGoal(), 100, weights=[7, 0, 2, 1]).modes).tolist() == [70, 0, 20, 10]
    assert set(demonstrate(Avoiding(), 30, weights=np.eye(24)[13]).modes) == {13}
    counts = np.bincount(demonstrate(MultiGoal(), 10, weights=[1e-3, 1e-3, 1e-3, 0]).modes, minlength=4)
    assert sorted(counts) == [0, 3, 3, 4]
    assert counts[3] == 0


@both
def test_the_seed_decides_everything(task: MultiGoal | Avoiding) -> None:
    shown, same, other = (demonstrate(task, 30, seed=seed) for seed in (3, 3, 4))
    for x, y in zip(shown, same, strict=True):
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(shown.observations[:100], other.observations[:100])


@both
def test_without_noise_and_jitter_a_mode_has_one_path(task: MultiGoal | Avoiding) -> None:
    exact = MultiGoal(init_sigma=0.0) if isinstance(task, MultiGoal) else Avoiding(start_jitter=0.0)
    only_second = np.eye(MODES[type(task)])[1]
    paths = split(shown := demonstrate(exact, 5, weights=only_second, noise=0.0), shown.observations)
    for path in paths[1:]:
        np.testing.assert_array_equal(path, paths[0])


@both
def test_noise_spreads_speeds_and_paths(task: MultiGoal | Avoiding) -> None:
    """The spread of the episodes of one mode, half way along."""
    spreads, durations = [], []
    for noise in (0.0, 0.5, 1.0):
        shown = demonstrate(task, 60, weights=np.eye(MODES[type(task)])[0], noise=noise)
        paths = split(shown, shown.observations)
        spreads.append(np.std([path[len(path) // 2] for path in paths], axis=0).max())
        durations.append(np.std(shown.episode_lengths))
    assert spreads[0] < 0.8 * spreads[1] < 0.64 * spreads[2]
    assert durations[0] < 0.8 * durations[1] < 0.64 * durations[2]


def test_the_hand_wavers_smoothly() -> None:
    """White noise on the actions would have differences with autocorrelation -1/2; a smooth wobble's is positive."""
    shown = demonstrate(Avoiding(), 48)
    for actions in split(shown, shown.actions):
        change = np.diff(actions[20:-20], axis=0)
        change = change - change.mean(0)
        assert ((change[1:] * change[:-1]).sum() / (change**2).sum()) > 0.3


def test_episodes_start_slowly_and_rarely_touch_the_speed_limit() -> None:
    shown = demonstrate(Avoiding(), 200)
    speeds = [np.hypot(*actions.T) for actions in split(shown, shown.actions)]
    assert np.median([speed[0] for speed in speeds]) < 0.5 * np.median(np.concatenate(speeds))
    assert (np.abs(shown.actions) == 1).any(1).mean() < 0.05
    assert 100 < np.median(shown.episode_lengths) < 150


@pytest.mark.parametrize(
    "weights",
    [[1, 1, 1], [1, 1, 1, -1], [0, 0, 0, 0], [1, 1, 1, np.nan], [1, 1, 1, np.inf], 1.0, [[1, 1, 1, 1]]],
    ids=str,
)
def test_bad_weights(weights: object) -> None:
    with pytest.raises(ValueError, match="weights must be 4 finite numbers"):
        demonstrate(MultiGoal(), 8, weights=weights)


@pytest.mark.parametrize(
    "arguments",
    [{"episodes": 0}, {"episodes": 2.5}, {"noise": -1.0}, {"noise": float("nan")}],
)
def test_bad_arguments_are_named(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        demonstrate(MultiGoal(), **({"episodes": 3} | arguments))


def test_other_tasks_and_hopeless_ones_are_refused() -> None:
    with pytest.raises(TypeError, match="MultiGoal or an Avoiding"):
        demonstrate(Pendulum(), 3)
    with pytest.raises(RuntimeError, match="5 of 5 episodes failed 50 times"):
        demonstrate(MultiGoal(goal_threshold=0.0), 5)
