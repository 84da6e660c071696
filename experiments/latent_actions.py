"""A reward that exploring by single actions never meets: is it found in the latent space of a cloned policy?

    python -m experiments.latent_actions

Only one of the 24 routes of ``latentrl/Avoiding-v0``, drawn for each seed, is rewarded: 1 at its end, nothing before.
A policy is cloned from demonstrations of all routes, which do not know of the reward. Then PPO and SAC choose its
latents, one for an episode or one for 25 steps. Beside them PPO and SAC choose the actions themselves, from scratch,
and the clone draws its latents from its prior. All are judged with their noise.

The clone has two latents under N(0, I), not the VampPrior with which it would play best: the mixture's parts lie apart,
and of an agent's first choices, drawn around the mean of the prior, three in four decode to no route.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import tyro
from matplotlib.figure import Figure
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from experiments.agents import Curve, judge
from experiments.records import StudyArgs, table, write
from latentrl import Demonstrations
from latentrl.cells import Cells, Record
from latentrl.sb3 import LatentActionEnv, LatentBC
from latentrl.sweeps import sweep
from latentrl_envs.avoiding import Avoiding
from latentrl_envs.experts import demonstrate

COLUMNS = ("success", "best success", "environment steps (thousands)")
CLONE = "clone, latents of its prior"


class OneRoute(gym.Wrapper[Any, Any, Any, Any]):
    """Rewards, and calls a success, only the episodes of one route; ``taken`` counts its steps.

    :param route: its number
    """

    def __init__(self, env: gym.Env[Any, Any], route: int) -> None:
        super().__init__(env)
        self.route, self.taken = route, 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.taken += 1
        wanted = info["mode"] == self.route
        return (
            observation,
            float(reward) * wanted,
            terminated,
            truncated,
            info | {"success": info["success"] and wanted},
        )


class Entry(NamedTuple):
    """One kind of agent."""

    algorithm: type[BaseAlgorithm]
    steps: int
    """Choices of the agent in training."""
    hold: int | None
    """Environment steps of one latent, 0 for the episode; None where actions are chosen."""
    settings: dict[str, Any]


# Of an agent's first choices one in a hundred is rewarded: many for each update, and long strides.
ON_POLICY: dict[str, Any] = {"n_steps": 32, "learning_rate": 3e-3, "clip_range": 0.4, "ent_coef": 3e-3}
OFF_POLICY: dict[str, Any] = {"learning_starts": 256, "gradient_steps": 4, "learning_rate": 1e-3, "ent_coef": 0.05}
AGENTS = {
    "PPO, a latent for the episode": Entry(PPO, 4_000, 0, ON_POLICY),
    "PPO, a latent for 25 steps": Entry(PPO, 8_000, 25, ON_POLICY | {"n_steps": 128, "batch_size": 256}),
    "SAC, a latent for the episode": Entry(SAC, 1_000, 0, OFF_POLICY),
    "PPO, actions": Entry(PPO, 400_000, None, {"n_steps": 256, "batch_size": 256, "gamma": 0.999}),
    "SAC, actions": Entry(SAC, 100_000, None, {"gamma": 0.999, "gradient_steps": 4}),
}


@dataclass(frozen=True)
class Args(StudyArgs):
    """Train every kind of agent with every seed."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of each agent with each, and one route."""
    updates: int = 4_000
    """Gradient updates of the clones."""
    share: float = 1.0
    """Of each agent's training."""
    num_envs: int = 8
    """Environments to learn in, and to judge in."""
    episodes: int = 200
    """By which an agent is judged."""
    workers: int = 2
    """Parallel processes."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/latent_actions")
    """Folder for the table, the records, the picture, and one file per finished run."""

    def smoked(self) -> "Args":
        """The settings that count."""
        return replace(self, seeds=(0,), updates=2, share=1e-4, num_envs=1, episodes=1) if self.smoke else self


def one_env(route: int, clone: LatentBC | None, hold: int | None) -> gym.Env[Any, Any]:
    """The task, in the clone's latents where there is one."""
    env = OneRoute(gym.make("latentrl/Avoiding-v0"), route)
    return env if clone is None else LatentActionEnv(env, clone, hold)


