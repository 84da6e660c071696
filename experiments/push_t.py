"""Push-T: human demonstrations of pushing a T-shaped block to its goal, their reader, and how to judge a cloned policy.

Data and environment are those of Chi et al. (2023, Diffusion Policy); the environment is the package gym-pusht.
"""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from latentrl import Demonstrations
from latentrl.checks import LatentRLError
from latentrl.sb3 import LatentBC

BOARD = gym.spaces.Box(0.0, 512.0, (2,))
"""Where the pusher can be sent, in pixels."""


def read(path: Path) -> Demonstrations:
    """Position of the pusher, pose of the block (x, y, angle); actions are where the pusher shall go."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            lengths = np.diff(archive["episode_ends"], prepend=0)
            states, actions = archive["state"], archive["action"]
    except (OSError, KeyError, ValueError) as error:
        raise LatentRLError(f"{path} holds no Push-T: give an .npz with state, action and episode_ends") from error
    return Demonstrations.from_arrays(states, actions, lengths, action_space=BOARD)


def score(agent: LatentBC, rollouts: int, seed: int) -> dict[str, Any]:
    """Mean over episodes of the largest reward, the share of the goal that the block covers, over 0.95, at most 1."""
    import gym_pusht  # noqa: F401  (registers the task)

    env = gym.make("gym_pusht/PushT-v0", obs_type="state")
    rewards = []
    for episode in range(rollouts):
        # Far from the seeds of the demonstrations' starts.
        observation, _ = env.reset(seed=100_000 + 10_000 * seed + episode)
        state, largest = None, 0.0
        while True:
            action, state = agent.predict(observation.astype(np.float32), state)
            observation, reward, terminated, truncated, _ = env.step(action)
            largest = max(largest, float(reward))
            if terminated or truncated:
                break
        rewards.append(largest)
    env.close()
    return {"success": float(np.mean(rewards))}
