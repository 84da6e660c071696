"""Many environments as one batch of tensors: seeding, time limits and autoreset, written once for every task."""

import copy
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from latentrl_envs.arguments import (
    as_tensor,
    checked_actions,
    checked_mode,
    float_dtypes,
    may_ask,
    present_device,
    where,
)
from latentrl_envs.kernels import Kernels
from latentrl_envs.starts import Starts
from latentrl_envs.task import Task, build_task, checked_count

_POOL = 16  # episode starts drawn ahead for each row where to ask who needs one would cost much
_NO_LIMIT = 2**62
_MAX_SEED = 2**62


def _plainly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method without autograd and without autocast: in bfloat16 it would be another task."""

    @wraps(method)
    def run(self: "TorchVectorEnv", *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            if not torch.is_autocast_enabled(self.device.type):
                return method(self, *args, **kwargs)
            with torch.autocast(self.device.type, enabled=False):
                return method(self, *args, **kwargs)

    return run


class TorchVectorEnv(VectorEnv[Tensor, Tensor, Tensor]):
    """A task as a ``gymnasium.vector.VectorEnv``: N rows, tensors in, tensors out, on any device.

    **Law.** Row i after ``reset(seed=s)`` is a vector environment of one row after ``reset(seed=s + i)``, across
    resets: its random numbers are a hash of (s + i, episode), whatever the other rows do. The dynamics agree but for
    rounding, which in compiled code depends on a row's place and in a chaotic task grows with time. So batches that
    should differ need seeds at least N apart, as with ``SyncVectorEnv``. ``reset()`` without a seed goes on to each
    row's next episode; the first one takes a seed from the operating system (``np_random_seed`` tells which).

    **Autoreset** is Gymnasium's. NEXT_STEP: the step after an episode's last ignores the row's action and returns its
    next start, with reward 0. SAME_STEP: the last step itself returns the next start; ``infos["final_obs"]`` (N, O)
    holds what the transition led to in *every* row and ``infos["_final_obs"]`` (N,) says where an episode ended. They
    come with each step, where Gymnasium adds them only if some row ended: to ask would hold up an accelerator.
    DISABLED: the caller resets finished rows through ``options={"reset_mask": ...}``.

    Steps run without autograd; for gradients through a rollout call the functions of ``func_env`` themselves.

    Args:
        func_env: a task, or "module:Class" naming one.
        num_envs: number of rows N.
        max_episode_steps: steps after which a row is truncated; None for no limit.
        device: where the tensors live: "cpu", "cuda", "cuda:1", ... or "auto" (a GPU if there is one).
        dtype: torch.float32 or torch.float64, or its name: of states, observations (and their space) and rewards.
        autoreset_mode: an ``AutoresetMode`` or its value: "NextStep", "SameStep", "Disabled".
        validate_actions: on an accelerator, whether to look for actions that are not finite or none of the choices
            (this waits for the device at each step). On a CPU they are always looked for.
        compile: fuse a step into one kernel with torch's compiler (on a CPU this needs a C++ compiler). To construct
            the environment takes some seconds longer, the steps are several times faster. The task's constants are then
            fixed.
        task_kwargs: arguments of the task, where ``func_env`` is a name.

    Raises:
        TypeError: an argument that the task does not know.
        ValueError: a bad value of any other argument, a device that is absent, or a ``render_mode``.
    """

    def __init__(
        self,
        func_env: Task | str,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str = torch.float32,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        validate_actions: bool = True,
        compile: bool = False,
        **task_kwargs: Any,
    ) -> None:
        if task_kwargs.pop("render_mode", None) is not None:
            raise ValueError("a batch in torch draws no pictures: give make_vec vectorization_mode='sync'")
        task = self.func_env = build_task(func_env, **task_kwargs)
        n = self.num_envs = checked_count("num_envs", num_envs)
        self._limit = _NO_LIMIT if max_episode_steps is None else checked_count("max_episode_steps", max_episode_steps)
        self.device = present_device(device)
        self.dtype, numpy_dtype = float_dtypes(dtype)
        self.autoreset_mode = checked_mode(autoreset_mode)
        self.metadata = {"render_modes": [], "torch": True, "autoreset_mode": self.autoreset_mode}
        self._may_ask = may_ask(self.device)
        self._check_actions = validate_actions or self._may_ask

        seen = task.observation_space
        low, high = seen.low.astype(numpy_dtype), seen.high.astype(numpy_dtype)
        self.single_observation_space = Box(low, high, dtype=numpy_dtype)
        self.single_action_space = copy.deepcopy(task.action_space)
        self.action_space = batch_space(self.single_action_space, n)
        self.observation_space = batch_space(self.single_observation_space, n)

        depth = 1 if self._may_ask else _POOL
        self._kernels = Kernels(task, n, depth, self.dtype, self.device, compile)
        self._starts = Starts(self._kernels.draw, n, depth, self.device)
        self._state: Tensor
        self._time = 0  # steps taken in all
        self._born = torch.zeros(n, dtype=torch.long, device=self.device)  # when each row's episode began
        self._due = 0  # no row reaches the limit before
        self._nowhere = torch.zeros(n, dtype=torch.bool, device=self.device)
        self._done = self._nowhere
        self._some_done = False
        self._was_reset = False

    @_plainly
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Begin an episode in every row, or in the rows of ``options["reset_mask"]``.

        Args:
            seed: restarts the random numbers of those rows, row i from ``seed + i``; None goes on with them.
            options: ``{"reset_mask": bool (N,)}``, an array or a tensor with at least one True; or None.

        Returns:
            Observations (N, O) and infos of all rows.

        Raises:
            ResetNeeded: the first reset has a mask.
            ValueError: an unknown option, a bad mask, or a seed of 2**62 or more.
            gymnasium.error.Error: the seed is no integer or is negative.
        """
        mask = self._reset_mask(options or {})
        if seed is None and not self._was_reset:
            seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) % _MAX_SEED
        if seed is not None:
            if isinstance(seed, int) and seed >= _MAX_SEED:
                raise ValueError(f"seed must be below 2**62, got {seed}")
            super().reset(seed=seed)  # checks the rest, and keeps the seed for np_random_seed
            self._starts.seed(seed, mask)
        if not self._was_reset:
            self._state, self._was_reset = self._starts.next(torch.zeros_like(mask)), True
        observations = self._begin_episodes(mask)
        self._done = self._done & ~mask
        return observations, self._infos()

    @_plainly
    def step(self, actions: Tensor | np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Take one step in every row.

        Args:
            actions: (N, A), or (N,) integers where they are discrete; an array, or a tensor on the same device. Those
                of rows that begin an episode have no effect, but are checked.

        Returns:
            Observations (N, O), rewards (N,), terminations and truncations bool (N,), infos: new tensors all.

        Raises:
            ResetNeeded: before the first reset, or (autoreset disabled) a finished row was not reset.
            ValueError: actions of another shape, kind or device, not finite, or none of the choices. The state is
                unharmed.
        """
        action = self._checked(actions)
        self._time += 1
        if self._some_done and self.autoreset_mode == AutoresetMode.NEXT_STEP:
            starts = self._starts.next(self._done)
            after = self._kernels.advance_or_begin(self._state, action, starts, self._done)
            self._bear(self._done)
        else:
            after = self._kernels.advance(self._state, action)
        self._state, observations, rewards, terminal = after
        truncated = self._truncated()
        terminations = self._nowhere.clone() if terminal is None else terminal
        truncations = self._nowhere.clone() if truncated is None else truncated
        self._done = self._nowhere if terminal is None and truncated is None else terminations | truncations
        self._some_done = self._maybe_any(self._done)
        if self.autoreset_mode != AutoresetMode.SAME_STEP:
            return observations, rewards, terminations, truncations, self._infos()
        infos: dict[str, Any] = {"final_obs": observations, "_final_obs": self._done.clone()}
        infos |= {"final_info": self._infos(self._done), "_final_info": self._done.clone()}
        observations = self._begin_episodes(self._done) if self._some_done else observations.clone()
        return observations, rewards, terminations, truncations, infos | self._infos()

    def _truncated(self) -> Tensor | None:
        """Return which rows have reached the time limit, or None if none has."""
        if self._may_ask and self._time >= self._due:
            self._due = int(self._born.min()) + self._limit
        if self._time < self._due:
            return None
        return self._born <= self._time - self._limit

    def _maybe_any(self, mask: Tensor) -> bool:
        """Return whether any row is in the mask; on an accelerator True, for to ask would wait for it."""
        if mask is self._nowhere:
            return False
        return not self._may_ask or bool(np.count_nonzero(mask.numpy()))

    def _bear(self, rows: Tensor) -> None:
        """Note that the episodes of the rows of a mask begin now."""
        if self._may_ask:
            self._born.numpy()[rows.numpy()] = self._time  # a fifth of the time that masked_fill_ takes
        else:
            self._born = self._born.masked_fill(rows, self._time)

    def _begin_episodes(self, rows: Tensor) -> Tensor:
        """Put the rows of a mask at the start of their next episode; return what is now seen in all rows."""
        self._state, observations = self._kernels.begin(self._state, self._starts.next(rows), rows)
        self._bear(rows)
        return observations

    def _infos(self, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Return what the task tells, as Gymnasium's vector environments do: beside each "key", "_key" says for whom.

        Args:
            mask: the rows for which it is told, bool (N,); None for all.
        """
        told = self.func_env.state_info(self._state)
        return told | {f"_{key}": torch.ones_like(self._done) if mask is None else mask.clone() for key in told}

    def _checked(self, actions: Tensor | np.ndarray) -> Tensor:
        """Return the actions as a tensor that is fit for a step."""
        if not self._was_reset:
            raise ResetNeeded("call reset() before step()")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._some_done and self._done.any():
            raise ResetNeeded(f"rows {where(self._done)} have finished: reset them with options={{'reset_mask': ...}}")
        space = self.func_env.action_space
        return checked_actions(actions, space, self.num_envs, self.dtype, self.device, self._check_actions)

    def _reset_mask(self, options: dict[str, Any]) -> Tensor:
        """Return which rows to reset, bool (N,)."""
        if options.keys() - {"reset_mask"}:
            raise ValueError(f"reset knows the option 'reset_mask' only, got {sorted(options)}")
        if "reset_mask" not in options:
            return torch.ones_like(self._done)
        if not self._was_reset:
            raise ResetNeeded("the first reset must be of all rows: leave out 'reset_mask'")
        mask = as_tensor("reset_mask", options["reset_mask"], self.device)
        if mask.dtype != torch.bool or mask.shape != self._done.shape or not mask.any():
            raise ValueError(f"reset_mask must be bool ({self.num_envs},) with at least one True, got {mask}")
        return mask
