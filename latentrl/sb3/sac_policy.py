"""Multimodal policies for stable-baselines3's own SAC, and for sb3-contrib's TQC where that is installed."""

from importlib.util import find_spec
from typing import Any

from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.sac.policies import CnnPolicy, MultiInputPolicy, SACPolicy
from torch import Tensor

from latentrl.checks import at_least, for_prior, one_of, require
from latentrl.sb3.latent_actor import ExpectedCritic, ExpectedValue, MixtureActor, SemiImplicitActor
from latentrl.sb3.trunk import check_extractor

CONTINUOUS = ("gaussian", "normal")
PRIORS = ("categorical", *CONTINUOUS)


class _WithLatentActor(BasePolicy):
    """Before a policy of SAC or TQC: another actor, and a critic that can average over its components."""

    actor_kwargs: dict[str, Any]
    critic_kwargs: dict[str, Any]
    share_features_extractor: bool
    critic_class: type[ExpectedValue]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *args: Any,
        prior: str = "normal",
        latent_dim: int | None = None,
        num_samples: int | None = None,
        n_components: int | None = None,
        latent_spread: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self._latent_options: dict[str, Any] = {
            "prior": one_of("prior", prior, PRIORS),
            "latent_dim": for_prior("latent_dim", latent_dim, 4, prior, *CONTINUOUS),
            "num_samples": for_prior("num_samples", num_samples, 8, prior, *CONTINUOUS),
            "n_components": for_prior("n_components", n_components, 4, prior, "categorical"),
            "latent_spread": at_least("latent_spread", latent_spread, 0.0),
        }
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        check_extractor(self)
        own = {name: value for name, value in self._latent_options.items() if value is not None}
        actor: type[Any] = SemiImplicitActor
        if own["prior"] == "categorical":
            actor = MixtureActor
            del own["prior"]
        return actor(**self._update_features_extractor(self.actor_kwargs, features_extractor), **own).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        return self.critic_class(**self._update_features_extractor(self.critic_kwargs, features_extractor)).to(
            self.device
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            **self._latent_options,
            "share_features_extractor": self.share_features_extractor,  # which the parent forgets
        }


class LatentSACPolicy(_WithLatentActor, SACPolicy):
    """π(a|s) = ∫ p(a|s,z) p(z|s) dz, a squashed Gaussian given z, in place of the one squashed Gaussian of SAC.

    ``SAC("LatentPolicy", env)`` works once ``latentrl.sb3`` is imported; the algorithm, its arguments and target
    networks are stable-baselines3's. The entropy that SAC rewards and its temperature aims at is

    - for a continuous latent a lower bound of the policy's (:class:`~latentrl.sb3.latent_actor.SemiImplicitActor`);
    - for a categorical one without bias (:class:`~latentrl.sb3.latent_actor.MixtureActor`); then the critic takes the
      expectation over components in the actor's loss.

    A new z is drawn at each step; to hold one over several steps is what ``LatentNoiseWrapper`` is for.
    ``deterministic=True`` plays a mode of the policy: of a continuous latent the likeliest among the mean actions of
    ``num_samples + 1`` fixed latents, of a categorical one the mean of the heaviest component.

    :param prior: "normal", z ~ N(0, I); "gaussian", a learned p(z|s); "categorical", one of K components
    :param latent_dim: Z, of a continuous latent; 4
    :param num_samples: fresh latents per state that estimate the density, for a continuous latent; 8
    :param n_components: K, of a categorical latent; 4
    :param latent_spread: standard deviation in which mean actions, before the tanh, differ between latents at first
    :param kwargs: of the parent, without what belongs to gSDE
    :raises LatentRLError: gSDE; actions without finite bounds; an unknown prior, or what it has no use for; numbers out
        of range; observations with parts
    """

    critic_class: type[ExpectedValue] = ExpectedCritic


class LatentSACCnnPolicy(LatentSACPolicy, CnnPolicy):
    """:class:`LatentSACPolicy` for pictures, with stable-baselines3's NatureCNN."""


class LatentSACMultiInputPolicy(LatentSACPolicy, MultiInputPolicy):
    """:class:`LatentSACPolicy` for Dict observations, with stable-baselines3's CombinedExtractor."""


SAC.policy_aliases.update(
    LatentPolicy=LatentSACPolicy,
    LatentCnnPolicy=LatentSACCnnPolicy,
    LatentMultiInputPolicy=LatentSACMultiInputPolicy,
)

if find_spec("sb3_contrib") is not None:
    from sb3_contrib import TQC
    from sb3_contrib.tqc import policies as tqc

    class ExpectedQuantiles(ExpectedValue, tqc.Critic):
        """The critic of TQC: the algorithm averages quantiles in the actor's loss, so they may be averaged over k."""

        def expected(self, weights: Float[Tensor, "B K"], values: Float[Tensor, "C B K Q"]) -> Tensor:
            return (weights.unsqueeze(-1) * values).sum(2).movedim(0, 1)

    class LatentTQCPolicy(_WithLatentActor, tqc.TQCPolicy):
        """:class:`LatentSACPolicy` for sb3-contrib's TQC."""

        critic_class: type[ExpectedValue] = ExpectedQuantiles

    class LatentTQCCnnPolicy(LatentTQCPolicy, tqc.CnnPolicy):
        """:class:`LatentTQCPolicy` for pictures."""

    class LatentTQCMultiInputPolicy(LatentTQCPolicy, tqc.MultiInputPolicy):
        """:class:`LatentTQCPolicy` for Dict observations."""

    TQC.policy_aliases.update(
        LatentPolicy=LatentTQCPolicy,
        LatentCnnPolicy=LatentTQCCnnPolicy,
        LatentMultiInputPolicy=LatentTQCMultiInputPolicy,
    )


def __getattr__(name: str) -> Any:
    if name.startswith("LatentTQC"):
        require("sb3_contrib", "contrib")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
