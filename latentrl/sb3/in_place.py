"""Cloning into an agent: its own networks as parts of a latent model, so that what is cloned the agent plays."""

from dataclasses import replace
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor
from torch.distributions import Distribution

from latentrl.checks import LatentRLError
from latentrl.config import LatentConfig
from latentrl.data import Demonstrations
from latentrl.decoders import Decoder
from latentrl.distributions import OneHot
from latentrl.model import LatentModel
from latentrl.sb3.actor_critic import LatentActorCriticPolicy
from latentrl.sb3.mixture_heads import Mixed, mixture_of
from latentrl.sb3.trunk import FeaturesTrunk
from latentrl.spaces import size

FREE = ("posterior", "posterior_components", "encoder", "encoder_hidden", "context_length")
"""Fields of :class:`LatentConfig` that the agent leaves open: those of the posterior, which it does not have."""


class ActorDecoder(Decoder):
    """p(a|s, z) by the networks of an actor-critic policy, in the units of its actions."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.net, self.head = policy.mlp_extractor.policy_net, policy.action_net
        self.log_std = getattr(policy, "log_std", None)
        self._plain = not isinstance(policy.action_dist, Mixed)
        self._acts = mixture_of(policy.action_dist, 1) if self._plain else policy.action_dist

    def forward(self, observations: Tensor, z: Tensor) -> Distribution:
        """As any decoder: observations (B, O) with z (..., B, Z), or (B, T, O) with z (..., B, Z) held over T."""
        if observations.dim() == 3:
            z = z.unsqueeze(-2).expand(*z.shape[:-1], observations.shape[1], -1)
        joined = torch.cat([observations.expand(*z.shape[:-1], -1), z], -1) if z.shape[-1] else observations
        outputs = self.head(self.net(joined))
        if self._plain:  # one component, which has all of the weight
            outputs = torch.cat([torch.zeros_like(outputs[..., :1]), outputs], -1)
        scale = [] if self.log_std is None else [self.log_std.reshape(-1, self.log_std.shape[-1])]
        law: Any = self._acts.proba_distribution(outputs, *scale).distribution
        return OneHot(law.logits) if isinstance(self._acts, CategoricalDistribution) else law


def config_of(actor: BasePolicy, options: dict[str, Any]) -> LatentConfig:
    """The description of the model that an agent's policy is a part of.

    :param options: of the posterior
    :raises LatentRLError: what the agent decides; a policy of another kind
    """
    if not isinstance(actor, ActorCriticPolicy):
        raise LatentRLError(
            f"LatentBC clones into the policies of PPO, A2C, LatentPPO and LatentA2C, not into {type(actor).__name__}"
        )
    decided = sorted(options.keys() - set(FREE))
    if decided:
        raise LatentRLError(
            f"the agent's policy decides {', '.join(decided)}: set it there; left open are {', '.join(FREE)}"
        )
    if not isinstance(actor, LatentActorCriticPolicy):
        return LatentConfig(latent_dim=0, hold=1)
    return LatentConfig(
        latent_dim=actor.latent_dim,
        hold=actor.hold,
        prior=actor.prior_name,
        prior_sees_state=actor.prior_name != "normal",
        **{"posterior": "categorical" if actor.prior_name == "categorical" else "gaussian", **options},
    )


def model_of(actor: BasePolicy, config: LatentConfig) -> LatentModel:
    """A latent model around an agent's networks; its posterior is new."""
    assert isinstance(actor, ActorCriticPolicy)  # or there would be no config
    space, trunk = actor.observation_space, None
    if not isinstance(actor.pi_features_extractor, FlattenExtractor):
        trunk = FeaturesTrunk(space, actor.features_extractor_class, actor.features_extractor_kwargs)
        trunk.extractor = actor.pi_features_extractor
    decoder = ActorDecoder(actor)
    if not isinstance(actor, LatentActorCriticPolicy):
        return LatentModel(None, None, decoder, trunk)
    posterior = config.make_posterior(actor.features_dim, size("action", actor.action_space))
    return LatentModel(posterior, actor.prior, decoder, trunk)


def as_seen(agent: BaseAlgorithm, demonstrations: Demonstrations) -> Demonstrations:
    """Demonstrations as the agent sees them: normalised where its environments are wrapped in VecNormalize.

    A VecNormalize that has seen nothing yet takes its statistics from the demonstrations.
    """
    normalizer = agent.get_vec_normalize_env()
    if normalizer is None or not normalizer.norm_obs:
        return demonstrations
    observations = demonstrations.observations
    kept: Any = normalizer.obs_rms
    if isinstance(observations, dict):
        parts = [(kept[name], observations[name]) for name in normalizer.norm_obs_keys or ()]
    else:
        parts = [(kept, observations)]
    for moments, values in parts:
        if moments.count < 1.0:
            moments.update(values)
    return replace(demonstrations, observations=normalizer.normalize_obs(observations))
