"""Which agents keep several equally good behaviours? Four goals from scratch, 24 routes from demonstrations.

    python -m experiments.multimodal_rl

``latentrl/MultiGoal-v0`` is learned from nothing; beside the agent that first learns skills are one that stays rewarded
for them, weakly (the weight was chosen by two seeds that are not reported), and one with the same settings that sees
labels without having learned what to do with them. ``latentrl/Avoiding-v0`` rewards success alone: there policies are
cloned from scripted demonstrations of all routes, and then improved by PPO or SAC. Agents are judged as they act in
training, with their noise: mean return, share of successes, and how many goals have at least 5 % of all episodes, or
routes .5 %.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from experiments.agents import Curve, batch, judge, landmarks, paths
from experiments.records import StudyArgs, table, write
from latentrl import Demonstrations
from latentrl.cells import Cells, Record
from latentrl.metrics import behaviour_entropy, modes_covered
from latentrl.sb3 import (
    CloneTerm,
    CriticWarmUp,
    DemonstrationReplayBuffer,
    KLToClone,
    LatentBC,
    LatentNoiseWrapper,
    LatentPPO,
    SkillReward,
)
from latentrl.sweeps import sweep
from latentrl_envs.avoiding import Avoiding
from latentrl_envs.experts import demonstrate

COLUMNS = ("return", "success", "modes", "entropy", "modes of the clone", "success of the clone")
DRAWN = 40
"""Episodes of the first seed that are drawn."""


class Task(NamedTuple):
    """Where modes are counted."""

    env_id: str
    n_modes: int
    share: float
    """Of all episodes; from it on a mode counts as kept."""


GOALS, ROUTES = Task("MultiGoal-v0", 4, 0.05), Task("Avoiding-v0", 24, 0.005)


@dataclass(frozen=True)
class Args(StudyArgs):
    """Train every kind of agent with every seed."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of each agent with each."""
    steps: int = 200_000
    """Environment steps of PPO on the goals; of skills without reward first, a quarter of them."""
    sac_steps: int = 24_000
    """Environment steps of SAC."""
    updates: int = 12_000
    """Gradient updates of each clone."""
    fine_tuning: int = 500_000
    """Environment steps of PPO on the routes."""
    routes_envs: int = 256
    """Environments of PPO on the routes; many, so that a rollout shows each route several times."""
    sac_fine_tuning: int = 24_000
    """Environment steps of SAC on the routes."""
    episodes: int = 400
    """By which an agent is judged."""
    workers: int = 2
    """Parallel processes."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/multimodal_rl")
    """Folder for the table, the records, the picture, and one file per finished run."""

    def smoked(self) -> "Args":
        """The settings that count."""
        small = {"seeds": (0,), "steps": 64, "sac_steps": 64, "updates": 3, "fine_tuning": 64, "episodes": 8}
        return replace(self, routes_envs=4, sac_fine_tuning=64, **small) if self.smoke else self


class Learned(NamedTuple):
    """A trained agent."""

    agent: BaseAlgorithm
    venv: VecEnv
    """Where it is judged, wrapped as it needs."""
    curve: list[Record]


Learn = Callable[[int, Args], Learned]
"""From a seed."""


def look(agent: Any, venv: VecEnv, task: Task, episodes: int) -> Record:
    """How an agent acts."""
    return judge(agent, venv, episodes, task.n_modes)


def judging(task: Task, seed: int, args: Args) -> VecEnv:
    """Environments to judge in: others than to train in."""
    return batch(task.env_id, min(100, args.episodes), 10_000 + seed)


def goals_by_ppo(seed: int, args: Args, algorithm: type[PPO], policy: str, **policy_kwargs: Any) -> Learned:
    """From scratch; rewards are normalised, as they are large."""
    venv, judged = VecNormalize(batch(GOALS.env_id, 64, seed), norm_obs=False), judging(GOALS, seed, args)
    settings = {"n_steps": 32, "batch_size": 512, "learning_rate": 1e-3, "ent_coef": 0.03}
    policy_kwargs = {"log_std_init": -1.0, **policy_kwargs}
    agent = algorithm(policy, venv, seed=seed, device="cpu", policy_kwargs=policy_kwargs, **settings)
    curve = Curve(args.steps // 10, partial(look, venv=judged, task=GOALS, episodes=args.episodes // 4))
    return Learned(agent.learn(args.steps, curve), judged, curve.records)


def goals_by_label(seed: int, args: Args, explores: bool, kept: float = 0.0, labels: int = 8) -> Learned:
    """With a label in sight; told from it without reward for the first quarter, or from the start the task's reward.

    :param kept: weight of the skills' reward beside the task's in the other three quarters
    """
    noisy = partial(LatentNoiseWrapper, latent_dim=labels, kind="categorical")
    judged = noisy(judging(GOALS, seed, args))
    judged.seed(10_000 + seed)  # as `judging` does, and of the labels, too
    venv = noisy(batch(GOALS.env_id, 16, seed))
    venv.seed(seed)
    settings = {"n_steps": 64, "batch_size": 256, "learning_rate": 1e-3, "ent_coef": 0.01}
    skills = SkillReward(venv, extrinsic=0.0, seed=seed, device="cpu")
    rewarded = VecNormalize(skills if kept else venv, norm_obs=False)
    first = skills if explores else rewarded
    policy_kwargs = {"log_std_init": -1.0}
    agent = PPO("MultiInputPolicy", first, seed=seed, device="cpu", policy_kwargs=policy_kwargs, **settings)
    curve = Curve(args.steps // 10, partial(look, venv=judged, task=GOALS, episodes=args.episodes // 4))
    if not explores:
        return Learned(agent.learn(args.steps, curve), judged, curve.records)
    agent.learn(args.steps // 4)
    skills.extrinsic, skills.scale = 1.0, kept
    agent.set_env(rewarded)
    agent.learn(args.steps - args.steps // 4, [curve, CriticWarmUp(5_000)], reset_num_timesteps=False)
    return Learned(agent, judged, curve.records)


def goals_by_sac(seed: int, args: Args, policy: str, **policy_kwargs: Any) -> Learned:
    """From scratch; the temperature is learned, as by default."""
    judged = judging(GOALS, seed, args)
    settings = {"learning_rate": 1e-3, "batch_size": 128, "learning_starts": 1_000, "gradient_steps": 4, "tau": 0.01}
    venv = batch(GOALS.env_id, 16, seed)
    agent = SAC(policy, venv, seed=seed, device="cpu", policy_kwargs=policy_kwargs, **settings)
    curve = Curve(args.sac_steps // 10, partial(look, venv=judged, task=GOALS, episodes=args.episodes // 4))
    return Learned(agent.learn(args.sac_steps, curve), judged, curve.records)


def routes(seed: int, args: Args, num_envs: int) -> tuple[Demonstrations, VecNormalize, VecNormalize]:
    """480 demonstrations, where to learn and where to judge."""
    shown = Demonstrations.from_arrays(**demonstrate(Avoiding(), 480, seed=seed)._asdict())
    venv = VecNormalize(batch(ROUTES.env_id, num_envs, seed), norm_reward=False)
    judged = VecNormalize(judging(ROUTES, seed, args), norm_reward=False, training=False)
    judged.obs_rms = venv.obs_rms
    return shown, venv, judged


def routes_by_ppo(seed: int, args: Args, algorithm: type[PPO], policy: str, **policy_kwargs: Any) -> Learned:
    """Cloned from demonstrations, then improved."""
    shown, venv, judged = routes(seed, args, args.routes_envs)
    settings = {"n_steps": 128, "batch_size": 8192, "n_epochs": 8, "learning_rate": 5e-4}
    settings |= {"gamma": 0.999, "gae_lambda": 0.98}  # success comes at the end, after 125 steps
    policy_kwargs = {"log_std_init": -1.5, **policy_kwargs}
    agent = algorithm(policy, venv, seed=seed, device="cpu", policy_kwargs=policy_kwargs, **settings)
    LatentBC(agent, demonstrations=shown, seed=seed, device="cpu").learn(args.updates)
    venv.training = False  # or the clone would see the same places differently from rollout to rollout
    curve = Curve(args.fine_tuning // 10, partial(look, venv=judged, task=ROUTES, episodes=args.episodes))
    agent.learn(args.fine_tuning, [curve, CriticWarmUp(args.fine_tuning // 5), KLToClone(0.03)])
    return Learned(agent, judged, curve.records)


def routes_by_sac(seed: int, args: Args, policy: str, **policy_kwargs: Any) -> Learned:
    """Cloned from demonstrations, which then make half of each batch and stay in the actor's loss."""
    shown, venv, judged = routes(seed, args, 16)
    settings = {"learning_rate": 3e-4, "gamma": 0.999, "gradient_steps": 8, "tau": 0.01, "ent_coef": "auto_0.001"}
    replay = {"demonstrations": shown, "share": 0.5, "terminated": True}
    agent = SAC(
        policy,
        venv,
        seed=seed,
        device="cpu",
        policy_kwargs=policy_kwargs,
        replay_buffer_class=DemonstrationReplayBuffer,
        replay_buffer_kwargs=replay,
        **settings,
    )
    LatentBC(agent, demonstrations=shown, seed=seed, device="cpu").learn(args.updates)
    venv.training = False
    curve = Curve(args.sac_fine_tuning // 10, partial(look, venv=judged, task=ROUTES, episodes=args.episodes))
    agent.learn(args.sac_fine_tuning, [curve, CriticWarmUp(args.sac_fine_tuning // 10), CloneTerm(shown, 0.03, None)])
    return Learned(agent, judged, curve.records)


AGENTS: dict[str, tuple[Task, Learn]] = {
    "goals: PPO, Gaussian": (GOALS, partial(goals_by_ppo, algorithm=PPO, policy="MlpPolicy")),
    "goals: PPO, mixture of 8": (
        GOALS,
        partial(goals_by_ppo, algorithm=PPO, policy="MixturePolicy", n_components=8),
    ),
    "goals: LatentPPO, N(0, I)": (
        GOALS,
        partial(goals_by_ppo, algorithm=LatentPPO, policy="LatentPolicy", latent_dim=4),
    ),
    "goals: LatentPPO, 8 choices": (
        GOALS,
        partial(goals_by_ppo, algorithm=LatentPPO, policy="LatentPolicy", latent_dim=8, prior="categorical"),
    ),
    "goals: PPO, 8 skills first": (GOALS, partial(goals_by_label, explores=True)),
    "goals: PPO, 8 skills first and kept": (GOALS, partial(goals_by_label, explores=True, kept=0.1)),
    "goals: PPO, 8 labels, no skills": (GOALS, partial(goals_by_label, explores=False)),
    "goals: SAC, Gaussian": (GOALS, partial(goals_by_sac, policy="MlpPolicy")),
    "goals: SAC, N(0, I)": (GOALS, partial(goals_by_sac, policy="LatentPolicy")),
    "goals: SAC, mixture of 8": (
        GOALS,
        partial(goals_by_sac, policy="LatentPolicy", prior="categorical", n_components=8),
    ),
    "routes: PPO, Gaussian": (ROUTES, partial(routes_by_ppo, algorithm=PPO, policy="MlpPolicy")),
    "routes: PPO, mixture of 8": (
        ROUTES,
        partial(routes_by_ppo, algorithm=PPO, policy="MixturePolicy", n_components=8),
    ),
    "routes: LatentPPO, mixture of 24": (
        ROUTES,
        partial(routes_by_ppo, algorithm=LatentPPO, policy="LatentPolicy", prior="mixture", n_components=24),
    ),
    "routes: SAC, Gaussian": (ROUTES, partial(routes_by_sac, policy="MlpPolicy")),
    "routes: SAC, N(0, I)": (ROUTES, partial(routes_by_sac, policy="LatentPolicy")),
    "routes: SAC, mixture of 8": (
        ROUTES,
        partial(routes_by_sac, policy="LatentPolicy", prior="categorical", n_components=8),
    ),
}
"""By title, whose beginning says the task."""


def run(name: str, seed: int, args: Args) -> Record:
    """Train one agent from one seed and judge it."""
    task, learn = AGENTS[name]
    learned = learn(seed, args)
    drawn = paths(learned.agent, learned.venv, min(DRAWN, args.episodes)) if seed == args.seeds[0] else []
    final = look(learned.agent, learned.venv, task, args.episodes)
    return {"method": name, "seed": seed, **final, "curve": learned.curve, "paths": drawn}


def counted(record: Record, task: Task) -> Record:
    """What is tabulated of a judgement."""
    counts = np.array(record["counts"])
    least = max(1, round(task.share * sum(counts) / max(record["success"], 1e-9)))
    kept = {"modes": modes_covered(counts, least), "entropy": behaviour_entropy(counts).value}
    return {"return": record["return"], "success": record["success"], **kept}


def rows(found: Sequence[Record]) -> list[Record]:
    """One row of the table for each run."""
    made = []
    for record in found:
        task = AGENTS[record["method"]][0]
        row = {"method": record["method"], **counted(record, task)}
        if task is ROUTES:
            clone = counted(record["curve"][0], task)
            row |= {"modes of the clone": clone["modes"], "success of the clone": clone["success"]}
        made.append(row)
    return made


def draw(found: Sequence[Record]) -> Figure:
    """Paths of each kind of agent, from its first seed."""
    shown = [record for record in found if record["paths"]]
    columns = 4
    figure = Figure(figsize=(3.2 * columns, 3.4 * -(-len(shown) // columns)), layout="constrained")
    axes = figure.subplots(-(-len(shown) // columns), columns, squeeze=False).ravel()
    for axis, record in zip(axes, shown, strict=False):
        task = AGENTS[record["method"]][0]
        x_y = record["paths"]
        for path in x_y:
            axis.plot(*np.array(path).T, color="#1f5fa8", linewidth=0.7, alpha=0.5)
        for centre, radius, color in landmarks(task.env_id):
            axis.add_patch(Circle(centre, radius, color=color))
        kept = counted(record, task)
        number = f"{kept['modes']} mode{'s' * (kept['modes'] != 1)}"
        axis.set(title=f"{record['method']}\n{number}, success {kept['success']:.2f}", aspect="equal")
    for axis in axes[len(shown) :]:
        axis.remove()
    return figure


def main(args: Args) -> None:
    """Train, judge, write."""
    args = args.smoked()
    settings = {name: value for name, value in asdict(args).items() if name not in ("workers", "out")}
    jobs = {f"{name} {seed}": partial(run, name, seed, args) for name in AGENTS for seed in args.seeds}
    found = sweep(Cells(args.out, settings), jobs, args.workers)
    without_paths = [{key: value for key, value in record.items() if key != "paths"} for record in found]
    record = {"settings": settings, "runs": without_paths}
    write(args.out, "multimodal_rl", ("latentrl",), table(rows(found), COLUMNS), record, draw(found))


if __name__ == "__main__":
    main(tyro.cli(Args))
