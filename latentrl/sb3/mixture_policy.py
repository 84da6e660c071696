"""Multimodal policies for stable-baselines3's own PPO and A2C: a mixture whose components are summed out exactly."""

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from latentrl.checks import LatentRLError, at_least, dimension
from latentrl.sb3.mixture_heads import mixture_of
from latentrl.sb3.trunk import check_extractor


class MixtureActorCriticPolicy(ActorCriticPolicy):
    """π(a|s) = Σ_k p(k|s) p(a|s, k) in place of the Gaussian or categorical law of stable-baselines3's policy.

    ``PPO("MixturePolicy", env)`` works once ``latentrl.sb3`` is imported. Everything else, arguments and defaults too,
    is the parent's, and with one component so is the policy. Box, Discrete, MultiDiscrete and MultiBinary actions. The
    log-probability is exact. The entropy is exact for Discrete actions and for few joint ones of the other finite
    spaces; elsewhere it is a lower bound, so that ``ent_coef`` still rewards entropy.

    ``deterministic=True`` plays the mean of the heaviest component, or the likeliest of finitely many actions.

    :param n_components: K
    :param component_spread: standard deviation of the biases in which components differ at first: of their means, in
        units of the first standard deviation of an action, or of their logits. The parent's small initial weights
        would leave them alike, and what is alike learns alike
    :param kwargs: of the parent, without what belongs to gSDE
    :raises LatentRLError: gSDE; K < 1; a negative spread; observations that it does not read
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *args: Any,
        n_components: int = 4,
        component_spread: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.n_components: int = dimension("n_components", n_components)
        self.component_spread: float = at_least("component_spread", component_spread, 0.0)
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        check_extractor(self)
        return super().make_features_extractor()

    def _build(self, lr_schedule: Schedule) -> None:
        if self.use_sde:
            raise LatentRLError(
                "gSDE explores by the noise of one Gaussian, which a mixture is not: leave use_sde at False, or take "
                "n_components=1 with stable-baselines3's own policy"
            )
        self.action_dist: Distribution = mixture_of(self.action_dist, self.n_components)
        super()._build(lr_schedule)
        self._set_components_apart()

    def _set_components_apart(self) -> None:
        assert isinstance(self.action_net, nn.Linear)
        if self.n_components == 1:
            return
        unit = getattr(self, "log_std", torch.zeros(())).detach().exp()
        with torch.no_grad():
            components = self.action_net.bias[self.n_components :].unflatten(0, (self.n_components, -1))
            components += self.component_spread * unit * torch.randn_like(components)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            n_components=self.n_components,
            component_spread=self.component_spread,
            share_features_extractor=self.share_features_extractor,  # which the parent forgets
        )
        return data


class MixtureActorCriticCnnPolicy(MixtureActorCriticPolicy, ActorCriticCnnPolicy):
    """:class:`MixtureActorCriticPolicy` for pictures, with stable-baselines3's NatureCNN."""


class MixtureMultiInputActorCriticPolicy(MixtureActorCriticPolicy, MultiInputActorCriticPolicy):
    """:class:`MixtureActorCriticPolicy` for Dict observations, with stable-baselines3's CombinedExtractor."""


for _algorithm in (PPO, A2C):
    _algorithm.policy_aliases.update(
        MixturePolicy=MixtureActorCriticPolicy,
        MixtureCnnPolicy=MixtureActorCriticCnnPolicy,
        MixtureMultiInputPolicy=MixtureMultiInputActorCriticPolicy,
    )
