"""What skills does an agent learn without any reward of the task? Four-goal plane and posts.

    python -m experiments.skills

PPO sees one of eight skills for the whole episode and is rewarded for states that tell which (``SkillReward``, DIAYN).
Beside it, the same agent without that reward. What tells skills apart here is not the discriminator that rewarded them,
but the nearest neighbour among where other episodes ended: how often that shows the same skill (by chance: 1 in 8).
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
from scipy.spatial.distance import cdist
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from experiments.agents import batch, landmarks, paths
from experiments.records import StudyArgs, table, write
from latentrl.cells import Cells, Record
from latentrl.sb3 import LatentNoiseWrapper, SkillReward
from latentrl.sweeps import sweep

TASKS = ("MultiGoal-v0", "Avoiding-v0")
SCALES = {"with SkillReward": 1.0, "without": 0.0}
COLUMNS = ("told from the end", "told from the middle", "reach")


@dataclass(frozen=True)
class Args(StudyArgs):
    """Learn skills on every task with every seed."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of each agent with each."""
    skills: int = 8
    """How many."""
    steps: int = 200_000
    """Environment steps."""
    num_envs: int = 16
    """Environments to learn in."""
    episodes: int = 20
    """Of each skill, by which it is judged."""
    workers: int = 2
    """Parallel processes."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/skills")
    """Folder for the table, the records, the picture, and one file per finished run."""

    def smoked(self) -> "Args":
        """The settings that count."""
        return replace(self, seeds=(0,), steps=64, num_envs=4, episodes=2) if self.smoke else self


def told(places: np.ndarray, skills: np.ndarray) -> float:
    """How often the nearest other place (N, 2) belongs to the same skill (N,)."""
    apart = cdist(places, places)
    np.fill_diagonal(apart, np.inf)
    return float((skills[apart.argmin(1)] == skills).mean())


def run(task: str, scale: float, seed: int, args: Args) -> Record:
    """Learn, then play every skill."""
    noisy = partial(LatentNoiseWrapper, latent_dim=args.skills, kind="categorical")
    venv: VecEnv = noisy(batch(task, args.num_envs, seed))
    venv.seed(seed)
    venv = SkillReward(venv, scale=scale, extrinsic=0.0, seed=seed, device="cpu")
    settings: dict[str, Any] = {"n_steps": 128, "batch_size": 256, "ent_coef": 0.01}
    agent = PPO("MultiInputPolicy", venv, seed=seed, device="cpu", **settings).learn(args.steps)

    judged = noisy(batch(task, args.skills * args.episodes, 10_000 + seed))
    skills = np.arange(args.skills).repeat(args.episodes)
    judged.hold_noise(skills)
    went = [np.array(path) for path in paths(agent, judged, len(skills))]
    return {
        "told from the end": told(np.array([path[-1] for path in went]), skills),
        "told from the middle": told(np.array([path[len(path) // 2] for path in went]), skills),
        "reach": float(np.mean([np.linalg.norm(path[-1] - path[0]) for path in went])),
        "paths": [path.tolist() for path in went[:: max(1, args.episodes // 10)]] if seed == args.seeds[0] else [],
    }


def draw(found: Sequence[Record], args: Args) -> Figure:
    """Ways of each skill, a colour each, of the first seed."""
    shown = [record for record in found if record["paths"]]
    figure = Figure(figsize=(3.6 * len(shown), 4), layout="constrained")
    for axis, record in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for centre, radius, color in landmarks(record["task"]):
            axis.add_patch(Circle(centre, radius, color=color))
        each = len(record["paths"]) // args.skills
        for number, path in enumerate(record["paths"]):
            axis.plot(*np.array(path).T, color=f"C{number // each}", linewidth=0.8, alpha=0.7)
        axis.set(title=f"{record['method']}\ntold from the end: {record['told from the end']:.2f}", aspect="equal")
    return figure


def main(args: Args) -> None:
    """Learn, judge, write."""
    args = args.smoked()
    settings = {name: value for name, value in asdict(args).items() if name not in ("workers", "out")}
    jobs = {
        f"{task} {kind} {seed}": partial(run, task, scale, seed, args)
        for task in TASKS
        for kind, scale in SCALES.items()
        for seed in args.seeds
    }
    made = sweep(Cells(args.out, settings), jobs, args.workers)
    found = [{"method": key.rpartition(" ")[0], "task": key.split()[0], **r} for key, r in zip(jobs, made, strict=True)]
    kept = [{key: value for key, value in record.items() if key != "paths"} for record in found]
    record = {"settings": settings, "runs": kept}
    write(args.out, "skills", ("latentrl",), table(kept, COLUMNS), record, draw(found, args))


if __name__ == "__main__":
    main(tyro.cli(Args))
