"""Mixtures in the dress of stable-baselines3's distributions, so that its own policies can build and use them.

Each takes the place of the distribution that stable-baselines3 has for the same action space. The latent is which of K
components acts; it is summed out, so log π(a|s) = log Σ_k p(k|s) p(a|s, k) is exact and nothing need be remembered.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import Categorical

from latentrl.distributions import Bernoullis, GaussianMixture, Mixture, OneHots
from latentrl.distributions.discrete import Discrete, one_hot

LISTED = 256
"""Most joint actions of several choices that are listed, for their exact entropy and the likeliest of them."""


def _split(outputs: Float[Tensor, "*b KD"], components: int) -> tuple[Float[Tensor, "*b K"], Float[Tensor, "*b K D"]]:
    """What a linear head says: log weights, and the numbers of each component."""
    weights, numbers = outputs.tensor_split((components,), -1)
    return weights, numbers.view(*numbers.shape[:-1], components, -1)  # faster than unflatten


class _UnlessZero(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor | None:  # noqa: ARG004
        return grads[0] if grads[0].any() else None


def unless_zero(values: Tensor) -> Tensor:
    """The same values, through which a gradient of zeros does not pass, so that it costs nothing.

    Without a bonus for entropy stable-baselines3 takes zero times its gradient, which is a third of a mixture's work.
    """
    return _UnlessZero.apply(values)


class _EntropyBound(torch.autograd.Function):
    """A Gaussian mixture's, computed again where its gradient is asked for: where it is not, nothing is remembered."""

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return GaussianMixture(*parameters).entropy_lower_bound()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not grad.any():
            return None, None, None
        parameters = [parameter.detach().requires_grad_() for parameter in ctx.saved_tensors]
        with torch.enable_grad():
            bound = GaussianMixture(*parameters).entropy_lower_bound()
        return torch.autograd.grad(bound, parameters, grad)


