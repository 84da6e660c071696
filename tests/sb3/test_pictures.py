"""Policies of pictures and Dicts through LatentBC: they learn, are saved, and act where frames are turned."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from latentrl import CorrectiveNoise, Demonstrations, LatentRLError
from latentrl.sb3 import LatentBC, LatentPolicy

SIDE = 36
LAST = spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8)
SMALL = {"latent_dim": 2, "hidden": (16,), "n_components": 3, "context_length": 3}


class Average(BaseFeaturesExtractor):
    """Mean brightness of the upper and of the lower half, times weights: a trunk for small pictures."""

    def __init__(self, observation_space: spaces.Box, gain: float = 1.0) -> None:
        super().__init__(observation_space, 2)
        self.gain = nn.Parameter(torch.full((2,), gain))

    def forward(self, observations: Tensor) -> Tensor:
        return observations.mean((1, 3)).unflatten(1, (2, -1)).mean(-1) * self.gain


def pictures_and_actions(count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Noisy pictures (N, 36, 36, 1) with a bright square in the upper (action 1) or lower half (action 0)."""
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 60, (count, SIDE, SIDE, 1), dtype=np.uint8)
    actions = generator.integers(0, 2, count)
    for picture, action in zip(pictures, actions, strict=True):
        row, column = (4 if action else 22) + generator.integers(0, 4), generator.integers(0, 28)
        picture[row : row + 8, column : column + 8] = 220
    return pictures, actions


def clone(data: Demonstrations, updates: int, **options: Any) -> LatentBC:
    config = {**SMALL, "hold": 1, "latent_dim": 0, **options.pop("policy_kwargs", {})}
    agent = LatentBC(
        demonstrations=data, policy_kwargs=config, learning_rate=1e-3, batch_size=16, seed=0, device="cpu", **options
    )
    return agent.learn(updates, log_interval=10**6)


def test_a_picture_policy_learns_and_is_saved(tmp_path: Path) -> None:
    pictures, actions = pictures_and_actions()
    data = Demonstrations.from_arrays(pictures, actions, [10] * 12)
    agent = clone(data, 40, policy_kwargs={"features_extractor_kwargs": {"features_dim": 16}})
    played, _ = agent.predict(pictures)
    assert (played == actions).mean() > 0.95
    turned = np.moveaxis(pictures, -1, 1)
    np.testing.assert_array_equal(agent.predict(turned)[0], played)
    for one in (pictures[3], turned[3]):
        single, _ = agent.predict(one)
        assert (single.shape, single) == ((), played[3])
    agent.save(tmp_path / "bc")
    loaded = LatentBC.load(tmp_path / "bc", device="cpu")
    np.testing.assert_array_equal(loaded.predict(pictures)[0], played)
    agent.policy.save(str(tmp_path / "policy.pt"))
    alone = LatentPolicy.load(str(tmp_path / "policy.pt"), device="cpu")
    np.testing.assert_array_equal(alone.predict(pictures)[0], played)
    assert alone.model.trunk is not None
    assert alone.model.trunk.features_dim == 16


def test_a_dict_policy_learns_and_is_saved(tmp_path: Path) -> None:
    """The square says where, the switch says whether it is meant: exclusive or, which neither part tells alone."""
    pictures, where = pictures_and_actions()
    switch = np.random.default_rng(1).integers(0, 2, (120, 1))
    space = spaces.Dict(switch=spaces.MultiBinary(1), camera=LAST)
    observations = {"camera": pictures, "switch": switch}
    actions = where ^ switch[:, 0]
    data = Demonstrations.from_arrays(observations, actions, [10] * 12, space, spaces.Discrete(2))
    agent = clone(data, 120, policy_kwargs={"features_extractor_kwargs": {"cnn_output_dim": 16}})
    played, _ = agent.predict(observations)
    assert (played == actions).mean() > 0.95
    single, _ = agent.predict({"switch": switch[5], "camera": np.moveaxis(pictures[5], -1, 0)})
    assert (single.shape, single) == ((), played[5])
    agent.save(tmp_path / "bc")
    np.testing.assert_array_equal(LatentBC.load(tmp_path / "bc", device="cpu").predict(observations)[0], played)


