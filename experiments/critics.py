"""What :mod:`experiments.gradient_critics` compares: estimators of the gradient of a SAC agent's soft value."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from torch import Tensor, nn
from torch.func import functional_call

from latentrl.distributions import DiagonalNormal
from latentrl.estimators import DeltaMethod, LeaveOneOut, MeasureValued, Pathwise, ScoreFunction
from latentrl.files import whole
from latentrl.types import Estimate
from latentrl.variance import Objective

Integrand: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SoftValue:
    """J(φ) = E_s[E_u[f(s, u)] + α H(u)], u ~ N(μ_φ(s), σ_φ(s)²): what the actor of SAC climbs (Haarnoja et al. 2018).

    The action is tanh u and f(s, u) = min_i Q_i(s, tanh u) + α Σ log(1 − tanh² u), so that J is E[min Q − α log π]. The
    Gaussian's entropy H is in closed form: reparameterization has its gradient without noise anyway, and f depends on
    no parameter.
    """

    law: Callable[[dict[str, Tensor], Float[Tensor, "B O"]], DiagonalNormal]
    """Parameters φ and observations -> the law of u."""
    worth: Callable[[Float[Tensor, "N O"], Float[Tensor, "N A"]], Float[Tensor, " N"]]
    """f, of observations and u."""
    alpha: float
    """Weight of the entropy."""

    def surrogate(
        self,
        parameters: dict[str, Tensor],
        observations: Float[Tensor, "B O"],
        estimate: Callable[[DiagonalNormal, Integrand], Estimate],
    ) -> Float[Tensor, ""]:
        """A scalar with an estimate of the gradient of J for these states."""
        q = self.law(parameters, observations)

        def f(u: Float[Tensor, "S B A"]) -> Float[Tensor, "S B"]:
            states = observations.expand(*u.shape[:-1], -1)
            return self.worth(states.flatten(0, -2), u.flatten(0, -2)).unflatten(0, u.shape[:-1])

        return (estimate(q, f).surrogate + self.alpha * q.entropy()).mean()


class Method(NamedTuple):
    """An estimator with as many draws as it needs."""

    estimate: Callable[[DiagonalNormal, Integrand], Estimate]
    evaluations: int
    """Of the critic, both networks together, for one state."""


def methods(size: int, draws: int) -> dict[str, Method]:
    """All estimators, for actions of ``size`` dimensions; leave-one-out takes ``draws`` actions, the others one."""
    leave_one_out = ScoreFunction(LeaveOneOut())
    return {
        "score function": Method(ScoreFunction(), 1),
        "leave-one-out": Method(lambda q, f: leave_one_out(q, f, draws), draws),
        "value at the mean": Method(value_at_mean, 2),
        "delta method": Method(DeltaMethod(), size + 1),
        "measure-valued": Method(MeasureValued(), 3 * size + 1),
        "reparameterization": Method(Pathwise(), 1),
    }


def value_at_mean(q: DiagonalNormal, f: Integrand) -> Estimate:
    """The score function with f at the mean of q as baseline: the delta method's term of order zero."""
    baseline = f(q.loc.unsqueeze(0)).detach()
    return ScoreFunction()(q, lambda u: f(u) - baseline)


class _Gaussian(nn.Module):
    """Mean and standard deviation that an actor gives to u."""

    def __init__(self, actor: Any) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std, _ = self.actor.get_action_dist_params(observations)
        return mean, log_std.exp()


def soft_value(agent: SAC) -> tuple[SoftValue, dict[str, Tensor]]:
    """The soft value of an agent, and all parameters of its actor."""
    gaussian, critic = _Gaussian(agent.actor), agent.critic
    alpha = float(agent.ent_coef_tensor if agent.log_ent_coef is None else agent.log_ent_coef.detach().exp())

    def law(parameters: dict[str, Tensor], observations: Tensor) -> DiagonalNormal:
        return DiagonalNormal(*functional_call(gaussian, parameters, (observations,)))

    def worth(observations: Tensor, u: Tensor) -> Tensor:
        actions = u.tanh()
        log_slope = (1.0 - actions.square() + 1e-6).log().sum(1)  # bounded as in stable-baselines3
        return torch.cat(critic(observations, actions), 1).amin(1) + alpha * log_slope

    return SoftValue(law, worth, alpha), dict(gaussian.named_parameters())


def objective(value: SoftValue, choose: Callable[[], Tensor], method: Method) -> Objective:
    """What the meter takes the gradient of; ``choose`` gives the states."""
    return lambda parameters: value.surrogate(parameters, choose(), method.estimate)


@dataclass(frozen=True)
class Task:
    """A Gymnasium task and how long to train on it."""

    env_id: str
    steps: int
    options: dict[str, Any] = field(default_factory=dict)

    def make(self) -> gym.Env:
        """The environment."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Box2D's, of types that SWIG makes
            return Monitor(gym.make(self.env_id, **self.options))


TASKS = (Task("HalfCheetah-v5", 30_000), Task("LunarLander-v3", 50_000, {"continuous": True}))


class Checkpoint(NamedTuple):
    """An agent at one time of its training."""

    agent: SAC
    observations: Float[Tensor, "N O"]
    """All of the replay buffer's."""
    mean_return: float
    """Of five episodes with the mean action."""


def checkpoint(folder: Path, step: int) -> Checkpoint:
    """Read what :func:`train` wrote."""
    with np.load(folder / f"{step}.npz") as file:
        observations, mean_return = torch.from_numpy(file["observations"]), float(file["mean_return"])
    return Checkpoint(SAC.load(folder / f"{step}.zip", device="cpu"), observations, mean_return)


class _Saving(BaseCallback):
    """Keeps the agent and what it has seen at the given steps."""

    def __init__(self, task: Task, folder: Path, steps: Sequence[int]) -> None:
        super().__init__()
        self.task, self.folder, self.steps = task, folder, steps

    def _on_step(self) -> bool:
        if self.num_timesteps in self.steps:
            judge = self.task.make()
            judge.reset(seed=10_000)
            mean_return, _ = evaluate_policy(self.model, judge, n_eval_episodes=5, warn=False)
            buffer = self.model.replay_buffer  # type: ignore[attr-defined]
            seen = buffer.observations[: buffer.size(), 0].astype(np.float32)
            with whole(self.folder / f"{self.num_timesteps}.zip") as path:
                self.model.save(path)
            # Last: a checkpoint is there if its observations are.
            with whole(self.folder / f"{self.num_timesteps}.npz") as path:
                np.savez_compressed(path, observations=seen, mean_return=mean_return)
        return True


def train(job: tuple[Task, int, Path, tuple[int, ...], tuple[int, ...]]) -> None:
    """One run of SAC with its own defaults, unless it was finished before: (task, seed, folder, steps, layers)."""
    task, seed, folder, steps, hidden = job
    if all((folder / f"{step}.npz").exists() for step in steps):
        return
    torch.set_num_threads(1)
    agent = SAC("MlpPolicy", task.make(), seed=seed, device="cpu", policy_kwargs={"net_arch": list(hidden)})
    agent.learn(max(steps), callback=_Saving(task, folder, steps))
