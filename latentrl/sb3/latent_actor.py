"""Actors of SAC with a latent, π(a|s) = ∫ p(a|s,z) p(z|s) dz with a squashed Gaussian given z, and critics for them."""

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3.common.policies import BaseModel, ContinuousCritic
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, Actor
from torch import Tensor, nn
from torch.nn import functional as F

from latentrl.checks import LatentRLError
from latentrl.distributions import DiagonalNormal, GaussianMixture
from latentrl.priors import GaussianPrior, StandardNormalPrior


def bounded(space: spaces.Space[Any]) -> int:
    """Number of actions A in a space that (−1, 1)ᴬ can be stretched to; otherwise raise."""
    if not isinstance(space, spaces.Box):
        raise LatentRLError(f"actions must be a Box, but the space is {space}: take PPO or A2C with a MixturePolicy")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise LatentRLError(
            f"squashed actions need finite bounds, but the space is {space}: give the environment a bounded Box, for "
            "example by a gymnasium.ActionWrapper"
        )
    return int(np.prod(space.shape))


def log_slope(u: Float[Tensor, "*b A"]) -> Float[Tensor, "*b"]:
    """log det of d tanh(u)/du = Σ 2(log 2 − u − softplus(−2u)), exact in the tails, where 1 − tanh² underflows."""
    return 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u)).sum(-1)


class LatentInput(nn.Module):
    """Where a latent enters an actor: the last hidden layer, before its activation, and the actions, before the tanh.

    So late that the layers before need not be computed again for each of several latents. What comes to the actions
    directly is wide from the start: latents that begin alike in what they do stay alike.

    :param latent_dim: Z
    :param hidden_dim: size of the last hidden layer, or of the features where there is none
    :param action_dim: A
    :param spread: standard deviation, over latents, of what comes to the actions at first
    """

    def __init__(self, latent_dim: int, hidden_dim: int, action_dim: int, spread: float) -> None:
        super().__init__()
        self.to_hidden: nn.Linear = nn.Linear(latent_dim, hidden_dim, bias=False)
        self.to_actions: nn.Linear = nn.Linear(latent_dim, action_dim, bias=False)
        nn.init.normal_(self.to_actions.weight, std=spread / math.sqrt(latent_dim))


class LatentActor(Actor):
    """What both kinds share: the parent's layers, bounded actions, no gSDE.

    :param latent_spread: standard deviation in which mean actions, before the tanh, differ between latents at first
    :raises LatentRLError: gSDE; actions without bounds
    """

    def __init__(self, *args: Any, latent_spread: float, **kwargs: Any) -> None:
        if kwargs.get("use_sde"):
            raise LatentRLError(
                "gSDE explores by the noise of one Gaussian, which a latent policy is not: leave use_sde at False"
            )
        super().__init__(*args, **kwargs)
        self.action_dim: int = bounded(self.action_space)
        self.hidden_dim: int = self.net_arch[-1] if self.net_arch else int(self.features_dim)
        self.latent_spread = latent_spread

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "latent_spread": self.latent_spread}

    def _before_activation(self, obs: PyTorchObs) -> Float[Tensor, "B H"]:
        """What goes into the activation of the last hidden layer."""
        return self.latent_pi[:-1](self.extract_features(obs, self.features_extractor))


