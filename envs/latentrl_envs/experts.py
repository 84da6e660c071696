"""Scripted demonstrators that solve the multimodal tasks in every mode, unevenly as people do."""

from functools import partial
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike

from latentrl_envs.avoiding import Avoiding
from latentrl_envs.multi_goal import MultiGoal
from latentrl_envs.task import checked_count, checked_number

_TRIES = 50


class Episodes(NamedTuple):
    """N transitions of E episodes, one after another, as flat arrays."""

    observations: np.ndarray
    """(N, 2) float32: what was seen before each action."""
    actions: np.ndarray
    """(N, 2) float32: what was executed, within the action space."""
    rewards: np.ndarray
    """(N,) float32"""
    episode_lengths: np.ndarray
    """(E,) int64; sums to N."""
    modes: np.ndarray
    """(E,) int64"""


class _Style(NamedTuple):
    """How somebody moves in a task; lengths are the task's, times are steps."""

    env_id: str
    modes: int
    speed: float
    """Cruising speed."""
    start_up: int
    """Time from rest to cruising speed."""
    rhythm: float
    """Time over which speed and unsteadiness change."""
    correction: float
    """Share of the deviation from the intended path that each step corrects."""
    unsteadiness: float
    """Standard deviation, per step and axis, of what the hand adds."""


_STYLES = {
    MultiGoal: _Style("latentrl/MultiGoal-v0", 4, 0.35, 4, 3.0, 0.3, 0.05),
    Avoiding: _Style("latentrl/Avoiding-v0", 24, 0.075, 15, 8.0, 0.12, 0.008),
}


def demonstrate(
    task: MultiGoal | Avoiding, episodes: int, weights: ArrayLike | None = None, noise: float = 1.0, seed: int = 0
) -> Episodes:
    """Solve a task ``episodes`` times, in all its modes.

    Each episode intends a path of its own, smooth, through the gaps or to the goal of its mode, and a speed of its own
    that rises from rest and then varies. A hand that wavers smoothly follows the path and corrects what it sees. The
    episodes are rollouts of the task's own functions in float32; those that fail, or end in another mode, are tried
    anew, so all that are returned succeed in the mode that they name, within the time limit of the registered id.

    Args:
        task: what to solve.
        episodes: how many episodes E.
        weights: share of each mode, at least 0, in any scale; None for equal shares. The numbers of episodes are the
            shares of E, rounded up or down at random, and the order is random.
        noise: how much paths, speeds and hand vary: 1 as people do, 0 not at all (only the starts then differ).
        seed: of all that is random.

    Returns:
        The episodes; ``Demonstrations.from_arrays(**demonstrate(...)._asdict())`` takes them.

    Raises:
        TypeError: a task that the demonstrators do not know.
        ValueError: a bad value of another argument.
        RuntimeError: an episode failed again and again, because the noise is too large or the task was made too hard.
    """
    style = next((style for kind, style in _STYLES.items() if isinstance(task, kind)), None)
    if style is None:
        raise TypeError(f"task must be a MultiGoal or an Avoiding, got {task!r}")
    episodes, noise = checked_count("episodes", episodes), checked_number("noise", noise, minimum=0.0)
    shares = _shares(weights, style.modes)
    rng = np.random.default_rng(seed)
    modes = _draw_modes(shares, episodes, rng)

    limit = gym.spec(style.env_id).max_episode_steps or 0
    observations, actions = np.zeros((2, episodes, limit, 2), dtype=np.float32)
    rewards, lengths = np.zeros((episodes, limit), dtype=np.float32), np.zeros(episodes, dtype=np.int64)
    missing = np.arange(episodes)
    for _ in range(_TRIES):
        seen, done, earned, took, succeeded = _roll_out(task, style, modes[missing], noise, limit, rng)
        good = missing[succeeded]
        observations[good], actions[good], rewards[good] = seen[succeeded], done[succeeded], earned[succeeded]
        lengths[good] = took[succeeded]
        missing = missing[~succeeded]
        if not len(missing):
            break
    else:
        raise RuntimeError(
            f"{len(missing)} of {episodes} episodes failed {_TRIES} times, the first of them in mode "
            f"{modes[missing[0]]}: lower noise, which was {noise:g}"
        )
    real = np.arange(limit) < lengths[:, None]
    return Episodes(observations[real], actions[real], rewards[real], lengths, modes)


def _shares(weights: ArrayLike | None, modes: int) -> np.ndarray:
    """Return the share of each mode; they sum to 1."""
    shares = np.ones(modes) if weights is None else np.asarray(weights, dtype=float)
    if shares.shape != (modes,) or not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() == 0:
        raise ValueError(f"weights must be {modes} finite numbers, none negative and not all 0, got {weights!r}")
    return shares / shares.sum()


def _draw_modes(shares: np.ndarray, episodes: int, rng: np.random.Generator) -> np.ndarray:
    """Return the mode of each episode, in random order."""
    counts = np.floor(shares * episodes + 1e-9)
    rest = np.maximum(shares * episodes - counts, 0)
    left = episodes - int(counts.sum())
    if left:
        counts[rng.choice(len(shares), size=left, replace=False, p=rest / rest.sum())] += 1
    return rng.permutation(np.repeat(np.arange(len(shares)), counts.astype(int)))


