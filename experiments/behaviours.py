"""Real behaviour that comes in kinds, one reader and one judge for each data set, and one recipe for all of them.

Strokes: the 26 LASA shapes from one start, rolled out in ``latentrl/Trace-v0`` and scored as in the demo. Landings:
episodes of LunarLanderContinuous-v3 by four agents, rolled out in Gymnasium's environment (``gymnasium[box2d]``).
Push-T: human demonstrations of pushing a T-shaped block, rolled out in ``gym_pusht`` (the package gym-pusht).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments import landings, push_t
from experiments.records import digest, write
from latentrl import Demonstrations
from latentrl.cells import Cells
from latentrl.data import Segments
from latentrl.demo import handwriting
from latentrl.sb3 import LatentBC, held_out
from latentrl.sweeps import sweep

COLUMNS = {
    "bound": "held-out bound (nats per step)",
    "success": "success",
    "modes": "kinds",
    "entropy": "entropy",
    "prior_holes": "prior holes",
    "aggregate_kl": "aggregate KL",
    "mutual_information": "information",
}
"""What is tabulated; a data set without labelled kinds lacks two of them."""


@dataclass(frozen=True)
class Job:
    """One cloned policy."""

    data: str
    path: Path | None
    """File of the data set; None for the strokes that come with a package."""
    variant: str
    settings: Mapping[str, Any]
    """Arguments of :class:`LatentBC`; what is not said is the library's default."""
    seed: int
    updates: int
    rollouts: int


class Behaviour(NamedTuple):
    """A data set and how to judge a policy that was cloned from it."""

    split: Callable[[Path | None], tuple[Demonstrations, Demonstrations]]
    """Training and held-out episodes, the same for every policy."""
    score: Callable[[LatentBC, Job], dict[str, Any]]
    """Success of rollouts and, where kinds are labelled, how many they show and their entropy."""
    flag: str = ""
    """Of the command line, for the file of the data set."""


@cache
def _strokes() -> handwriting.Strokes:
    return handwriting.Strokes.load()


def _score_strokes(agent: LatentBC, job: Job) -> dict[str, Any]:
    # Five times as many as elsewhere: there are 26 kinds to be shown, and strokes are cheap.
    record, _ = handwriting.score(handwriting.rollout(agent, 5 * job.rollouts, job.seed), _strokes())
    return {name: record[name] for name in ("success", "modes", "entropy")}


def _split_strokes(_: Path | None) -> tuple[Demonstrations, Demonstrations]:
    return Demonstrations.from_lasa(steps=handwriting.STEPS).split(5 / 7, seed=0)


BEHAVIOURS = {
    "strokes": Behaviour(_split_strokes, _score_strokes),
    "landings": Behaviour(
        lambda path: landings.read(_given(path)).split(0.8, seed=0),
        lambda agent, job: landings.score(agent, landings.read(_given(job.path)), job.rollouts, job.seed),
        "--lander",
    ),
    "Push-T": Behaviour(
        lambda path: Demonstrations.from_pusht(_given(path)).split(0.8, seed=0),
        lambda agent, job: push_t.score(agent, job.rollouts, job.seed),
        "--push-t",
    ),
}


def _given(path: Path | None) -> Path:
    assert path is not None
    return path


def segments_of(agent: LatentBC, data: Demonstrations) -> Segments:
    """Data cut as the agent's own were."""
    config = agent.policy.config
    return Segments(data, config.hold, config.context_length, chunk=config.chunk, pads=config.pads)


def run(job: Job) -> dict[str, Any]:
    """Train, roll out, judge."""
    behaviour = BEHAVIOURS[job.data]
    train, others = behaviour.split(job.path)
    agent = LatentBC(demonstrations=train, seed=job.seed, device="cpu", **job.settings)
    agent.learn(job.updates)
    segments = segments_of(agent, train)
    some = torch.randperm(len(segments))[:1024]
    diagnostics = agent.policy.model.diagnostics(segments.batch(some, steps=16))
    return {
        "data": job.data,
        "variant": job.variant,
        "seed": job.seed,
        "bound": held_out(agent, others).likelihood.per_step.value,
        **diagnostics._asdict(),
        **behaviour.score(agent, job),
    }


@dataclass(frozen=True)
class Study:
    """Variants of one recipe, each trained on each data set with each seed."""

    name: str
    """Module under ``experiments``."""
    variants: Mapping[str, Mapping[str, Any]]
    """Title and arguments of :class:`LatentBC`."""
    drawn: Sequence[str] = ("bound", "success", "modes", "prior_holes")
    """Columns in the picture."""

    def table(self, records: Sequence[Mapping[str, Any]]) -> str:
        """Mean and range over seeds, in Markdown."""
        lines = ["| data | variant | " + " | ".join(COLUMNS.values()) + " |", "|---" * (2 + len(COLUMNS)) + "|"]
        for data in dict.fromkeys(r["data"] for r in records):
            for variant in self.variants:
                found = [r for r in records if (r["data"], r["variant"]) == (data, variant)]
                cells = [_spread([r[name] for r in found if name in r]) for name in COLUMNS]
                lines.append(f"| {data} | {variant} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def draw(self, records: Sequence[Mapping[str, Any]]) -> Figure:
        """Every run a dot."""
        data = list(dict.fromkeys(r["data"] for r in records))
        figure = Figure(figsize=(11, 2.8 * len(data)), layout="constrained")
        for axes, kind in zip(figure.subplots(len(data), len(self.drawn), squeeze=False), data, strict=True):
            for axis, name in zip(axes, self.drawn, strict=True):
                for place, variant in enumerate(self.variants):
                    found = [r for r in records if (r["data"], r["variant"]) == (kind, variant) and name in r]
                    values = [r[name] for r in found]
                    axis.plot(np.full(len(values), place), values, "o", color=f"C{place}", alpha=0.6)
                axis.set_xticks(range(len(self.variants)), self.variants, rotation=30, ha="right")
                title = f"{kind}: {COLUMNS[name]}".split(" (")[0]
                axis.set(xlim=(-0.5, len(self.variants) - 0.5), title=title)
                axis.set_visible(any(name in r for r in records if r["data"] == kind))
        return figure

    def main(
        self,
        files: Mapping[str, Path | None],
        seeds: Sequence[int],
        updates: int,
        rollouts: int,
        workers: int,
        out: Path,
    ) -> None:
        """Run, print, write table.md, records.json and NAME.png."""
        jobs = [
            Job(data, path, variant, settings, seed, updates, rollouts)
            for data, path in files.items()
            for variant, settings in self.variants.items()
            for seed in seeds
        ]
        data = {name: None if path is None else digest(path) for name, path in files.items()}
        settings = {"updates": updates, "rollouts": rollouts, "data": data, "seeds": list(seeds)}
        runs = {f"{job.data} {job.variant} {job.seed}": partial(run, job) for job in jobs}
        records = sweep(Cells(out, settings), runs, workers)
        command = "".join(f" {BEHAVIOURS[data].flag} {path.name}" for data, path in files.items() if path)
        found = {"updates": updates, "runs": records}
        write(out, self.name, ("latentrl",), self.table(records), found, self.draw(records), command)


def _spread(values: Sequence[float]) -> str:
    """Mean and range; nothing where there are no values."""
    return f"{np.mean(values):.3g} [{min(values):.3g}, {max(values):.3g}]" if values else ""
