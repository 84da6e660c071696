"""Four pilots' landings cloned into one policy: does it fly as each of them, and does z pick who flies?

    python -m experiments.experts --lander FILE      (needs pip install 'gymnasium[box2d]')

Landings in LunarLanderContinuous by four agents, 25 each; nothing tells the policies whose they are. All have the same
four fifths of them, trunk, trainer and number of updates. A return of 200 or more is a success, and a landing is a
pilot's where at least as large a share of its steps looks like the pilot's as in 95 % of the pilot's own landings
(:class:`experiments.pilots.Judge`, which does not know those), so a policy that changes its mind on the way flies as
nobody. A pilot is recovered by five successes. Every start is flown several times: the entropy is that of its
successes, averaged over starts, so it is 0 for a policy that does one thing from each start.

The pick: z is set for whole episodes. By a landing: to the posterior's mode for a landing of the wanted pilot that the
policy has not learned from. By a cluster: Ward's tree cuts the modes for training landings into four; whose landings
are in a cluster only names it, and z is that of the landing in its middle. Both are the share of flights that are the
wanted pilot's, of which the pilots themselves would reach .95. What the judge is worth on landings that it does not
know stands below the table, beside :func:`experiments.landings.kinds`, which compares whole flights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, ward
from scipy.optimize import linear_sum_assignment

from experiments.cloning import GAUSSIAN, PRICE, REPLAY, Replay, alternatives, cloned, compared, ways, without
from experiments.landings import SOLVED, flights, kinds, summaries
from experiments.pilots import EVERY, Flown, Recorded, fly, recorded
from experiments.records import StudyArgs, table, write
from latentrl import Demonstrations, metrics
from latentrl.cells import Record
from latentrl.estimators import StraightThrough
from latentrl.sb3 import LatentBC, encode
from latentrl.schedules import KLRange

PICKED, CLUSTERED = "picked by a landing", "picked by a cluster"
TOLD_BY_KINDS = f"{PICKED}, told by kinds"
COLUMNS = ("return", "success", "pilots", "entropy", "somebody's", PICKED, TOLD_BY_KINDS, CLUSTERED, *PRICE)
CHOICES, LITTLE = "latent, 4 choices", "latent, VampPrior, KL of 0.5 to 2"
WITHOUT = alternatives()
LATENT: dict[str, dict[str, Any]] = {
    "latent, N(0, I)": {"prior": "normal"},
    "latent, mixture of 4": {"prior": "mixture", "n_components": 4},
    CHOICES: {"prior": "categorical", "posterior": "categorical", "latent_dim": 4},
    "latent, VampPrior": {"prior": "vamp", "n_components": 16},
    LITTLE: {"prior": "vamp", "n_components": 16},
}
POLICIES = {**WITHOUT, "bins and offsets, 5 observations": WITHOUT["bins and offsets"] | {"history": 5}, **LATENT}
SETTINGS: dict[str, dict[str, Any]] = {
    # The score function, the default, learns less of whose landings are whose, and takes longer.
    CHOICES: {"estimator": StraightThrough(), "num_samples": 1},
    LITTLE: {"kl_weight": KLRange(0.5, 2.0)},
}
"""What of the training is not as of the others."""


@dataclass(frozen=True)
class Args(StudyArgs):
    """Clone and judge every policy with every seed."""

    lander: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The .npz with recorded landings."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of each policy with each, on other landings."""
    updates: int = 1_500
    """Gradient updates."""
    starts: int = 8
    """From which a policy is judged."""
    draws: int = 20
    """Episodes from each start; of few, the entropy would be too small where not all succeed."""
    picks: int = 10
    """Episodes for each pilot that is picked, either way."""
    workers: int = 2
    """Parallel processes."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/experts")
    """Folder for the table, the records, the picture, and one file per finished run."""

    def smoked(self) -> "Args":
        """The settings that count."""
        return replace(self, seeds=(0,), updates=2, starts=2, draws=1, picks=1) if self.smoke else self


def middles(latents: NDArray[Any], pilots: NDArray[np.int64]) -> dict[int, int]:
    """As many clusters of latents (E, Z) as there are pilots (E,), and the latent in the middle of each pilot's.

    Whose a cluster is follows from whose landings are in it. A pilot without one is missing, which happens where
    fewer latents differ than there are pilots.
    """
    clusters = fcluster(ward(latents), pilots.max() + 1, "maxclust") - 1
    shown = np.zeros((pilots.max() + 1, clusters.max() + 1))
    np.add.at(shown, (pilots, clusters), 1)
    found = {}
    for pilot, cluster in zip(*linear_sum_assignment(shown, maximize=True), strict=True):
        members = np.flatnonzero(clusters == cluster)
        centre = latents[members].mean(0)
        found[int(pilot)] = int(members[((latents[members] - centre) ** 2).sum(1).argmin()])
    return found


def picked(agent: LatentBC, train: Demonstrations, others: Demonstrations, seed: int, args: Args) -> Record:
    """Set z for each pilot, either way."""
    known, generator = recorded(args.lander), np.random.default_rng(seed)
    assert train.modes is not None
    assert others.modes is not None
    shown, clustered = encode(agent, others), encode(agent, train)
    by_landing = {
        pilot: shown[generator.choice(np.flatnonzero(others.modes == pilot), args.picks)]
        for pilot in range(known.judge.pilots)
    }
    by_cluster = {pilot: clustered[[row] * args.picks] for pilot, row in middles(clustered, train.modes).items()}
    record: Record = {}
    for way, chosen in ((PICKED, by_landing), (CLUSTERED, by_cluster)):
        wanted = np.repeat(list(chosen), args.picks)
        flown = fly(agent, len(wanted), 300_000 + 1_000 * seed, known, np.concatenate(list(chosen.values())))
        record[way] = float((flown.whose == wanted).sum()) / (args.picks * known.judge.pilots)
        if way == PICKED:
            nearest = kinds(summaries(known.landings), known.landings.modes, flown.whole)
            record[TOLD_BY_KINDS] = float((nearest == wanted).mean())
            record |= {f"pilot {pilot}": float(flown.returns[wanted == pilot].mean()) for pilot in chosen}
            record["flights"] = {f"pilot {pilot}": shown_of(flown, wanted == pilot) for pilot in chosen}
    return record


def shown_of(flown: Flown, rows: NDArray[np.bool_]) -> list[Record]:
    """What is drawn of some landings, 16 at most."""
    return [{"path": flown.paths[i], "whose": int(flown.whose[i])} for i in np.flatnonzero(rows)[:16]]


def drawn(agent: Any, seed: int, args: Args) -> tuple[Record, Flown]:
    """Judge what a policy does by itself; the landings are of the last draw."""
    known = recorded(args.lander)
    # The same seed each time, so the same starts.
    rounds = [fly(agent, args.starts, 100_000 + 1_000 * seed, known) for _ in range(args.draws)]
    returns, whose = (np.stack([getattr(flown, name) for flown in rounds]) for name in ("returns", "whose"))
    success = returns >= SOLVED
    counts = np.stack([(success & (whose == pilot)).sum(0) for pilot in range(known.judge.pilots)], 1)
    record = {
        "return": float(returns.mean()),
        "success": float(success.mean()),
        "pilots": metrics.modes_covered(counts.sum(0)),
        "entropy": metrics.conditional_entropy(counts).value,
        "somebody's": float((whose >= 0).mean()),
        "counts": counts.sum(0).tolist(),
    }
    return record, rounds[-1]


def run(name: str, seed: int, args: Args) -> Record:
    """Clone one policy and judge it, by the ways in which it plays."""
    train, others = recorded(args.lander).landings.split(0.8, seed=seed)
    if name == REPLAY:
        return {name: drawn(Replay(train, seed), seed, args)[0]}
    # Policies that draw at each step see as many transitions in an update as the others do.
    size = 64 * 16 if POLICIES[name].get("hold") == 1 else 64
    agent, price = cloned(train, POLICIES[name], seed, args.updates, batch_size=size, **SETTINGS.get(name, {}))
    found = {}
    for title, player in ways(agent.policy, name, GAUSSIAN):
        found[title], flown = drawn(player, seed, args)
        found[title] |= price
        if name in LATENT:
            found[title] |= picked(agent, train, others, seed, args)
            found[title]["flights"]["drawn"] = shown_of(flown, np.ones(args.starts, bool))
    return found


def draw_flights(axis: Axes, shown: Sequence[Record], title: str) -> None:
    """Paths above the landing pad, coloured by whose they are, grey where they are nobody's."""
    for flight in shown:
        color = "0.75" if flight["whose"] < 0 else f"C{flight['whose']}"
        axis.plot(*np.array(flight["path"]).T, color=color, linewidth=0.9, alpha=0.8)
    axis.axhline(0.0, color="0.3", linewidth=0.5)
    axis.set(xlim=(-1.05, 1.05), ylim=(-0.15, 1.55))
    axis.set_title(title, fontsize=8)
    axis.tick_params(labelsize=6)


