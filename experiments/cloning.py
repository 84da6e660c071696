"""What comparisons of cloned policies have in common: the alternatives to a latent, and the control for memorising."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from latentrl import Demonstrations
from latentrl.cells import Record
from latentrl.sb3 import LatentBC

REPLAY = "open-loop replay"
PRICE = ("ms per plan", "training (s)", "parameters")
"""Columns beside every result."""


def alternatives(**shared: Any) -> dict[str, dict[str, Any]]:
    """Options of policies without latent, a draw for each plan.

    :param shared: options of all of them
    """
    none = {"latent_dim": 0, "hold": 1} | shared
    return {
        "deterministic": none,
        "Gaussian": none | {"action_noise": True},
        "mixture density": none | {"decoder": "mixture"},
        "bins and offsets": none | {"decoder": "bins"},
        "diffusion": none | {"decoder": "diffusion"},
    }


def cloned(
    demonstrations: Demonstrations, options: Mapping[str, Any], seed: int, updates: int, **settings: Any
) -> tuple[LatentBC, Record]:
    """A policy and its price: seconds of a processor to train it, milliseconds to plan for one observation, and weights
    of what acts.

    :param options: of the policy
    :param settings: further arguments of :class:`LatentBC`
    """
    agent = LatentBC(demonstrations=demonstrations, policy_kwargs=dict(options), seed=seed, device="cpu", **settings)
    start = time.process_time()
    agent.learn(updates)
    seconds = time.process_time() - start
    model = agent.policy.model
    weights = [weight for part in (model.decoder, model.prior) if part for weight in part.parameters()]
    parameters = sum(weight.numel() for weight in weights)
    return agent, {"training (s)": seconds, "parameters": parameters, "ms per plan": planning(agent)}


def planning(agent: LatentBC, repeats: int = 100) -> float:
    """Median milliseconds of ``predict`` for one observation where an episode starts."""
    space, seconds = agent.observation_space, []
    seen = np.zeros((1, *(space.shape or ())), space.dtype)
    for _ in range(repeats):
        start = time.perf_counter()
        agent.predict(seen)
        seconds.append(time.perf_counter() - start)
    return 1000.0 * float(np.median(seconds))


class Replay:
    """Plays the actions of a demonstration drawn at the start of each episode, whatever it sees; then its last one, or
    zeros.

    :param stay: repeat the last action, where it is a place to go to
    """

    def __init__(self, demonstrations: Demonstrations, seed: int, stay: bool = False) -> None:
        self.shown, self.generator, self.stay = demonstrations, np.random.default_rng(seed), stay

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, *_: Any, **__: Any
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        count = len(observation)
        which, step = (np.zeros(count, int), np.zeros(count, int)) if state is None else state
        new = np.ones(count, bool) if state is None else np.asarray(episode_start, bool)
        which = np.where(new, self.generator.integers(self.shown.num_episodes, size=count), which)
        step = np.where(new, 0, step)
        last = self.shown.episode_lengths[which] - 1
        actions = self.shown.actions[self.shown.episode_starts[which] + np.minimum(step, last)]
        played = actions if self.stay else np.where((step <= last)[:, None], actions, 0.0)
        return played.astype(np.float32), (which, step + 1)
