"""NaN from an environment is refused where it comes in, by name."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from latentrl import Demonstrations, LatentRLError
from latentrl.sb3 import LatentA2C, LatentBC, LatentPPO, NoveltyReward, evaluate_behaviour


class Broken(gym.Env[Any, Any]):
    """Gives NaN or infinity from the sixth step on."""

    observation_space = spaces.Box(-1.0, 1.0, (3,))
    action_space = spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, what: str, value: float = np.nan) -> None:
        self.what, self.value, self.steps = what, value, 0

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observation(), {}

    def _observation(self) -> Any:
        broken = self.what == "observations" and self.steps > 5
        return np.full(3, self.value if broken else 0.5, np.float32)

    def step(self, _: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward = self.value if self.what == "rewards" and self.steps > 5 else 1.0
        return self._observation(), reward, self.steps % 4 == 0, False, {}


@pytest.fixture(scope="module")
def clone() -> LatentBC:
    generator = np.random.default_rng(0)
    arrays = generator.normal(size=(24, 3)).astype(np.float32), generator.uniform(-1, 1, (24, 2)).astype(np.float32)
    shown = Demonstrations.from_arrays(*arrays, [6] * 4, Broken.observation_space, Broken.action_space)
    return LatentBC(demonstrations=shown, policy_kwargs={"hidden": (8,)}, device="cpu", seed=0).learn(2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_clone(clone: LatentBC, value: float) -> None:
    with pytest.raises(LatentRLError, match=r"observations hold NaN or infinite values: look at the environment"):
        clone.predict(np.full((2, 3), value, np.float32))


def test_a_latent_agent() -> None:
    agent = LatentPPO("LatentPolicy", Broken("nothing"), n_steps=64, device="cpu")
    with pytest.raises(LatentRLError, match=r"observations hold NaN or infinite values: look at the environment"):
        agent.predict(np.full((2, 3), np.nan, np.float32))


@pytest.mark.parametrize("what", ["observations", "rewards"])
@pytest.mark.parametrize("stock", [False, True])
def test_an_evaluation(clone: LatentBC, what: str, stock: bool) -> None:
    agent = PPO("MlpPolicy", Broken("nothing"), device="cpu") if stock else clone
    with pytest.raises(LatentRLError, match=rf"{what} hold NaN"):
        evaluate_behaviour(agent, Broken(what), 5)


@pytest.mark.parametrize("algorithm", [LatentPPO, LatentA2C])
@pytest.mark.parametrize(("what", "value"), [("rewards", np.nan), ("rewards", -np.inf), ("observations", np.nan)])
def test_learning(algorithm: type[LatentPPO], what: str, value: float) -> None:
    agent = algorithm("LatentPolicy", Broken(what, value), n_steps=64, device="cpu")
    with pytest.raises(LatentRLError, match=rf"{what} hold NaN .*VecCheckNan"):
        agent.learn(64)
    assert all(bool(weight.isfinite().all()) for weight in agent.policy.parameters())


@pytest.mark.parametrize("algorithm", [LatentPPO, LatentA2C])
def test_weights(algorithm: type[LatentPPO]) -> None:
    """It is not the environment that is to be looked at."""
    agent = algorithm("LatentPolicy", Broken("nothing"), n_steps=64, device="cpu")
    weight = next(agent.policy.value_net.parameters())
    with torch.no_grad():
        weight.fill_(torch.nan)
    with pytest.raises(LatentRLError, match=r"values of finite observations are NaN .* lower learning_rate"):
        agent.learn(64)


def test_an_exploration_bonus() -> None:
    env = NoveltyReward(DummyVecEnv([lambda: Broken("observations")]))
    with pytest.raises(LatentRLError, match="must be finite"):
        LatentPPO("LatentPolicy", env, n_steps=64, device="cpu").learn(64)
