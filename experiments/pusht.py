"""Push-T: which policies push the block as people do, and what does a plan cost?

    python -m experiments.pusht --push-t FILE      (needs pip install gym-pusht)

People's demonstrations and the task are those of Chi et al. (2023, Diffusion Policy): a pusher moves a T-shaped block
onto its goal. Every policy sees the last two observations, plans 16 actions and plays 8 of them, with the same decoder,
trainer and number of updates; posterior and prior of a latent come on top. Judged by the largest reward of an episode,
the share of the goal that is covered over .95, at most 1: people's mean is .946. Success is the task's own, a share
beyond .95. Diffusion is also judged with fewer passes through its network than ten and with a hundred, as many as Chi
et al. take in simulation (of DDIM, as the ten are; theirs of DDPM, through larger networks that train for longer), with
the weight decay of the others, .1, in place of the optimiser's own, .01, and trained five times as long. What is called
ours and the weight decay were chosen by runs with seeds that are not reported.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from experiments.cloning import (
    GAUSSIAN,
    NOTE,
    PRICE,
    REPLAY,
    Playing,
    Replay,
    alternatives,
    cloned,
    compared,
    in_passes,
    ways,
)
from experiments.records import StudyArgs, spread, table, write
from latentrl import Demonstrations
from latentrl.cells import Record
from latentrl.estimators import StraightThrough
from latentrl.sb3 import evaluate_behaviour

NEARLY = "reward of .95"
COLUMNS = ("largest reward", NEARLY, "success", *PRICE)
UNITS = {"largest reward": "0 to 1, ↑", NEARLY: "share of episodes, ↑", "success": "coverage > .95, ↑"}
PLAN: dict[str, Any] = {"history": 2, "chunk": 16, "execute": 8, "hidden": (256, 256, 256)}
DECAY: dict[str, Any] = {"optimizer_kwargs": {"weight_decay": 0.1, "fused": True}}
LATENT = PLAN | DECAY | {"hold": 1, "latent_dim": 8, "encoder_hidden": (256, 256)}
CHOICES = LATENT | {"latent_dim": 64, "prior": "categorical", "posterior": "categorical", "prior_sees_state": True}
OURS, BASELINE, DECAYED, SHARE = "latent, 64 choices by the state", "diffusion", "diffusion, weight decay", 0.2
"""What is compared, with the best of all kinds of diffusion, and the share of their time for a plan that ours may
take."""
LONGER = "diffusion, five times the updates"
TIMES = {LONGER: 5}
"""The others' number of updates."""
POLICIES: dict[str, dict[str, Any]] = {
    **alternatives(**PLAN, **DECAY, decoder_components=64),
    BASELINE: alternatives(**PLAN)[BASELINE],
    DECAYED: alternatives(**PLAN, **DECAY)[BASELINE],
    LONGER: alternatives(**PLAN)[BASELINE],
    "latent, N(0, I)": LATENT | {"prior": "normal"},
    "latent, Gaussian of the state": LATENT | {"prior": "gaussian", "prior_sees_state": True},
    "latent, mixture of the state": LATENT | {"prior": "mixture", "n_components": 16, "prior_sees_state": True},
    "latent, flow of the state": LATENT | {"prior": "flow", "prior_sees_state": True},
    OURS: CHOICES,
}
PLAYING = GAUSSIAN | {
    f"{name}, {n} passes": Playing(name, partial(in_passes, n))
    for name in (BASELINE, DECAYED, LONGER)
    for n in (3, 100)
}
PEOPLE = 0.946
SETTINGS = {OURS: {"estimator": StraightThrough(), "num_samples": 1}}
"""What of the training is not as of the others: the score function, the default, tells fewer choices apart."""
SEEN = gym.spaces.Box(-1.0, 1.0, (6,))
BOARD = 512.0


