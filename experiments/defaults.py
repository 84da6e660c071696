"""Does ``LatentBC`` with nothing set do well, and what does each of its defaults contribute?

    python -m experiments.defaults --lander lunarlander_expert_mixture.npz --push-t pusht_human.npz

Human strokes, landings by four pilots and human Push-T, as in :mod:`experiments.behaviours`; the success on Push-T is
the mean of the largest reward in an episode. A data set whose file is not given is left out.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.behaviours import Study
from experiments.records import StudyArgs
from latentrl.schedules import KLRange

STUDY = Study(
    "defaults",
    {
        "as shipped": {},
        "β = 1 alone": {"kl_weight": 1.0},
        "KL of 0.5 to 2": {"kl_weight": KLRange(0.5, 2.0)},
        "no noise": {"noise": None},
        "new z every 8 steps": {
            "policy_kwargs": {"hold": 8, "chunk": 8, "prior": "gaussian", "prior_sees_state": True},
        },
        # As many transitions per update as the others see.
        "no latent": {"policy_kwargs": {"latent_dim": 0, "hold": 1}, "batch_size": 1024},
    },
    drawn=("bound", "success", "modes", "mutual_information"),
)


@dataclass(frozen=True)
class Args(StudyArgs):
    """Train LatentBC as it is shipped, and with one default changed at a time."""

    lander: Path | None = None
    """Recorded landings: obs (N, 8), action (N, 2), expert (N,), episode_ends (E,)."""
    push_t: Path | None = None
    """Push-T demonstrations: state (N, 5), action (N, 2), episode_ends (E,)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each variant with each."""
    updates: int = 3000
    """Gradient updates of each run."""
    rollouts: int = 104
    """Episodes of each cloned policy; strokes: five times as many."""
    workers: int = 2
    """Parallel processes."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/defaults")
    """Folder for the table, the records and the picture."""


def main(args: Args) -> None:
    """Run, print, write."""
    updates, rollouts = (10, 5) if args.smoke else (args.updates, args.rollouts)
    given = {"strokes": None, "landings": args.lander, "Push-T": args.push_t}
    files = {data: path for data, path in given.items() if path or data == "strokes"}
    STUDY.main(files, args.seeds, updates, rollouts, args.workers, args.out)


if __name__ == "__main__":
    main(tyro.cli(Args))
