"""The states that actions led to, and the features by which a model sees them."""

import copy
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from latentrl.checks import LatentRLError, instance
from latentrl.spaces import features as flat_features
from latentrl.spaces import size

MOST_FEATURES = 4096
"""Features of an observation that are kept and modelled as they are."""

Features = Callable[[Any], ArrayLike]


class StateFeatures:
    """Features (N, D) of a batch of observations: their numbers, or what a function makes of them.

    :param space: of the observations
    :param function: of a batch of observations; None takes all numbers that are not in ``hidden``
    :param hidden: names of parts of a Dict that are left out
    :raises LatentRLError: no features, or more than can be modelled
    """

    def __init__(self, space: spaces.Space[Any], function: Features | None, hidden: Collection[str]) -> None:
        parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        self._parts = {name: part for name, part in parts.items() if name not in hidden}
        self._function = None if function is None else instance("features", function, Callable)
        self.size: int = self._size(space)

    def _size(self, space: spaces.Space[Any]) -> int:
        if self._function is None:
            found = sum(size("observation", part) for part in self._parts.values())
        else:
            one = copy.deepcopy(space).sample()  # a copy, as drawing moves the space's generator
            one = {name: np.asarray(part)[None] for name, part in one.items()} if isinstance(one, dict) else one[None]
            found = np.shape(self._function(one))[-1]
        if not 0 < found <= MOST_FEATURES:
            raise LatentRLError(
                f"there are {found} features in {space}: give features=, a function of a batch of observations that "
                f"returns an array (N, D) with D from 1 to {MOST_FEATURES}"
            )
        return found

    def __call__(self, observations: Any) -> NDArray[np.floating[Any]]:
        """:raises LatentRLError: features that are not finite or of another size"""
        if self._function is not None:
            found = np.asarray(self._function(observations))
        else:
            values = observations if isinstance(observations, dict) else {"": observations}
            columns = [flat_features(part, torch.as_tensor(values[name])) for name, part in self._parts.items()]
            found = torch.cat(columns, -1).numpy()
        if found.ndim != 2 or found.shape[1] != self.size or not np.isfinite(found).all():
            raise LatentRLError(
                f"features of observations must be finite and of shape (N, {self.size}), but they have shape "
                f"{found.shape} or are not finite: look at the environment, or at the function given as features"
            )
        return found


def reached_states(observations: Any, dones: NDArray[np.bool_], infos: list[dict[str, Any]]) -> Any:
    """The states that the last actions led to: the last of an episode, where one ended."""
    ended = np.flatnonzero(dones)
    if any("terminal_observation" not in infos[i] for i in ended):
        raise LatentRLError(
            "an episode ended without infos[i]['terminal_observation'], the state that its last action led to: every "
            "VecEnv of stable-baselines3 tells it, so a wrapper inside must have taken it away"
        )
    lasts = {int(i): infos[i]["terminal_observation"] for i in ended}
    if isinstance(observations, dict):
        return {
            name: _replaced(part, {i: last[name] for i, last in lasts.items()}) for name, part in observations.items()
        }
    return _replaced(observations, lasts)


def _replaced(values: NDArray[Any], rows: dict[int, Any]) -> NDArray[Any]:
    made = np.array(values)
    for i, row in rows.items():
        made[i] = row
    return made


def length(observations: Any) -> int:
    """N of a batch of observations."""
    return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
