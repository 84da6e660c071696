"""The constructors of latentrl.sb3, with the arguments that the library adds to stable-baselines3's."""

import tempfile
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from latentrl import Demonstrations, sb3
from latentrl.sb3.latent_noise import NOISE
from latentrl.schedules import Constant
from tests.constructors_table import SMALL, Row
from tests.sb3.agents_table import BOX, VECTOR, Toy

N = 2
SEEN = np.zeros((N, 3), np.float32)
PICTURE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
PARTS = spaces.Dict({"a": VECTOR, "b": spaces.Discrete(2)})
NOISY = spaces.Dict({"observation": VECTOR, NOISE: spaces.Discrete(3)})
SHOWN = Demonstrations.from_arrays(
    np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32),
    np.random.default_rng(1).uniform(-1, 1, (8, 2)).astype(np.float32),
    [4, 4],
    VECTOR,
    BOX,
    rewards=np.zeros(8),
)
TINY = {"latent_dim": 2, "n_components": 2, "hidden": SMALL, "encoder_hidden": SMALL, "context_length": 4}
CLONED = sb3.LatentBC(demonstrations=SHOWN, policy_kwargs=TINY, seed=0, device="cpu")


def envs(observation_space: spaces.Space[Any] = VECTOR) -> DummyVecEnv:
    return DummyVecEnv([lambda: Toy(observation_space)] * N)


def _plays(space: spaces.Space[Any] = VECTOR) -> Any:
    space.seed(0)
    return lambda policy, _: [policy.predict(space.sample(), deterministic=sure)[0] for sure in (True, False)]


def _policy(kind: Any, space: spaces.Space[Any] = VECTOR, **kwargs: Any) -> Any:
    return partial(kind, space, BOX, lambda _: 1e-3, **kwargs)


def _learns(agent: sb3.LatentBC, given: dict[str, Any]) -> Any:
    if given["devices"] != 1:
        return None
    return agent.learn(1).predict(SEEN)[0]


def _steps(env: Any, _: dict[str, Any]) -> Any:
    """Rewards of one step."""
    env.reset()
    step = env.step(np.stack([env.action_space.sample()] * N) if isinstance(env.action_space, spaces.Box) else [0] * N)
    return step[1]


def _step(env: Any, _: dict[str, Any]) -> Any:
    env.reset(seed=0)
    return env.step(env.action_space.sample())[1]


def _sampled(buffer: Any, _: dict[str, Any]) -> Any:
    return list(buffer.sample(4)[:2])


ACTOR = {
    "latent_dim": 2, "hold": 0, "prior": "mixture", "n_components": 2, "num_samples": 2, "latent_scale": 1.0,
}  # fmt: skip
SQUASHED = {"latent_dim": 2, "latent_spread": 1.0}
SAC = {**SQUASHED, "prior": "normal", "num_samples": 2}
MIXED_SAC = {"latent_spread": 1.0, "prior": "categorical", "n_components": 2}
MIXED = {"n_components": 2, "component_spread": 1.0}
EXTRACTED = {"features_extractor_class": None, "features_extractor_kwargs": None}
BONUS = {
    "scale": 1.0, "extrinsic": 1.0, "training": True, "features": None, "train_every": 1, "batch_size": 2,
    "buffer_size": 4, "learning_rate": 1e-3, "hidden": SMALL, "seed": 0,
}  # fmt: skip
CNN = {"net_arch": [4], "features_extractor_kwargs": {"features_dim": 4}}

