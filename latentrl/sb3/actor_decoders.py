"""Actors of SAC, TQC, TD3 and DDPG as decoders: the likelihood that each gives to actions that it was shown."""

import math
from typing import Any

import torch
from jaxtyping import Float
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from stable_baselines3.td3.policies import Actor as TD3Actor
from torch import Tensor, nn
from torch.distributions import Distribution

from latentrl.checks import LatentRLError
from latentrl.decoders import Decoder
from latentrl.distributions import DiagonalNormal, GaussianMixture
from latentrl.distributions.gaussian import HALF_LOG_2PI
from latentrl.distributions.law import Law
from latentrl.priors import Prior, StandardNormalPrior
from latentrl.sb3.latent_actor import MixtureActor, SemiImplicitActor
from latentrl.sb3.td3_policy import LatentTD3Actor

EDGE = 0.99
"""Actions beyond this part of the way to their bounds count as being there: up to it a tanh is not saturated, and what
was cloned can still be improved."""
FAR = -300.0
"""From which on log Φ(x) is its asymptote −x²/2 − log(−x √2π), up to 1/x²."""
SPREAD = 0.1
"""Standard deviation, in half widths of the action box, that TD3's one action is given: as much noise as is usually
added to explore."""


class Squashed(Law):
    """The law of ``center + half_width · tanh(u)``, where what lies beyond :data:`EDGE` is seen as the bound.

    An action inside has the density of tanh(u), one at a bound the probability of being there, as in a censored
    regression (Tobin 1958). The density alone would have no maximum where actions stay at a bound, and the further
    into the tail they were moved, the more they would count.

    :param law: of u, with batch_shape (...) and event_shape (A,)
    :param low: lower corner of the box, (A,)
    :param high: upper corner of the box, (A,)
    """

    def __init__(self, law: GaussianMixture, low: Tensor, high: Tensor) -> None:
        self.law: GaussianMixture = law
        self.low: Tensor = low
        self.high: Tensor = high
        super().__init__(law.batch_shape, law.event_shape)

    def _squash(self, u: Tensor) -> Tensor:
        return torch.lerp(self.low, self.high, (2.0 * u).sigmoid())

    @property
    def mode(self) -> Tensor:
        """Image of the heaviest component's mean, which is what a deterministic actor plays."""
        return self._squash(self.law.mode)

    def sample_mode(self) -> Tensor:
        return self._squash(self.law.sample_mode())

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self._squash(self.law.sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        half_width = 0.5 * (self.high - self.low)
        ratio = (value - self.low) / half_width - 1.0
        inner = ratio.clamp(-EDGE, EDGE)
        log_slope = torch.log1p(-inner.square()) + half_width.log()
        u = inner.atanh().unsqueeze(-2)
        whitened = (u - self.law.loc) / self.law.scale
        inside = -0.5 * whitened.square() - self.law.scale.log() - HALF_LOG_2PI - log_slope.unsqueeze(-2)
        beyond = _log_ndtr(-u.sign() * whitened)
        at_bound = (ratio.abs() >= EDGE).unsqueeze(-2)
        return (self.law.log_weights + torch.where(at_bound, beyond, inside).sum(-1)).logsumexp(-1)


def _log_ndtr(x: Tensor) -> Tensor:
    """log Φ(x), of which torch's has a wrong slope in float32, in the end an infinite one, far below 0."""
    tail = x.clamp(max=FAR)
    return torch.where(
        x < FAR, -0.5 * tail.square() - (-tail).log() - HALF_LOG_2PI, torch.special.log_ndtr(x.clamp(min=FAR))
    )


class OffPolicyDecoder(Decoder):
    """p(a|s, z) by the actor of an off-policy algorithm, whose weights it has.

    SAC, TQC: :class:`Squashed`. TD3, DDPG: a Gaussian of :data:`SPREAD` around their one action, so that maximum
    likelihood is least squares.

    :param actor: of a policy
    :param low: lower corner of the box of actions, in the units in which they are given, (A,)
    :param high: upper corner
    :raises LatentRLError: gSDE; an actor of another kind
    """

    actor: Any
    low: Tensor
    high: Tensor

    def __init__(self, actor: nn.Module, low: Float[Tensor, " A"], high: Float[Tensor, " A"]) -> None:
        super().__init__()
        if getattr(actor, "use_sde", False):
            raise LatentRLError("gSDE holds its noise over steps, which cloning does not know: leave use_sde at False")
        squashed = isinstance(getattr(actor, "action_dist", None), SquashedDiagGaussianDistribution)
        if not squashed and not isinstance(actor, TD3Actor):
            raise LatentRLError(
                f"actions are cloned by the actors of SAC, TQC, TD3 and DDPG, not by {type(actor).__qualname__} of "
                f"{type(actor).__module__}"
            )
        self.actor = actor
        self.latent_dim: int = actor.latent_dim if isinstance(actor, SemiImplicitActor | LatentTD3Actor) else 0
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, observations: Float[Tensor, "*b H"], z: Float[Tensor, "*s B Z"]) -> Distribution:
        """As any decoder; ``observations`` are features, those that the actor's extractor makes."""
        actor = self.actor
        if not isinstance(actor, TD3Actor):
            return Squashed(self._before_tanh(observations, z), self.low, self.high)
        action = actor.given(observations, z) if isinstance(actor, LatentTD3Actor) else actor.mu(observations)
        half_width = 0.5 * (self.high - self.low)
        return DiagonalNormal(torch.lerp(self.low, self.high, 0.5 + 0.5 * action), SPREAD * half_width)

    def _before_tanh(self, features: Float[Tensor, "*b H"], z: Float[Tensor, "*s B Z"]) -> GaussianMixture:
        actor = self.actor
        if isinstance(actor, MixtureActor):
            return actor.law_of(actor.latent_pi[:-1](features))
        if isinstance(actor, SemiImplicitActor):
            law = actor.law_of(actor.latent_pi[:-1](features), z)
        else:
            hidden = actor.latent_pi(features)
            law = DiagonalNormal(actor.mu(hidden), actor.log_std(hidden).clamp(LOG_STD_MIN, LOG_STD_MAX).exp())
        loc, scale = law.loc.unsqueeze(-2), law.scale.unsqueeze(-2)
        return GaussianMixture(torch.zeros_like(loc[..., 0]), loc, scale)  # one component, which has all of the weight

    def make_prior(self) -> Prior | None:
        """p(z|s) of the actor; None where it has no latent."""
        if isinstance(self.actor, SemiImplicitActor) and self.actor.prior_name != "normal":
            return ActorPrior(self.actor)
        return StandardNormalPrior(self.latent_dim).to(self.low.device) if self.latent_dim else None


