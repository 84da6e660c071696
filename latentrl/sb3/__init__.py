"""The face to stable-baselines3; nothing outside this package imports it.

With ``latentrl[contrib]`` there are also ``LatentTQCPolicy``, ``LatentTQCCnnPolicy`` and ``LatentTQCMultiInputPolicy``.
"""

from typing import TYPE_CHECKING, Any

from latentrl.sb3 import sac_policy as _sac_policy
from latentrl.sb3.actor_critic import (
    LatentActorCriticCnnPolicy,
    LatentActorCriticPolicy,
    LatentMultiInputActorCriticPolicy,
)
from latentrl.sb3.bc import LatentBC
from latentrl.sb3.callbacks import ModeCoverage
from latentrl.sb3.clone_term import CloneTerm
from latentrl.sb3.evaluation import Evaluation, evaluate_behaviour
from latentrl.sb3.exploration import ExplorationCallback, NoveltyReward, SkillReward
from latentrl.sb3.export import ActingPolicy, export_onnx, export_program
from latentrl.sb3.fine_tuning import CriticWarmUp, KLToClone
from latentrl.sb3.from_demonstrations import DemonstrationDictReplayBuffer, DemonstrationReplayBuffer
from latentrl.sb3.gradient_noise import GradientVariance
from latentrl.sb3.latent_actions import LatentActionEnv, LatentActionWrapper
from latentrl.sb3.latent_noise import LatentNoiseExtractor, LatentNoiseWrapper
from latentrl.sb3.likelihood import encode, held_out
from latentrl.sb3.mixture_policy import (
    MixtureActorCriticCnnPolicy,
    MixtureActorCriticPolicy,
    MixtureMultiInputActorCriticPolicy,
)
from latentrl.sb3.on_policy import LatentA2C, LatentDictRolloutBuffer, LatentPPO, LatentRolloutBuffer
from latentrl.sb3.policy import LatentPolicy
from latentrl.sb3.sac_policy import LatentSACCnnPolicy, LatentSACMultiInputPolicy, LatentSACPolicy
from latentrl.sb3.stopping import HeldOut
from latentrl.sb3.td3_policy import LatentTD3CnnPolicy, LatentTD3MultiInputPolicy, LatentTD3Policy
from latentrl.sb3.traversal import LatentTraversal
from latentrl.sb3.trunk import FeaturesTrunk
from latentrl.sb3.usage import LatentUsage
from latentrl.sb3.vec_env import TorchVecEnvAdapter

__all__ = [
    "ActingPolicy",
    "CloneTerm",
    "CriticWarmUp",
    "DemonstrationDictReplayBuffer",
    "DemonstrationReplayBuffer",
    "Evaluation",
    "ExplorationCallback",
    "FeaturesTrunk",
    "GradientVariance",
    "HeldOut",
    "KLToClone",
    "LatentA2C",
    "LatentActionEnv",
    "LatentActionWrapper",
    "LatentActorCriticCnnPolicy",
    "LatentActorCriticPolicy",
    "LatentBC",
    "LatentDictRolloutBuffer",
    "LatentMultiInputActorCriticPolicy",
    "LatentNoiseExtractor",
    "LatentNoiseWrapper",
    "LatentPPO",
    "LatentPolicy",
    "LatentRolloutBuffer",
    "LatentSACCnnPolicy",
    "LatentSACMultiInputPolicy",
    "LatentSACPolicy",
    "LatentTD3CnnPolicy",
    "LatentTD3MultiInputPolicy",
    "LatentTD3Policy",
    "LatentTraversal",
    "LatentUsage",
    "MixtureActorCriticCnnPolicy",
    "MixtureActorCriticPolicy",
    "MixtureMultiInputActorCriticPolicy",
    "ModeCoverage",
    "NoveltyReward",
    "SkillReward",
    "TorchVecEnvAdapter",
    "encode",
    "evaluate_behaviour",
    "export_onnx",
    "export_program",
    "held_out",
]


if TYPE_CHECKING:
    from latentrl.sb3.sac_policy import LatentTQCCnnPolicy as LatentTQCCnnPolicy
    from latentrl.sb3.sac_policy import LatentTQCMultiInputPolicy as LatentTQCMultiInputPolicy
    from latentrl.sb3.sac_policy import LatentTQCPolicy as LatentTQCPolicy
else:

    def __getattr__(name: str) -> Any:
        if name.startswith("LatentTQC"):
            return getattr(_sac_policy, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
