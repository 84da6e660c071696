"""Where people walk next: forecasts of pedestrians in recordings that were never seen, by policies and their latents.

    python -m experiments.pedestrians --tracks FILE

Eight positions are seen, .4 seconds apart, and twelve are forecast, twenty times (the protocol of Alahi et al. 2016
and Gupta et al. 2018): least average and least final displacement, each the best of the twenty, in metres, and beside
them the energy score and the KDE-NLL (of the twenty, blurred by a centimetre), since best-of-20 rewards whoever
scatters widely. A scene is judged by policies that learned from the other recordings of UCY alone, of which some are
of the same place; published ones had those of ETH, too, and most of them see who else is there, which nobody does
here. What is seen is turned so that people come from the left. Policies of several modes are judged by the modes'
means, as they play, and with the noise around them, as they were fitted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import gymnasium as gym
import numpy as np
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.cloning import GAUSSIAN, NOTE, PRICE, Playing, alternatives, cloned, compared, noisily, ways, without
from experiments.records import StudyArgs, table, write
from latentrl import Demonstrations, metrics
from latentrl.cells import Record
from latentrl.sb3 import LatentPolicy

OBSERVE, PREDICT, SAMPLES, SHOWN = 8, 12, 20, 6
STRIDE = 4.0
"""Metres that nobody goes in .4 seconds."""
RESOLUTION = 0.01
"""Metres to which positions were marked; people who stand still are forecast more exactly."""
SCENES = {"univ": ("students001", "students003"), "zara1": ("crowds_zara01",), "zara2": ("crowds_zara02",)}
"""What is judged, and the arrays of the file that it is; the others of the file only teach."""
ONLY_TAUGHT = ("crowds_zara03", "uni_examples")
SCORES = ("ADE", "FDE", "energy", "KDE-NLL")
COLUMNS = (*SCORES, *(f"{score}, {scene}" for scene in SCENES for score in ("ADE", "FDE")), *PRICE)
UNITS = dict.fromkeys(COLUMNS[: COLUMNS.index(PRICE[0])], "m, ↓") | {"KDE-NLL": "nats a step, ↓"}
NETWORK: dict[str, Any] = {"hidden": (256, 256), "encoder_hidden": (256, 256)}
LATENT = NETWORK | {"hold": 1, "latent_dim": 4, "decoder_scale": "state"}
POLICIES: dict[str, dict[str, Any]] = {
    **alternatives(**NETWORK, decoder_scale="state"),
    "latent, N(0, I)": LATENT | {"prior": "normal"},
    "latent, VampPrior": LATENT,
    "latent, Gaussian of the state": LATENT | {"prior": "gaussian", "prior_sees_state": True},
    "latent, mixture of the state": LATENT | {"prior": "mixture", "n_components": 16, "prior_sees_state": True},
    "latent, flow of the state": LATENT | {"prior": "flow", "prior_sees_state": True},
}
PLAYING = GAUSSIAN | {
    f"{name}, with noise": Playing(name, noisily) for name in POLICIES if name.startswith(("mixture", "bins", "latent"))
}
OURS = "latent, flow of the state"
"""Chosen by forecasts of a recording that is not judged, zara03, learned from all others, with a seed that is not
reported."""
PUBLISHED = {
    "PECNet": ((0.35, 0.60), (0.22, 0.39), (0.17, 0.30)),
    "Trajectron++, leak fixed": ((0.28, 0.55), (0.21, 0.42), (0.16, 0.32)),
    "SocialVAE": ((0.25, 0.47), (0.20, 0.37), (0.14, 0.28)),
    "AgentFormer, fixed": ((0.25, 0.45), (0.18, 0.30), (0.14, 0.24)),
}
"""ADE and FDE by scene, as they are quoted in the literature."""
MARK = "Trajectron++, leak fixed"
STRAIGHT, SCATTERED, REPLAY = "straight on", "straight on, scattered", "replay of a random future"
CONTROLS = (STRAIGHT, SCATTERED, REPLAY)
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Args(StudyArgs):
    """Forecast each scene with every policy and every seed."""

    tracks: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The .npz with an array of (frame, pedestrian, x, y) for each scene."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of each policy with each."""
    updates: int = 5_000
    """Gradient updates."""
    workers: int = 2
    """Parallel processes."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/pedestrians")
    """Folder for the table, the records, the picture, and one file per finished run."""

    def smoked(self) -> "Args":
        """The settings that count."""
        return replace(self, seeds=(0,), updates=2) if self.smoke else self


class Windows(NamedTuple):
    """Of N pedestrians, turned: what was seen (N, 8, 2), where they went step by step (N, 12, 2), and the turns."""

    seen: Points
    steps: Points
    turns: Points
    """(N, 2, 2): what is turned, times this, lies as in the scene."""

    def future(self, steps: Points) -> Points:
        """Places (..., N, 12, 2) in the scene, relative to now, of turned steps."""
        return steps.cumsum(-2) @ self.turns


def windows(path: Path, scenes: Sequence[str]) -> Windows:
    """All of some scenes; the way from the first to the last position points along the first axis."""
    shown = Demonstrations.from_pedestrians(path, scenes, OBSERVE, PREDICT)
    seen, steps = shown.observations.astype(float), shown.actions.astype(float)
    heading = np.arctan2(-seen[:, 0, 1], -seen[:, 0, 0])
    cos, sin = np.cos(heading), np.sin(heading)
    turns = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)
    back = turns.swapaxes(-1, -2)
    seen = seen @ back
    seen[:, 0, 1] = 0.0  # but for rounding, which policies that standardise what they see would take for a signal
    return Windows(seen, steps @ back, turns)


def taught(path: Path, scene: str) -> Demonstrations:
    """All that is not of the scene, and its mirror image."""
    others = [name for key, names in SCENES.items() if key != scene for name in names]
    found = windows(path, [*others, *ONLY_TAUGHT])
    seen, steps = (np.concatenate([part, part * (1.0, -1.0)]).astype(np.float32) for part in found[:2])
    widest = np.full(steps.shape[1:], STRIDE, np.float32)
    room = gym.spaces.Box(-widest, widest)
    return Demonstrations.from_arrays(seen, steps, [len(seen)], action_space=room)


def forecasts(agent: LatentPolicy, asked: Windows, count: int) -> Points:
    """Turned steps (count, N, 12, 2)."""
    seen = asked.seen.astype(np.float32)
    return np.stack([agent.predict(seen)[0] for _ in range(count)]).astype(float)


def controls(name: str, shown: Demonstrations, asked: Windows, seed: int) -> Points:
    """Turned steps (20, N, 12, 2): the last step again and again, perhaps turned by 25° and stretched by 20 % (standard
    deviations); or what somebody else did."""
    generator = np.random.default_rng(seed)
    if name == REPLAY:
        return np.asarray(shown.actions[generator.integers(len(shown), size=(SAMPLES, len(asked.seen)))], float)
    spread = 0.0 if name == STRAIGHT else 1.0
    shape = SAMPLES, len(asked.seen)
    angle = np.deg2rad(25.0) * spread * generator.standard_normal(shape)
    speed = 1.0 + 0.2 * spread * generator.standard_normal(shape)
    last = asked.seen[:, -1] - asked.seen[:, -2]
    turned = np.stack(
        [
            np.cos(angle) * last[:, 0] - np.sin(angle) * last[:, 1],
            np.sin(angle) * last[:, 0] + np.cos(angle) * last[:, 1],
        ],
        -1,
    )
    return np.repeat((speed[..., None] * turned)[..., None, :], PREDICT, axis=-2)


def scores(steps: Points, asked: Windows) -> Record:
    """Means over pedestrians."""
    samples, truths = asked.future(steps), asked.future(asked.steps)
    best = metrics.best_of_k(samples, truths)
    likelihood = metrics.kde_nll(samples, truths, resolution=RESOLUTION)
    found = {"ADE": best.ade, "FDE": best.fde, "energy": metrics.energy_score(samples, truths), "KDE-NLL": likelihood}
    return {name: float(values.mean()) for name, values in found.items()}


def run(name: str, scene: str, seed: int, args: Args) -> Record:
    """Learn from the other scenes and forecast this one, by the ways in which a policy plays."""
    shown, asked = taught(args.tracks, scene), windows(args.tracks, SCENES[scene])
    if name in CONTROLS:
        return {name: scores(controls(name, shown, asked, seed), asked)}
    agent, price = cloned(shown, POLICIES[name], seed, args.updates, batch_size=256, noise=None, ema_decay=0.999)
    found = {}
    for title, player in ways(agent.policy, name, PLAYING):
        steps = forecasts(player, asked, SAMPLES)
        drawn = asked.future(steps)[:, which(asked)].swapaxes(0, 1)
        found[title] = scores(steps, asked) | price | {"forecasts": np.round(drawn, 2).tolist()}
    return found


def which(asked: Windows) -> NDArray[np.int64]:
    """The pedestrians that are drawn: as many, evenly spaced."""
    return np.linspace(0, len(asked.seen) - 1, SHOWN).astype(np.int64)


def averaged(scenes: Mapping[str, Record]) -> Record:
    """One row of the table: unweighted means over scenes, and what each scene scored."""
    mean = {
        key: float(np.mean([one[key] for one in scenes.values()]))
        for key in (*SCORES, *PRICE)
        if all(key in one for one in scenes.values())
    }
    return mean | {f"{score}, {scene}": one[score] for scene, one in scenes.items() for score in SCORES if score in one}


def published() -> list[Record]:
    """Rows of the table, with their means over scenes."""
    rows = []
    for name, by_scene in PUBLISHED.items():
        scenes = {
            scene: dict(zip(("ADE", "FDE"), both, strict=True)) for scene, both in zip(SCENES, by_scene, strict=True)
        }
        rows.append({"method": f"{name} (published)", **averaged(scenes)})
    return rows


def verdict(found: Sequence[Record]) -> str:
    """Ours beside what was published, on the scenes' averages."""
    ours = [record for record in found if record["method"] == OURS]
    theirs = next(record for record in published() if record["method"].startswith(MARK))
    below = {score: sum(r[score] <= theirs[score] for r in ours) for score in ("ADE", "FDE")}
    said = " and ".join(f"in {score} in {count} of {len(ours)} seeds" for score, count in below.items())
    return f"\n{OURS!r} is at or below {MARK!r} {said}.\n"