class SemiImplicitActor(LatentActor):
    """A continuous latent. The log-probability is an estimate with a sign, log π̂ = log Σ_j p(a|s,z_j) / (K + 1).

    z_0 is the latent that a was drawn from, z_1 … z_K are fresh. Then E[log π̂] ≥ E[log π]: −log π̂ is a lower bound of
    the entropy, tighter with larger K (Yin & Zhou 2018, section 2; Titsias & Ruiz 2019), and credits the latent with
    log(K + 1) nats at most. Without z_0 it would be an upper bound, which an optimiser makes as loose as it likes.

    ``deterministic=True`` plays, of the mean actions of K + 1 latents that were drawn once for all, the one where π̂ is
    largest, before the tanh, whose slope would favour the bounds. The mean latent would not do: it lies between latents
    that do different things. Weights of an agent with another K bring their own latents along.

    :param latent_dim: Z
    :param prior: "normal", N(0, I); "gaussian", N(μ(s), diag σ²(s)) read off the last hidden layer
    :param num_samples: K
    """

    fixed_noise: Tensor

    def __init__(self, *args: Any, latent_dim: int, prior: str, num_samples: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.latent_dim: int = latent_dim
        self.num_samples: int = num_samples
        self.prior_name: str = prior
        self.prior: StandardNormalPrior | GaussianPrior = (
            StandardNormalPrior(latent_dim) if prior == "normal" else GaussianPrior(latent_dim, self.hidden_dim, ())
        )
        self.latent: LatentInput = LatentInput(latent_dim, self.hidden_dim, self.action_dim, self.latent_spread)
        self.register_buffer("fixed_noise", torch.randn(num_samples + 1, 1, latent_dim))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"latent_dim": self.latent_dim, "prior": self.prior_name, "num_samples": self.num_samples}
        return {**super()._get_constructor_parameters(), **own}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """The latents to play by come with the weights, however many: ``num_samples`` is no part of the network."""
        saved, own = state_dict.get(f"{prefix}fixed_noise"), self.fixed_noise
        if saved is not None and len(saved) != len(own) and saved.shape[1:] == own.shape[1:]:
            self.fixed_noise = own.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def given(self, before: Float[Tensor, "B H"], noise: Float[Tensor, "S B Z"]) -> DiagonalNormal:
        """p(u|s, z) of actions before the tanh, at the latents that the prior makes of standard normal noise."""
        prior = self.prior(self.latent_pi[-1:](before))
        return self.law_of(before, torch.addcmul(prior.loc, prior.scale, noise))

    def law_of(self, before: Float[Tensor, "B H"], z: Float[Tensor, "*s B Z"]) -> DiagonalNormal:
        """p(u|s, z) of actions before the tanh."""
        assert isinstance(self.mu, nn.Linear)
        assert isinstance(self.log_std, nn.Linear)
        # Few copies of what is as wide as the hidden layer: of many latents, their memory takes most of the time.
        z = z.expand(*torch.broadcast_shapes(before.shape[:-1], z.shape[:-1]), -1)
        hidden = self.latent_pi[-1:](F.linear(z, self.latent.to_hidden.weight).add_(before))
        weight, bias = (torch.cat(both) for both in zip(self.mu.parameters(), self.log_std.parameters(), strict=True))
        mean, log_std = F.linear(hidden, weight, bias).tensor_split(2, -1)
        scale = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp()
        return DiagonalNormal(mean + self.latent.to_actions(z), scale)

    def action_log_prob(self, obs: PyTorchObs) -> tuple[Float[Tensor, "B A"], Float[Tensor, " B"]]:
        before = self._before_activation(obs)
        law = self.given(before, before.new_empty(self.num_samples + 1, len(before), self.latent_dim).normal_())
        u = torch.addcmul(law.loc[0], law.scale[0], torch.randn_like(law.loc[0]))
        log_prob = law.log_prob(u).logsumexp(0) - math.log(self.num_samples + 1)
        return u.tanh(), log_prob - log_slope(u)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Float[Tensor, "B A"]:
        before = self._before_activation(obs)
        if not deterministic:
            return self.given(before, before.new_empty(1, len(before), self.latent_dim).normal_()).rsample()[0].tanh()
        law = self.given(before, self.fixed_noise)
        density = law.log_prob(law.loc.unsqueeze(1)).logsumexp(1)  # (K + 1, B), of each mean under all
        return law.loc[density.argmax(0), torch.arange(len(before), device=before.device)].tanh()


