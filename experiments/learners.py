"""Policies that are optimised by rollout gradients, several runs at a time."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_map

from latentrl.distributions import DiagonalNormal
from latentrl.estimators.combinations import AlphaOrder, Combination, InverseVariance, TotalPropagation
from latentrl.estimators.pathwise import Pathwise
from latentrl.estimators.rollout import LikelihoodRatio, RolloutEstimator, ShortHorizon, Value, ValueFunction
from latentrl.gradients.problem import make_task
from latentrl.rollouts import ExpectedReturn

Weights: TypeAlias = dict[str, Tensor]
Seen: TypeAlias = tuple[Tensor, ...]
"""Observations (T, N, O) and the rewards that came from them on, (T, N); nothing where no value function is fitted."""
MakeEstimator: TypeAlias = Callable[[Value], RolloutEstimator | Combination]
"""An estimator from a value function, which it may leave alone."""
HIDDEN, SIGMA = (32,), 0.5
"""Layers of a policy, and the standard deviation that it starts with in units of half the range of an action."""
STARTS, STARTS_SEED = 64, 10_000
"""How many starts policies are judged on, and their seed: the same for all."""
VALUE_RATE, VALUE_PASSES, VALUE_BATCHES = 1e-2, 2, 8
"""How value functions are fitted: rate of Adam, passes over each rollout, batches of its trajectories in a pass."""
WARM_UP = 4
"""Rollouts to which a value function is fitted before a policy moves by it; they count as updates."""


class Method(NamedTuple):
    """One estimator, from a value function and α-order's γ."""

    estimator: Callable[[Value, float], RolloutEstimator | Combination]
    learns_value: bool = False
    clips: bool = True
    longer: int = 1
    """How many times a task's updates; what is cheap can be seen for as many seconds as what is not."""


METHODS = {
    "LR": Method(lambda _, __: LikelihoodRatio(), longer=3),
    "LR, value": Method(lambda value, _: LikelihoodRatio(value), learns_value=True, longer=3),
    "RP": Method(lambda _, __: Pathwise(), longer=3),
    "RP, unclipped": Method(lambda _, __: Pathwise(), clips=False, longer=3),
    "short horizon": Method(lambda value, _: ShortHorizon(16, value), learns_value=True, longer=3),
    "α-order": Method(lambda _, gamma: AlphaOrder(gamma)),
    "inverse variance": Method(lambda _, __: InverseVariance()),
    "total propagation": Method(lambda _, __: TotalPropagation()),
}


class _MeanAction(LikelihoodRatio):
    """Plays what the policy means, without noise."""

    def draw(self, law: Distribution) -> Tensor:
        return law.mean


class Learner:
    """What one run is made of, as functions of its weights.

    The policy is a perceptron with tanh; its Gaussian noise does not depend on the state, and log σ is learned. The
    value function, V = steps to go · network, is fitted to each rollout after the gradient was taken from it.

    :param task: of ``latentrl_envs``, differentiable, without termination, its actions bounded by ±reach
    :param estimator: made from the value function
    :param learns_value: fit it
    :param horizon: of an episode
    :param num_envs: trajectories of each gradient
    """

    def __init__(self, task: Any, estimator: MakeEstimator, learns_value: bool, horizon: int, num_envs: int) -> None:
        self.task, self.estimator, self.learns_value = task, estimator, learns_value
        self.horizon, self.num_envs = horizon, num_envs
        self.reach = torch.from_numpy(task.action_space.high)
        (observation_dim,) = task.observation_space.shape
        sizes = [observation_dim, *HIDDEN]
        layers = [module for pair in pairwise(sizes) for module in (nn.Linear(*pair), nn.Tanh())]
        self.mean = nn.Sequential(*layers, nn.Linear(sizes[-1], len(self.reach)))
        self.value = ValueFunction(observation_dim, horizon)

    def start(self, seed: int) -> tuple[Weights, Weights]:
        """Weights of a policy that means to do almost nothing, and of a value function."""
        torch.manual_seed(seed)
        for module in (*self.mean, *self.value.net, self.value.head):
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        policy = {name: tensor.detach().clone() for name, tensor in self.mean.named_parameters()}
        policy[f"{len(self.mean) - 1}.weight"] *= 0.1
        policy[f"{len(self.mean) - 1}.bias"] *= 0.0
        policy["log_sigma"] = torch.full_like(self.reach, math.log(SIGMA))
        return policy, {name: tensor.detach().clone() for name, tensor in self.value.named_parameters()}

    def law(self, policy: Weights, observation: Tensor) -> DiagonalNormal:
        """π(a|s), for :class:`ExpectedReturn`."""
        network = {name: tensor for name, tensor in policy.items() if name != "log_sigma"}
        loc = self.reach * functional_call(self.mean, network, (observation,))
        return DiagonalNormal(loc, (self.reach * policy["log_sigma"].exp()).expand(loc.shape))

    def worth(self, value: Weights, observations: Tensor, to_go: Tensor) -> Tensor:
        """V(observations (*T, N, O), steps to go (*T, 1)): (*T, N)."""
        return to_go * functional_call(self.value, value, (observations, to_go))

    def objective(self, estimator: RolloutEstimator | Combination) -> ExpectedReturn:
        """The return of this task and policy."""
        return ExpectedReturn(self.task, self.law, estimator, self.horizon, self.num_envs)

    def gradient(self, policy: Weights, value: Weights) -> tuple[Weights, Seen]:
        """Of minus the mean reward per step; and what was seen on the way."""
        estimator = self.estimator(partial(self.worth, value))

        def loss(policy: Weights) -> tuple[Tensor, Seen]:
            objective = self.objective(estimator)
            if not self.learns_value or isinstance(estimator, Combination):
                return -objective(policy) / self.horizon, ()
            played = objective.roll_out(estimator, policy)
            to_go = played.rewards.flip(0).cumsum(0).flip(0)
            seen = torch.stack(played.observations[: self.horizon]).detach(), to_go.detach()
            return -estimator.surrogate(played).mean() / self.horizon, seen

        return grad(loss, has_aux=True)(policy)

    def value_gradient(self, value: Weights, seen: Seen) -> Weights:
        """Of the mean squared error of V."""
        observations, returns = seen
        to_go = torch.arange(self.horizon, 0, -1, dtype=returns.dtype).unsqueeze(-1)
        return grad(lambda v: (self.worth(v, observations, to_go) - returns).square().mean())(value)

    def judge(self, policy: Weights) -> Tensor:
        """Mean return without noise."""
        means = _MeanAction()
        objective = ExpectedReturn(self.task, self.law, means, self.horizon, STARTS)
        return objective.roll_out(means, policy).rewards.sum(0).mean()


