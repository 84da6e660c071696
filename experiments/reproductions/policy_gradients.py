"""Policy gradients from one episode, with a value function or with RELAX's control variate (Grathwohl et al. 2018)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from latentrl.distributions import OneHot
from latentrl.distributions.relaxed import Thresholded, thresholded
from latentrl.estimators.finite import value_and_slope
from latentrl.randomness import seed_of

HIDDEN, DISCOUNT, ENTROPY, WINDOW = 10, 0.99, 0.01, 100

Control: TypeAlias = Callable[[Thresholded, Tensor, Tensor], Tensor]
"""c: the law of the actions, observations (T, O), noisy logits z (T, K) -> (T,)."""


class Episode(NamedTuple):
    """What was played."""

    observations: Tensor
    """(T, O)."""
    z: Tensor
    """Noisy logits, whose largest is the action, (T, K)."""
    rewards: Tensor
    """(T,)."""


def network(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers of ten units, as all of the paper's for discrete actions."""
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)
    )


class Value(nn.Module):
    """V(s), fitted to the returns: A2C's."""

    def __init__(self, observation_dim: int, actions: int) -> None:  # noqa: ARG002
        super().__init__()
        self.net = network(observation_dim, 1)

    def forward(self, draw: Thresholded, observations: Tensor, z: Tensor) -> Tensor:  # noqa: ARG002
        return self.net(observations).squeeze(-1)

    def loss(self, returns: Tensor, values: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG002
        """:param gradient: of the policy, which is not looked at"""
        return (returns - values).square().sum()


class Relaxed(nn.Module):
    """c(z, s) = η r(σ_λ(z), s): r, η and λ lower the square of the policy's gradient, and so its variance."""

    def __init__(self, observation_dim: int, actions: int) -> None:
        super().__init__()
        self.net = network(observation_dim + actions, 1)
        self.log_temperature, self.eta = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(()))

    def forward(self, draw: Thresholded, observations: Tensor, z: Tensor) -> Tensor:
        relaxed = draw.relax(z, self.log_temperature.exp())
        return self.eta * self.net(torch.cat([observations, relaxed], -1)).squeeze(-1)

    def loss(self, returns: Tensor, values: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG002
        """:param gradient: of the policy, differentiable by what c reads"""
        return gradient.square().sum()


def no_control(draw: Thresholded, observations: Tensor, z: Tensor) -> Tensor:  # noqa: ARG001
    """REINFORCE's."""
    return z.new_zeros(z.shape[:-1])


def policy_gradient(policy: nn.Module, control: Control, episode: Episode, returns: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_t ∇log π(a_t|s_t) (R_t − c(z̃_t, s_t)) − ∇c(z̃_t, s_t) + ∇c(z_t, s_t), flat (P,), and c(z_t, s_t), (T,).

    RELAX as of appendix C, with z̃ = z in value as in :class:`latentrl.estimators.rebar.Rebar`. Without a slope by z
    it is A2C. Differentiable by what c reads.

    :param policy: observations (T, O) -> logits (T, K)
    :param returns: R_t, (T,)
    """
    logits = policy(episode.observations)
    draw, z = thresholded(OneHot(logits)), episode.z
    values, slope = value_and_slope(partial(control, draw, episode.observations), z)
    score = (returns - values).unsqueeze(-1) * (draw.threshold(z) - draw.probs)
    by_logits = score + draw.unnormalised(slope * draw.coupling(z))
    parts = torch.autograd.grad(logits, list(policy.parameters()), by_logits, create_graph=True)
    return torch.cat([part.flatten() for part in parts]), values


def to_go(rewards: Tensor, discount: float = DISCOUNT) -> Tensor:
    """R_t = Σ_{u≥t} γ^{u−t} r_u, (T,)."""
    returns, total = [], 0.0
    for reward in reversed(rewards.tolist()):
        total = reward + discount * total
        returns.append(total)
    return torch.tensor(returns[::-1])


class Played(list[tuple[float, int]]):
    """Return and frames of each training episode."""

    @property
    def frames(self) -> int:
        return sum(frames for _, frames in self)

    def solved_at(self, target: float) -> int | None:
        """The first episode with which 100 in a row have the target as their mean return."""
        totals = np.cumsum([0.0, *(found for found, _ in self)])
        (solved,) = np.nonzero(totals[WINDOW:] - totals[:-WINDOW] >= WINDOW * target)
        return int(solved[0]) + WINDOW if len(solved) else None

    def state_dict(self) -> dict[str, Any]:
        return {"episodes": list(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self[:] = state_dict["episodes"]


class Learner:
    """A policy, which plays, with its control variate.

    :param kind: :class:`Value` or :class:`Relaxed`
    :param rates: learning rates of the policy and of the control variate
    """

    def __init__(self, env: gym.Env, kind: type[Value | Relaxed], rates: tuple[float, float], seed: int) -> None:
        assert isinstance(env.action_space, gym.spaces.Discrete)
        assert env.observation_space.shape is not None
        assert env.spec is not None
        assert env.spec.max_episode_steps is not None
        self.env, self.steps, self.seed = env, env.spec.max_episode_steps, seed
        self.actions, (observation_dim,) = int(env.action_space.n), env.observation_space.shape
        self.policy, self.control = network(observation_dim, self.actions), kind(observation_dim, self.actions)
        groups = zip((self.policy, self.control), rates, strict=True)
        self.optimizer = torch.optim.RMSprop([{"params": list(part.parameters()), "lr": rate} for part, rate in groups])
        self.played = Played()
        self.parts = {
            "policy": self.policy,
            "control": self.control,
            "optimizer": self.optimizer,
            "played": self.played,
        }

    @torch.no_grad()
    def play(self, *seeds: int) -> Episode:
        """One episode, with noise from torch's generator; ``seeds`` are of the environment alone."""
        noise = thresholded(OneHot(torch.zeros(self.steps, self.actions))).noise(1)[0]
        observations, z, rewards, over = list[Tensor](), list[Tensor](), list[float](), False
        observation, _ = self.env.reset(seed=seed_of(self.seed, *seeds))
        while not over:
            observations.append(torch.as_tensor(observation))
            z.append(self.policy(observations[-1]).log_softmax(-1) + noise[len(rewards)])
            observation, reward, terminated, truncated, _ = self.env.step(int(z[-1].argmax()))
            rewards.append(float(reward))
            over = terminated or truncated
        return Episode(torch.stack(observations), torch.stack(z), torch.tensor(rewards))

    def update(self, step: int) -> None:
        """Learn from one episode."""
        episode = self.play(0, step)
        self.played.append((float(episode.rewards.sum()), len(episode.rewards)))
        returns = to_go(episode.rewards)
        gradient, values = policy_gradient(self.policy, self.control, episode, returns)
        parameters = list(self.policy.parameters())
        self.optimizer.zero_grad()
        self.control.loss(returns, values, gradient).backward(inputs=list(self.control.parameters()))
        (-ENTROPY * OneHot(self.policy(episode.observations)).entropy().sum()).backward(inputs=parameters)
        parts = gradient.detach().split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            assert parameter.grad is not None
            parameter.grad -= part.view_as(parameter)
        self.optimizer.step()

    def log_variance(self, episodes: int, look: int) -> tuple[float, float] | None:
        """log tr Σ of one episode's gradient, and how far that is above REINFORCE's from the same episodes.

        None where a policy is so sure of itself that all of its gradients are 0.

        :param episodes: to be played for it
        """
        found = []
        for number in range(episodes):
            episode = self.play(1, look, number)
            returns = to_go(episode.rewards)
            kinds = (self.control, no_control)
            found.append([policy_gradient(self.policy, kind, episode, returns)[0].detach() for kind in kinds])
        own, plain = (float(torch.stack(part).double().var(0).sum()) for part in zip(*found, strict=True))
        return (math.log(own), math.log(own / plain)) if own > 0.0 < plain else None