@dataclass(frozen=True)
class Args(StudyArgs):
    """Clone and judge every policy with every seed."""

    push_t: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The .npz with demonstrations by people."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of each policy with each."""
    updates: int = 20_000
    """Gradient updates."""
    episodes: int = 200
    """By which a policy is judged."""
    workers: int = 2
    """Parallel processes."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/pusht")
    """Folder for the table, the records, the picture, and one file per finished run."""

    def smoked(self) -> "Args":
        """The settings that count."""
        return replace(self, seeds=(0,), updates=2, episodes=2) if self.smoke else self


def seen(state: NDArray[Any]) -> NDArray[np.float32]:
    """Pusher and pose of the block (..., 5) with the angle as a direction, since it jumps at 2π: (..., 6)."""
    angle = state[..., 4:]
    places = state[..., :4] / (0.5 * BOARD) - 1.0
    return np.concatenate([places, np.cos(angle), np.sin(angle)], -1).astype(np.float32)


def demonstrations(path: Path) -> Demonstrations:
    """As the policies see them. Their ends are repeated, so that plans start there, too, and lead to where they end."""
    shown = Demonstrations.from_pusht(path)
    steps = np.arange(len(shown))
    ends = shown.episode_starts + shown.episode_lengths
    steps = np.insert(steps, np.repeat(ends, PLAN["chunk"] - 1), np.repeat(ends - 1, PLAN["chunk"] - 1))
    lengths = shown.episode_lengths + PLAN["chunk"] - 1
    return Demonstrations.from_arrays(
        seen(shown.observations[steps]), shown.actions[steps], lengths, action_space=shown.action_space
    )


def make() -> gym.Env[Any, Any]:
    """The task, seen alike."""
    import gym_pusht  # noqa: F401  (registers it)

    return gym.wrappers.TransformObservation(gym.make("gym_pusht/PushT-v0", obs_type="state"), seen, SEEN)


def judged(agent: Any, venv: VecEnv, episodes: int, seed: int) -> Record:
    """Largest rewards of episodes from starts that no seed of the demonstrations knows."""
    found = evaluate_behaviour(agent, venv, episodes, seed=100_000 + 1_000 * seed)
    nearly = float((found.max_rewards >= 0.95).mean())
    return {"largest reward": float(found.max_rewards.mean()), NEARLY: nearly, "success": found.success_rate.value}


def run(name: str, seed: int, args: Args) -> Record:
    """Clone one policy and judge it, by the ways in which it plays."""
    shown = demonstrations(args.push_t)
    makers: list[Callable[[], gym.Env[Any, Any]]] = [make] * min(50, args.episodes)
    venv = DummyVecEnv(makers)
    if name == REPLAY:
        return {name: judged(Replay(shown, seed, stay=True), venv, args.episodes, seed)}
    settings = {"batch_size": 256, "ema_decay": 0.999, **SETTINGS.get(name, {})}
    agent, price = cloned(shown, POLICIES[name], seed, TIMES.get(name, 1) * args.updates, **settings)
    return {
        title: judged(player, venv, args.episodes, seed) | price for title, player in ways(agent.policy, name, PLAYING)
    }


def verdict(found: Sequence[Record]) -> str:
    """Ours beside diffusion in ten passes and beside the best of all its kinds, seed by seed, and people."""
    names = [name for name in dict.fromkeys(r["method"] for r in found) if name == OURS or name.startswith(BASELINE)]
    runs = {name: [r for r in found if r["method"] == name] for name in names}
    theirs = [name for name in names if name != OURS]
    best = max(theirs, key=lambda name: np.mean([record["largest reward"] for record in runs[name]]))
    said = [f"\nPeople's mean of the largest reward: {PEOPLE}."]
    for name in dict.fromkeys((BASELINE, best)):
        pairs = list(zip(runs[OURS], runs[name], strict=True))
        more = [mine["largest reward"] - other["largest reward"] for mine, other in pairs]
        share = pairs[0][0]["ms per plan"] / pairs[0][1]["ms per plan"]
        which, kept = ", the best of its kinds," if name == best else "", "met" if share <= SHARE else "missed"
        said.append(
            f"{OURS!r} is at least as good as {name!r}{which} in {sum(gain >= 0.0 for gain in more)} of {len(pairs)} "
            f"seeds (difference {spread(more)}), in {share:.3f} of its time for a plan ({SHARE} is asked for: {kept})."
        )
    return " ".join(said) + "\n"


def draw(found: Sequence[Record]) -> Figure:
    """Every run's score over the price of a plan."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for number, name in enumerate(dict.fromkeys(r["method"] for r in found if r["method"] != REPLAY)):
        mine = [record for record in found if record["method"] == name]
        price, score = ([record[key] for record in mine] for key in ("ms per plan", "largest reward"))
        axis.plot(price, score, "os^"[number // 10], color=f"C{number}", label=name, alpha=0.7)
    axis.axhline(PEOPLE, color="0.4", linestyle=":", label="people")
    control = np.mean([record["largest reward"] for record in found if record["method"] == REPLAY])
    axis.axhline(control, color="0.7", linestyle="--", label=REPLAY)
    axis.set(xscale="log", xlabel="ms per plan, one environment", ylabel="mean of the largest reward", ylim=(0, 1))
    axis.legend(fontsize=7, loc="lower right")
    return figure


def main(args: Args) -> None:
    """Clone, judge, write."""
    args = args.smoked()
    jobs = {f"{name} {seed}": partial(run, name, seed, args) for name in [*POLICIES, REPLAY] for seed in args.seeds}
    example = partial(demonstrations, args.push_t)
    found, settings = compared(args, POLICIES, PLAYING, jobs, example, training=SETTINGS, times=TIMES)
    record = {"settings": settings, "runs": found}
    text = table(found, COLUMNS, UNITS) + verdict(found) + NOTE.format(seeds=", ".join(map(str, args.seeds)))
    write(args.out, "pusht", ("latentrl", "gym-pusht"), text, record, draw(found), f" --push-t {args.push_t.name}")


if __name__ == "__main__":
    main(tyro.cli(Args))
