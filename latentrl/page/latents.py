"""A cloned policy's latents for a page: where demonstrations lie among them, and what one after another does."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from latentrl.checks import LatentRLError
from latentrl.randomness import same_randomness
from latentrl.runs import make_env, read_source

MOST = 1000
"""Demonstrations, and latents, in the plane of latents."""
VALUES = np.linspace(-2.5, 2.5, 11)
"""Standard deviations of the prior over which a latent is moved."""
MOST_STEPS, MOST_FEATURES = 200, 6
"""Of an episode, those that are drawn."""


def latent_space(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Posterior modes of the demonstrations, in the plane of their first two principal components.

    :raises LatentRLError: a policy without latent, or data that cannot be read any more
    """
    from latentrl.sb3 import LatentPolicy, encode

    policy = LatentPolicy.from_pretrained(folder, "cpu")
    if policy.config.latent_dim == 0:
        raise LatentRLError("the policy has no latent")
    demonstrations = read_source(str(options["data"]))
    generator = np.random.default_rng(0)
    shown = np.sort(generator.permutation(demonstrations.num_episodes)[:MOST])
    z = encode(policy, demonstrations.select(shown))
    one_each = policy.config.hold == 0
    if not one_each:
        z = z[np.sort(generator.permutation(len(z))[:MOST])]
    modes = demonstrations.modes if one_each else None
    centered = z - z.mean(0)
    _, sizes, axes = np.linalg.svd(centered, full_matrices=False)
    plane = centered @ axes[:2].T if len(axes) > 1 else np.stack([centered[:, 0], 0 * centered[:, 0]], 1)
    shares = sizes**2 / max(float((sizes**2).sum()), 1e-12)
    return {
        "plane": _rounded(plane),
        "shares": _rounded(np.append(shares, 0.0)[:2]),
        "z": _rounded(z),
        "names": [f"demonstration {i}" for i in shown] if one_each else ["segment"] * len(z),
        "modes": None if modes is None else [int(modes[i]) for i in shown],
    }


def behaviour(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Episodes from the same start, each dimension of the latent moved on its own, or each choice made.

    :raises LatentRLError: no task, a latent that is not held, or observations that are not numbers
    """
    from latentrl.sb3 import LatentPolicy
    from latentrl.sb3.traversal import Steered

    if not options.get("env"):
        raise LatentRLError("the task is not known: train with --env")
    policy = LatentPolicy.from_pretrained(folder, "cpu")
    space = policy.observation_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise LatentRLError(f"observations of {space} are not numbers that could be drawn")
    venv, player = make_env(str(options["env"]), 1, 0), Steered(policy)
    with same_randomness(torch.device("cpu"), 0):
        rows = player.rows(venv.reset(), VALUES.astype(np.float32), None)
        shown = []
        for row in rows:
            paths = [_episode(venv, player, latent) for latent in row.latents]
            shown.append({"title": row.title.strip("$"), "values": list(row.names), "paths": paths})
    names = [f"observation {i}" for i in range(min(MOST_FEATURES, space.shape[0]))]
    return {"rows": shown, "features": names}


def _episode(venv: Any, player: Any, latent: Any) -> list[list[float]]:
    """Observations (T, features) of one episode."""
    player.begin(np.asarray(latent, np.float32))
    venv.seed(0)
    observations, seen, done = venv.reset(), list[Any](), False
    while not done and len(seen) < MOST_STEPS:
        seen.append(observations[0, :MOST_FEATURES])
        observations, _, dones, infos = venv.step(player.act(observations, deterministic=True))
        done = bool(dones[0])
    if done:
        seen.append(infos[0]["terminal_observation"][:MOST_FEATURES])
    return _rounded(np.array(seen))


def _rounded(values: Any) -> Any:
    return np.round(np.asarray(values, np.float64), 4).tolist()
