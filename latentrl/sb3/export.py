"""A cloned policy without python: as a ``torch.export`` program, or as an ONNX file."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from latentrl.checks import LatentRLError, instance, require
from latentrl.files import whole
from latentrl.sb3.policy import LatentPolicy
from latentrl.spaces import choice_counts


class ActingPolicy(nn.Module):
    """What a policy plays for given latents, without randomness and state: the mode of p(a|s, z), in the task's units.

    ``forward(observation, z)``: observations (B, *shape), or a dict of them, pictures channel-first; with a history
    of H (B, H, *shape), the oldest first. z (B, Z); (B, 0) without latent. Actions (B, *shape), or plans
    (B, T, *shape), of which ``policy.config.plays`` are to be played. Draws of z, and when they are due, are left to
    the caller: ``policy.model.latent_law`` or :func:`latentrl.sb3.encode` give them.

    :param policy: shares its networks
    """

    low: Tensor | None
    high: Tensor | None
    start: Tensor

    def __init__(self, policy: LatentPolicy) -> None:
        super().__init__()
        self.policy: LatentPolicy = instance("policy", policy, LatentPolicy)
        space = policy.action_space
        bounded = isinstance(space, spaces.Box)
        for name in ("low", "high"):
            bound = torch.as_tensor(getattr(space, name), dtype=torch.float32) if bounded else None
            self.register_buffer(name, None if bound is None else bound.to(policy.device), persistent=False)
        start = torch.as_tensor(getattr(space, "start", 0), device=policy.device)
        self.register_buffer("start", start, persistent=False)

    def forward(self, observation: PyTorchObs, z: Tensor) -> Tensor:
        policy, config = self.policy, self.policy.config
        if config.history == 1:
            seen = policy._flat(observation)
        else:
            steps = [_at(observation, step) for step in range(config.history)]
            seen = torch.cat([policy._flat(step) for step in steps], -1)
        actions = policy.model.act(seen, z, deterministic=True)
        return self._in_units(actions if config.chunk == 1 else actions.unflatten(-1, (config.chunk, -1)))

    def _in_units(self, values: Tensor) -> Tensor:
        space = self.policy.action_space
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            index = torch.stack([part.argmax(-1) for part in values.split(choice_counts(space), -1)], -1)
            shape = [*values.shape[:-1], *(space.shape or ())]
            return index.reshape(shape) + self.start
        values = values.unflatten(-1, space.shape or (1,))
        if not isinstance(space, spaces.Box):
            return values.to(torch.int8)
        values = values.clamp(self.low, self.high)
        return values.round() if np.issubdtype(space.dtype, np.integer) else values


def export_program(policy: LatentPolicy) -> torch.export.ExportedProgram:
    """:class:`ActingPolicy` as a program for any batch size, for ``torch.export.save`` or AOTInductor.

    :raises LatentRLError: the networks are those of an agent
    """
    acting, arguments, dynamic = _example(policy)
    with _quietly():
        return torch.export.export(acting, arguments, dynamic_shapes=dynamic)


def export_onnx(policy: LatentPolicy, path: str | Path) -> None:
    """:class:`ActingPolicy` as an ONNX file for any batch size, written whole or not at all.

    Its inputs are ``observation``, or the names of a Dict's parts, and ``z`` where there is a latent; the output is
    ``action``.

    :raises LatentRLError: without ``latentrl[onnx]``; the networks are those of an agent
    """
    require("onnxscript", "onnx")
    acting, arguments, dynamic = _example(policy)
    names = list(arguments[0]) if isinstance(arguments[0], dict) else ["observation"]
    inputs = [*names, "z"]
    with _quietly():
        program = torch.onnx.export(
            acting, arguments, dynamo=True, dynamic_shapes=dynamic, input_names=inputs, output_names=["action"],
            verbose=False,
        )  # fmt: skip
    assert program is not None
    with whole(path) as partial:
        program.save(partial)


@contextmanager
def _quietly() -> Iterator[None]:
    """What torch's exporters warn of is their own: old names that they use, lists in which a GRU keeps its weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _example(policy: LatentPolicy) -> tuple[ActingPolicy, tuple[PyTorchObs, Tensor], Any]:
    """Arguments of a batch of two, on the policy's device, and which of their dimensions are free."""
    if policy._in_place:
        raise LatentRLError("the networks of this policy are an agent's: export that agent's policy")
    policy.set_training_mode(False)
    sample = policy.observation_space.sample()
    observation, _ = policy.obs_to_tensor(sample)
    observation = _map(lambda part: part.expand(2, *part.shape[1:]).clone(), observation)
    if policy.config.history > 1:
        observation = _map(lambda part: torch.stack([part] * policy.config.history, 1), observation)
    batch = torch.export.Dim("batch")
    z = torch.zeros(2, policy.model.latent_dim, device=policy.device)
    return ActingPolicy(policy).eval(), (observation, z), (_map(lambda _: {0: batch}, observation), {0: batch})


def _at(observation: PyTorchObs, step: int) -> PyTorchObs:
    return _map(lambda part: part[:, step], observation)


def _map(function: Any, observation: Any) -> Any:
    return {k: function(v) for k, v in observation.items()} if isinstance(observation, dict) else function(observation)
