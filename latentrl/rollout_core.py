"""The steps of a rollout, and what they draw."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentrl.checks import LatentRLError
from latentrl.estimators import RolloutEstimator, Trajectories
from latentrl.noise_tape import INTEGER, NORMAL, Draw, Player, Recorder, generator_state
from latentrl.tasks import FunctionalTask, Policy, check_action, going_on


class Moment(NamedTuple):
    """What one step leaves behind."""

    state: Tensor
    """After it, (N, S)."""
    observation: Tensor
    """After it, (N, O)."""
    reward: Tensor
    """Zero from the end of an episode on, (N,)."""
    alive: Tensor
    """The episode had not ended before it, bool (N,)."""
    log_prob: Tensor | None
    """log π(a|s), (N,), where the action carries no gradient; otherwise None."""


class Kept(Recorder):
    """Notes what is drawn, and the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[Tensor] = []
        self.sources: list[torch.Generator] = []
        """That draws named, besides torch's own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = super().__torch_function__(func, types, args, kwargs)
        if len(self.draws) > len(self.numbers):
            self.numbers.append(made)
        if (source := (kwargs or {}).get("generator")) is not None:
            self.sources.append(source)
        return made


@dataclass(frozen=True)
class Core:
    """A task, a policy and the way in which an estimator wants actions drawn."""

    task: FunctionalTask
    policy: Policy
    estimator: RolloutEstimator
    compiled: dict[Any, Callable[..., Any]]
    """Segments that were compiled before, by what they take."""

    def step(
        self,
        parameters: dict[str, Tensor],
        state: Tensor,
        observation: Tensor,
        noise: AbstractContextManager[Any] = nullcontext(),  # noqa: B008  (it has no state)
    ) -> Moment:
        """Take one step; ``noise`` is in force while the policy and the action are drawn."""
        task = self.task
        running = ~task.terminal(state)
        # Where an episode is over, whatever it ended in: what is not finite would reach the gradient of the others.
        seen = observation.where(running.unsqueeze(-1), observation.new_zeros(()))
        with noise:
            law = self.policy(parameters, seen)
            action = self.estimator.draw(law)
        check_action(task, running, action)
        before, played = going_on(running, state, action)
        following = task.transition(before, played)
        reward = task.reward(before, played, following)
        if reward.shape != running.shape:
            raise LatentRLError(f"the reward must have shape {tuple(running.shape)}, not {tuple(reward.shape)}")
        # A finished trajectory stays where it ended: terminal.
        following = following.where(running.unsqueeze(-1), state)
        reward = reward.where(running, reward.new_zeros(()))
        log_prob = None if self.estimator.needs_rsample else law.log_prob(action)
        return Moment(following, self.observe(following), reward, running, log_prob)

    def observe(self, state: Tensor) -> Tensor:
        """What is seen, (N, O), without gradient where an episode is over."""
        (seen,) = going_on(~self.task.terminal(state), state)
        return self.task.observation(seen)

    def initial(self, num_envs: int, like: Tensor) -> Tensor:
        """First states, with torch's global generator."""
        uniforms = torch.rand(num_envs, self.task.initial_noise_dim, dtype=like.dtype, device=like.device)
        return self.task.initial(uniforms)

    def trajectories(
        self, parameters: dict[str, Tensor], state: Tensor, horizon: int, breaks: set[int]
    ) -> Trajectories:
        """Play in one piece; no gradient crosses ``breaks``."""
        observation = self.task.observation(state)
        moments, observations = [], [observation]
        for t in range(horizon):
            if t in breaks:
                # What came before is not differentiated; the last observation, for the critic, still is.
                state, observation = state.detach(), observation.detach()
            moments.append(self.step(parameters, state, observation))
            state, observation = moments[-1].state, moments[-1].observation
            observations.append(observation)
        log_probs = [moment.log_prob for moment in moments if moment.log_prob is not None]
        rewards = torch.stack([moment.reward for moment in moments])
        alive = torch.stack([moment.alive for moment in moments])
        return Trajectories(torch.stack(log_probs) if log_probs else None, rewards, alive, observations)

    def draw(self, parameters: dict[str, Tensor], state: Tensor, horizon: int) -> tuple[tuple[Draw, ...], list[Tensor]]:
        """What each step draws, and the numbers of all steps, (T, ...) for each draw, as step by step they would come.

        :raises LatentRLError: a policy that, with its law, draws nothing, or otherwise than with torch.rand and
            torch.randn
        """
        observation = self.task.observation(state)
        with Kept() as kept:
            self.estimator.draw(self.policy(parameters, observation))
        self._check_drawn_again(parameters, observation, kept)
        rows = [kept.numbers]
        for _ in range(horizon - 1):
            rows.append([_numbers(draw) for draw in kept.draws])
        return tuple(kept.draws), [torch.stack(column) for column in zip(*rows, strict=True)]

    def _check_drawn_again(self, parameters: dict[str, Tensor], observation: Tensor, kept: Kept) -> None:
        known = bool(kept.draws) and all(draw.kind != INTEGER for draw in kept.draws)
        devices = [observation.device, *(draw.device for draw in kept.draws)]

        def state() -> Tensor:
            return torch.cat([generator_state(devices), *(source.get_state() for source in kept.sources)])

        before = state()
        with Player(kept.draws, kept.numbers):
            law = self.policy(parameters, observation)
            self.estimator.draw(law)
        if not known or not torch.equal(before, state()):
            raise LatentRLError(
                "segments are played again with the same random numbers, but the policy with its law "
                f"{type(law).__name__} draws none, or otherwise than with torch.rand or torch.randn, as dropout does: "
                "use laws from latentrl.distributions, or leave segment and compiled out"
            )


def _numbers(draw: Draw) -> Tensor:
    function = torch.randn if draw.kind == NORMAL else torch.rand
    return function(draw.shape, dtype=draw.dtype, device=draw.device)
