"""Recorded landings in LunarLanderContinuous-v3 by several pilots: their reader, and how to judge a cloned policy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from latentrl import Demonstrations, metrics
from latentrl.checks import LatentRLError
from latentrl.sb3 import LatentBC

SOLVED = 200.0
"""Return from which on a landing succeeds."""


def read(path: Path) -> Demonstrations:
    """Landings with the pilot as the mode of each episode."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            ends, pilots = archive["episode_ends"], archive["expert"]
            observations, actions, rewards = archive["obs"], archive["action"], archive["reward"]
    except (OSError, KeyError, ValueError) as error:
        raise LatentRLError(
            f"{path} holds no landings: give an .npz with obs, action, reward, expert, episode_ends"
        ) from error
    space = gym.spaces.Box(-1.0, 1.0, (2,))
    lengths = np.diff(ends, prepend=0)
    return Demonstrations.from_arrays(
        observations,
        actions.clip(-1.0, 1.0),
        lengths,
        rewards=rewards,
        action_space=space,
        modes=pilots[ends - 1],
    )


def summary(observations: NDArray[Any], actions: NDArray[Any]) -> NDArray[Any]:
    """What tells pilots apart: 16 evenly spaced steps, and the length of the flight."""
    steps = np.linspace(0, len(observations) - 1, 16).round().astype(int)
    joined = np.concatenate([observations[:, :6], actions], 1)[steps]
    return np.append(joined.ravel(), len(observations) / 100.0)


def kinds(known: NDArray[Any], labels: NDArray[Any], asked: NDArray[Any]) -> NDArray[np.int64]:
    """Label of each asked summary by a vote of the five nearest known ones."""
    spread = known.std(0) + 1e-6
    table = (((asked / spread)[:, None] - (known / spread)[None]) ** 2).sum(-1)
    votes = labels[table.argsort(1)[:, :5]]
    return np.array([np.bincount(row).argmax() for row in votes])


def flights(recorded: Demonstrations) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Observations and actions of one landing after another."""
    for start, length in zip(recorded.episode_starts, recorded.episode_lengths, strict=True):
        yield recorded.observations[start : start + length], recorded.actions[start : start + length]


def summaries(recorded: Demonstrations) -> NDArray[Any]:
    """One row for each landing."""
    return np.array([summary(*flight) for flight in flights(recorded)])


def score(agent: LatentBC, recorded: Demonstrations, rollouts: int, seed: int) -> dict[str, Any]:
    """Success, kinds and entropy of landings in Gymnasium's environment; a kind is the pilot of the nearest records.

    With seed 0 the first 25 starts are those of a pilot's recorded landings.
    """
    assert recorded.modes is not None
    known = summaries(recorded)
    env = gym.make("LunarLanderContinuous-v3")
    returns, flown = [], []
    for episode in range(rollouts):
        observation, _ = env.reset(seed=10_000 * seed + episode)
        seen, done, state, total = [], [], None, 0.0
        while True:
            action, state = agent.predict(observation, state)
            seen.append(observation)
            done.append(action)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        returns.append(total)
        flown.append(summary(np.array(seen), np.array(done)))
    env.close()
    success = np.array(returns) >= SOLVED
    nearest = kinds(known, recorded.modes, np.array(flown))
    counts = np.bincount(nearest[success], minlength=int(recorded.modes.max()) + 1)
    return {
        "success": float(success.mean()),
        "modes": metrics.modes_covered(counts),
        "entropy": metrics.behaviour_entropy(counts).value,
        "mean_return": float(np.mean(returns)),
        "counts": counts.tolist(),
    }