def draw(found: Sequence[Record], known: Recorded) -> Figure:
    """Landings of the first seed: drawn from the prior, and with z picked for each pilot, below the pilots' own."""
    pilots = range(known.judge.pilots)
    figure = Figure(figsize=(2.3 * (1 + len(pilots)), 1.9 * (1 + len(LATENT))), layout="constrained")
    axes = figure.subplots(1 + len(LATENT), 1 + len(pilots), sharex=True, sharey=True)
    own = list(flights(known.landings))
    for pilot in pilots:
        mine = np.flatnonzero(known.landings.modes == pilot)[:16]
        shown = [{"path": own[i][0][::EVERY, :2], "whose": pilot} for i in mine]
        draw_flights(axes[0, 1 + pilot], shown, f"pilot {pilot}'s own")
    axes[0, 0].set_visible(False)
    for row, name in zip(axes[1:], LATENT, strict=True):
        record = next(record for record in found if record["method"] == name)
        draw_flights(row[0], record["flights"]["drawn"], f"z drawn, {record['success']:.2f} succeed")
        row[0].set_ylabel(name.removeprefix("latent, "), fontsize=8)
        for pilot in pilots:
            shown = record["flights"][f"pilot {pilot}"]
            right = sum(flight["whose"] == pilot for flight in shown)
            draw_flights(row[1 + pilot], shown, f"z picked for pilot {pilot}: {right} of {len(shown)}")
    figure.suptitle("Landings, coloured by whose they are (grey: nobody's)", fontsize=10)
    return figure