class Runs:
    """Runs side by side in one vectorised pass, each with its own start, rate and noise.

    A gradient that is not finite is skipped, and counted.

    :param rates: learning rates (Adam), one for each run
    :param seeds: of the first weights; the first seed is also that of all noise
    :param clip: largest norm of a policy's gradient
    """

    def __init__(self, learner: Learner, rates: Sequence[float], seeds: Sequence[int], clip: float) -> None:
        self.learner, self.clip = learner, clip
        starts = [learner.start(seed) for seed in seeds]
        self.policies, self.values = ([start[i] for start in starts] for i in (0, 1))
        groups: list[dict[str, Any]] = [
            {"params": list(policy.values()), "lr": rate} for policy, rate in zip(self.policies, rates, strict=True)
        ]
        self.optimizer = torch.optim.Adam(groups)
        self.value_optimizer = torch.optim.Adam([v for value in self.values for v in value.values()], VALUE_RATE)
        self.updates = 0
        self.skipped, self.clipped = ([0] * len(seeds) for _ in range(2))
        torch.manual_seed(seeds[0])

    def update(self) -> None:
        """One gradient for each run."""
        gradients, seen = self._each(self.learner.gradient)(_stack(self.policies), _stack(self.values))
        if self.updates >= WARM_UP or not seen:
            self._move(gradients)
        self.updates += 1
        batches = [part.chunk(VALUE_BATCHES, dim=2) for part in seen]
        for batch in list(zip(*batches, strict=True)) * VALUE_PASSES:
            by_value = self._each(self.learner.value_gradient)(_stack(self.values), batch)
            for i, value in enumerate(self.values):
                _assign(value, by_value, i)
            self.value_optimizer.step()

    def _move(self, gradients: Weights) -> None:
        for i, policy in enumerate(self.policies):
            _assign(policy, gradients, i)
            norm = nn.utils.clip_grad_norm_(policy.values(), self.clip)
            self.clipped[i] += int(norm > self.clip)
            if not norm.isfinite():
                self.skipped[i] += 1
                for tensor in policy.values():
                    tensor.grad = None
        self.optimizer.step()

    def learn(self, updates: int, every: int) -> dict[str, Any]:
        """Go on to so many updates; what each run's policy is worth before the first and after ``every`` more."""
        at, returns = [self.updates], [self.judge()]
        while self.updates < updates:
            self.update()
            if self.updates % every == 0:
                at.append(self.updates)
                returns.append(self.judge())
        curves = [list(curve) for curve in zip(*returns, strict=True)]
        return {"updates": at, "returns": curves, "clipped": self.clipped, "skipped": self.skipped}

    def judge(self) -> list[float]:
        """Mean return of each run's policy without noise, from the same starts; leaves the generator as it was."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(STARTS_SEED)
            return self._each(self.learner.judge, "same")(_stack(self.policies)).tolist()

    def _each(self, function: Callable[..., Any], randomness: str = "different") -> Callable[..., Any]:
        if len(self.policies) > 1:
            return vmap(function, randomness=randomness)
        # Alone, a run should cost what it costs without vmap.
        return lambda *args: tree_map(lambda x: x.unsqueeze(0), function(*tree_map(lambda x: x.squeeze(0), args)))


def first_norm(task: str, horizon: int, num_envs: int, seed: int) -> float:
    """Norm of the first likelihood-ratio gradient of the return."""
    learner = Learner(make_task(task, None), lambda _: LikelihoodRatio(), False, horizon, num_envs)
    gradient, _ = learner.gradient(*learner.start(seed))
    return horizon * math.sqrt(sum(float(part.square().sum()) for part in gradient.values()))


def make_runs(
    task: str,
    method: str,
    rates: Sequence[float],
    seeds: Sequence[int],
    horizon: int,
    num_envs: int,
    clip: float,
    gamma: float,
) -> Runs:
    """Runs of one of :data:`METHODS` on one task, one for each rate and seed.

    :param gamma: α-order's, for the gradient of the return
    """
    chosen = METHODS[method]
    learner = Learner(
        make_task(task, None), lambda value: chosen.estimator(value, gamma), chosen.learns_value, horizon, num_envs
    )
    return Runs(learner, rates, seeds, clip if chosen.clips else math.inf)


def _stack(runs: Sequence[Weights]) -> Weights:
    return {name: torch.stack([run[name] for run in runs]) for name in runs[0]}


def _assign(weights: Weights, gradients: Mapping[str, Tensor], run: int) -> None:
    for name, tensor in weights.items():
        tensor.grad = gradients[name][run]
