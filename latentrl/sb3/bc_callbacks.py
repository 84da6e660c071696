"""What checkpoints of :meth:`LatentBC.learn` keep of callbacks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnNoModelImprovement,
)

NUMBERS: dict[type[BaseCallback], tuple[str, ...]] = {
    EvalCallback: ("best_mean_reward", "last_mean_reward"),
    StopTrainingOnNoModelImprovement: ("last_best_mean_reward", "no_improvement_evals"),
    EveryNTimesteps: ("last_time_trigger",),
}
"""What stable-baselines3's callbacks count and know."""


def state_of(part: BaseCallback) -> dict[str, Any]:
    """How often a callback was called, and what it says of itself; see :data:`NUMBERS` for stable-baselines3's own."""
    return {"n_calls": part.n_calls, "state": _own_state(part)}


def restore(part: BaseCallback, kept: dict[str, Any]) -> None:
    """Set a callback to what :func:`state_of` kept."""
    part.n_calls = kept["n_calls"]
    if hasattr(part, "load_state_dict"):
        part.load_state_dict(kept["state"])
    elif kept["state"] is not None:
        vars(part).update(kept["state"])


def _own_state(part: BaseCallback) -> Any:
    if hasattr(part, "state_dict"):
        return part.state_dict()
    names = next((names for kind, names in NUMBERS.items() if isinstance(part, kind)), None)
    if names is None:
        return None
    numbers = {name: float(getattr(part, name)) for name in names}
    lists = [name for name in vars(part) if isinstance(part, EvalCallback) and name.startswith("evaluations_")]
    return numbers | {name: [np.asarray(found).tolist() for found in getattr(part, name)] for name in lists}


def all_callbacks(callback: BaseCallback) -> Iterator[BaseCallback]:
    """A callback and those inside of it, which are always found in the same order."""
    yield callback
    inside = callback.callbacks if isinstance(callback, CallbackList) else [getattr(callback, "callback", None)]
    for part in inside:
        if isinstance(part, BaseCallback):
            yield from all_callbacks(part)
