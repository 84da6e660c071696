"""A2C and RELAX on tasks with discrete actions (Grathwohl et al. 2018, table 2): episodes to solve, and variance.

    python -m experiments.reproductions.relax_rl [--quick]     (needs pip install 'gymnasium[box2d]')

Networks, discount, entropy bonus and one episode per update are the paper's, and so are the three learning rates to
choose from; the optimiser is RMSprop at a constant rate (their code: Adam, with one that falls); the control variate
chooses one of its own, where the paper's has a factor on the policy's, and is ReLU, as there, by which the gradient
that trains it is biased, not the policy's. Rates are chosen with seeds that are not reported, and z̃ is exact, where
the paper's sampler was slightly biased. LAX with continuous actions is left out. The variance is that of one episode's
gradient, summed over parameters (theirs: mean logarithm).
"""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

from experiments.reproductions.policy_gradients import WINDOW, Learner, Relaxed, Value
from experiments.reproductions.study import Args, folder_of, reproduce
from experiments.reproductions.training import Training
from latentrl.cells import Cells, Record
from latentrl.checks import LatentRLError
from latentrl.sweeps import sweep

CONTROLS: dict[str, type[Value | Relaxed]] = {"A2C": Value, "RELAX": Relaxed}
COLUMNS = ("solved", "return", "rate", "control rate", "seconds")
CPU = torch.device("cpu")  # where networks of ten units are fastest
TUNING = 10_000
"""Added to seeds with which learning rates are chosen."""

Rates: TypeAlias = tuple[float, float]
"""Of the policy and of its control variate."""


class Task(NamedTuple):
    """An environment."""

    env_id: str
    steps: int
    """At most in an episode."""
    target: float
    """It is solved by this mean return over 100 episodes in a row."""
    paper: str
    """Episodes to solve it, A2C and RELAX. LunarLander's would have 31 and 73 of its 5 000 000 frames each."""


TASKS = {
    "CartPole": Task("CartPole-v1", 200, 195.0, "1152 ± 90 and 472 ± 114"),  # with 200 steps it is CartPole-v0
    "LunarLander": Task("LunarLander-v3", 1_000, 200.0, "162374 ± 17241 and 68712 ± 20668"),
}


class Scale(NamedTuple):
    """What the numbers depend on."""

    frames: dict[str, int]
    """Of each task: its training ends after so many, or when it is solved."""
    every: int
    """Training episodes between two looks."""
    probes: int
    """Episodes that are played at a look, for the gradient's variance."""
    tuning_seeds: int
    rates: tuple[float, ...] = (0.01, 0.003, 0.001)
    """Of which the policy and the control variate get the best pair."""


SCALES = {
    "full": Scale({"CartPole": 250_000, "LunarLander": 5_000_000}, 10, 100, 5),
    "quick": Scale({"CartPole": 250_000, "LunarLander": 1_000_000}, 20, 50, 3),
    "smoke": Scale({"CartPole": 100}, 2, 3, 1, (0.01, 0.003)),
}


def environment(task: Task) -> gym.Env:
    """:raises LatentRLError: what it needs is not installed"""
    try:
        return gym.make(task.env_id, max_episode_steps=task.steps, disable_env_checker=True)
    except gym.error.DependencyNotInstalled as error:
        raise LatentRLError(f"{task.env_id} needs pip install 'gymnasium[box2d]'") from error


