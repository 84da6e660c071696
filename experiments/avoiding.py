"""24 routes past posts from scripted demonstrations: which policies keep all of them, also where they are disturbed?

    python -m experiments.avoiding

Every policy has the same data, trunk, trainer and number of updates; the plans of diffusion are its own. Judged from
the origin, and from starts all over a square of ±0.3 with 2 % noise on every action. Open-loop replay of a random
demonstration is the control for memorising: what it can do asks for no policy. A route is only shown where the episode
succeeds, and a policy without success has no entropy.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from experiments.agents import batch, judge, landmarks, paths
from experiments.cloning import PRICE, REPLAY, Replay, alternatives, cloned
from experiments.records import table, write
from latentrl import Demonstrations, metrics
from latentrl.cells import Cells, Record
from latentrl.sweeps import sweep
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
POLICIES: dict[str, dict[str, Any]] = {
    **WITHOUT,
    "bins and offsets, 5 observations": WITHOUT["bins and offsets"] | {"history": 5},
    "diffusion, plans of 8": WITHOUT["diffusion"] | {"chunk": 8, "execute": 8},
    "latent, N(0, I)": {"prior": "normal"},
    "latent, N(0, I), posteriors' latents": {"prior": "normal", "latents": "aggregate"},
    "latent, flow": {"prior": "flow"},
    "latent, mixture": {"prior": "mixture", "n_components": 48},
    "latent, VampPrior": {"prior": "vamp", "n_components": 48},
    "latent, VampPrior, transformer": {"prior": "vamp", "n_components": 48, "trunk": "transformer", "history": 4},
}


@dataclass(frozen=True)
class Args:
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


def conditions(episodes: int, seed: int) -> dict[str, VecEnv]:
    """Where policies are judged, by what is behind the names of the columns."""
    calm, disturbed = (batch("Avoiding-v0", episodes, 10_000 + seed, start_jitter=j) for j in (0.0, 0.3))
    return {"": calm, ", disturbed": ActionNoise(disturbed, 0.02, seed)}


def run(name: str, seed: int, args: Args) -> Record:
    """Clone one policy and judge it."""
    shown = demonstrations(args.per_route, seed)
    if name == REPLAY:
        return judged(Replay(shown, seed), seed, args)
    options = POLICIES[name]
    # Plans drawn on their own see as many transitions in an update as segments do.
    size = 64 * 16 if options.get("hold") == 1 else 64
    agent, price = cloned(shown, options, seed, args.updates, batch_size=size)
    return judged(agent, seed, args) | price


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
        record[f"paths{suffix}"] = paths(agent, venv, min(48, args.episodes)) if suffix else []
    return record


def draw(found: Sequence[Record]) -> Figure:
    """Where each policy of the first seed goes when disturbed."""
    figure = Figure(figsize=(14, 8), layout="constrained")
    names = [*POLICIES, REPLAY]
    axes = figure.subplots(2, -(-len(names) // 2), sharex=True, sharey=True).ravel()
    for axis, name in zip(axes, names, strict=False):
        record = next(record for record in found if record["method"] == name)
        for path in record["paths, disturbed"]:
            axis.plot(*np.array(path).T, color="C0", alpha=0.35, linewidth=0.8)
        for centre, radius, color in landmarks("Avoiding-v0"):
            axis.add_patch(Circle(centre, radius, color=color))
        axis.set(aspect="equal", xlim=(-2, 2), ylim=(-0.7, 8.7))
        axis.set_title(f"{name}\n{record['success, disturbed']:.2f} succeed", fontsize=7)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    return figure


def main(args: Args) -> None:
    """Clone, judge, write."""
    args = args.smoked()
    settings = {name: value for name, value in asdict(args).items() if name not in ("workers", "out")}
    jobs = {f"{name} {seed}": partial(run, name, seed, args) for name in [*POLICIES, REPLAY] for seed in args.seeds}
    made = sweep(Cells(args.out, settings), jobs, args.workers)
    found = [{"method": key.rpartition(" ")[0], **record} for key, record in zip(jobs, made, strict=True)]
    kept = [{key: value for key, value in record.items() if not key.startswith("paths")} for record in found]
    write(args.out, "avoiding", ("latentrl",), table(found, COLUMNS), {"settings": settings, "runs": kept}, draw(found))


if __name__ == "__main__":
    main(tyro.cli(Args))
