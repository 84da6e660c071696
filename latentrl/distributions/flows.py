"""A diagonal Gaussian bent by an invertible map."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from latentrl.distributions.gaussian import DiagonalNormal
from latentrl.distributions.law import Law


class FlowLaw(Law):
    """The law of ``loc + scale · T(u)`` with u ~ N(0, base_scale² I): a normalizing flow (Rezende & Mohamed 2015).

    :param loc: (..., D)
    :param scale: positive, (..., D)
    :param transform: T, an invertible map of (..., D) whose ``call_and_ladj`` gives T(u) and log |det dT/du|, as the
        transforms of zuko do; its parameters' batch dimensions broadcast with those of ``loc``
    :param base_scale: standard deviation of u
    """

    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, transform: Transform, base_scale: float = 1.0) -> None:
        self.loc: Tensor = loc
        self.scale: Tensor = scale
        self.transform: Transform = transform
        self.base_scale: float = base_scale
        super().__init__(torch.broadcast_shapes(loc.shape, scale.shape)[:-1], loc.shape[-1:])

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def _base(self) -> DiagonalNormal:
        zeros = torch.zeros(self.batch_shape + self.event_shape, dtype=self.loc.dtype, device=self.loc.device)
        return DiagonalNormal(zeros, torch.full_like(zeros, self.base_scale))

    @property
    def mode(self) -> Tensor:
        """Image of the Gaussian's mean: a typical value; mean and mode of a flow have no closed form."""
        return self.loc + self.scale * self.transform(self._base.loc)

    @property
    def mean(self) -> Tensor:
        """See :attr:`mode`."""
        return self.mode

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlowLaw":
        shape = torch.Size(batch_shape) + self.event_shape
        return FlowLaw(self.loc.expand(shape), self.scale.expand(shape), self.transform, self.base_scale)

    def tempered(self, temperature: float) -> "FlowLaw":
        """u ~ N(0, temperature² I) (Kingma & Dhariwal 2018, section 6)."""
        return FlowLaw(self.loc, self.scale, self.transform, self.base_scale * temperature)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.loc + self.scale * self.transform(self._base.sample(sample_shape))

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Tensor, Tensor]:
        base = self._base
        u = base.sample(sample_shape)
        bent, log_slope = self.transform.call_and_ladj(u)  # type: ignore[attr-defined]
        return self.loc + self.scale * bent, base.log_prob(u) - log_slope - self.scale.log().sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        u, log_slope = self.transform.inv.call_and_ladj((value - self.loc) / self.scale)  # type: ignore[attr-defined]
        return self._base.log_prob(u) + log_slope - self.scale.log().sum(-1)