def run(name: str, seed: int, rates: Rates, probes: int, args: Args) -> Record:
    """Train one policy until its task is solved.

    :param name: of the task and the method
    :param probes: episodes at a look; with 0 the run is one of those that choose the rates
    """
    (title, method), scale = name.split(), SCALES[args.scale]
    task, frames = TASKS[title], scale.frames[title]
    torch.manual_seed(seed)
    learner = Learner(environment(task), CONTROLS[method], rates, seed)

    def look(epoch: int) -> Record:
        played = learner.played
        seen: Record = {"return": float(np.mean([found for found, _ in played[-WINDOW:]])), "frames": played.frames}
        if probes and (found := learner.log_variance(probes, epoch)) is not None:
            seen["log variance"], seen["to no control"] = found
        return {**seen, "stop": played.solved_at(task.target) is not None or played.frames >= frames}

    limit = -(-frames // scale.every)  # an episode has a frame at least
    kept = {"name": name, "seed": seed, "rates": rates, "probes": probes, "scale": scale._asdict()}
    folder = folder_of("relax_rl", args, f"{name} {'' if probes else 'tuning '}{rates[0]} {rates[1]} {seed}")
    history = Training(folder, kept, learner.parts, CPU).run(limit, scale.every, learner.update, look)
    solved = learner.played.solved_at(task.target)
    record: Record = {"solved": int(solved is not None), "return": history[-1]["return"], "rate": rates[0]}
    record |= {"control rate": rates[1], "seconds": sum(seen["seconds"] for seen in history)}
    for part in ("log variance", "to no control"):
        if values := [seen[part] for seen in history if part in seen]:
            record[part] = float(np.mean(values))
    record["curve"] = [[seen.get(part) for part in ("return", "log variance", "to no control")] for seen in history]
    record |= {} if solved is None else {"episodes to solve": solved}
    return record


def best_rates(found: Sequence[Record]) -> Rates:
    """Of tuning runs, those that solve the task most often, then in the fewest episodes, then the best return."""

    def merit(rates: Rates) -> tuple[float, ...]:
        mine = [r for r in found if (r["rate"], r["control rate"]) == rates]
        episodes = sum(record.get("episodes to solve", 0) for record in mine)
        return -sum(record["solved"] for record in mine), episodes, -sum(record["return"] for record in mine)

    return min(dict.fromkeys((record["rate"], record["control rate"]) for record in found), key=merit)


def tune(names: Sequence[str], args: Args) -> dict[str, Rates]:
    """The rates of each task and method."""
    scale = SCALES[args.scale]
    seeds = range(TUNING, TUNING + scale.tuning_seeds)
    jobs = {
        (name, rates, seed): partial(run, name, seed, rates, 0, args)
        for name, rates, seed in product(names, product(scale.rates, scale.rates), seeds)
    }
    cells = Cells(args.out / "relax_rl" / args.scale / "tuning", {"scale": scale._asdict()})
    found = sweep(cells, {" ".join(map(str, key)): job for key, job in jobs.items()}, args.workers)
    made = list(zip(jobs, found, strict=True))
    return {name: best_rates([record for key, record in made if key[0] == name]) for name in names}


def together(a: Record, b: Record, part: int) -> bool:
    """Whether the second's curve is below the first's, on average over the looks at which both were measured."""
    pairs = [(x[part], y[part]) for x, y in zip(a["curve"], b["curve"], strict=False)]
    return sum(y - x for x, y in pairs if x is not None and y is not None) < 0.0


def orderings(found: Sequence[Record]) -> str:
    """Episodes to solve, and in how many seeds the order of the paper holds."""
    text = ""
    for title in dict.fromkeys(record["method"].split()[0] for record in found):
        kinds = [[r for r in found if r["method"] == f"{title} {method}"] for method in CONTROLS]
        episodes = np.array([[r.get("episodes to solve", np.inf) for r in kind] for kind in kinds])
        (a2c, relax), seeds = np.median(episodes, axis=1), episodes.shape[1]
        spreads = [f"{row.min():.0f} to {row.max():.0f}" for row in episodes]
        lower = [sum(together(a, b, part) for a, b in zip(*kinds, strict=True)) for part in (1, 2)]
        text += (
            f"\n{title}, median and range of the episodes to solve (inf: not solved): A2C {a2c:.0f} ({spreads[0]}), "
            f"RELAX {relax:.0f} ({spreads[1]}); the paper's means: {TASKS[title].paper}. "
            f"Seeds in which RELAX needs fewer: {(episodes[1] < episodes[0]).sum()} of {seeds}; has less variance: "
            f"{lower[0]} of {seeds}; has less beside no control variate at its own policies: {lower[1]} of {seeds}.\n"
        )
    return text


def draw(found: Sequence[Record], every: int) -> Figure:
    """Returns and variances over episodes, one line for each seed."""
    titles = list(dict.fromkeys(record["method"].split()[0] for record in found))
    figure = Figure(figsize=(5 * len(titles), 9), layout="constrained")
    axes = figure.subplots(3, len(titles), sharex="col", squeeze=False)
    labels = ("mean return of 100 episodes", "log variance of the gradient", "the same, less REINFORCE's")
    for column, title in zip(axes.T, titles, strict=True):
        for (part, axis), (number, method) in product(enumerate(column), enumerate(CONTROLS)):
            for index, record in enumerate(r for r in found if r["method"] == f"{title} {method}"):
                values = np.array([seen[part] for seen in record["curve"]], float)
                label = None if index else method
                axis.plot(every * np.arange(1, len(values) + 1), values, color=f"C{number}", alpha=0.6, label=label)
            axis.set(ylabel=labels[part])
        column[0].axhline(TASKS[title].target, color="0.2", linestyle="--")
        column[0].set(title=title)
        column[0].legend()
        column[-1].set(xlabel="episode")
    return figure


def main(args: Args) -> None:
    """Choose rates, train, write."""
    scale = SCALES[args.scale]
    _ = [environment(TASKS[title]) for title in scale.frames]  # refused at once, if at all
    names = [f"{title} {method}" for title, method in product(scale.frames, CONTROLS)]
    rates = tune(names, args)
    jobs = {f"{n} {seed}": partial(run, n, seed, rates[n], scale.probes, args) for n in names for seed in args.seeds}
    reproduce("relax_rl", args, scale, jobs, COLUMNS, partial(draw, every=scale.every), orderings, device="cpu")


if __name__ == "__main__":
    main(tyro.cli(Args))
