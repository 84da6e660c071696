"""What does a latent policy cost over the stock one, in all of what an agent of stable-baselines3 does?

    python -m experiments.benchmarks.sb3_overhead

Ratios of the time that ``learn`` takes, to the same algorithm with its MlpPolicy, in one process and one thread; both
go on learning where they stopped, in turn. Pendulum-v1 costs next to nothing to step, which makes the ratios largest;
two agents on HalfCheetah-v5 show them where the environment has its share. Everything else is stable-baselines3's
default, but PPO has rollouts of 512 steps, which hold as many updates for each step. The null control is the stock
agent against another one. PPO is also timed in parts: steps in the environment, and updates.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
import tyro
from stable_baselines3 import A2C, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env

from experiments.benchmarks.timing import Step, machine, paired_ratio, row
from latentrl.sb3 import LatentA2C, LatentNoiseExtractor, LatentNoiseWrapper, LatentPPO

CHEAP, COSTLY = "Pendulum-v1", "HalfCheetah-v5"
SHORT = 10
"""Steps of a smoke test, and those before SAC and TD3 start to learn."""


@dataclass(frozen=True)
class Ours:
    """An agent of ours, to be compared with the stock one of its family."""

    name: str
    algorithm: type[BaseAlgorithm]
    policy: str = "LatentPolicy"
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    wrap: Callable[[Any], Any] = lambda env: env
    target: str = ""

    def make(self, env_id: str, options: dict[str, Any]) -> BaseAlgorithm:
        env = self.wrap(make_vec_env(env_id, seed=0))
        return self.algorithm(self.policy, env, policy_kwargs=self.policy_kwargs, seed=0, device="cpu", **options)


@dataclass(frozen=True)
class Family:
    """Agents beside the stock one, and the steps of ``learn`` that are timed."""

    stock: type[BaseAlgorithm]
    steps: int
    ours: tuple[Ours, ...]

    def options(self, smoke: bool) -> dict[str, Any]:
        if self.stock is PPO:
            return {"n_steps": SHORT if smoke else self.steps}
        return {} if self.stock is A2C else {"learning_starts": SHORT}


def mixture(algorithm: type[BaseAlgorithm], n_components: int) -> Ours:
    kwargs = {"n_components": n_components}
    return Ours(f"mixture, {n_components} components", algorithm, "MixturePolicy", kwargs, target="<= 1.30")


def held(algorithm: type[BaseAlgorithm], prior: str, hold: int) -> Ours:
    kwargs = {"prior": prior, "hold": hold}
    return Ours(f"latent, {prior}, {'each step' if hold else 'held'}", algorithm, policy_kwargs=kwargs)


def semi_implicit(algorithm: type[BaseAlgorithm], num_samples: int) -> Ours:
    kwargs = {"num_samples": num_samples}
    return Ours(f"latent, normal, K = {num_samples}", algorithm, policy_kwargs=kwargs, target="<= 2.00")


def categorical(algorithm: type[BaseAlgorithm]) -> Ours:
    kwargs = {"prior": "categorical", "n_components": 4}
    return Ours("latent, categorical, 4", algorithm, policy_kwargs=kwargs, target="<= 2.00")


def noise(algorithm: type[BaseAlgorithm]) -> Ours:
    kwargs = {"features_extractor_class": LatentNoiseExtractor}
    return Ours("stock behind LatentNoiseWrapper", algorithm, "MultiInputPolicy", kwargs, LatentNoiseWrapper)


def families() -> list[tuple[str, Family]]:
    """What is timed, and where; without TQC or the costlier environment where they are not installed."""
    in_time = [held(LatentPPO, prior, hold) for prior in ("normal", "categorical") for hold in (0, 1)]
    found = [
        (CHEAP, Family(PPO, 512, (*(mixture(PPO, n) for n in (1, 4, 8)), *in_time, noise(PPO)))),
        (CHEAP, Family(A2C, 250, (mixture(A2C, 4), held(LatentA2C, "normal", 0), noise(A2C)))),
        (CHEAP, Family(SAC, 50, (*(semi_implicit(SAC, n) for n in (1, 4, 8, 16)), categorical(SAC), noise(SAC)))),
        (CHEAP, Family(TD3, 50, (Ours("latent, normal", TD3), noise(TD3)))),
    ]
    if find_spec("sb3_contrib"):
        from sb3_contrib import TQC

        found.append((CHEAP, Family(TQC, 50, (semi_implicit(TQC, 8), categorical(TQC), noise(TQC)))))
    if find_spec("mujoco"):
        found.append((COSTLY, Family(PPO, 512, (mixture(PPO, 4),))))
        found.append((COSTLY, Family(SAC, 50, (semi_implicit(SAC, 8),))))
    return found


@dataclass(frozen=True)
class Args:
    """Time our agents of stable-baselines3 beside the stock ones."""

    rounds: int = 9
    """Paired timings of each agent."""
    smoke: bool = False
    """A few steps each, to see that everything runs."""


def learning(agent: BaseAlgorithm, steps: int) -> Step:
    """``steps`` more steps of an agent, which hold as many updates each time."""
    return lambda: agent.learn(steps, reset_num_timesteps=False)


def parts(agent: PPO) -> dict[str, Step]:
    """One rollout, and the updates after it."""
    _, callback = agent._setup_learn(10**9)
    env, buffer = agent.env, agent.rollout_buffer
    assert env is not None
    return {"rollouts": lambda: agent.collect_rollouts(env, callback, buffer, agent.n_steps), "updates": agent.train}


def compare(family: Family, env_id: str, args: Args) -> None:
    """Print the rows of a family, the null control first."""
    name, steps = family.stock.__name__, SHORT if args.smoke else family.steps
    control = Ours("MlpPolicy (null control)", family.stock, "MlpPolicy", target="1.00")
    for ours in (control, *family.ours):
        made, stock = (one.make(env_id, family.options(args.smoke)) for one in (ours, control))
        # paired_ratio runs both before it times them, which takes the steps before SAC and TD3 start to learn.
        ratio = paired_ratio(learning(made, steps), learning(stock, steps), args.rounds, 1)
        print(row(f"{name}, {ours.name}", ratio, ours.target), flush=True)
        if isinstance(made, PPO) and isinstance(stock, PPO):
            theirs = parts(stock)
            for part, step in parts(made).items():
                print(row(f"     its {part} alone", paired_ratio(step, theirs[part], args.rounds, 1)), flush=True)


def main(args: Args) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(machine())
    print(f"learn, one environment, torch {torch.__version__}, 1 thread: time over the stock agent with MlpPolicy")
    shown = ""
    for env_id, family in families():
        if env_id != shown:
            print(f"{env_id:44} median   [quartiles]        target")
            shown = env_id
        compare(family, env_id, args)
    if not find_spec("mujoco"):
        print(f"{COSTLY} is left out, as mujoco is not installed: pip install mujoco")


if __name__ == "__main__":
    main(tyro.cli(Args))
