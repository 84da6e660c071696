"""Whose a landing is, and what a policy's landings in LunarLanderContinuous-v3 are worth."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from stable_baselines3.common.env_util import make_vec_env

from experiments.bc_then_rl import ENV, FirstEpisode
from experiments.landings import flights, kinds, read, summaries, summary
from latentrl import Demonstrations
from latentrl.sb3 import evaluate_behaviour

EVERY = 6
"""Steps between the places that are kept of a path."""


class Judge:
    """Tells whose a landing is by its single steps: who else did about this in about such a place.

    Whole flights, which :func:`experiments.landings.kinds` compares, differ more from start to start than from pilot to
    pilot.

    :param recorded: landings of known pilots
    """

    neighbours, steps = 10, 64

    def __init__(self, recorded: Demonstrations) -> None:
        assert recorded.modes is not None
        self.pilots = int(recorded.modes.max()) + 1
        self.labels = np.repeat(recorded.modes, recorded.episode_lengths)
        joined = np.concatenate([recorded.observations, recorded.actions], 1)
        self.spread = joined.std(0) + 1e-6
        self.tree = KDTree(joined / self.spread)

    def shares(self, observations: NDArray[Any], actions: NDArray[Any]) -> NDArray[np.float64]:
        """Of the recorded steps that are nearest to those of a landing, the share of each pilot: (pilots,)."""
        steps = np.linspace(0, len(observations) - 1, self.steps).round().astype(int)
        asked = np.concatenate([observations, actions], 1)[steps] / self.spread
        nearest = self.labels[self.tree.query(asked, self.neighbours)[1]]
        return np.bincount(nearest.ravel(), minlength=self.pilots) / nearest.size


class Recorded(NamedTuple):
    """All landings, and who judges."""

    landings: Demonstrations
    judge: Judge
    threshold: float
    """Share of a pilot in the steps of a landing from which on it is the pilot's."""
    accuracy: float
    """Of the judge, on landings that it does not know."""
    accuracy_of_kinds: float
    """The same of :func:`experiments.landings.kinds`."""

    def whose(self, shares: NDArray[Any]) -> NDArray[np.int64]:
        """The pilot of each landing with shares (N, P), −1 where it is nobody's."""
        return np.where(shares.max(1) >= self.threshold, shares.argmax(1), -1)


@cache
def recorded(path: Path, folds: int = 5) -> Recorded:
    """Read once by each process."""
    landings = read(path)
    modes = landings.modes
    assert modes is not None
    shares, whole = np.zeros((len(modes), modes.max() + 1)), np.zeros_like(modes)
    for asked in np.arange(len(modes)) % folds == np.arange(folds)[:, None]:
        known, unknown = landings.select(~asked), landings.select(asked)
        judge = Judge(known)
        shares[asked] = [judge.shares(*flight) for flight in flights(unknown)]
        whole[asked] = kinds(summaries(known), modes[~asked], summaries(unknown))
    own = shares[np.arange(len(modes)), modes]
    told = (float((found == modes).mean()) for found in (shares.argmax(1), whole))
    return Recorded(landings, Judge(landings), float(np.quantile(own, 0.05)), *told)


class Steered:
    """Flies with given latents, or draws them, and keeps what it saw and did."""

    def __init__(self, agent: Any, latents: NDArray[Any] | None) -> None:
        self.agent, self.options = agent, {} if latents is None else {"latent": latents}
        self.seen: list[NDArray[Any]] = []
        self.done: list[NDArray[Any]] = []

    def predict(
        self, observations: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        actions, state = self.agent.predict(
            observations, state, episode_start, deterministic=deterministic, **self.options
        )
        self.seen.append(observations.copy())
        self.done.append(actions)
        return actions, state


class Flown(NamedTuple):
    """N landings."""

    returns: NDArray[np.float64]
    whose: NDArray[np.int64]
    """(N,) pilot, or −1."""
    whole: NDArray[Any]
    """(N, F) summaries."""
    paths: list[list[list[float]]]
    """Some places of each."""


def fly(agent: Any, count: int, seed: int, known: Recorded, latents: NDArray[Any] | None = None) -> Flown:
    """One episode in each of as many environments.

    :param latents: (count, Z), or None to draw them
    """
    pilot = Steered(agent, latents)
    found = evaluate_behaviour(pilot, make_vec_env(ENV, count, seed=seed, wrapper_class=FirstEpisode), count)
    order = found.environments.argsort()
    seen, done = np.stack(pilot.seen, 1), np.stack(pilot.done, 1)
    landings = [(seen[i, :length], done[i, :length]) for i, length in enumerate(found.lengths[order])]
    shares = np.array([known.judge.shares(*flight) for flight in landings])
    paths = [np.round(flight[0][::EVERY, :2].astype(float), 2).tolist() for flight in landings]
    return Flown(found.returns[order], known.whose(shares), np.array([summary(*flight) for flight in landings]), paths)
