"""What comparisons of cloned policies have in common: the alternatives to a latent, their prices, the control for
memorising, and policies that are trained once and play in several ways."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments.records import digest
from latentrl import Demonstrations
from latentrl.cells import Cells, Record
from latentrl.priors import VampPrior
from latentrl.sb3 import LatentBC, LatentPolicy
from latentrl.sweeps import sweep
from latentrl.training.fingerprint import describe

REPLAY = "open-loop replay"
PRICE = ("ms per plan", "ms per action", "training (CPU s)", "parameters")
"""Columns beside every result; milliseconds are medians of a hundred calls, taken once."""
NOTE = "\nMeans ± standard deviations over the seeds {seeds}.\n"


class Playing(NamedTuple):
    """A policy that is trained as another one, and plays in its own way."""

    trained: str
    change: Callable[[LatentPolicy], None]


def noisily(policy: LatentPolicy) -> None:
    """Actions are drawn from p(a|s, z)."""
    policy.action_noise = True


def in_passes(passes: int, policy: LatentPolicy) -> None:
    """Through diffusion's network for one plan."""
    policy.model.decoder.sampling_steps = passes  # type: ignore[assignment]


def alternatives(**shared: Any) -> dict[str, dict[str, Any]]:
    """Options of policies without latent, a draw for each plan; "Gaussian" is "deterministic" with its noise.

    :param shared: options of all of them
    """
    none = {"latent_dim": 0, "hold": 1} | shared
    return {
        "deterministic": none,
        "mixture density": none | {"decoder": "mixture"},
        "bins and offsets": none | {"decoder": "bins"},
        "diffusion": none | {"decoder": "diffusion"},
    }


GAUSSIAN = {"Gaussian": Playing("deterministic", noisily)}


def cloned(
    demonstrations: Demonstrations, options: Mapping[str, Any], seed: int, updates: int, **settings: Any
) -> tuple[LatentBC, Record]:
    """A policy and its price: seconds of a processor to train it, and weights of what acts.

    :param options: of the policy
    :param settings: further arguments of :class:`LatentBC`
    """
    agent = LatentBC(demonstrations=demonstrations, policy_kwargs=dict(options), seed=seed, device="cpu", **settings)
    start = time.process_time()
    agent.learn(updates)
    seconds = time.process_time() - start
    model = agent.policy.model
    # A VampPrior passes its pseudo-inputs through the encoder.
    acting = [model.decoder, model.prior, model.posterior if isinstance(model.prior, VampPrior) else None]
    parameters = sum(weight.numel() for part in acting if part is not None for weight in part.parameters())
    return agent, {"training (CPU s)": seconds, "parameters": parameters}


def ways(policy: LatentPolicy, name: str, playing: Mapping[str, Playing]) -> Iterator[tuple[str, LatentPolicy]]:
    """A policy under its name, and copies that play as others do."""
    yield name, policy
    for other, way in playing.items():
        if way.trained == name:
            changed = copy.deepcopy(policy)
            way.change(changed)
            yield other, changed


def speeds(
    demonstrations: Demonstrations,
    policies: Mapping[str, Mapping[str, Any]],
    playing: Mapping[str, Playing],
    rounds: int = 100,
) -> Record:
    """Median milliseconds of the CPU in ``predict`` for one observation where an episode starts, of one thread, and
    what each action that is played costs: a share of the plan's, or what is left of it where a latent is held for the
    episode. Policies take turns, so that a change of the processor's speed is shared by all, and each turn begins with
    calls that are not timed, as the caches are full of the others' weights and code; what they have learned does not
    matter."""
    made: dict[str, LatentPolicy] = {}
    for name, options in policies.items():
        agent = LatentBC(demonstrations=demonstrations, policy_kwargs=dict(options), seed=0, device="cpu")
        made |= dict(ways(agent.learn(1).policy, name, playing))
    space = demonstrations.observation_space
    first, later = ({name: list[float]() for name in made} for _ in range(2))
    seen = np.zeros((1, *(space.shape or ())), space.dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(rounds):
        for name, policy in made.items():
            for _ in range(3):
                policy.predict(seen)
            times = [time.thread_time()]
            _, state = policy.predict(seen)
            times.append(time.thread_time())
            policy.predict(seen, state)
            times.append(time.thread_time())
            first[name].append(times[1] - times[0])
            later[name].append(times[2] - times[1])
    torch.set_num_threads(threads)
    found: Record = {}
    for name, policy in made.items():
        plan, after = (1000.0 * float(np.median(seconds[name])) for seconds in (first, later))
        held = policy.config.hold == 0 and policy.config.latent_dim > 0
        found[name] = {"ms per plan": plan, "ms per action": after if held else plan / policy.config.plays}
    return found


def compared(
    args: Any,
    policies: Mapping[str, Mapping[str, Any]],
    playing: Mapping[str, Playing],
    jobs: Mapping[str, Callable[[], Record]],
    example: Callable[[], Demonstrations],
    **more: Any,
) -> tuple[list[Record], Record]:
    """What all runs found, one record for each way to play, and the settings.

    :param args: with ``out`` and ``workers``; paths name data, whose content counts
    :param jobs: for each "method … seed" what returns records by the name of the policy that plays
    :param example: demonstrations to time the policies with
    :param more: what else results depend on
    """
    given = {name: value for name, value in asdict(args).items() if name not in ("workers", "out")}
    for name, value in given.items():
        if isinstance(value, Path):
            given[name] = digest(value)
    ways_to_play = {"policies": describe(policies), "playing": describe(playing)}
    settings = given | ways_to_play | {name: describe(value) for name, value in more.items()}
    cells = Cells(args.out, settings)
    made = sweep(cells, jobs, args.workers)
    price = cells("speeds", lambda: speeds(example(), policies, playing))
    return [
        {"method": name, "job": key, **record, **price.get(name, {})}
        for key, records in zip(jobs, made, strict=True)
        for name, record in records.items()
    ], settings


def without(records: Iterable[Record], *names: str) -> list[Record]:
    """What is written of records: not what is only drawn."""
    return [{key: value for key, value in record.items() if not key.startswith(names)} for record in records]


class Replay:
    """Plays the actions of a demonstration drawn at the start of each episode, whatever it sees; then its last one, or
    zeros.

    :param stay: repeat the last action, where it is a place to go to, or a speed that is held
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
