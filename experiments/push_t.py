"""Push-T: how to judge a policy that was cloned from people who pushed a T-shaped block to its goal.

Data and environment are those of Chi et al. (2023, Diffusion Policy); the environment is the package gym-pusht.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from latentrl.sb3 import LatentBC


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