class ActorPrior(Prior):
    """p(z|s) of an actor, which reads it off the actor's last hidden layer."""

    def __init__(self, actor: SemiImplicitActor) -> None:
        super().__init__(actor.latent_dim)
        self.actor = actor

    def forward(self, observations: Float[Tensor, "B H"]) -> Distribution:
        return self.actor.prior(self.actor.latent_pi(observations))


class ShownActions(nn.Module):
    """log π(a|s) of actions that were shown, in [−1, 1]ᴬ as in a replay buffer, and in nats of that unit.

    Of an actor with a continuous latent it is log Σ_k p(a|s, z_k) / K with z_k from the prior, on average a lower
    bound, tighter with larger K.

    :param actor: of an off-policy algorithm
    :param num_samples: K
    :raises LatentRLError: gSDE; an actor of another kind
    """

    def __init__(self, actor: Any, num_samples: int = 16) -> None:
        super().__init__()
        corner = torch.ones(actor.action_space.shape, device=actor.device).flatten()
        self.decoder: OffPolicyDecoder = OffPolicyDecoder(actor, -corner, corner)
        self.prior: Prior | None = self.decoder.make_prior()
        self.num_samples: int = num_samples

    def forward(self, observations: PyTorchObs, actions: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
        actor = self.decoder.actor
        features = actor.extract_features(observations, actor.features_extractor)
        if self.prior is None:
            return self.decoder(features, features.new_empty(len(features), 0)).log_prob(actions)
        z = self.prior(features).expand((len(features),)).rsample((self.num_samples,))
        return self.decoder(features, z).log_prob(actions).logsumexp(0) - math.log(self.num_samples)
