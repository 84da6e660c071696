"""Networks with one or two layers of discrete latents, whose gradient is any estimator's.

Estimators nest: what the first layer's estimator averages is the second's estimate given the latents that the first
drew, or relaxed. Its value is that of E[log p(y|h₂)|h₁], its gradient that of the surrogate. Given h₁ both are right on
average where the second estimator is unbiased, which leaves the first one so. A bound of several draws does not nest,
as its draws share one logarithm; it needs no more than draws and densities, and gets the joint law of both layers (as
Mnih & Rezende 2016 do).
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from latentrl.distributions import Bernoullis, Law, MonteCarlo
from latentrl.distributions.discrete import Discrete
from latentrl.elbo import Parts, evidence_lower_bound
from latentrl.estimators import Estimator, MultiSample, Rebar
from latentrl.estimators.base import Integrand
from latentrl.model import importance_weighted

MakeLaw = Callable[[Tensor], Discrete]
EVALUATIONS = 50_000
"""Rows of latents that are looked at together."""


class Chain(Law):
    """h₁ ~ first and h₂ ~ following(h₁), side by side."""

    def __init__(self, first: Discrete, following: MakeLaw) -> None:
        self.first, self.following = first, following
        super().__init__(first.batch_shape, torch.Size([2 * first.event_shape[0]]))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        lower = self.first.sample(sample_shape)
        return torch.cat([lower, self.following(lower).sample()], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        lower, upper = value.chunk(2, -1)
        return self.first.log_prob(lower) + self.following(lower).log_prob(upper)


class Above:
    """h -> log p(y|h), estimated by a layer's estimator from the latents that it draws given h, the layer below."""

    def __init__(self, model: "StochasticLayers", y: Tensor, layer: int) -> None:
        self.model, self.y, self.layer = model, y, layer

    def __call__(self, h: Tensor) -> Tensor:
        rule = self.model.rules[self.layer]
        value, surrogate = rule(*self.model.nested(self.y, h, self.layer), self.model.draws)
        return value + (surrogate - surrogate.detach())

    def mean_field(self, h: Tensor) -> Tensor:
        """With means in place of draws, for MuProp."""
        for layer in range(self.layer, len(self.model.rules)):
            h = self.model.law(layer, h).probs
        return self.model.log_likelihood(self.y, h)


class StochasticLayers(nn.Module):
    """p(y|x) of bits y; layers are linear maps of the one below.

    With one layer of latents x is what is to be explained, q(h|x) its posterior, and the prior is learned. With two
    they are drawn given x, where posterior and prior are the same and there is no divergence to pay for.

    :param sizes: of x, each layer of latents (all the same), and y
    :param make: law of a layer, from its logits
    :param rule: makes the estimator of a layer
    :param draws: of each
    """

    slope: Tensor
    """Multiplies the logits of all latents."""

    def __init__(self, sizes: Sequence[int], make: MakeLaw, rule: Callable[[], Estimator], draws: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes))
        self.rules = nn.ModuleList(rule() for _ in sizes[1:-1])
        self.prior = nn.Parameter(torch.zeros(sizes[1])) if len(self.rules) == 1 else None
        self.make, self.draws = make, draws
        self.register_buffer("slope", torch.ones(()))

    def law(self, layer: int, below: Tensor) -> Discrete:
        """Of the latents of a layer, given what is below."""
        return self.make(self.slope * self.maps[layer](below))

    def log_likelihood(self, y: Tensor, h: Tensor) -> Tensor:
        """log p(y|h), h one layer or several side by side."""
        last = self.maps[-1]
        return Bernoullis(last(h[..., -last.in_features :])).log_prob(y)

    def nested(self, y: Tensor, below: Tensor, layer: int = 0) -> tuple[Discrete, Integrand]:
        """The law of a layer, and h -> log p(y|h), estimated where there are layers above."""
        q = self.law(layer, below)
        return q, partial(self.log_likelihood, y) if layer == len(self.rules) - 1 else Above(self, y, layer + 1)

    def joint(self, x: Tensor, y: Tensor) -> Parts:
        """Of all layers side by side."""
        q: Law = self.law(0, x)
        if self.prior is None:
            q = Chain(q, partial(self.law, 1))
        return Parts(q, q if self.prior is None else self.make(self.prior), partial(self.log_likelihood, y))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """What to differentiate: −E log p(y|h) + KL(q ‖ p), or the bound of an estimator of several draws."""
        rule = self.rules[0]
        if isinstance(rule, MultiSample):
            q, p, log_likelihood = self.joint(x, y)
            return -rule(q, lambda h: log_likelihood(h) + p.log_prob(h), self.draws ** len(self.rules)).surrogate.mean()
        q, integrand = self.nested(y, x)
        parts = Parts(q, q if self.prior is None else self.make(self.prior), integrand)
        return evidence_lower_bound(parts, 1.0, rule, self.draws, "kl").loss

    def tunable(self) -> list[nn.Parameter]:
        """What control variates learn: all but temperatures below the last layer, for which the slope of the estimate
        above would have to be differentiated once more, and a surrogate has but one right derivative."""
        rules = [rule for rule in self.rules if isinstance(rule, Rebar)]
        below = {id(rule.log_temperature) for rule in rules[:-1]}
        return [parameter for rule in rules for parameter in rule.parameters() if id(parameter) not in below]

    def variance_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Its gradient by :meth:`tunable` is that of the variance of each control's own layer's gradient."""
        total, below = x.new_zeros(()), x
        for layer, rule in enumerate(self.rules):
            q, integrand = self.nested(y, below, layer)
            total = total + rule.variance_loss(q, integrand, self.draws)
            below = q.sample()
        return total

    @torch.no_grad()
    def bound(self, x: Tensor, y: Tensor, draws: int) -> MonteCarlo:
        """log (1/m) Σ p(y, h) / q(h|x) of m discrete draws, for each row, and its standard error."""
        found = []
        for rows in torch.arange(len(x), device=x.device).split(max(1, EVALUATIONS // draws)):
            q, p, log_likelihood = self.joint(x[rows], y[rows])
            h = q.sample((draws,))
            found.append(importance_weighted(log_likelihood(h) + p.log_prob(h) - q.log_prob(h)))
        return MonteCarlo(*(torch.cat([getattr(part, name) for part in found]) for name in MonteCarlo._fields))
