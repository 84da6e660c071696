"""Episodes that follow from a seed, and leave no trace."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from latentrl.randomness import same_randomness


@contextmanager
def undisturbed(policy: Any, seed: int | None = None) -> Iterator[None]:
    """What a policy draws in the block, it draws again after it.

    Beside the global generators that is the policy's action space, of which DQN takes its random actions.

    :param seed: what torch's generators start from in the block; None goes on with them
    """
    space: Any = getattr(policy, "action_space", None)
    kept = copy.deepcopy(space.np_random) if isinstance(space, spaces.Space) else None
    with same_randomness(torch.device(getattr(policy, "device", "cpu")), seed):
        try:
            yield
        finally:
            if kept is not None:
                space._np_random = kept


@contextmanager
def frozen(venv: VecEnv) -> Iterator[None]:
    """Wrappers that learn by what they see do not in the block: VecNormalize, and rewards for exploration."""
    learning: list[Any] = []
    while isinstance(venv, VecEnvWrapper):
        if vars(venv).get("training"):  # their own: attributes of those inside are found in wrappers, too
            learning.append(venv)
        venv = venv.venv
    for wrapper in learning:
        wrapper.training = False
    try:
        yield
    finally:
        for wrapper in learning:
            wrapper.training = True


@contextmanager
def seeded(policy: Any, venv: VecEnv, seed: int | None) -> Iterator[None]:
    """All that episodes depend on follows from a seed, if one is given, and random numbers elsewhere stay as they were.

    :param venv: where they are played, which goes on from the seed
    """
    if seed is None:
        yield
        return
    with undisturbed(policy, seed):
        venv.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - what stable-baselines3 draws from
        space: Any = getattr(policy, "action_space", None)
        if isinstance(space, spaces.Space):
            space.seed(seed)
        yield
