"""Which prior suits behaviour that comes in kinds? Four priors under one recipe, on human strokes and on pilots.

    python -m experiments.priors --lander lunarlander_expert_mixture.npz

The data sets and their judges are those of :mod:`experiments.behaviours`. Without ``--lander`` only the strokes.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.behaviours import Study
from experiments.records import StudyArgs

PRIORS = {"N(0, I)": "normal", "mixture": "mixture", "VampPrior": "vamp", "flow": "flow"}
STUDY = Study("priors", {title: {"policy_kwargs": {"prior": prior}} for title, prior in PRIORS.items()})


@dataclass(frozen=True)
class Args(StudyArgs):
    """Train every prior on every data set and compare."""

    lander: Path | None = None
    """Recorded landings: obs (N, 8), action (N, 2), expert (N,), episode_ends (E,)."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of each prior with each."""
    updates: int = 3000
    """Gradient updates of each run."""
    rollouts: int = 104
    """Episodes of each cloned policy; strokes: five times as many."""
    workers: int = 2
    """Parallel processes."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/priors")
    """Folder for the table, the records and the picture."""


def main(args: Args) -> None:
    """Run, print, write."""
    updates, rollouts = (10, 5) if args.smoke else (args.updates, args.rollouts)
    files = {"strokes": None} if args.lander is None else {"strokes": None, "landings": args.lander}
    STUDY.main(files, args.seeds, updates, rollouts, args.workers, args.out)


if __name__ == "__main__":
    main(tyro.cli(Args))
