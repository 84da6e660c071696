"""Expected return of a latent policy whose latent is drawn once per episode, differentiated through the latent."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from latentrl.checks import LatentRLError, count, function
from latentrl.decoders import (
    BernoulliDecoder,
    BinsDecoder,
    CategoricalDecoder,
    DiscretizedLogisticDecoder,
    MixtureDecoder,
)
from latentrl.diffusion import DiffusionDecoder
from latentrl.estimators import Estimator
from latentrl.estimators.compatible import single_sample
from latentrl.model import LatentModel
from latentrl.spaces import size
from latentrl.tasks import FunctionalTask, check_action, checked_task, first_of, going_on, plainly
from latentrl.types import Estimate


@dataclass(frozen=True)
class LatentReturn:
    """J = E_{x, z ~ q(z|x)}[r(x, z)]: r sums T rewards from start x under actions a(o, z), z held, no other noise.

    The gradient by what q reads is the estimator's, by the score function as well as by reparameterization or any other
    way; that by what the actions read goes through the dynamics, which must be differentiable for it.

    Calling it with parameters returns the scalar whose gradient estimates ∇J, as :class:`ExpectedReturn` does.

    :param task: pure functions
    :param law: (parameters, first observation (N, O)) -> q(z|x) with batch_shape (N,)
    :param act: (parameters, observation (..., O), z (..., Z)) -> action
    :param estimator: of the gradient of an expectation over z
    :param horizon: T, steps
    :param num_envs: N, starts per gradient
    :param num_samples: S, latents for each start; None for one
    :raises LatentRLError: ``horizon``, ``num_envs`` or ``num_samples`` below 1; something else than a task, functions
        and an estimator of expectations
    """

    task: FunctionalTask
    law: Callable[[dict[str, Tensor], Tensor], Distribution]
    act: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]
    estimator: Estimator
    horizon: int
    num_envs: int
    num_samples: int | None = None

    def __post_init__(self) -> None:
        checked_task(self.task)
        function("law", self.law)
        function("act", self.act)
        for name in ("horizon", "num_envs"):
            count(name, getattr(self, name), 1)
        if self.num_samples is not None:
            count("num_samples", self.num_samples, 1)
        single_sample(self.estimator)

    @classmethod
    def of(
        cls,
        model: LatentModel,
        task: FunctionalTask,
        estimator: Estimator,
        horizon: int,
        num_envs: int,
        num_samples: int | None = None,
    ) -> "LatentReturn":
        """That of a model, z ~ p(z|s) and actions as it plays them, for ``dict(model.named_parameters())``.

        z is held for all T steps, whatever the policy's ``hold``.

        :raises LatentRLError: a model without latent, or one that clips its latents or draws more than them, which has
            no such gradient; one whose actions are steps; one of other actions than the task's, as those that plan
            several are; a task of choices
        """
        space = getattr(task, "action_space", None)
        _check_slopes(model, space)
        called = _Called(model)

        def call(parameters: dict[str, Tensor], method: str, *inputs: Tensor) -> Any:
            return functional_call(called, {f"model.{n}": value for n, value in parameters.items()}, (method, *inputs))

        def act(parameters: dict[str, Tensor], observation: Tensor, z: Tensor) -> Tensor:
            # To a model, more dimensions than one are those of a segment.
            action = call(parameters, "act", observation.flatten(0, -2), z.flatten(0, -2))
            if space is not None and action.shape[-1] != size("action", space):
                raise LatentRLError(
                    f"the model gives {action.shape[-1]} numbers, but an action of the task has "
                    f"{size('action', space)}: take a policy with chunk=1 that was made for this task"
                )
            return action.unflatten(0, z.shape[:-1])

        return cls(
            task,
            lambda parameters, observation: call(parameters, "latent_law", observation),
            act,
            estimator,
            horizon,
            num_envs,
            num_samples,
        )

    @property
    def env_steps(self) -> int:
        """Environment steps that one gradient costs; estimators that evaluate r elsewhere take more."""
        return self.horizon * self.num_envs * (self.num_samples or 1)

    def __call__(self, parameters: dict[str, Tensor]) -> Float[Tensor, ""]:
        return self.estimate(parameters).surrogate.mean()

    def estimate(self, parameters: dict[str, Tensor]) -> Estimate:
        """Returns, averaged over the latents of each start, and surrogates, (N,)."""
        like = first_of(parameters)
        uniforms = torch.rand(self.num_envs, self.task.initial_noise_dim, dtype=like.dtype, device=like.device)
        task = plainly(self.task, like.device)
        start = task.initial(uniforms)
        q = self.law(parameters, task.observation(start))
        return self.estimator(q, lambda z: self._play(task, parameters, start, z), self.num_samples)

    def _play(
        self, task: FunctionalTask, parameters: dict[str, Tensor], start: Tensor, z: Tensor
    ) -> Float[Tensor, "S N"]:
        """r of every start and latent."""
        state = start.expand(*z.shape[:-1], start.shape[-1])
        running, total = ~task.terminal(state), torch.zeros_like(state[..., 0])
        for _ in range(self.horizon):
            action = self.act(parameters, task.observation(state), z)
            check_action(task, running, action)
            seen, played = going_on(running, state, action)
            following = task.transition(seen, played)
            total = total + task.reward(seen, played, following).where(running, torch.zeros_like(total))
            running = running & ~task.terminal(following)
            # What an episode ends in need not be finite, and would reach the gradient of the others.
            state = following.where(running.unsqueeze(-1), state)
        return total


def _check_slopes(model: LatentModel, space: spaces.Space[Any] | None) -> None:
    """:raises LatentRLError: a model or a task through which the return has no gradient by the latent"""
    if isinstance(model.decoder, MixtureDecoder | BinsDecoder | DiffusionDecoder) or model.remembered is not None:
        own, data = f"decoder {type(model.decoder).__name__} draws on its own", "model plays latents of its data"
        what = own if model.remembered is None else data
        raise LatentRLError(
            f"the return is differentiated through the prior's latents alone, but the {what}: take a decoder with "
            "one peak, and latents='prior'"
        )
    if model.prior is None or model.latent_clip is not None:
        what = "has no latent: use ExpectedReturn" if model.prior is None else "clips its latents: set it to None"
        raise LatentRLError(f"the return is differentiated through the latent, but the model {what}")
    if isinstance(space, spaces.Discrete):
        raise LatentRLError("the return is differentiated through the actions, but those of the task are choices")
    if isinstance(model.decoder, DiscretizedLogisticDecoder | BernoulliDecoder | CategoricalDecoder):
        raise LatentRLError(
            "the return is differentiated through the actions, but those of decoder "
            f"{type(model.decoder).__name__} are steps, whose slope is 0: take decoder='gaussian' or "
            "'tanh_gaussian', and a task of such actions"
        )


class _Called(nn.Module):
    """A model whose methods ``functional_call`` can call with other parameters."""

    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, method: str, *inputs: Tensor) -> Any:
        return getattr(self.model, method)(*inputs)
