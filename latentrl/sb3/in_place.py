"""Cloning into an agent: its own networks as parts of a latent model, so that what is cloned the agent plays."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn
from torch.distributions import Distribution

from latentrl.checks import LatentRLError
from latentrl.config import LatentConfig
from latentrl.data import Demonstrations
from latentrl.decoders import Decoder, box_corners
from latentrl.distributions import OneHot
from latentrl.model import LatentModel
from latentrl.nets import Affine
from latentrl.sb3.actor_critic import LatentActorCriticPolicy
from latentrl.sb3.actor_decoders import OffPolicyDecoder
from latentrl.sb3.latent_actor import SemiImplicitActor
from latentrl.sb3.latent_kinds import OfLatents
from latentrl.sb3.latent_noise import NOISE
from latentrl.sb3.mixture_heads import Mixed, mixture_of
from latentrl.sb3.on_policy import is_recurrent
from latentrl.sb3.td3_policy import LatentTD3Actor
from latentrl.sb3.trunk import FeaturesTrunk, channels_first, has_pictures, values_channels_first
from latentrl.spaces import size

ROWS = 65_536
"""Whose statistics are taken at once."""

FREE = ("posterior", "posterior_components", "encoder", "encoder_hidden", "context_length")
"""Fields of :class:`LatentConfig` that the agent leaves open: those of the posterior, which it does not have."""

WIDE = 3.0
"""Standard deviations of what is shown; an actor as wide as that sees one way where there are several."""


MOST_CUT = 0.05
"""Share of normalised demonstrations beyond ``clip_obs``, above which VecNormalize has seen something else."""


class ActorDecoder(Decoder):
    """p(a|s, z) by the networks of an actor-critic policy, in the units of its actions."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.net: nn.Sequential = policy.mlp_extractor.policy_net
        self.head: nn.Module = policy.action_net
        self.log_std: Tensor | None = getattr(policy, "log_std", None)
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


class AroundActor(LatentModel):
    """A latent model whose prior keeps its units where it reads hidden layers, or has learned in them already."""

    _new = False

    def keep_learned(self, actor: BasePolicy) -> None:
        """Look whether the actor has learned anything yet."""
        assert self.prior is not None
        self._new = isinstance(actor, ActorCriticPolicy) and _is_new(actor)
        if not self._new:
            self.prior.seeded.fill_(True)

    def _units(self) -> Iterator[nn.Module]:
        assert self.posterior is not None
        return super()._units() if self._new else self.posterior.modules()


def config_of(actor: BasePolicy, options: dict[str, Any]) -> LatentConfig:
    """The description of the model that an agent's policy is a part of.

    :param options: of the posterior
    :raises LatentRLError: what the agent decides; a policy of another kind
    """
    known = isinstance(actor, ActorCriticPolicy) or isinstance(getattr(actor, "actor", None), BasePolicy)
    if not known or is_recurrent(actor):
        raise LatentRLError(
            "LatentBC clones into the policies of PPO, A2C, LatentPPO, LatentA2C, SAC, TQC, TD3 and DDPG, not into "
            f"{type(actor).__name__}"
        )
    if getattr(actor, "use_sde", False):
        raise LatentRLError("gSDE holds its noise over steps, which cloning does not know: leave use_sde at False")
    decided = sorted(options.keys() - set(FREE))
    if decided:
        raise LatentRLError(
            f"the agent's policy decides {', '.join(decided)}: set it there; left open are {', '.join(FREE)}"
        )
    held = actor if isinstance(actor, ActorCriticPolicy) else actor.actor
    if not isinstance(held, LatentActorCriticPolicy | SemiImplicitActor | LatentTD3Actor):
        return LatentConfig(latent_dim=0, hold=1)
    prior = "normal" if isinstance(held, LatentTD3Actor) else held.prior_name
    return LatentConfig(
        latent_dim=held.latent_dim,
        hold=held.hold if isinstance(held, LatentActorCriticPolicy) else 1,
        prior=prior,
        prior_sees_state=prior != "normal",
        **{"posterior": "categorical" if prior == "categorical" else "gaussian", **options},
    )


def refuse_noise(agent: BaseAlgorithm) -> None:
    """:raises LatentRLError: the agent sees noise beside its observations, and demonstrations tell none"""
    if isinstance(agent.observation_space, spaces.Dict) and NOISE in agent.observation_space.spaces:
        raise LatentRLError(
            f"this {type(agent).__name__} sees a latent of LatentNoiseWrapper, and demonstrations do not tell which "
            "one they were made under: clone into LatentPPO, LatentA2C, or SAC and TD3 with LatentPolicy: they infer it"
        )


def model_of(actor: BasePolicy, config: LatentConfig) -> LatentModel:
    """A latent model around an agent's networks; its posterior is new."""
    decoder: Decoder
    if isinstance(actor, ActorCriticPolicy):
        extractor, decoder = actor.pi_features_extractor, ActorDecoder(actor)
        prior = actor.prior if isinstance(actor, LatentActorCriticPolicy) else None
    else:
        assert isinstance(actor.action_space, spaces.Box)  # or there would be no config
        inner: Any = actor.actor
        extractor = inner.features_extractor
        decoder = OffPolicyDecoder(inner, *box_corners(actor.action_space.low, actor.action_space.high))
        prior = decoder.make_prior()
    trunk = None
    if type(extractor) is not FlattenExtractor or has_pictures(actor.observation_space):
        trunk = FeaturesTrunk(
            actor.observation_space,
            actor.features_extractor_class,
            actor.features_extractor_kwargs,
            actor.normalize_images,
        )
        trunk.extractor = extractor
    if prior is None:
        return LatentModel(None, None, decoder, trunk)
    posterior = config.make_posterior(int(extractor.features_dim), size("action", actor.action_space))
    made = AroundActor(posterior, prior, decoder, trunk)
    made.keep_learned(actor)
    return made


