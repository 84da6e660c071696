"""LatentBC on the networks of agents: the agents know what was cloned, and their laws are those that were fitted."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from latentrl import Demonstrations, LatentRLError
from latentrl.sb3 import LatentA2C, LatentBC, LatentPPO
from tests.sb3.agents_table import BOX, VECTOR, Toy

SMALL: dict[str, Any] = {"seed": 0, "device": "cpu"}
SPACES = {
    "box": BOX,
    "choice": spaces.Discrete(3),
    "choices": spaces.MultiDiscrete([3, 2]),
    "bits": spaces.MultiBinary(2),
}
MAKERS = {
    "stock": lambda env: PPO("MlpPolicy", env, **SMALL),
    "mixture": lambda env: A2C("MixturePolicy", env, policy_kwargs={"n_components": 3}, **SMALL),
    "latent": lambda env: LatentPPO("LatentPolicy", env, policy_kwargs={"latent_dim": 2}, **SMALL),
    "choices": lambda env: LatentA2C(
        "LatentPolicy", env, policy_kwargs={"latent_dim": 3, "prior": "categorical", "hold": 4}, **SMALL
    ),
}


def demonstrations(space: spaces.Space, episodes: int = 60, steps: int = 8) -> Demonstrations:
    """Every other episode does one thing, the rest another, whatever is seen."""
    rng = np.random.default_rng(0)
    things = {
        "Box": [[0.7, -0.4], [-0.6, 0.1]],
        "Discrete": [0, 2],
        "MultiDiscrete": [[0, 0], [2, 1]],
        "MultiBinary": [[0, 1], [1, 0]],
    }[type(space).__name__]
    actions = np.array([things[episode % 2] for episode in range(episodes) for _ in range(steps)], space.dtype)
    seen = rng.normal(size=(len(actions), 3)).astype(np.float32)
    if isinstance(space, spaces.Box):
        actions = (actions + 0.05 * rng.normal(size=actions.shape)).astype(np.float32)
    return Demonstrations.from_arrays(seen, actions, [steps] * episodes, VECTOR, space)


def share_of_second(agent: BaseAlgorithm, space: spaces.Space) -> float:
    """Of 200 actions, each with a latent of its own; nan if some are neither of the two."""
    played = agent.predict(np.zeros((200, 3), np.float32))[0]
    things = demonstrations(space).actions[[0, 8]]
    near = [np.abs(np.asarray(played, float) - thing).reshape(200, -1).max(1) < 0.4 for thing in things]
    return float(near[1].mean()) if (near[0] | near[1]).mean() > 0.85 else float("nan")


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("maker", MAKERS)
def test_log_probability_is_the_agents_own(maker: str, space: str) -> None:
    agent = MAKERS[maker](Toy(action_space=SPACES[space]))
    clone = LatentBC(agent, demonstrations=demonstrations(SPACES[space]), noise=None)
    model, policy = clone.policy.model, agent.policy
    batch = clone._trainer(clone.demonstrations, 10).segments.batch(torch.arange(5), None)
    z = torch.randn(5, model.latent_dim)
    steps = batch.observations.dim() == 3
    with torch.no_grad():
        ours = model.decoder(batch.observations, z).log_prob(batch.actions)
        seen = batch.observations.flatten(0, 1) if steps else batch.observations
        if model.latent_dim:
            acts = policy.acts(seen, z.repeat_interleave(len(seen) // 5, 0))
        else:
            acts = policy.get_distribution(seen)
        features = batch.actions.flatten(0, -2)
        actions = {
            "choice": lambda: features.argmax(-1),
            "choices": lambda: torch.stack([features[:, :3].argmax(-1), features[:, 3:].argmax(-1)], -1),
        }.get(space, lambda: features)()
        torch.testing.assert_close(ours.flatten(), acts.log_prob(actions))


@pytest.mark.filterwarnings("ignore:the latent has collapsed")
@pytest.mark.parametrize(
    ("maker", "space", "updates"),
    [("mixture", "box", 2000), ("mixture", "choices", 300), ("latent", "box", 500), ("choices", "bits", 300)],
)
def test_agents_play_both_ways_that_they_were_shown(maker: str, space: str, updates: int) -> None:
    agent = MAKERS[maker](Toy(action_space=SPACES[space]))
    assert np.isnan(share_of_second(agent, SPACES[space])) or maker == "mixture"
    critic = {n: p.clone() for n, p in agent.policy.named_parameters() if "value" in n}
    LatentBC(agent, demonstrations=demonstrations(SPACES[space]), learning_rate=1e-2, seed=1).learn(updates)
    assert 0.25 < share_of_second(agent, SPACES[space]) < 0.75
    assert all(torch.equal(p, critic[n]) for n, p in agent.policy.named_parameters() if "value" in n)
    agent.learn(64)


def test_observations_are_normalised_as_the_agents_are() -> None:
    env = VecNormalize(make_vec_env(Toy, 1, seed=0))
    agent = PPO("MlpPolicy", env, **SMALL)
    given = demonstrations(BOX)
    clone = LatentBC(agent, demonstrations=given, noise=None)
    np.testing.assert_allclose(env.obs_rms.mean, given.observations.mean(0), atol=1e-3)
    np.testing.assert_allclose(clone.demonstrations.observations, env.normalize_obs(given.observations), rtol=1e-6)
    env.obs_rms.mean += 1.0  # statistics of its own are kept
    LatentBC(agent, demonstrations=given, noise=None)
    np.testing.assert_allclose(env.obs_rms.mean, given.observations.mean(0) + 1.0, atol=1e-3)


def test_pictures_go_through_the_agents_extractor() -> None:
    picture = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    agent = PPO("MixtureCnnPolicy", Toy(picture), policy_kwargs={"n_components": 2}, **SMALL)
    seen = np.random.default_rng(0).integers(0, 255, (16, 3, 36, 36), np.uint8)
    actions = demonstrations(BOX).actions[:16]
    before = {n: p.clone() for n, p in agent.policy.named_parameters()}
    LatentBC(agent, demonstrations=Demonstrations.from_arrays(seen, actions, [8, 8], picture, BOX)).learn(2)
    moved = [n for n, p in agent.policy.named_parameters() if not torch.equal(p, before[n])]
    assert any("features_extractor" in name for name in moved)


def test_what_cannot_be_is_refused(tmp_path: Any) -> None:
    given = demonstrations(BOX)
    agent = MAKERS["latent"](Toy())
    with pytest.raises(LatentRLError, match="the agent's policy decides latent_dim, prior"):
        LatentBC(agent, demonstrations=given, policy_kwargs={"latent_dim": 3, "prior": "vamp"})
    with pytest.raises(LatentRLError, match="save that agent"):
        LatentBC(agent, demonstrations=given).save(tmp_path / "clone.zip")
    choosing = Toy(action_space=spaces.Discrete(3))
    with pytest.raises(LatentRLError, match="not into DQNPolicy"):
        LatentBC(DQN("MlpPolicy", choosing, buffer_size=10), demonstrations=demonstrations(spaces.Discrete(3)))
    with pytest.raises(LatentRLError, match="actions"):
        LatentBC(MAKERS["latent"](choosing), demonstrations=given)
