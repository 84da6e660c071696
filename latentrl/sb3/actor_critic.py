"""A policy with a latent for PPO and A2C: π(a, z|s) = p(z|s) p(a|s, z), with z held over time.

:class:`~latentrl.sb3.on_policy.LatentPPO` and ``LatentA2C`` store z beside the log-probability, so that the ratio of
new to old policy is that of the joint law of actions and latents.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn
from torch.distributions import Distribution as Law

from latentrl.checks import LatentRLError, at_least, count, dimension, for_prior, one_of
from latentrl.distributions import OneHots
from latentrl.priors import CategoricalPrior, GaussianPrior, MixturePrior, Prior, StandardNormalPrior
from latentrl.sb3.held import RolloutLatents, State, WithLatent, carry, check_observation, checked, due, given
from latentrl.sb3.mixture_heads import mixture_of, unless_zero
from latentrl.sb3.trunk import check_extractor

PRIORS = ("normal", "gaussian", "mixture", "categorical")


class LatentActorCriticPolicy(ActorCriticPolicy):
    """p(z|s) p(a|s, z) in place of stable-baselines3's p(a|s), for LatentPPO and LatentA2C.

    The action's law given z is the parent's, for Box, Discrete, MultiDiscrete and MultiBinary actions; so are all other
    arguments. The value function sees a z that is held, and of ``hold = k`` for how much longer it is. Where z is drawn
    it sees that alone, as what the choice of z is measured by must not depend on it. The log-probability is that of
    (a, z): log p(a|s, z), and log p(z|s) where z was drawn. The entropy is a lower bound of that of π(a|s), so that
    ``ent_coef`` rewards latents which do different things; of the joint law it would not.

    ``predict`` carries (z, steps since it was drawn) as recurrent state, like :class:`LatentPolicy`;
    ``deterministic=True`` takes the mode of the prior's heaviest component and the mode of p(a|s, z).

    :param net_arch: as in the parent, but of pictures, too, None is two hidden layers of 64: with none, as there, each
        latent would move the actions of all states alike
    :param latent_dim: Z; of a categorical prior, the number of choices
    :param hold: 0 holds z for the episode, k for k steps
    :param prior: "normal", N(0, I); "gaussian", "mixture" or "categorical", learned and read off the state's features
    :param n_components: of a mixture prior; 4
    :param num_samples: K, latents by which the entropy is bounded; a categorical one is summed out
    :param latent_scale: of the weights by which z enters the policy's first layer, beside those of the features, before
        it learns. Where nothing is gained by z, small ones keep it from being noise that has to be unlearned
    :param kwargs: of the parent, without what belongs to gSDE
    :raises LatentRLError: gSDE; sizes < 1, a negative hold or scale; an unknown prior, or components
        for one that has none; observations that it does not read
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        *args: Any,
        latent_dim: int = 8,
        hold: int = 0,
        prior: str = "normal",
        n_components: int | None = None,
        num_samples: int = 8,
        latent_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.latent_dim: int = dimension("latent_dim", latent_dim)
        self.hold: int = count("hold", hold, 0)
        self.prior_name: str = one_of("prior", prior, PRIORS)
        self.n_components: int | None = for_prior("n_components", n_components, 4, prior, "mixture")
        self.num_samples: int = dimension("num_samples", num_samples)
        self.latent_scale: float = at_least("latent_scale", latent_scale, 0.0)
        self._rollout: RolloutLatents | None = None
        if net_arch is None:
            net_arch = {"pi": [64, 64], "vf": [64, 64]}
        super().__init__(observation_space, action_space, lr_schedule, net_arch, *args, **kwargs)

    # -- networks ------------------------------------------------------------------------------------------------

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        check_extractor(self)
        return super().make_features_extractor()

    def _build(self, lr_schedule: Schedule) -> None:
        if self.use_sde:
            raise LatentRLError("gSDE and a latent both explore by noise that is held: leave use_sde at False")
        # stable-baselines3 gives a number of NumPy for choices.
        self.prior: Prior = self._make_prior(int(self.features_dim))
        super()._build(lr_schedule)
        layers = [*self.mlp_extractor.policy_net, self.action_net]
        first = next(layer for layer in layers if isinstance(layer, nn.Linear))
        first.weight.data[:, -self.latent_dim :] *= self.latent_scale

    def _make_prior(self, features_dim: int) -> Prior:
        if self.prior_name == "normal":
            return StandardNormalPrior(self.latent_dim)
        if self.prior_name == "gaussian":
            return GaussianPrior(self.latent_dim, features_dim, (64, 64))
        if self.n_components is not None:
            return MixturePrior(self.latent_dim, self.n_components, True, features_dim, (64, 64))
        return CategoricalPrior(self.latent_dim, 1, True, features_dim, (64, 64))

    def _build_mlp_extractor(self) -> None:
        def extractor(features: int) -> MlpExtractor:
            return MlpExtractor(features, self.net_arch, self.activation_fn, self.device)

        self.mlp_extractor: MlpExtractor = extractor(self.features_dim + self.latent_dim)
        # A latent that is drawn anew at each step says nothing of what is to come.
        valued = extractor(self.features_dim + (0 if self.hold == 1 else self.latent_dim + 1))
        self.mlp_extractor.value_net, self.mlp_extractor.latent_dim_vf = valued.value_net, valued.latent_dim_vf

    def _features(self, obs: PyTorchObs) -> tuple[Tensor, Tensor]:
        """For the policy and for the value function."""
        features = self.extract_features(obs)
        return features if isinstance(features, tuple) else (features, features)

    def features_of(self, obs: PyTorchObs) -> Tensor:
        """What the policy sees of observations."""
        return self._features(obs)[0]

    def _law(self, features: Tensor) -> Law:
        """p(z|s), batch_shape (B,)."""
        return self.prior(features).expand(features.shape[:1])

    def acts(self, features: Tensor, z: Tensor) -> Distribution:
        """p(a|s, z)."""
        return self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(torch.cat([features, z], -1)))

    def entropy_bound(self, features: Tensor, law: Law | None = None) -> Float[Tensor, " B"]:
        """At most the entropy of π(a|s), on average over latents: that of the mixture of p(a|s, z) over K draws of z.

        Entropy is concave in the law, so that a mixture over draws has less of it than over all z. Where z is finite,
        all of it is listed, and the weights are p(z|s).
        """
        law = self._law(features) if law is None else law
        if isinstance(law, OneHots):
            z = law.enumerate_support(expand=False).movedim(0, 1).expand(len(features), -1, -1)
            weights = law.logits
        else:
            draw = law.rsample if law.has_rsample else law.sample
            z = draw((self.num_samples,)).movedim(0, 1)
            weights = z.new_zeros(z.shape[:2])
        many = features.unsqueeze(1).expand(-1, z.shape[1], -1)
        outputs = self.action_net(self.mlp_extractor.forward_actor(torch.cat([many, z], -1)))
        scale = [self.log_std.expand(z.shape[1], -1)] if isinstance(self.action_dist, DiagGaussianDistribution) else []
        mixture = mixture_of(self.action_dist, z.shape[1])
        return mixture.proba_distribution(torch.cat([weights, outputs.flatten(1)], -1), *scale).entropy()  # type: ignore[return-value]

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        # The law is set in a copy: with one that holds a graph, the policy could not be copied.
        kept, self.action_dist = self.action_dist, copy.copy(self.action_dist)
        try:
            return super()._get_action_dist_from_latent(latent_pi)
        finally:
            self.action_dist: Distribution = kept

    def _left(self, age: Tensor) -> Float[Tensor, " B"]:
        """What :class:`WithLatent` says of latents by the steps since they were drawn (B, 1)."""
        held = age * 0.0 if self.hold == 0 else (1.0 - age / self.hold).clamp_max(0.999999)  # also of holds beyond 2²⁴
        return torch.where(age == 0, 1.0, held).squeeze(-1)

    def _value(self, features: Tensor, z: Tensor, left: Tensor) -> Tensor:
        """V(s, z) with a share of z's steps left, or V(s) where z is drawn, (B, 1)."""
        left = left.unsqueeze(-1)
        # A baseline that sees the chosen z takes away from log p(z|s) what z is worth, and its gradient is noise.
        seen = features if self.hold == 1 else torch.cat([features, torch.where(left == 1.0, 0.0, z), left], -1)
        return self.value_net(self.mlp_extractor.forward_critic(seen))

    # -- while it learns -----------------------------------------------------------------------------------------

    @contextmanager
    def collecting(self, rollout: RolloutLatents) -> Iterator[None]:
        """Latents are held in ``rollout`` while the block runs; ``predict`` is not affected."""
        self._rollout = rollout
        try:
            yield
        finally:
            self._rollout = None

    def _rollout_of(self, features: Tensor) -> RolloutLatents | None:
        """The rollout that is collected; None where these are of other environments, as a callback asks for."""
        return self._rollout if self._rollout is not None and len(self._rollout.starts) == len(features) else None

    def __getstate__(self) -> dict[str, Any]:
        """Of copies, which hold no latents of the rollout that the original collects."""
        return {**self.__dict__, "_rollout": None}

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, values and log-probabilities (B,).

        While rollouts are collected, the latter are (B, 2 + Z): log-probability, the share of z's steps that are left,
        z. ``deterministic=True`` plays as ``predict`` does, but for latents of the rollout.
        """
        features, for_value = self._features(obs)
        law, rollout = cache(partial(self._law, features)), self._rollout_of(features)
        if rollout is None:
            z = law().mode if deterministic else law().sample()
            age, new = torch.zeros(len(z), 1, dtype=torch.int64, device=z.device), z.new_ones(len(z), 1).bool()
        else:
            z, age, new = rollout.now(law, self.hold)
        acts = self.acts(features, z)
        actions = acts.get_actions(deterministic=deterministic)
        log_prob, left = acts.log_prob(actions), self._left(age)
        if new.any():
            log_prob = log_prob + new.squeeze(-1) * law().log_prob(z)
        values = self._value(for_value, z, left)
        actions = actions.reshape((-1, *self.action_space.shape))  # type: ignore[misc]
        if rollout is None:
            return actions, values, log_prob
        rollout.next = z, age + 1
        return actions, values, torch.cat([torch.stack([log_prob, left], -1), z], -1)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values, log p(a, z|s) and entropy.

        :param obs: observations with latents, from the algorithm's buffer
        :raises LatentRLError: observations alone
        """
        if not isinstance(obs, WithLatent):
            raise LatentRLError(
                "this policy needs the latents of the rollout, which the algorithm did not keep: use LatentPPO or "
                "LatentA2C of latentrl.sb3, or MixturePolicy with stable-baselines3's own"
            )
        features, for_value = self._features(obs.observations)
        law, acts = self._law(features), self.acts(features, obs.latent)
        log_prob = acts.log_prob(actions) + obs.drawn * law.log_prob(obs.latent)
        value = self._value(for_value, obs.latent, obs.left)
        return value, log_prob, unless_zero(self.entropy_bound(features, law))

    def predict_values(self, obs: Any) -> Tensor:
        """V(s, z) with the latents in force while rollouts are collected; V(s) where one is due.

        :param obs: of all environments; or with latents
        """
        if isinstance(obs, WithLatent):
            return self._value(self._features(obs.observations)[1], obs.latent, obs.left)
        features, for_value = self._features(obs)
        rollout = self._rollout_of(features) or RolloutLatents(np.ones(len(features), bool))
        z, age, _ = rollout.now(partial(self._law, features), self.hold)
        return self._value(for_value, z, self._left(age))

    def obs_to_tensor(self, observation: Any) -> Any:
        """As the parent; the last observation of an episode comes with the latent of its environment."""
        tensor, vectorized = super().obs_to_tensor(observation)
        place = getattr(observation, "environment", None)
        rollout = self._rollout
        if place is None or rollout is None or rollout.latent is None or rollout.age is None:
            return tensor, vectorized
        z, age = rollout.latent[place : place + 1], rollout.age[place : place + 1]
        return WithLatent(tensor, z, self._left(torch.where(due(age, None, self.hold), 0, age))), vectorized

    # -- while it plays ------------------------------------------------------------------------------------------

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """p(a|s, z) with new latents."""
        features = self.features_of(obs)
        return self.acts(features, self._law(features).sample())

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        features = self.features_of(observation)
        return self._play(features, self.draw(features, deterministic), deterministic)

    def draw(self, features: Tensor, deterministic: bool = False) -> Tensor:
        """z ~ p(z|s), or its mode."""
        law = self._law(features)
        return law.mode if deterministic else law.sample()

    def _play(self, features: Tensor, z: Tensor, deterministic: bool) -> Tensor:
        return self.acts(features, z).get_actions(deterministic=deterministic)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        latent: Any = None,
    ) -> tuple[np.ndarray, State | None]:
        """Actions for observations, and the state (z, age) to pass to the next call.

        :param state: what the last call returned; None where every environment starts an episode
        :param episode_start: (n_envs,) which environments start one now; None where none does
        :param latent: (Z,) or (n_envs, Z) to steer: it replaces the latent from now on, until a new one is due
        :raises LatentRLError: on a state or latent of the wrong shape, an observation that is a tuple or not finite
        """
        self.set_training_mode(False)
        check_observation(self.observation_space, observation)
        tensor, vectorized = super().obs_to_tensor(observation)
        with torch.no_grad():
            features = self.features_of(tensor)
            shape, device = (len(features), self.latent_dim), features.device
            if state is not None:
                state = checked(state, {"latent": shape, "age": (len(features), 1)})
            z, age, _ = carry(
                lambda: self.draw(features, deterministic), self.hold, state, episode_start, shape, device
            )
            z = z if latent is None else given(latent, shape, device)
            actions = self._play(features, z, deterministic).cpu().numpy()
        actions = actions.reshape((-1, *(self.action_space.shape or ())))
        if isinstance(self.action_space, spaces.Box):
            actions = np.clip(actions, self.action_space.low, self.action_space.high)
        return actions if vectorized else actions[0, ...], (z.cpu().numpy().copy(), (age + 1).cpu().numpy())

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            latent_dim=self.latent_dim,
            hold=self.hold,
            prior=self.prior_name,
            n_components=self.n_components,
            num_samples=self.num_samples,
            latent_scale=self.latent_scale,
            share_features_extractor=self.share_features_extractor,  # which the parent forgets
        )
        return data


class LatentActorCriticCnnPolicy(LatentActorCriticPolicy, ActorCriticCnnPolicy):
    """:class:`LatentActorCriticPolicy` for pictures, with stable-baselines3's NatureCNN."""


class LatentMultiInputActorCriticPolicy(LatentActorCriticPolicy, MultiInputActorCriticPolicy):
    """:class:`LatentActorCriticPolicy` for Dict observations, with stable-baselines3's CombinedExtractor."""
