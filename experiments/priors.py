"""Which prior suits behaviour that comes in kinds? Four priors under one recipe, on human strokes and on pilots.

    python -m experiments.priors --lander lunarlander_expert_mixture.npz

Human strokes: the 26 LASA shapes from one start, rolled out in ``latentrl/Trace-v0`` and scored as in the demo. Pilots:
episodes of LunarLanderContinuous-v3 by four agents, rolled out in Gymnasium's environment; a landing succeeds from a
return of 200 on, and its kind is that of the recorded episodes nearest to it (this needs ``gymnasium[box2d]``). Without
``--lander`` only the strokes.
"""

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments import landings
from latentrl import Demonstrations
from latentrl.data import Segments
from latentrl.demo import handwriting
from latentrl.files import whole
from latentrl.report import environment
from latentrl.sb3 import LatentBC

PRIORS = {"normal": "N(0, I)", "mixture": "mixture", "vamp": "VampPrior", "flow": "flow"}
COLUMNS = {
    "bound": "held-out bound (nats per step)",
    "success": "success",
    "modes": "kinds",
    "entropy": "entropy",
    "prior_holes": "prior holes",
    "aggregate_kl": "aggregate KL",
    "mutual_information": "information",
}


@dataclass(frozen=True)
class Args:
    """Train every prior on every data set and compare."""

    lander: Path | None = None
    """Recorded landings: obs (N, 8), action (N, 2), expert (N,), episode_ends (E,)."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of each prior with each."""
    updates: int = 3000
    """Gradient updates of each run."""
    rollouts: int = 208
    """Episodes of each cloned policy."""
    workers: int = 2
    """Parallel processes."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/priors")
    """Folder for the table, the records and the picture."""


@dataclass(frozen=True)
class Job:
    """One run."""

    data: str
    prior: str
    seed: int
    updates: int
    rollouts: int
    lander: Path | None


@cache
def strokes() -> handwriting.Strokes:
    return handwriting.Strokes.load()


def score_strokes(agent: LatentBC, job: Job) -> dict[str, Any]:
    """Success, kinds and entropy of drawn strokes."""
    record, _ = handwriting.score(handwriting.rollout(agent, job.rollouts, job.seed), strokes())
    return {name: record[name] for name in ("success", "modes", "entropy")}


def score_landings(agent: LatentBC, job: Job) -> dict[str, Any]:
    assert job.lander is not None
    return landings.score(agent, landings.read(job.lander), job.rollouts, job.seed)


STUDIES: dict[str, Callable[[LatentBC, Job], dict[str, Any]]] = {"strokes": score_strokes, "landings": score_landings}


def split(job: Job) -> tuple[Demonstrations, Demonstrations]:
    """Training and held-out episodes, the same for every prior and seed."""
    if job.data == "strokes":
        everything = Demonstrations.from_lasa(steps=handwriting.STEPS)
        return everything.split(5 / 7, seed=0)
    assert job.lander is not None
    return landings.read(job.lander).split(0.8, seed=0)


def held_out_bound(agent: LatentBC, data: Demonstrations) -> float:
    """Importance-weighted bound of log p(actions | states) with 100 draws per episode, nats per step."""
    config, model = agent.policy.config, agent.policy.model.eval()
    segments = Segments(data, config.hold, config.context_length)
    # One by one: episodes differ in length.
    bounds = [model.log_likelihood(segments.batch(torch.tensor([i])), 100).value for i in range(len(segments))]
    return float(torch.cat(bounds).sum() / len(data))


def run(job: Job) -> dict[str, Any]:
    """Train, roll out, judge."""
    torch.set_num_threads(1)
    train, held_out = split(job)
    agent = LatentBC(demonstrations=train, policy_kwargs={"prior": job.prior}, seed=job.seed, device="cpu")
    agent.learn(job.updates)
    segments = Segments(train, agent.policy.config.hold, agent.policy.config.context_length)
    diagnostics = agent.policy.model.diagnostics(segments.batch(torch.arange(len(segments)), steps=16))
    return {
        "data": job.data,
        "prior": job.prior,
        "seed": job.seed,
        "bound": held_out_bound(agent, held_out),
        **diagnostics._asdict(),
        **STUDIES[job.data](agent, job),
    }


def table(records: list[dict[str, Any]]) -> str:
    """Mean and range over seeds, in Markdown."""
    lines = ["| data | prior | " + " | ".join(COLUMNS.values()) + " |", "|---" * (2 + len(COLUMNS)) + "|"]
    for data in dict.fromkeys(r["data"] for r in records):
        for prior, title in PRIORS.items():
            found = [r for r in records if (r["data"], r["prior"]) == (data, prior)]
            values = [np.array([r[name] for r in found]) for name in COLUMNS]
            cells = [f"{v.mean():.3g} [{v.min():.3g}, {v.max():.3g}]" for v in values]
            lines.append(f"| {data} | {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(records: list[dict[str, Any]]) -> Figure:
    """Every run a dot: bound, success, kinds and holes by prior."""
    names, data = ("bound", "success", "modes", "prior_holes"), list(dict.fromkeys(r["data"] for r in records))
    figure = Figure(figsize=(11, 2.8 * len(data)), layout="constrained")
    for axes, kind in zip(figure.subplots(len(data), len(names), squeeze=False), data, strict=True):
        for axis, name in zip(axes, names, strict=True):
            for place, prior in enumerate(PRIORS):
                values = [r[name] for r in records if (r["data"], r["prior"]) == (kind, prior)]
                axis.plot(np.full(len(values), place), values, "o", color=f"C{place}", alpha=0.6)
            axis.set_xticks(range(len(PRIORS)), PRIORS.values(), rotation=30)
            axis.set(xlim=(-0.5, len(PRIORS) - 0.5), title=f"{kind}: {COLUMNS[name]}".split(" (")[0])
    return figure


def main(args: Args) -> None:
    """Run, print, write."""
    updates, rollouts = (10, 5) if args.smoke else (args.updates, args.rollouts)
    data = ("strokes",) if args.lander is None else ("strokes", "landings")
    jobs = [Job(d, p, seed, updates, rollouts, args.lander) for d in data for p in PRIORS for seed in args.seeds]
    records = []
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        for record in tqdm(pool.map(run, jobs), total=len(jobs), desc="runs"):
            records.append(record)
    print(table(records))
    command = "python -m experiments.priors" + (f" --lander {args.lander.name}" if args.lander else "")
    written = {"command": command, "environment": environment("cpu"), "updates": updates, "runs": records}
    with whole(args.out / "table.md") as path:
        path.write_text(table(records))
    with whole(args.out / "records.json") as path:
        path.write_text(json.dumps(written, indent=1) + "\n")
    with whole(args.out / "priors.png") as path:
        draw(records).savefig(path, dpi=120, format="png")


if __name__ == "__main__":
    main(tyro.cli(Args))
