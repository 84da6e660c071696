"""A latent that is held over time, carried outside of the policy: (z, age), one row for each environment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor
from torch.distributions import Distribution as Law

from latentrl.checks import LatentRLError, finite
from latentrl.spaces import leaves

State = tuple[np.ndarray, ...]


def check_observation(space: spaces.Space[Any], observation: Any) -> None:
    """:raises LatentRLError: what ``env.reset()`` returned, whole; no dict for a Dict; numbers that are not finite"""
    if isinstance(observation, tuple):
        raise LatentRLError(
            "predict was given a tuple: env.reset() of Gymnasium returns (observation, info); pass the first"
        )
    for _, _, part in leaves("observations", space, observation):
        finite("observations", part)


def due(age: Int[Tensor, "B 1"], episode_start: NDArray[Any] | None, hold: int) -> Bool[Tensor, "B 1"]:
    """Which environments need a new latent: where an episode starts and, for ``hold`` = k, every k steps.

    :raises LatentRLError: another number of environments in ``episode_start``
    """
    starts = torch.zeros_like(age, dtype=torch.bool)
    if episode_start is not None:
        starts = torch.as_tensor(np.asarray(episode_start, dtype=bool).reshape(-1, 1), device=age.device)
        if starts.shape != age.shape:
            raise LatentRLError(f"episode_start has {len(starts)} entries for {len(age)} environments")
    return starts | (age >= hold) if hold else starts


def carry(
    draw: Callable[[], Float[Tensor, "B Z"]],
    hold: int,
    state: State | None,
    episode_start: NDArray[Any] | None,
    shape: tuple[int, int],
    device: torch.device,
) -> tuple[Float[Tensor, "B Z"], Int[Tensor, "B 1"], Bool[Tensor, "B 1"]]:
    """The latents to play now, the steps since each was drawn, and which are new.

    :param draw: latents for all environments; called where one is due
    :param hold: 0 for the whole episode, k for k steps
    :param state: (z, age, …) of the last step, already checked; None where every environment starts
    :param shape: (B, Z)
    """
    if state is None:
        every = torch.ones(shape[0], 1, dtype=torch.bool, device=device)
        return draw(), torch.zeros_like(every, dtype=torch.int64), every
    z, age = (torch.as_tensor(part, device=device) for part in state[:2])
    new = due(age, episode_start, hold)
    if bool(new.any()):
        z, age = torch.where(new, draw(), z), torch.where(new, 0, age)
    return z, age, new


class WithLatent(NamedTuple):
    """Observations with the latents that were in force: what the buffers of LatentPPO and LatentA2C hand out."""

    observations: PyTorchObs
    latent: Float[Tensor, "B Z"]
    left: Float[Tensor, " B"]
    """Share of the latent's steps that are still to come, with this one: 1 where it was drawn at this step; where it is
    held for the episode, whose end is not known, 0."""

    @property
    def drawn(self) -> Float[Tensor, " B"]:
        """1 where the latent was drawn at this step, 0 where it was held."""
        return (self.left == 1.0).to(self.left.dtype)


@dataclass
class RolloutLatents:
    """The latents in force while rollouts are collected; it belongs to the algorithm."""

    starts: NDArray[np.bool_]
    """(n_envs,) which environments start an episode."""
    latent: Float[Tensor, "N Z"] | None = None
    age: Int[Tensor, "N 1"] | None = None
    next: tuple[Float[Tensor, "N Z"], Int[Tensor, "N 1"]] | None = None
    """Latents and ages of the last actions, in force once the environments take them: a callback may ask for others."""

    def take(self) -> None:
        """The environments take the last actions."""
        assert self.next is not None
        (self.latent, self.age), self.starts = self.next, np.zeros(len(self.starts), bool)

    def now(
        self, law: Callable[[], Law], hold: int
    ) -> tuple[Float[Tensor, "N Z"], Int[Tensor, "N 1"], Bool[Tensor, "N 1"]]:
        """Latents to act with, the steps since they were drawn, and which are drawn just now.

        :param law: p(z|s), asked for where one is due
        """
        if self.latent is None or self.age is None:
            z = law().sample()
            return z, torch.zeros(len(z), 1, dtype=torch.int64, device=z.device), z.new_ones(len(z), 1).bool()
        new = due(self.age, self.starts, hold)
        if not new.any():
            return self.latent, self.age, new
        return torch.where(new, law().sample(), self.latent), torch.where(new, 0, self.age), new


def given(latent: Any, shape: tuple[int, int], device: torch.device) -> Float[Tensor, "B Z"]:
    """A latent that the user steers with, (Z,) or (B, Z), for every environment.

    :raises LatentRLError: another shape, or numbers that are not finite
    """
    if isinstance(latent, Tensor):
        latent = latent.numpy(force=True)
    tensor = torch.as_tensor(np.asarray(latent, dtype=np.float32), device=device)
    if tensor.shape not in (shape[1:], shape):
        raise LatentRLError(f"latent has shape {tuple(tensor.shape)}: give {shape[1:]} or {shape}")
    if not bool(tensor.isfinite().all()):
        raise LatentRLError(f"latent holds NaN or infinite values: give finite ones, not {latent!r}")
    return tensor.expand(shape)


def checked(state: State, expected: Mapping[str, tuple[int, ...]]) -> State:
    """The state, if its parts have the shapes that ``predict`` gave them.

    :raises LatentRLError: others
    """
    shapes = [np.shape(part) for part in state]
    if shapes != list(expected.values()):
        parts = ", ".join(f"{name} {shape}" for name, shape in expected.items())
        raise LatentRLError(
            f"state must be ({parts}) as predict returned it, but its shapes are {shapes}: pass None at the start"
        )
    return state
