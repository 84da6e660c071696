"""Shared by all tests: shape checks on, GPU tests skipped without a GPU, and small demonstrations."""

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

# Annotated shapes are checked at every call while the tests run.
install_import_hook(
    ["latentrl.nets", "latentrl.posteriors", "latentrl.priors", "latentrl.decoders"], "beartype.beartype"
)

from latentrl import Demonstrations  # noqa: E402  (after the hook)

# The networks of the tests are too small for two threads to help each other.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random numbers, whatever ran before."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (third-party code draws from it)


@pytest.fixture
def two_ways() -> Demonstrations:
    """24 episodes of 12 steps on a plane: half go up, half go down, from the same start; actions are velocities."""
    generator = np.random.default_rng(0)
    episodes, steps = 24, 12
    modes = np.arange(episodes) % 2
    direction = np.where(modes[:, None] == 0, 1.0, -1.0) * np.ones(steps)
    actions = np.stack([np.full((episodes, steps), 0.5), direction], -1) + 0.05 * generator.normal(
        size=(episodes, steps, 2)
    )
    position = np.concatenate([np.zeros((episodes, 1, 2)), actions.cumsum(1)[:, :-1]], 1)
    return Demonstrations.from_arrays(
        position.reshape(-1, 2).astype(np.float32),
        actions.reshape(-1, 2).astype(np.float32).clip(-1.5, 1.5),
        np.full(episodes, steps),
        modes=modes,
    )
