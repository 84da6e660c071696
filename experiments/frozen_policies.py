"""Policies at stages of their training, frozen, as functions of their parameters."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from latentrl import Demonstrations, LatentModel
from latentrl.data import Segments
from latentrl.sb3 import LatentBC
from latentrl.types import Batch


class _Method(nn.Module):
    """Calls a function of the model, so that ``functional_call`` can exchange its parameters."""

    def __init__(self, model: LatentModel, function: Callable[[LatentModel], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self) -> Tensor:
        return self.function(self.model)


def objective(model: LatentModel, loss: Callable[[LatentModel], Tensor]) -> Callable[[dict[str, Tensor]], Tensor]:
    """Loss of the model with other parameters."""
    module = _Method(model, loss)
    return lambda p: functional_call(module, {f"model.{name}": value for name, value in p.items()}, ())


def part(model: LatentModel, name: str) -> dict[str, Tensor]:
    """The parameters of one part."""
    return {key: value.detach() for key, value in model.named_parameters() if key.startswith(name)}


def stages(
    policy: dict[str, Any], demonstrations: Demonstrations, seed: int, updates: int
) -> Iterator[tuple[str, LatentModel]]:
    """The agent at the start, after a tenth, and at the end."""
    agent = LatentBC(
        demonstrations=demonstrations, kl_weight=1.0, kl_warmup=0.0, policy_kwargs={"hidden": (64, 64), **policy},
        seed=seed, device="cpu",
    )  # fmt: skip
    early = max(1, updates // 10)
    for name, more in (("start", 1), ("a tenth", early), ("the end", max(1, updates - early))):
        agent.learn(more, reset_num_timesteps=name == "start")
        yield name, copy.deepcopy(agent.policy.model).eval()


def strokes_of(demonstrations: Demonstrations, policy: dict[str, Any], number: int, seed: int) -> Batch:
    """Whole strokes, as a policy's encoder reads them."""
    config = LatentBC(demonstrations=demonstrations, policy_kwargs=policy, device="cpu").policy.config
    segments = Segments(demonstrations, config.hold, config.context_length, torch.device("cpu"))
    rows = torch.randperm(len(segments), generator=torch.Generator().manual_seed(seed))[:number]
    return segments.batch(rows, steps=None)