def draw(found: Sequence[Record], args: Args) -> Figure:
    """Twenty forecasts (blue) of six pedestrians of one scene by each policy of the first seed, and what happened (red)
    after what was seen (grey), each within a square of as many metres as they need."""
    asked = windows(args.tracks, SCENES["zara1"])
    past, truths = asked.seen @ asked.turns, asked.future(asked.steps)
    figure = Figure(figsize=(9, 1.5 * len(POLICIES)), layout="constrained")
    axes = figure.subplots(len(POLICIES), SHOWN, squeeze=False)
    for row, name in zip(axes, POLICIES, strict=True):
        record = next(record for record in found if record["method"] == name)
        for axis, number, futures in zip(row, which(asked), record["forecasts"], strict=True):
            for future in futures:
                axis.plot(*np.array([[0.0, 0.0], *future]).T, color="C0", alpha=0.4, linewidth=0.8)
            axis.plot(*past[number].T, color="0.5")
            axis.plot(*np.array([[0.0, 0.0], *truths[number]]).T, color="C3")
            low, high = (side(np.concatenate([past[number], truths[number]]), axis=0) for side in (np.min, np.max))
            reach = 0.65 * max(2.0, (high - low).max())
            middle = (low + high) / 2
            axis.set(xlim=(middle[0] - reach, middle[0] + reach), ylim=(middle[1] - reach, middle[1] + reach))
            axis.set(aspect="equal", xticks=[], yticks=[])
            axis.set_xlabel(f"{2 * reach:.0f} m" if name == list(POLICIES)[-1] else "")
        row[0].set_ylabel(name, fontsize=7, wrap=True)
    return figure