def _is_new(actor: ActorCriticPolicy) -> bool:
    """Whether nothing was learned yet, neither by the agent nor by cloning: new units would change what was."""
    fitted = [part for part in actor.modules() if isinstance(part, Affine)]
    return not actor.optimizer.state and not any(bool((part.gain != 1).any() | part.shift.any()) for part in fitted)


def follow(policy: BasePolicy) -> None:
    """Let targets start where those are that were cloned into: TD3's actor, and an extractor that critics share."""
    if isinstance(policy, TD3Policy):
        policy.actor_target.load_state_dict(policy.actor.state_dict())
    target: Any = getattr(policy, "critic_target", None)
    if target is not None and getattr(policy, "share_features_extractor", False):
        own: Any = policy.critic
        target.features_extractor.load_state_dict(own.features_extractor.state_dict())


def warn_of_wide_noise(policy: BasePolicy, actions: NDArray[Any]) -> None:
    """Where an actor's own standard deviation is several times that of what it is shown, modes look like one to it."""
    log_std = getattr(policy, "log_std", None)
    if not isinstance(log_std, Tensor):
        return
    own, shown = log_std.detach().exp().cpu().numpy().max(), np.asarray(actions).reshape(len(actions), -1).std(0).max()
    if own > WIDE * shown > 0.0:
        warnings.warn(
            f"the agent acts with a standard deviation of {own:.2g}, what it is shown has {shown:.2g}: several ways to "
            f"act may look like one to it; make it with policy_kwargs=dict(log_std_init={np.log(shown / WIDE):.1f})",
            stacklevel=3,
        )


def require_demonstrations(given: Any) -> Demonstrations:
    """Return them.

    :raises LatentRLError: something else, such as the arrays that they are made of
    """
    if not isinstance(given, Demonstrations):
        raise LatentRLError(
            f"demonstrations must be a latentrl.Demonstrations, but {type(given).__name__} was given: make them with "
            "Demonstrations.from_arrays or another of its readers"
        )
    return given


def in_space(
    demonstrations: Demonstrations, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> Demonstrations:
    """Demonstrations as of these spaces, with pictures channel-first where the spaces have them so.

    :raises LatentRLError: where they do not fit, or hold an environment's actions for an agent whose own are latents
    """
    require_demonstrations(demonstrations)
    if isinstance(action_space, OfLatents) and not isinstance(demonstrations.action_space, OfLatents):
        raise LatentRLError(
            f"the agent's actions are latents, {action_space}, and those of the demonstrations are of "
            f"{demonstrations.action_space}: show it what agents did in its own environment, or, if these are latents, "
            "say so by dataclasses.replace(demonstrations, action_space=env.action_space)"
        )
    space = channels_first(observation_space)
    return replace(
        demonstrations,
        observations=values_channels_first(space, demonstrations.observations),
        observation_space=space,
        action_space=action_space,
    )


def begin_statistics(agent: BaseAlgorithm, demonstrations: Demonstrations) -> None:
    """A VecNormalize that has seen nothing yet takes its statistics from the demonstrations."""
    normalizer = agent.get_vec_normalize_env()
    if normalizer is None or not normalizer.norm_obs:
        return
    observations: Any = demonstrations.observations
    for name, moments in _moments(normalizer).items():
        if moments.count < 1.0:
            values = observations[name] if name else observations
            for first in range(0, len(values), ROWS):  # in float64, as NumPy adds up float32 in float32
                moments.update(np.asarray(values[first : first + ROWS], np.float64))


def _moments(normalizer: VecNormalize) -> dict[str, RunningMeanStd]:
    """Statistics by the name of the part, or by "" where observations have no parts."""
    kept = normalizer.obs_rms
    return {name: kept[name] for name in normalizer.norm_obs_keys or ()} if isinstance(kept, dict) else {"": kept}


def as_seen(agent: BaseAlgorithm, demonstrations: Demonstrations) -> Demonstrations:
    """Demonstrations as the agent sees them now: normalised where its environments are wrapped in VecNormalize.

    A warning says where that has seen other things than they show.
    """
    normalizer = agent.get_vec_normalize_env()
    if normalizer is None or not normalizer.norm_obs:
        return demonstrations
    shown: Any = normalizer.normalize_obs(demonstrations.observations)
    for name, moments in _moments(normalizer).items():
        cut = float(np.mean(np.abs(shown[name] if name else shown) >= normalizer.clip_obs))
        if cut > MOST_CUT:
            warnings.warn(
                f"{cut:.0%} of what is shown {f'as {name!r} ' if name else ''}lies beyond clip_obs of VecNormalize and "
                f"is cut, as its statistics are of {moments.count:.0f} observations unlike these: give it a new "
                "VecNormalize, which takes them from the demonstrations, or let it see more of the environment first",
                stacklevel=3,
            )
    return replace(demonstrations, observations=shown)