def environments(route: int, number: int, seed: int, clone: LatentBC | None, hold: int | None) -> VecEnv:
    """Several of them with a monitor each; a choice of a latent is one of its steps."""
    return make_vec_env(one_env, number, seed=seed, env_kwargs={"route": route, "clone": clone, "hold": hold})


def cloned(seed: int, updates: int) -> LatentBC:
    """From 480 demonstrations."""
    demonstrations = Demonstrations.from_arrays(**demonstrate(Avoiding(), 480, seed=seed)._asdict())
    kwargs = {"prior": "normal", "latent_dim": 2}
    made = LatentBC("LatentPolicy", demonstrations=demonstrations, policy_kwargs=kwargs, seed=seed, device="cpu")
    return made.learn(updates)


def run(seed: int, args: Args) -> Record:
    """Every agent on the route of one seed, with the same clone."""
    route = int(np.random.default_rng(seed).integers(24))
    clone = cloned(seed, args.updates)
    found: list[Record] = [
        {"method": CLONE, **judge(clone, environments(route, args.num_envs, 10_000 + seed, None, None), args.episodes)}
    ]
    for name, entry in AGENTS.items():
        decoder = None if entry.hold is None else clone
        venv = environments(route, args.num_envs, seed, decoder, entry.hold)
        judged = environments(route, args.num_envs, 10_000 + seed, decoder, entry.hold)
        agent = entry.algorithm("MlpPolicy", venv, seed=seed, device="cpu", **entry.settings)
        steps = max(8, round(args.share * entry.steps))
        few = max(1, args.episodes // 4)
        curve = Curve(max(64, steps // 10), partial(look, venv=venv, judged=judged, episodes=few))
        agent.learn(steps, curve)
        final = look(agent, venv, judged, args.episodes)
        best = max(point["success"] for point in [*curve.records, final])
        found.append({"method": name, **final, "best success": best, "curve": curve.records})
    return {"route": route, "agents": found}


def look(agent: BaseAlgorithm, venv: VecEnv, judged: VecEnv, episodes: int) -> Record:
    """How an agent acts, and after how many thousands of environment steps."""
    taken = sum(venv.get_attr("taken")) / 1e3
    return {**judge(agent, judged, episodes), "environment steps (thousands)": taken}


def draw(found: Sequence[Record]) -> Figure:
    """Success over environment steps, one line for each seed."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for number, name in enumerate(AGENTS):
        for curve in [record["curve"] for record in found if record["method"] == name]:
            x, y = ([point[key] for point in curve] for key in ("environment steps (thousands)", "success"))
            axis.plot(x, y, color=f"C{number}", alpha=0.6, label=name)
    clone = [record["success"] for record in found if record["method"] == CLONE]
    axis.axhline(float(np.mean(clone)), color="0.5", linestyle=":", label=CLONE)
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles.keys(), fontsize=8)
    axis.set(xscale="symlog", xlim=(0.0, None), ylim=(-0.03, 1.03))
    axis.set(xlabel="environment steps (thousands)", ylabel="episodes that take the rewarded route")
    return figure


def main(args: Args) -> None:
    """Train, judge, write."""
    args = args.smoked()
    settings = {name: value for name, value in asdict(args).items() if name not in ("workers", "out")}
    jobs = {f"seed {seed}": partial(run, seed, args) for seed in args.seeds}
    made = sweep(Cells(args.out, settings), jobs, args.workers)
    found = [{"route": record["route"], **agent} for record in made for agent in record["agents"]]
    record = {"settings": settings, "runs": found}
    write(args.out, "latent_actions", ("latentrl",), table(found, COLUMNS), record, draw(found))


if __name__ == "__main__":
    main(tyro.cli(Args))
