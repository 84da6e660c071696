"""24 routes past posts from scripted demonstrations: which policies keep all of them, also where they are disturbed?

    python -m experiments.avoiding

Every policy has the same data, trainer and number of updates, and those without a transformer or a history the same
trunk; "diffusion, plans of 8" plans, and its corrective noise leads back over a plan as the others' does step by step.
Diffusion, which learns slowly, is also trained ten times as long. Judged from the origin, around which (±0.1)
demonstrations start, and from starts all over a square of ±0.3 with 2 % noise on every action; the entropy there is of
all starts together, so that a policy may have some that does but one thing from each. Open-loop replay of a random
demonstration, whose last velocity is held, is the control for memorising: what it can do asks for no policy. A route is
only shown where the episode succeeds, and a policy without success has no entropy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from experiments.agents import batch, judge, landmarks, paths
from experiments.cloning import (
    GAUSSIAN,
    NOTE,
    PRICE,
    REPLAY,
    Replay,
    alternatives,
    cloned,
    compared,
    ways,
    without,
)
from experiments.records import StudyArgs, table, write
from latentrl import Demonstrations, metrics
from latentrl.cells import Record
from latentrl.noise import CorrectiveNoise
from latentrl_envs.avoiding import Avoiding
from latentrl_envs.experts import demonstrate

ROUTES = 24
COLUMNS = (
    "success",
    "entropy",
    "success, disturbed",
    "entropy, disturbed",
    *PRICE,
)
WITHOUT = alternatives()
PLANS = "diffusion, plans of 8"
PLANNING = WITHOUT["diffusion"] | {"chunk": 8, "execute": 8}
LONGER = ", ten times the updates"
TIMES = {f"diffusion{LONGER}": 10, f"{PLANS}{LONGER}": 10}
"""The others' number of updates."""
UNITS = {
    "success": "↑",
    "entropy": "of 24, at most 1, ↑",
    "success, disturbed": "↑",
    "entropy, disturbed": "↑",
}
OURS = "latent, VampPrior"
POLICIES: dict[str, dict[str, Any]] = {
    **WITHOUT,
    "bins and offsets, 5 observations": WITHOUT["bins and offsets"] | {"history": 5},
    PLANS: PLANNING,
    f"diffusion{LONGER}": WITHOUT["diffusion"],
    f"{PLANS}{LONGER}": PLANNING,
    "latent, N(0, I)": {"prior": "normal"},
    "latent, N(0, I), posteriors' latents": {"prior": "normal", "latents": "aggregate"},
    "latent, flow": {"prior": "flow"},
    "latent, mixture": {"prior": "mixture", "n_components": 48},
    OURS: {"prior": "vamp", "n_components": 48},
    "latent, VampPrior, transformer": {"prior": "vamp", "n_components": 48, "trunk": "transformer", "history": 4},
}