def text_of(found: Sequence[Record], known: Recorded) -> str:
    """Both tables and what the judge is worth."""
    assert known.landings.rewards is not None
    returns = np.add.reduceat(known.landings.rewards, known.landings.episode_starts)
    columns = [f"pilot {pilot}" for pilot in range(known.judge.pilots)]
    own: Record = {"method": "the pilots themselves", "return": float(returns.mean())}
    own |= {name: float(returns[known.landings.modes == pilot].mean()) for pilot, name in enumerate(columns)}
    own["success"] = float((returns >= SOLVED).mean())
    both = table([*found, own], COLUMNS), table([own, *(r for r in found if r["method"] in LATENT)], columns)
    return (
        f"{both[0]}\nReturn of flights with z {PICKED} of the pilot:\n\n{both[1]}"
        f"\nOn landings that it does not know, the judge names the pilot in {known.accuracy:.2f}, and kinds, by whole "
        f"flights, in {known.accuracy_of_kinds:.2f}. A landing is a pilot's from a share of {known.threshold:.2f} on.\n"
    )


def main(args: Args) -> None:
    """Clone, judge, write."""
    args = args.smoked()
    jobs = {f"{name} {seed}": partial(run, name, seed, args) for name in [*POLICIES, REPLAY] for seed in args.seeds}
    known = recorded(args.lander)
    found, settings = compared(args, POLICIES, GAUSSIAN, jobs, lambda: known.landings, training=SETTINGS)
    judges = {"judge": known.accuracy, "kinds": known.accuracy_of_kinds, "threshold": known.threshold}
    record = {"settings": settings, "accuracy": judges, "runs": without(found, "flights")}
    write(
        args.out,
        "experts",
        ("latentrl",),
        text_of(found, known),
        record,
        draw(found, known),
        f" --lander {args.lander.name}",
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