@torch.no_grad()
def _roll_out(
    task: MultiGoal | Avoiding, style: _Style, modes: np.ndarray, noise: float, limit: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return observations and actions (E, limit, 2), rewards (E, limit), lengths (E,) and which succeed (E,)."""
    n = len(modes)
    state = task.initial(torch.from_numpy(rng.random((n, task.initial_noise_dim), dtype=np.float32)))
    curve = _intended_curve(task, modes, task.observation(state).double().numpy(), noise, rng)
    path = torch.from_numpy(_at_speed(curve, style, noise, limit, rng)).float()
    hand = torch.from_numpy(noise * style.unsteadiness * _smooth(rng, (2, n), limit, style.rhythm)).float()
    hand = hand.permute(2, 1, 0)
    zeros = partial(torch.zeros, device="cpu")  # whatever the default device
    observations, actions, rewards = zeros(limit, n, 2), zeros(limit, n, 2), zeros(limit, n)
    lengths, alive = zeros(n, dtype=torch.int64), ~zeros(n, dtype=torch.bool)
    for t in range(limit):
        position = observations[t] = task.observation(state)
        move = path[t + 1] - path[t] + style.correction * (path[t] - position) + hand[t]
        action = (move / task.max_step).clamp(-1, 1)
        following = task.transition(state, action)
        actions[t], rewards[t] = action, task.reward(state, action, following)
        state = torch.where(alive[:, None], following, state)
        lengths += alive
        alive &= ~task.terminal(state)
        if not alive.any():
            break
    told = task.state_info(state)
    succeeded = told["success"] & (told["mode"] == torch.from_numpy(modes))
    seen, done, earned = (x.transpose(0, 1).numpy() for x in (observations, actions, rewards))
    return seen, done, earned, lengths.numpy(), succeeded.numpy()


def _intended_curve(
    task: MultiGoal | Avoiding, modes: np.ndarray, start: np.ndarray, noise: float, rng: np.random.Generator
) -> np.ndarray:
    """Return closely spaced points (E, G, 2) of a smooth curve from each start to the end of its route."""
    n = len(modes)
    spread = noise * np.clip(rng.standard_normal((5, n)), -2, 2)
    if isinstance(task, MultiGoal):
        goals = np.array(task.goals)[modes]
        ahead = goals / np.linalg.norm(goals, axis=1, keepdims=True)
        along = [np.full(n, 2.5), np.full(n, 5.0)]
        aside = [0.5 * spread[0], 0.2 * spread[1]]
    else:
        ahead = np.tile([0.0, 1.0], (n, 1))
        gaps = np.stack((modes // 12, modes // 4 % 3, modes % 4))
        lines = [task.first_row + task.row_spacing * row for row in range(task.rows)]
        along = [np.full(n, y) for y in (*lines, task.finish + 0.5)]
        aside = [task.post_spacing * (gaps[row] - (row + 1) / 2) + 0.06 * spread[row] for row in range(task.rows)]
        aside.append(0.9 * aside[-1] + 0.1 * spread[3])
    right = np.stack((ahead[:, 1], -ahead[:, 0]), 1)
    knots = np.stack(((start * ahead).sum(1), *along), 1)
    laterals = np.stack(((start * right).sum(1), *aside), 1)
    part = np.linspace(0, 1, 50)
    forward = _blend(knots, part)
    lateral = _blend(laterals, part**3 * (10 - 15 * part + 6 * part**2))  # minimum jerk, as arms move
    return forward[..., None] * ahead[:, None] + lateral[..., None] * right[:, None]


def _blend(knots: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Go from knot to knot (E, K) as ``shape`` (G,) goes from 0 to 1; the result is (E, (K - 1) G)."""
    return (knots[:, :-1, None] + np.diff(knots)[..., None] * shape).reshape(len(knots), -1)


def _at_speed(curve: np.ndarray, style: _Style, noise: float, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Return where on its curve (E, G, 2) each episode means to be at each time: (limit + 1, E, 2)."""
    n = len(curve)
    own = np.exp(0.1 * noise * rng.standard_normal((n, 1)))
    rise = np.clip(np.arange(1, limit + 1) / style.start_up, 0, 1)
    wave = np.exp(0.1 * noise * _smooth(rng, (n,), limit, style.rhythm))
    way = np.cumsum(style.speed * own * (rise * rise * (3 - 2 * rise)) * wave, axis=1)
    passed = np.cumsum(np.hypot(*np.moveaxis(np.diff(curve, axis=1), -1, 0)), axis=1)
    path = np.empty((limit + 1, n, 2))
    for i in range(n):
        for axis in range(2):
            path[:, i, axis] = np.interp(np.append(0, way[i]), np.append(0, passed[i]), curve[i, :, axis])
    return path


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], steps: int, width: float) -> np.ndarray:
    """Return Gaussian processes (*shape, steps) of variance 1 whose values are alike over about ``width`` steps."""
    times = np.arange(steps)
    kernel = np.exp(-0.5 * ((times[:, None] - times) / width) ** 2)
    return rng.standard_normal((*shape, steps)) @ (kernel / np.linalg.norm(kernel, axis=0))