@dataclass(frozen=True)
class Args(StudyArgs):
    """Clone and judge every policy with every seed."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of each policy with each."""
    per_route: int = 4
    """Demonstrations of each route."""
    updates: int = 4_000
    """Gradient updates."""
    episodes: int = 480
    """By which a policy is judged in each condition."""
    workers: int = 2
    """Parallel processes."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/avoiding")
    """Folder for the table, the records, the picture, and one file per finished run."""

    def smoked(self) -> "Args":
        """The settings that count."""
        return replace(self, seeds=(0,), updates=2, episodes=8) if self.smoke else self


class ActionNoise(VecEnvWrapper):
    """Adds normal noise to actions.

    :param std: in units of the actions
    """

    def __init__(self, venv: VecEnv, std: float, seed: int) -> None:
        super().__init__(venv)
        self.std, self.generator = std, np.random.default_rng(seed)

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self.venv.step_async(actions + self.std * self.generator.standard_normal(actions.shape).astype(actions.dtype))

    def step_wait(self) -> VecEnvStepReturn:
        return self.venv.step_wait()


def demonstrations(per_route: int, seed: int) -> Demonstrations:
    """As many of each route."""
    return Demonstrations.from_arrays(**demonstrate(Avoiding(), ROUTES * per_route, seed=seed)._asdict())


def planned(shown: Demonstrations, steps: int = 8) -> CorrectiveNoise:
    """The noise that other policies get, for plans: an action leads back from what those before it have left of a
    deviation, (1 − 1/8) each."""
    found = CorrectiveNoise.estimate(shown)
    assert found is not None
    assert found.gain is not None
    return CorrectiveNoise(found.std, np.concatenate([found.gain * (1 - 1 / 8) ** step for step in range(steps)]))


def conditions(episodes: int, seed: int) -> dict[str, VecEnv]:
    """Where policies are judged, by what is behind the names of the columns."""
    calm, disturbed = (batch("Avoiding-v0", episodes, 10_000 * (1 + seed), start_jitter=j) for j in (0.0, 0.3))
    return {"": calm, ", disturbed": ActionNoise(disturbed, 0.02, seed)}


def run(name: str, seed: int, args: Args) -> Record:
    """Clone one policy and judge it, by the ways in which it plays."""
    shown = demonstrations(args.per_route, seed)
    if name == REPLAY:
        return {name: judged(Replay(shown, seed, stay=True), seed, args)}
    options = POLICIES[name]
    # Plans drawn on their own see as many transitions in an update as segments do.
    size = 64 * 16 if options.get("hold") == 1 else 64
    noise = {"noise": planned(shown)} if "chunk" in options else {}
    agent, price = cloned(shown, options, seed, TIMES.get(name, 1) * args.updates, batch_size=size, **noise)
    return {title: judged(player, seed, args) | price for title, player in ways(agent.policy, name, GAUSSIAN)}


def judged(agent: Any, seed: int, args: Args) -> Record:
    """Success, entropy and routes in both conditions."""
    record: Record = {}
    for suffix, venv in conditions(args.episodes, seed).items():
        found = judge(agent, venv, args.episodes, ROUTES)
        record |= {
            f"success{suffix}": found["success"],
            f"entropy{suffix}": metrics.behaviour_entropy(found["counts"]).value,
            f"counts{suffix}": found["counts"],
        }
        if suffix and seed == args.seeds[0]:
            record["paths"] = paths(agent, venv, min(48, args.episodes))
    return record


def verdict(found: Sequence[Record]) -> str:
    """Whether ours succeeds and keeps its routes as it should, in how many seeds, and where replay is."""
    said = []
    for name in (OURS, REPLAY):
        for suffix in ("", ", disturbed"):
            mine = [r for r in found if r["method"] == name]
            good = sum(r[f"success{suffix}"] >= 0.95 and r[f"entropy{suffix}"] >= 0.9 for r in mine)
            said.append(f"{name}{suffix}: {good} of {len(mine)}")
    return f"\nSeeds with a success of .95 and an entropy of .90: {'; '.join(said)}.\n"


def draw(found: Sequence[Record]) -> Figure:
    """Where each policy of the first seed goes when disturbed."""
    figure = Figure(figsize=(14, 8), layout="constrained")
    names = list(dict.fromkeys(record["method"] for record in found))
    axes = figure.subplots(2, -(-len(names) // 2), sharex=True, sharey=True).ravel()
    for axis, name in zip(axes, names, strict=False):
        record = next(record for record in found if record["method"] == name and "paths" in record)
        for path in record["paths"]:
            axis.plot(*np.array(path).T, color="C0", alpha=0.35, linewidth=0.8)
        for centre, radius, color in landmarks("Avoiding-v0"):
            axis.add_patch(Circle(centre, radius, color=color))
        axis.set(aspect="equal", xlim=(-2, 2), ylim=(-0.7, 8.7))
        axis.set_title(f"{fill(name, 26)}\n{record['success, disturbed']:.2f} succeed", fontsize=7)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    return figure


def main(args: Args) -> None:
    """Clone, judge, write."""
    args = args.smoked()
    jobs = {f"{name} {seed}": partial(run, name, seed, args) for name in [*POLICIES, REPLAY] for seed in args.seeds}
    example = partial(demonstrations, args.per_route, args.seeds[0])
    found, settings = compared(args, POLICIES, GAUSSIAN, jobs, example, times=TIMES, control={"stay": True})
    record = {"settings": settings, "runs": without(found, "paths")}
    text = table(found, COLUMNS, UNITS) + verdict(found) + NOTE.format(seeds=", ".join(map(str, args.seeds)))
    write(args.out, "avoiding", ("latentrl",), text, record, draw(found))


if __name__ == "__main__":
    main(tyro.cli(Args))