class MixtureActor(LatentActor):
    """A categorical latent, summed out: a mixture of squashed Gaussians with exact density.

    Its weights cannot learn from one action per state: how good the others would have been is not in it. So all K
    components draw one each, and the log-probability that comes back is Σ_k p(k|s) log π(a_k|s), whose expectation is
    that of log π(a|s). The action is one of these, drawn with p(k|s); while gradients are recorded it carries p(k|s)
    and all a_k along, and critics with :class:`ExpectedValue` take the expectation over k. Implicit reparameterization
    would do with one action, but moves mass from one mode to the other through the gap between them, at gradients of
    the inverse density there.

    ``deterministic=True`` plays the mean of the heaviest component.

    :param n_components: K
    """

    mu: nn.Linear

    def __init__(self, *args: Any, n_components: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.n_components = n_components
        self.mu = nn.Linear(self.hidden_dim, n_components * self.action_dim)
        self.log_std: nn.Linear = nn.Linear(self.hidden_dim, n_components * self.action_dim)  # type: ignore[assignment]
        self.logits: nn.Linear = nn.Linear(self.hidden_dim, n_components)
        if n_components > 1:
            with torch.no_grad():
                self.mu.bias.add_(self.latent_spread * torch.randn_like(self.mu.bias))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "n_components": self.n_components}

    def law(self, obs: PyTorchObs) -> GaussianMixture:
        """p(u|s) of actions before the tanh."""
        return self.law_of(self._before_activation(obs))

    def law_of(self, before: Float[Tensor, "B H"]) -> GaussianMixture:
        """The same, from what goes into the activation of the last hidden layer."""
        hidden = self.latent_pi[-1:](before)
        shape = (self.n_components, self.action_dim)
        scale = self.log_std(hidden).clamp(LOG_STD_MIN, LOG_STD_MAX).exp().unflatten(-1, shape)
        return GaussianMixture(self.logits(hidden), self.mu(hidden).unflatten(-1, shape), scale)

    def action_log_prob(self, obs: PyTorchObs) -> tuple[Float[Tensor, "B A"], Float[Tensor, " B"]]:
        law = self.law(obs)
        weights = law.log_weights.exp()
        u = law.components.rsample().movedim(1, 0)  # (K, B, A)
        log_prob = (weights * (law.log_prob(u) - log_slope(u)).mT).sum(-1)
        choices = u.tanh().movedim(0, 1)
        drawn = weights.detach().multinomial(1).squeeze(1)
        actions = choices[torch.arange(len(drawn), device=drawn.device), drawn]
        if torch.is_grad_enabled():
            actions.latent_choices = (weights, choices)  # type: ignore[attr-defined]
        return actions, log_prob

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Float[Tensor, "B A"]:
        law = self.law(obs)
        return (law.mode if deterministic else law.sample()).tanh()


class ExpectedValue(BaseModel):
    """Before one of stable-baselines3's critics: values of the actions of a :class:`MixtureActor`, averaged over k."""

    q_networks: Any
    share_features_extractor: bool

    def forward(self, obs: PyTorchObs, actions: Tensor) -> Any:
        latent_choices = getattr(actions, "latent_choices", None)
        if latent_choices is None:
            return super().forward(obs, actions)
        weights, choices = latent_choices
        # As in the parent: a shared extractor learns from the actor alone.
        with torch.set_grad_enabled(not self.share_features_extractor):
            features = self.extract_features(obs, self.features_extractor)  # type: ignore[arg-type]
        pairs = torch.cat([features.unsqueeze(1).expand(-1, choices.shape[1], -1), choices], -1)
        return self.expected(weights, torch.stack([network(pairs) for network in self.q_networks]))

    def expected(self, weights: Float[Tensor, "B K"], values: Float[Tensor, "C B K Q"]) -> Any:
        """Average over k, in the parent's form, of the values that C networks give to each action."""
        raise NotImplementedError


class ExpectedCritic(ExpectedValue, ContinuousCritic):
    """The critic of SAC: E_k of the least value, as the algorithm takes the least of what comes back."""

    def expected(self, weights: Float[Tensor, "B K"], values: Float[Tensor, "C B K 1"]) -> tuple[Tensor, ...]:
        return ((weights.unsqueeze(-1) * values.amin(0)).sum(1),)
