"""Gradients that flow through the draw itself."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, count
from latentrl.distributions.discrete import Discrete
from latentrl.estimators.base import Estimator, Integrand, Trajectories, evaluate
from latentrl.types import Estimate


class Pathwise(Estimator):
    """Reparameterization: z = g(ε; parameters of q), ∇E f = E ∇f(g(ε)) (Kingma & Welling 2014).

    Serves single draws, ``Pathwise()(q, f)``, and rollouts, where the gradient also flows through the dynamics
    (:class:`latentrl.rollouts.ExpectedReturn`).

    Unbiased where f is continuous in z and differentiable almost everywhere. A jump in f (a step, a termination)
    contributes nothing to the gradient: that is bias, and no variance tells of it.
    """

    unbiased: ClassVar[bool] = True
    needs_rsample: ClassVar[bool] = True
    needs_differentiable_f: ClassVar[bool] = True
    discrete: ClassVar[bool] = False

    def forward(self, q: Distribution, f: Integrand, num_samples: int | None = 1) -> Estimate:
        """:raises LatentRLError: q has no ``rsample``, f returns another shape than (S, ..., B), or num_samples < 1."""
        if num_samples is None:
            cost = evaluate(f, self.draw(q), q)
        else:
            count("num_samples", num_samples, 1)
            cost = evaluate(f, self.draw(q, (num_samples,)), q).mean(0)
        return Estimate(cost.detach(), cost)

    def draw(self, law: Distribution, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """A draw that carries the gradient."""
        if not law.has_rsample:
            finite = ", or outside of them Enumerate() or Rebar()" if isinstance(law, Discrete) else ""
            raise LatentRLError(
                f"Pathwise needs a law with rsample, and {type(law).__name__} has none: "
                f"use ScoreFunction (in rollouts LikelihoodRatio), which only needs log_prob{finite}"
            )
        return law.rsample(sample_shape)

    def surrogate(self, trajectories: Trajectories) -> Float[Tensor, " N"]:
        """The return itself: every reward depends on the parameters through the actions and states before it."""
        return trajectories.rewards.sum(0)