ROWS = {
    "LatentActorCriticPolicy": Row(_policy(sb3.LatentActorCriticPolicy, net_arch=[4]), ACTOR, _plays()),
    "LatentActorCriticCnnPolicy": Row(
        _policy(sb3.LatentActorCriticCnnPolicy, PICTURE, **CNN), {"latent_dim": 2}, _plays(PICTURE)
    ),
    "LatentMultiInputActorCriticPolicy": Row(
        _policy(sb3.LatentMultiInputActorCriticPolicy, PARTS, net_arch=[4]), {"latent_dim": 2}, _plays(PARTS)
    ),
    "MixtureActorCriticPolicy": Row(_policy(sb3.MixtureActorCriticPolicy, net_arch=[4]), MIXED, _plays()),
    "MixtureActorCriticCnnPolicy": Row(
        _policy(sb3.MixtureActorCriticCnnPolicy, PICTURE, **CNN), {"n_components": 2}, _plays(PICTURE)
    ),
    "MixtureMultiInputActorCriticPolicy": Row(
        _policy(sb3.MixtureMultiInputActorCriticPolicy, PARTS, net_arch=[4]), {"n_components": 2}, _plays(PARTS)
    ),
    "LatentSACPolicy": Row(_policy(sb3.LatentSACPolicy, net_arch=[4]), SAC, _plays()),
    "LatentSACPolicy, categorical": Row(
        _policy(sb3.LatentSACPolicy, net_arch=[4]), MIXED_SAC, _plays()
    ),
    "LatentSACCnnPolicy": Row(_policy(sb3.LatentSACCnnPolicy, PICTURE, **CNN), {"latent_dim": 2}, _plays(PICTURE)),
    "LatentSACMultiInputPolicy": Row(
        _policy(sb3.LatentSACMultiInputPolicy, PARTS, net_arch=[4]), {"latent_dim": 2}, _plays(PARTS)
    ),
    "LatentTD3Policy": Row(_policy(sb3.LatentTD3Policy, net_arch=[4]), SQUASHED, _plays()),
    "LatentTD3CnnPolicy": Row(_policy(sb3.LatentTD3CnnPolicy, PICTURE, **CNN), {"latent_dim": 2}, _plays(PICTURE)),
    "LatentTD3MultiInputPolicy": Row(
        _policy(sb3.LatentTD3MultiInputPolicy, PARTS, net_arch=[4]), {"latent_dim": 2}, _plays(PARTS)
    ),
    "LatentPolicy": Row(_policy(sb3.LatentPolicy), {**TINY, **EXTRACTED, "action_noise": False}, _plays()),
    "LatentPPO": Row(
        partial(sb3.LatentPPO, "LatentPolicy", envs(), n_steps=4, batch_size=4, device="cpu"),
        {"rollout_buffer_class": None},
        _plays(),
    ),
    "LatentA2C": Row(
        partial(sb3.LatentA2C, "LatentPolicy", envs(), device="cpu"),
        {"rollout_buffer_class": None},
        _plays(),
    ),
    "LatentBC": Row(
        partial(sb3.LatentBC, policy_kwargs=TINY, seed=0, device="cpu"),
        {
            "demonstrations": SHOWN, "batch_size": 2, "steps_per_segment": 2, "kl_weight": Constant(), "kl_warmup": 0.3,
            "noise": None, "max_grad_norm": 1.0, "estimator": None, "num_samples": 1, "gradient_variance_every": None,
            "ema_decay": 0.9, "precision": "32-true", "devices": 1,
        },
        _learns,
    ),
    "ModeCoverage": Row(partial(sb3.ModeCoverage, envs()), {"n_modes": 2, "minimum": 1}),
    "LatentUsage": Row(sb3.LatentUsage, {"states": 2, "eval_freq": 1}),
    "CloneTerm": Row(
        sb3.CloneTerm, {"demonstrations": SHOWN, "coef": 1.0, "share": 1.0, "batch_size": 2, "q_filter": False},
        lambda m, _: len(m.demonstrations),
    ),
    "ExplorationCallback": Row(sb3.ExplorationCallback, {"save_freq": 1, "save_path": "x"}),
    "NoveltyReward": Row(sb3.NoveltyReward, {"venv": envs(), "latent_dim": 2, **BONUS}, _steps),
    "SkillReward": Row(
        sb3.SkillReward, {"venv": sb3.LatentNoiseWrapper(envs(), 3, kind="categorical"), "skill_key": NOISE}, _steps
    ),
    "ActingPolicy": Row(
        sb3.ActingPolicy, {"policy": CLONED.policy}, lambda m, _: m(torch.as_tensor(SEEN), torch.zeros(N, 2))
    ),
    "CriticWarmUp": Row(sb3.CriticWarmUp, {"steps": 10}),
    "KLToClone": Row(sb3.KLToClone, {"coef": 0.1, "share": 1.0}),
    "DemonstrationReplayBuffer": Row(
        partial(sb3.DemonstrationReplayBuffer, 4, VECTOR, BOX, "cpu"),
        {"demonstrations": SHOWN, "share": 0.5, "terminated": False},
        _sampled,
    ),
    "DemonstrationDictReplayBuffer": Row(
        partial(sb3.DemonstrationDictReplayBuffer, 4, PARTS, BOX, "cpu"),
        {
            "demonstrations": Demonstrations.from_arrays(
                {"a": np.zeros((4, 3)), "b": np.zeros(4, int)}, np.zeros((4, 2)), [4], PARTS, BOX, np.zeros(4)
            ),
            "share": 0.5,
        },
        _sampled,
    ),
    "GradientVariance": Row(sb3.GradientVariance, {"every": 1, "replicates": 2}),
    "HeldOut": Row(
        sb3.HeldOut,
        {"demonstrations": SHOWN, "every": 1, "patience": 1, "seed": 0},
        lambda m, _: len(m.demonstrations),
    ),
    "LatentActionEnv": Row(
        sb3.LatentActionEnv,
        {"env": Toy(), "source": CLONED, "hold": 1, "reach": 3.0, "loc": None, "scale": 1.0},
        _step,
    ),
    "LatentActionWrapper": Row(
        sb3.LatentActionWrapper, {"venv": envs(), "source": CLONED, "reach": 3.0, "loc": 0.0, "scale": None}, _steps
    ),
    "LatentNoiseWrapper": Row(
        sb3.LatentNoiseWrapper,
        {"venv": envs(), "latent_dim": 2, "hold": 0, "kind": "normal"},
        lambda m, _: list(m.reset().values()),
    ),
    "LatentNoiseExtractor": Row(
        sb3.LatentNoiseExtractor,
        {"observation_space": NOISY, **EXTRACTED},
        lambda m, _: m({"observation": torch.zeros(N, 3), NOISE: torch.ones(N, 3)}),
    ),
    "LatentTraversal": Row(
        partial(sb3.LatentTraversal, envs(), tempfile.gettempdir()),
        {
            "eval_freq": 1, "values": (0.0,), "dimensions": None,
            "position": None, "moments": 1, "seed": 0,
        },
    ),
    "FeaturesTrunk": Row(
        sb3.FeaturesTrunk, {"observation_space": VECTOR, **EXTRACTED}, lambda m, _: m(torch.zeros(N, 3))
    ),
    "TorchVecEnvAdapter": Row(
        sb3.TorchVecEnvAdapter,
        {"env": gym.make_vec("latentrl_envs:latentrl/LQR-v0", num_envs=N, autoreset_mode="SameStep")},
        _steps,
    ),
    "encode": Row(sb3.encode, {"agent": CLONED, "demonstrations": SHOWN}, lambda m, _: m),
    "held_out": Row(
        sb3.held_out,
        {"agent": CLONED, "demonstrations": SHOWN, "num_samples": 2, "seed": 0},
        lambda m, _: m.bound.values,
    ),
    "evaluate_behaviour": Row(
        partial(sb3.evaluate_behaviour, env=envs()),
        {"policy": CLONED, "n_episodes": 1, "seed": 0, "trajectories": False},
        lambda m, _: m.returns,
    ),
}  # fmt: skip
