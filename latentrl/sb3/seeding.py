"""Episodes that follow from a seed."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from latentrl.randomness import same_randomness


@contextmanager
def seeded(policy: Any, venv: VecEnv, seed: int | None) -> Iterator[None]:
    """All that episodes depend on follows from a seed, if one is given, and random numbers elsewhere stay as they were.

    Beside the global generators that is the policy's action space, of which DQN takes its random actions.
    """
    if seed is None:
        yield
        return
    space: Any = getattr(policy, "action_space", None)
    kept = copy.deepcopy(space.np_random) if isinstance(space, spaces.Space) else None
    with same_randomness(torch.device(getattr(policy, "device", "cpu")), seed):
        venv.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - what stable-baselines3 draws from
        if kept is not None:
            space.seed(seed)
        try:
            yield
        finally:
            if kept is not None:
                space._np_random = kept