class Mixed(Distribution):
    """Makes a new distribution at each forward pass and keeps none, so that policies can be copied and pickled."""

    distribution: Any
    n_components: int

    def _set(self, *outputs: Tensor) -> None:
        """Take the numbers that describe the law."""
        raise NotImplementedError

    def proba_distribution(self, *args: Tensor, **kwargs: Tensor) -> Self:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)  # as copy.copy, which is slower
        made._set(*args, *kwargs.values())
        return made

    def actions_from_params(self, *args: Any, **kwargs: Any) -> Tensor:
        deterministic = kwargs.pop("deterministic", False)
        return self.proba_distribution(*args, **kwargs).get_actions(deterministic)

    def log_prob_from_params(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        made = self.proba_distribution(*args, **kwargs)
        actions = made.sample()
        return actions, made.log_prob(actions)


class MixtureOfGaussians(Mixed, DiagGaussianDistribution):
    """Σ_k p(k|s) N(μ_k(s), diag σ_k²) for a Box.

    Its entropy has no closed form; :meth:`entropy` is a lower bound, so that a bonus for it is one for the entropy.

    :param action_dim: A
    :param n_components: K
    """

    def __init__(self, action_dim: int, n_components: int) -> None:
        super().__init__(action_dim)
        self.n_components = n_components

    def proba_distribution_net(self, latent_dim: int, log_std_init: float = 0.0) -> tuple[nn.Module, nn.Parameter]:
        head = nn.Linear(latent_dim, self.n_components * (1 + self.action_dim))
        return head, nn.Parameter(torch.full((self.n_components, self.action_dim), float(log_std_init)))

    def _set(self, *outputs: Tensor) -> None:
        mean_actions, log_std = outputs
        self.distribution: Any = GaussianMixture(*_split(mean_actions, self.n_components), log_std.exp())

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.distribution.log_prob(actions)

    def entropy(self) -> Tensor:
        law = self.distribution
        return _EntropyBound.apply(law.log_weights, law.loc, law.scale)

    def sample(self) -> Tensor:
        """A draw of each component, of which the first to ring is taken: few small operations, at each step."""
        log_weights, components = self.distribution.log_weights, self.distribution.components
        first = (log_weights - torch.empty_like(log_weights).exponential_().log()).argmax(-1, keepdim=True)
        place = first.unsqueeze(-1).expand(*first.shape, self.action_dim)
        return components.rsample().gather(-2, place).squeeze(-2).detach()  # cheaper than no_grad

    def mode(self) -> Tensor:
        return self.distribution.mode


class MixtureOfCategoricals(Mixed, CategoricalDistribution):
    """Σ_k p(k|s) Categorical(l_k(s)) for a Discrete space: summed out, a categorical law again, exact in everything.

    :param action_dim: number of actions
    :param n_components: K
    """

    def __init__(self, action_dim: int, n_components: int) -> None:
        super().__init__(action_dim)
        self.n_components = n_components

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        return nn.Linear(latent_dim, self.n_components * (1 + self.action_dim))

    def _set(self, *outputs: Tensor) -> None:
        weights, options = _split(outputs[0], self.n_components)
        joint = weights.log_softmax(-1).unsqueeze(-1) + options.log_softmax(-1)
        self.distribution: Any = Categorical(logits=joint.logsumexp(-2))

    def entropy(self) -> Tensor:
        return unless_zero(super().entropy())


class _MixtureOfChoices(Mixed):
    """Σ_k p(k|s) Π_f p(a_f|s, k): choices that depend on each other through k.

    Up to :data:`LISTED` joint actions, entropy and likeliest action are exact; beyond, the entropy is a lower bound,
    and the likeliest action is that of the heaviest component.
    """

    outputs: int
    """Numbers that describe one component."""

    def _components(self, options: Float[Tensor, "B K D"]) -> Discrete:
        raise NotImplementedError

    def _features(self, actions: Tensor) -> Float[Tensor, "B D"]:
        """Actions as the components know them."""
        raise NotImplementedError

    def _actions(self, features: Float[Tensor, "B D"]) -> Tensor:
        raise NotImplementedError

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        return nn.Linear(latent_dim, self.n_components * (1 + self.outputs))

    def _set(self, *outputs: Tensor) -> None:
        weights, options = _split(outputs[0], self.n_components)
        self.distribution: Any = Mixture(weights, self._components(options))

    def _listed(self) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N B"]] | None:
        """All joint actions and their log probabilities, where they are few."""
        components = self.distribution.components
        assert isinstance(components, Discrete)
        if components.support_size > LISTED:
            return None
        values = components.enumerate_support(expand=False)[:, 0]  # (N, 1, D)
        return values[:, 0], self.distribution.log_prob(values)

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.distribution.log_prob(self._features(actions))

    def entropy(self) -> Tensor:
        listed = self._listed()
        if listed is None:
            return unless_zero(self.distribution.entropy_lower_bound())
        return unless_zero(-(listed[1].exp() * listed[1]).sum(0))

    def sample(self) -> Tensor:
        return self._actions(self.distribution.sample())

    def mode(self) -> Tensor:
        listed = self._listed()
        return self._actions(self.distribution.mode if listed is None else listed[0][listed[1].argmax(0)])


class MixtureOfMultiCategoricals(_MixtureOfChoices, MultiCategoricalDistribution):
    """For a MultiDiscrete space.

    :param action_dims: number of options of each choice
    :param n_components: K
    """

    def __init__(self, action_dims: Sequence[int], n_components: int) -> None:
        MultiCategoricalDistribution.__init__(self, [int(size) for size in action_dims])
        self.n_components: int = n_components
        self.outputs: int = sum(self.action_dims)

    def _components(self, options: Tensor) -> OneHots:
        return OneHots(options, self.action_dims)

    def _features(self, actions: Tensor) -> Tensor:
        parts = zip(actions.long().unbind(-1), self.action_dims, strict=True)
        return torch.cat([one_hot(part, n, torch.float32) for part, n in parts], -1)

    def _actions(self, features: Tensor) -> Tensor:
        return torch.stack([part.argmax(-1) for part in features.split(self.action_dims, -1)], -1)


class MixtureOfBernoullis(_MixtureOfChoices, BernoulliDistribution):
    """For a MultiBinary space.

    :param action_dims: number of bits
    :param n_components: K
    """

    def __init__(self, action_dims: int, n_components: int) -> None:
        BernoulliDistribution.__init__(self, action_dims)
        self.n_components: int = n_components
        self.outputs: int = action_dims

    def _components(self, options: Tensor) -> Bernoullis:
        return Bernoullis(options)

    def _features(self, actions: Tensor) -> Tensor:
        return actions

    def _actions(self, features: Tensor) -> Tensor:
        return features


def mixture_of(plain: Distribution, n_components: int) -> Distribution:
    """The mixture in place of what stable-baselines3 takes for the same action space."""
    if isinstance(plain, DiagGaussianDistribution):
        return MixtureOfGaussians(plain.action_dim, n_components)
    if isinstance(plain, CategoricalDistribution):
        return MixtureOfCategoricals(plain.action_dim, n_components)
    if isinstance(plain, MultiCategoricalDistribution):
        return MixtureOfMultiCategoricals(plain.action_dims, n_components)
    assert isinstance(plain, BernoulliDistribution)
    return MixtureOfBernoullis(plain.action_dims, n_components)