def test_segments_of_pictures_and_a_custom_extractor(tmp_path: Path) -> None:
    """A latent held for the episode says which half is bright throughout; pictures too small for NatureCNN."""
    generator = np.random.default_rng(0)
    bright = np.repeat(generator.integers(0, 2, 30), 6)
    pictures = generator.integers(0, 80, (180, 4, 4, 1), dtype=np.uint8)
    pictures[np.arange(180), 0] += (100 * bright).astype(np.uint8)[:, None, None]
    data = Demonstrations.from_arrays(pictures, bright, [6] * 30)
    options = {"hold": 0, "latent_dim": 2, "prior": "normal"}
    options |= {"features_extractor_class": Average, "features_extractor_kwargs": {"gain": 3.0}}
    agent = LatentBC(
        demonstrations=data, policy_kwargs={**SMALL, **options}, learning_rate=1e-2, kl_warmup=0.0, seed=0, device="cpu"
    )
    before = agent.policy.model.trunk.extractor.gain.clone()  # type: ignore[union-attr]
    agent.learn(100)
    assert (agent.predict(pictures)[0] == bright).mean() > 0.95
    assert bool((agent.policy.model.trunk.extractor.gain != before).all())  # type: ignore[union-attr]
    agent.save(tmp_path / "bc")
    loaded = LatentBC.load(tmp_path / "bc", device="cpu")
    np.testing.assert_array_equal(
        loaded.predict(pictures, deterministic=True)[0], agent.predict(pictures, deterministic=True)[0]
    )


class Pictures(gym.Env):  # type: ignore[type-arg]
    """Shows five pictures; 1 point for each action that fits."""

    observation_space = LAST
    action_space = spaces.Discrete(2)

    def __init__(self, as_dict: bool = False) -> None:
        self.pictures, self.actions = pictures_and_actions(20)
        self.as_dict = as_dict
        if as_dict:
            self.observation_space = spaces.Dict(camera=LAST, clock=spaces.Box(0, 1, (1,)))

    def _see(self) -> Any:
        picture = self.pictures[self.at % 20]
        return {"camera": picture, "clock": np.zeros(1, np.float32)} if self.as_dict else picture

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed, options=options)
        self.at = int(self.np_random.integers(20))
        self.end = self.at + 5
        return self._see(), {}

    def step(self, action: int) -> Any:
        reward = float(action == self.actions[self.at % 20])
        self.at += 1
        return self._see(), reward, self.at == self.end, False, {}


@pytest.mark.parametrize("as_dict", [False, True])
def test_in_an_environment_that_is_turned(tmp_path: Path, as_dict: bool) -> None:
    """stable-baselines3 shows channel-first what the environment and the demonstrations have channel-last."""
    pictures, actions = pictures_and_actions()
    observations = {"camera": pictures, "clock": np.zeros((120, 1))} if as_dict else pictures
    data = Demonstrations.from_arrays(observations, actions, [10] * 12, Pictures(as_dict).observation_space)
    name = "cnn_output_dim" if as_dict else "features_dim"
    agent = clone(data, 40, env=Pictures(as_dict), policy_kwargs={"features_extractor_kwargs": {name: 16}})
    assert agent.env is not None
    reward, _ = evaluate_policy(agent, agent.env, n_eval_episodes=4)
    assert reward == 5.0
    agent.save(tmp_path / "bc")
    loaded = LatentBC.load(tmp_path / "bc", Pictures(as_dict), demonstrations=data, device="cpu")
    assert evaluate_policy(loaded, loaded.env, n_eval_episodes=2)[0] == 5.0  # type: ignore[arg-type]
    loaded.learn(1, log_interval=10**6)
    without = LatentBC(demonstrations=data, policy_kwargs=SMALL, device="cpu")
    assert without.observation_space == agent.observation_space


def test_pictures_stay_bytes_until_they_are_read() -> None:
    pictures, actions = pictures_and_actions(20)
    agent = LatentBC(demonstrations=Demonstrations.from_arrays(pictures, actions, [20]), policy_kwargs=SMALL)
    assert agent.demonstrations is not None
    assert agent._trainer(agent.demonstrations, 1).segments.observations.dtype == torch.uint8


NOISE = CorrectiveNoise([0.1] * SIDE**2)


def test_noise_on_what_is_not_a_vector_is_refused() -> None:
    pictures, actions = pictures_and_actions(20)
    for observations, space in ((pictures, None), ({"camera": pictures}, None), (actions, spaces.Discrete(2))):
        data = Demonstrations.from_arrays(observations, actions, [20], space)
        with pytest.raises(
            LatentRLError, match=r"noise is added to numbers, but the observations are .*set noise=None"
        ):
            LatentBC(demonstrations=data, noise=NOISE)
