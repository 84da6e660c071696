"""What goes around agents, all of it at once, on the CPU and on a GPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from latentrl.sb3 import (
    CloneTerm,
    CriticWarmUp,
    DemonstrationReplayBuffer,
    ExplorationCallback,
    GradientVariance,
    KLToClone,
    LatentActionWrapper,
    LatentBC,
    LatentNoiseExtractor,
    LatentNoiseWrapper,
    LatentTraversal,
    LatentUsage,
    ModeCoverage,
    NoveltyReward,
    SkillReward,
)
from tests.sb3.agents_table import AGENTS, BOX, VECTOR, Toy
from tests.sb3.off_policy_table import shown

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{warning}")
    for warning in (
        "You have specified a mini-batch size",
        "the latent has collapsed",
        "Training and eval env",
        "2 of 2 episodes end with a reward",
        "You are trying to run PPO on the GPU",
    )
]
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
QUICK: dict[str, Any] = {"train_every": 8, "batch_size": 16}


class Told(Toy):
    """Says how it ended."""

    def step(self, action: Any) -> Any:
        *rest, info = super().step(action)
        return *rest, {**info, "mode": int(action[0] > 0)}


def envs(space: spaces.Space = VECTOR) -> Any:
    return make_vec_env(lambda: Told(space), 2, seed=0)


@devices
@pytest.mark.parametrize("name", ["latent PPO, episode", "mixture PPO", "mixture A2C"])
def test_on_policy(name: str, device: str, tmp_path: Path) -> None:
    """Cloned in place, rewarded for what is new, measured, evaluated and drawn while it learns; of pictures too."""

    def wrapped(training: bool = True) -> VecNormalize:
        return VecNormalize(
            NoveltyReward(envs(), training=training, device=device, **QUICK), norm_obs=False, training=training
        )

    agent = AGENTS[name].make(wrapped(), wrapped=True, device=device)
    LatentBC(agent, demonstrations=shown(BOX), device=device).learn(4)
    watching = [
        ModeCoverage(wrapped(False), 2, 2, eval_freq=16, verbose=0),
        ExplorationCallback(),
        GradientVariance(1, 2),
    ]
    if name.startswith("latent"):
        watching.append(
            LatentTraversal(
                wrapped(False), tmp_path, eval_freq=40, values=(0.0, 1.0), position=lambda seen: seen[..., :2]
            )
        )
    kept = [CriticWarmUp(64), KLToClone(0.1), LatentUsage()]
    agent.learn(256, callback=kept + watching)
    assert watching[0].counts.sum() == 2  # of the last evaluation
    assert bool(list(tmp_path.glob("*.png"))) == name.startswith("latent")
    assert all(value.isfinite().all() for value in agent.policy.state_dict().values())
    picture = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    policy = AGENTS[name].policy.removesuffix("Policy") + "CnnPolicy"
    AGENTS[name].make(envs(picture), policy, device=device).learn(64)


@devices
@pytest.mark.parametrize("name", ["latent SAC", "latent SAC, categorical", "latent TD3"])
def test_off_policy(name: str, device: str) -> None:
    """With demonstrations in each batch and in the actor's loss."""
    demonstrations = replace(shown(BOX), rewards=np.ones(40, np.float32))
    buffer = {
        "replay_buffer_class": DemonstrationReplayBuffer,
        "replay_buffer_kwargs": {"demonstrations": demonstrations, "share": 0.5},
    }
    agent = AGENTS[name].make(NoveltyReward(envs(), device=device, **QUICK), wrapped=True, device=device, **buffer)
    LatentBC(agent, demonstrations=demonstrations, device=device).learn(4)
    kept = [CriticWarmUp(16), CloneTerm(demonstrations, q_filter=True), LatentUsage()]
    agent.learn(128, callback=[*kept, ModeCoverage(envs(), 2, 2, eval_freq=16, verbose=0), ExplorationCallback()])
    assert all(value.isfinite().all() for value in agent.policy.state_dict().values())


@devices
def test_skills_and_latent_actions(device: str) -> None:
    skills = SkillReward(LatentNoiseWrapper(envs(), 3, kind="categorical"), device=device, **QUICK)
    kwargs = {"features_extractor_class": LatentNoiseExtractor}
    options: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "seed": 0, "device": device}
    PPO("MultiInputPolicy", skills, policy_kwargs=kwargs, **options).learn(64, callback=ExplorationCallback())
    bc = LatentBC(demonstrations=shown(BOX), policy_kwargs={"prior": "gaussian"}, device=device).learn(4)
    PPO("MlpPolicy", VecNormalize(LatentActionWrapper(envs(), bc)), **options).learn(64)
