"""Likelihood-ratio and pathwise gradients of an expected return, trajectory by trajectory, from one pass backwards.

The rollout keeps states and noise, no graph; going back, each step is computed once more and pulled back alone. Memory
is therefore that of the states, T·N·S numbers, and one step's graph.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import vjp, vmap

from latentrl.checks import LatentRLError
from latentrl.distributions import DiagonalNormal
from latentrl.estimators.combinations import AlphaOrder, Combination, InverseVariance
from latentrl.tasks import FunctionalTask, Policy, check_action, first_of, going_on

Parameters = Mapping[str, Tensor]
Cotangents = tuple[Tensor, Tensor]
"""Gradients by the policy's mean and scale, both (N, A)."""


class Rollout(NamedTuple):
    """N trajectories of T steps, without gradient."""

    states: Float[Tensor, "T N S"]
    noise: Float[Tensor, "T N A"]
    """ε of the actions μ + σ ε."""
    rewards: Float[Tensor, "T N"]
    alive: Bool[Tensor, "T N"]


class Engine:
    """Gradients of the return of one task under one Gaussian policy.

    :param task: pure, differentiable functions
    :param policy: (parameters, observation (N, O)) -> :class:`DiagonalNormal`
    :param parameters: of the policy; nothing is differentiated by autograd here, so they come detached
    """

    def __init__(self, task: FunctionalTask, policy: Policy, parameters: Parameters) -> None:
        self.task: FunctionalTask = task
        self.policy: Policy = policy
        self.parameters: dict[str, Tensor] = {name: tensor.detach() for name, tensor in parameters.items()}

    def _moments(self, parameters: Parameters, state: Tensor) -> Cotangents:
        law = self.policy(dict(parameters), self.task.observation(state))
        if not isinstance(law, DiagonalNormal):
            raise LatentRLError(
                f"combined estimators need a policy with a DiagonalNormal law, not {type(law).__name__}: use "
                "LikelihoodRatio, or Pathwise where the law has rsample"
            )
        return law.loc, law.scale.expand(law.loc.shape)

    def roll_out(self, horizon: int, num_envs: int) -> Rollout:
        """Play ``horizon`` steps; noise comes from torch's global generator."""
        like = first_of(self.parameters)
        uniforms = torch.rand(num_envs, self.task.initial_noise_dim, dtype=like.dtype, device=like.device)
        state = self.task.initial(uniforms)
        running = ~self.task.terminal(state)
        steps: list[tuple[Tensor, ...]] = []
        for _ in range(horizon):
            loc, scale = self._moments(self.parameters, state)
            noise = torch.randn_like(loc)
            following, reward = self._step(running)(state, loc + scale * noise)
            steps.append((state, noise, reward, running))
            running = running & ~self.task.terminal(following)
            # What an episode ends in need not be finite, and would reach the gradient of the others.
            state = following.where(running.unsqueeze(-1), state)
        return Rollout(*(torch.stack(part) for part in zip(*steps, strict=True)))

    def _step(self, running: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
            check_action(self.task, running, action)
            seen, played = going_on(running, state, action)
            following = self.task.transition(seen, played)
            reward = self.task.reward(seen, played, following)
            # A finished trajectory stays where it ended and earns nothing.
            following = following.where(running.unsqueeze(-1), state)
            return following, reward.where(running, reward.new_zeros(()))

        return step

    def by_parameters(self, state: Tensor, cotangents: Cotangents) -> Float[Tensor, "N P"]:
        """Each trajectory's own gradient by the parameters, flat."""

        def one(state: Tensor, by_loc: Tensor, by_scale: Tensor) -> Tensor:
            pull = vjp(lambda p: self._moments(p, state.unsqueeze(0)), self.parameters)[1]
            (gradient,) = pull((by_loc.unsqueeze(0), by_scale.unsqueeze(0)))
            return torch.cat([part.flatten() for part in gradient.values()])

        return vmap(one)(state, *cotangents)

    def score(self, rollout: Rollout, t: int, advantage: Float[Tensor, " N"]) -> Cotangents:
        """Advantage times ∂ log π by mean and scale, at step t."""
        _, scale = self._moments(self.parameters, rollout.states[t])
        weight = (advantage * rollout.alive[t]).unsqueeze(-1) / scale
        return weight * rollout.noise[t], weight * (rollout.noise[t].square() - 1.0)

    def pull_back(self, rollout: Rollout, t: int, adjoint: Float[Tensor, "N S"]) -> tuple[Tensor, Cotangents]:
        """Gradient of the return from step t on, by the state with the action held, and by the action's law."""
        state, noise = rollout.states[t], rollout.noise[t]
        loc, scale = self._moments(self.parameters, state)
        (_, reward), pull = vjp(self._step(rollout.alive[t]), state, loc + scale * noise)[:2]
        by_state, by_action = pull((adjoint, torch.ones_like(reward)))
        return by_state, (by_action, by_action * noise)

    def through_policy(self, state: Tensor, cotangents: Cotangents) -> Float[Tensor, "N S"]:
        """Gradient by the state through the law of the action."""
        pull = vjp(lambda s: self._moments(self.parameters, s), state)[1]
        return pull(cotangents)[0]


def advantages(rewards: Float[Tensor, "T N"]) -> Float[Tensor, "T N"]:
    """Rewards to go, less the mean of the other trajectories' from the same step on."""
    to_go = rewards.flip(0).cumsum(0).flip(0)
    return to_go - (to_go.sum(1, keepdim=True) - to_go) / (rewards.shape[1] - 1)


def combined_gradient(
    rule: Combination, task: FunctionalTask, policy: Policy, parameters: Parameters, horizon: int, num_envs: int
) -> tuple[Float[Tensor, " N"], dict[str, Tensor]]:
    """Returns (N,), and the gradient of their mean under a combination rule.

    :raises LatentRLError: fewer trajectories than a variance takes; a policy that is not Gaussian
    """
    if num_envs < 4:
        raise LatentRLError(
            f"{type(rule).__name__} compares variances between trajectories, so it needs at least 4, but "
            f"{num_envs} was given"
        )
    engine = Engine(task, policy, parameters)
    with torch.no_grad():
        rollout = engine.roll_out(horizon, num_envs)
        if isinstance(rule, InverseVariance):
            flat = _by_step(rule, engine, rollout)
        else:
            flat = _by_halves(rule, engine, rollout)
    sizes = [tensor.numel() for tensor in engine.parameters.values()]
    parts = zip(engine.parameters.items(), flat.split(sizes), strict=True)
    return rollout.rewards.sum(0), {name: part.view_as(tensor) for (name, tensor), part in parts}


def _by_step(rule: InverseVariance, engine: Engine, rollout: Rollout) -> Float[Tensor, " P"]:
    adjoint, total = torch.zeros_like(rollout.states[0]), rollout.rewards.new_zeros(())
    advantage = advantages(rollout.rewards)
    for t in reversed(range(len(rollout.rewards))):
        state = rollout.states[t]
        by_state, pathwise = engine.pull_back(rollout, t, adjoint)
        score = engine.score(rollout, t, advantage[t])
        both = torch.cat([score[0], pathwise[0]]), torch.cat([score[1], pathwise[1]])
        lr, rp = engine.by_parameters(torch.cat([state, state]), both).chunk(2)
        share = rule.weight(lr, rp)
        total = total + _mix(share, lr, rp).mean(0)
        if rule.propagates:
            pathwise = _mix(share, score[0], pathwise[0]), _mix(share, score[1], pathwise[1])
        adjoint = by_state + engine.through_policy(state, pathwise)
    return total


def _by_halves(rule: AlphaOrder, engine: Engine, rollout: Rollout) -> Float[Tensor, " P"]:
    half = rollout.rewards.shape[1] // 2
    first, second = (Rollout(*(part[:, rows] for part in rollout)) for rows in (slice(None, half), slice(half, None)))
    advantage = advantages(first.rewards)
    lr = rp = rollout.rewards.new_zeros(())
    adjoint = torch.zeros_like(second.states[0])
    for t in reversed(range(len(rollout.rewards))):
        lr = lr + engine.by_parameters(first.states[t], engine.score(first, t, advantage[t]))
        by_state, pathwise = engine.pull_back(second, t, adjoint)
        rp = rp + engine.by_parameters(second.states[t], pathwise)
        adjoint = by_state + engine.through_policy(second.states[t], pathwise)
    return _mix(1.0 - rule.weight(lr, rp), lr.mean(0), rp.mean(0))


def _mix(share: Tensor, lr: Tensor, rp: Tensor) -> Tensor:
    """share·lr + (1 − share)·rp, without a term whose share is 0, which may not be finite."""
    return torch.where(share > 0, share * lr, torch.zeros_like(lr)) + torch.where(
        share < 1, (1.0 - share) * rp, torch.zeros_like(rp)
    )