def main(args: Args) -> None:
    """Learn, forecast, write."""
    args = args.smoked()
    methods = [(name, scene, seed) for name in [*POLICIES, *CONTROLS] for scene in SCENES for seed in args.seeds]
    jobs = {f"{name} {scene} {seed}": partial(run, name, scene, seed, args) for name, scene, seed in methods}
    runs, settings = compared(args, POLICIES, PLAYING, jobs, partial(taught, args.tracks, "zara1"))
    by_seed: dict[tuple[str, str], dict[str, Record]] = {}
    for record in runs:
        _, scene, seed = record["job"].rsplit(" ", 2)
        by_seed.setdefault((record["method"], seed), {})[scene] = record
    found = [
        {"method": name, "seed": int(seed), **averaged(scenes), "forecasts": scenes["zara1"].get("forecasts")}
        for (name, seed), scenes in by_seed.items()
    ]
    record = {"settings": settings, "published": PUBLISHED, "runs": without(found, "forecasts")}
    text = table([*found, *published()], COLUMNS, UNITS) + verdict(found)
    text += NOTE.format(seeds=", ".join(map(str, args.seeds)))
    write(args.out, "pedestrians", ("latentrl",), text, record, draw(found, args), f" --tracks {args.tracks.name}")


if __name__ == "__main__":
    main(tyro.cli(Args))
