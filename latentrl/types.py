"""Shapes, aliases and the small records that every floor speaks.

Shape glossary, used in every annotation and docstring:

====== ==================================================
``S``  Monte-Carlo samples
``B``  batch (transitions, segments or environments)
``T``  time steps of a segment
``O``  observation features
``A``  action features
``Z``  latent features
====== ==================================================

A *segment* is the stretch of an episode over which one latent is held: the whole episode (``hold = 0``),
``k`` steps (``hold = k``) or one transition (``hold = 1``).
"""

from typing import NamedTuple, TypeAlias

from jaxtyping import Float, Int
from torch import Tensor

Observations: TypeAlias = Float[Tensor, "*batch O"]
Actions: TypeAlias = Float[Tensor, "*batch A"]
Latents: TypeAlias = Float[Tensor, "*batch Z"]


class Batch(NamedTuple):
    """What one ELBO is computed on: the decoder's steps and what the posterior is allowed to see.

    For single transitions (``hold = 1``) all tensors lack the ``T`` dimension and the context *is* the transition.
    For segments the context is the whole segment, while the decoder may be scored on a random subset of its
    steps; ``weight`` then scales the sum over the subset to an unbiased estimate of the sum over the segment.
    """

    observations: Observations
    """(B, O) or (B, T, O): where the decoder is scored."""
    actions: Actions
    """(B, A) or (B, T, A): what it is scored on."""
    context_observations: Observations
    """(B, O) or (B, T', O): observations seen by the posterior."""
    context_actions: Actions
    """(B, A) or (B, T', A): actions seen by the posterior."""
    weight: Float[Tensor, " B"] | None = None
    """(B,): segment length over number of scored steps; None means 1."""
    context_lengths: Int[Tensor, " B"] | None = None
    """(B,): how many of the T' steps there are, the rest being padding; None means all."""
    rows: Int[Tensor, " B"] | None = None
    """(B,): which of the data these are, for a posterior with parameters for each of them."""

    @classmethod
    def full(cls, observations: Observations, actions: Actions, rows: Int[Tensor, " B"] | None = None) -> "Batch":
        """Transitions (B, O), (B, A) or whole segments (B, T, O), (B, T, A), scored on every step."""
        return cls(observations, actions, observations, actions, rows=rows)

    @property
    def start(self) -> Float[Tensor, "B O"]:
        """(B, O): the observation at which the latent is drawn; what a conditional prior sees."""
        return self.context_observations if self.context_observations.dim() == 2 else self.context_observations[:, 0]


class Estimate(NamedTuple):
    """A Monte-Carlo estimate of E_q[f(z)] and a surrogate whose gradient is the gradient estimator."""

    value: Float[Tensor, "*batch"]
    """The estimate of the expectation, without gradient."""
    surrogate: Float[Tensor, "*batch"]
    """Differentiate this; its value carries no meaning."""
