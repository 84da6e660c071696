"""The return of a Gymnasium task under a Gaussian (or categorical) policy, as something to take the gradient of."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from latentrl.checks import LatentRLError
from latentrl.distributions import DiagonalNormal, OneHot
from latentrl.estimators.combinations import AlphaOrder, Combination, InverseVariance, TotalPropagation
from latentrl.estimators.pathwise import Pathwise
from latentrl.estimators.rollout import LikelihoodRatio, RolloutEstimator, ShortHorizon, ValueFunction
from latentrl.nets import MLP
from latentrl.randomness import same_randomness
from latentrl.rollouts import ExpectedReturn, FunctionalTask

NAMESPACE = "latentrl_envs:latentrl/"


@dataclass(frozen=True)
class Problem:
    """One task, policy and horizon."""

    task: FunctionalTask
    policy: Callable[[dict[str, Tensor], Tensor], Distribution]
    parameters: dict[str, Tensor]
    observation_dim: int
    horizon: int
    num_envs: int

    def objective(self, estimator: RolloutEstimator | Combination) -> ExpectedReturn:
        """The expected return, differentiated by an estimator."""
        return ExpectedReturn(self.task, self.policy, estimator, self.horizon, self.num_envs)


@dataclass(frozen=True)
class Needs:
    """What estimators are made from."""

    problem: Problem
    gamma: float
    """Norm of the error that :class:`AlphaOrder` tolerates."""
    window: int
    """Steps of :class:`ShortHorizon`."""
    value_updates: int
    """Rollouts on which a value function is fitted, one gradient step for each."""
    seed: int

    def value_function(self) -> ValueFunction:
        """V of the frozen policy, fitted to rollouts of its own (Adam, 1e-2)."""
        problem = self.problem
        device = next(iter(problem.parameters.values())).device
        with same_randomness(device, self.seed):
            value = ValueFunction(problem.observation_dim, problem.horizon).to(device)
            optimizer = torch.optim.Adam(value.parameters(), 1e-2)
            plain = LikelihoodRatio()
            for _ in range(self.value_updates):
                with torch.no_grad():
                    trajectories = problem.objective(plain).roll_out(plain, problem.parameters)
                # In units of the returns, which differ from task to task.
                scale = trajectories.rewards.sum(0).std().clamp_min(1e-6)
                optimizer.zero_grad()
                (value.loss(trajectories) / scale**2).backward()
                optimizer.step()
        return value.requires_grad_(False)


ESTIMATORS: dict[str, Callable[[Needs], RolloutEstimator | Combination]] = {
    "lr": lambda _: LikelihoodRatio(),
    "lr-naive": lambda _: LikelihoodRatio(baseline=None, reward_to_go=False),
    "lr-no-baseline": lambda _: LikelihoodRatio(baseline=None),
    "lr-value": lambda needs: LikelihoodRatio(needs.value_function()),
    "rp": lambda _: Pathwise(),
    "short-horizon": lambda needs: ShortHorizon(needs.window, needs.value_function()),
    "inverse-variance": lambda _: InverseVariance(),
    "total-propagation": lambda _: TotalPropagation(),
    "alpha-order": lambda needs: AlphaOrder(needs.gamma),
}


def make_task(name: str, stiffness: float | None) -> Any:
    """A functional task by its Gymnasium id, or by the part behind ``latentrl/``.

    :raises LatentRLError: an unknown id, one without differentiable functions, or no such argument
    """
    env_id = name if ":" in name or "/" in name else NAMESPACE + name
    options: dict[str, Any] = {} if stiffness is None else {"stiffness": stiffness}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of newer versions of an id
            env = gym.make_vec(env_id, num_envs=1, **options)
    except (gym.error.Error, ModuleNotFoundError, TypeError, ValueError) as error:
        known = sorted(key.split("/")[1] for key in gym.registry if key.startswith("latentrl/"))
        raise LatentRLError(f"cannot make task {name!r} ({error}): choose among {', '.join(known)}") from error
    task = getattr(env.unwrapped, "func_env", None)
    env.close()
    if task is None:
        raise LatentRLError(f"{name!r} has no functions to roll out: give a task of latentrl_envs, such as Pendulum-v1")
    return task


def make_problem(
    name: str,
    stiffness: float | None,
    sigma: float | None,
    horizon: int,
    seed: int,
    num_envs: int,
    hidden: tuple[int, ...],
    device: str,
) -> Problem:
    """A policy with small random weights: choices, or actions with noise of ``sigma`` times half their range."""
    task = make_task(name, stiffness)
    action_space = task.action_space
    sizes = [task.observation_space.shape[0], *hidden]
    discrete = isinstance(action_space, spaces.Discrete)
    with same_randomness(torch.device("cpu"), seed):
        head = nn.Linear(sizes[-1], int(action_space.n) if discrete else action_space.shape[0])
        net = nn.Sequential(MLP(sizes), head) if hidden else head
        with torch.no_grad():
            head.weight.mul_(0.1)
            head.bias.zero_()
    net = net.to(device)
    parameters = {key: value.detach() for key, value in net.named_parameters()}
    if discrete:
        return Problem(
            _Choosing(task), lambda p, o: OneHot(functional_call(net, p, (o,))), parameters, sizes[0], horizon, num_envs
        )
    assert sigma is not None
    low, high = action_space.low, action_space.high
    reach = np.where(np.isfinite(high - low), (high - low) / 2.0, 1.0).astype(np.float32)
    scale = torch.from_numpy(reach).to(device)

    def gaussian(p: dict[str, Tensor], observation: Tensor) -> DiagonalNormal:
        loc = scale * functional_call(net, p, (observation,))
        return DiagonalNormal(loc, (sigma * scale).expand(loc.shape))

    return Problem(task, gaussian, parameters, sizes[0], horizon, num_envs)


class _Choosing:
    """A task with discrete actions that takes them as one-hot vectors."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self.action_space = spaces.Box(0.0, 1.0, (int(task.action_space.n),))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def transition(self, state: Tensor, action: Tensor) -> Tensor:
        return self._task.transition(state, action.argmax(-1))

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return self._task.reward(state, action.argmax(-1), next_state)
