"""Multimodal policies for stable-baselines3's own TD3 and DDPG: actions are a function of the state and of a latent."""

from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3 import TD3
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.td3.policies import Actor, CnnPolicy, MultiInputPolicy, TD3Policy
from torch import Tensor

from latentrl.checks import at_least, dimension
from latentrl.sb3.latent_actor import LatentInput, bounded
from latentrl.sb3.trunk import check_extractor


class LatentTD3Actor(Actor):
    """a = tanh(net(s, z)), z ~ N(0, I) drawn in each forward pass.

    ``deterministic=True`` takes one latent that was drawn once for all. The mean latent would not do: it lies between
    latents that do different things.

    :param latent_dim: Z
    :param latent_spread: standard deviation in which actions, before the tanh, differ between latents at first
    """

    fixed_latent: Tensor

    def __init__(self, *args: Any, latent_dim: int, latent_spread: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.latent_dim: int = dimension("latent_dim", latent_dim)
        self.latent_spread: float = at_least("latent_spread", latent_spread, 0.0)
        hidden_dim = self.net_arch[-1] if self.net_arch else self.features_dim
        self.latent: LatentInput = LatentInput(latent_dim, hidden_dim, bounded(self.action_space), self.latent_spread)
        self.register_buffer("fixed_latent", torch.randn(1, latent_dim))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"latent_dim": self.latent_dim, "latent_spread": self.latent_spread}
        return {**super()._get_constructor_parameters(), **own}

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Float[Tensor, "B A"]:
        features = self.extract_features(obs, self.features_extractor)
        z = self.fixed_latent if deterministic else features.new_empty(len(features), self.latent_dim).normal_()
        return self.given(features, z)

    def given(self, features: Float[Tensor, "B H"], z: Float[Tensor, "*s B Z"]) -> Float[Tensor, "*s B A"]:
        """Actions for given latents."""
        # The latent enters before the last hidden activation, the linear layer and the tanh.
        last = -3 if self.net_arch else -2
        before = self.mu[:last](features) + self.latent.to_hidden(z)
        return (self.mu[last:-1](before) + self.latent.to_actions(z)).tanh()

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self(observation, deterministic)


class LatentTD3Policy(TD3Policy):
    """π(a|s) = ∫ δ(a − μ(s, z)) p(z) dz, z ~ N(0, I), in place of the one action of TD3.

    ``TD3("LatentPolicy", env)`` and ``DDPG("LatentPolicy", env)`` work once ``latentrl.sb3`` is imported; the
    algorithms, their arguments and target networks are stable-baselines3's. The actor is trained on, and the target
    actor takes next actions of, latents drawn for each state. Nothing rewards entropy: latents explore in different
    directions, but may end in one of several equally good actions. Where modes must be kept, take
    :class:`~latentrl.sb3.sac_policy.LatentSACPolicy`.

    A new z is drawn at each step; to hold one over several steps is what ``LatentNoiseWrapper`` is for.
    ``deterministic=True``, which the parent ignores, plays one latent that was drawn once for all.

    :param latent_dim: Z
    :param latent_spread: standard deviation in which actions, before the tanh, differ between latents at first
    :param kwargs: of the parent
    :raises LatentRLError: actions without finite bounds; numbers out of range; observations with parts
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *args: Any,
        latent_dim: int = 4,
        latent_spread: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self._latent_options: dict[str, Any] = {"latent_dim": latent_dim, "latent_spread": latent_spread}
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> LatentTD3Actor:
        check_extractor(self)
        actor_kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return LatentTD3Actor(**actor_kwargs, **self._latent_options).to(self.device)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self.actor(observation, deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self._latent_options}


class LatentTD3CnnPolicy(LatentTD3Policy, CnnPolicy):
    """:class:`LatentTD3Policy` for pictures, with stable-baselines3's NatureCNN."""


class LatentTD3MultiInputPolicy(LatentTD3Policy, MultiInputPolicy):
    """:class:`LatentTD3Policy` for Dict observations, with stable-baselines3's CombinedExtractor."""


# DDPG's short names are those of TD3.
TD3.policy_aliases.update(
    LatentPolicy=LatentTD3Policy,
    LatentCnnPolicy=LatentTD3CnnPolicy,
    LatentMultiInputPolicy=LatentTD3MultiInputPolicy,
)
