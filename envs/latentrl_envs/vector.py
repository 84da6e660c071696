"""Many environments as one batch of tensors: seeding, time limits and autoreset, written once for every task."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from latentrl_envs.noise import uniforms
from latentrl_envs.task import Task, build_task, checked_count

_POOL = 16  # episode starts drawn ahead for each row, so that an accelerator need not hash at each step
_NO_LIMIT = torch.iinfo(torch.int32).max
_MAX_SEED = 2**62
# Each environment compiles its own functions; sharing one cache, as older torch has it, the ninth runs eagerly.
_ISOLATED: dict[str, Any] = (
    {"isolate_recompiles": True} if "isolate_recompiles" in signature(torch.compile).parameters else {}
)


class TorchVectorEnv(VectorEnv[Tensor, Tensor, Tensor]):
    """A task as a ``gymnasium.vector.VectorEnv``: N rows, tensors in, tensors out, on any device.

    **Law.** Row i after ``reset(seed=s)`` is a vector environment of one row after ``reset(seed=s + i)``, across
    resets: its random numbers are a hash of (s + i, episode), whatever the other rows do. So batches that should differ
    need seeds at least N apart, as with ``SyncVectorEnv``. ``reset()`` without a seed goes on to each row's next
    episode; the first one takes a seed from the operating system (``np_random_seed`` tells which).

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
        compile: fuse a step into one kernel with ``torch.compile`` (on a CPU this needs a C++ compiler); the first step
            takes some seconds longer, the later ones are several times faster.
        task_kwargs: arguments of the task, where ``func_env`` is a name.

    Raises:
        TypeError: an argument that the task does not know.
        ValueError: a bad value of any other argument, or a device that is absent.
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
        task = self.func_env = build_task(func_env, **task_kwargs)
        n = self.num_envs = checked_count("num_envs", num_envs)
        self._limit = _NO_LIMIT if max_episode_steps is None else checked_count("max_episode_steps", max_episode_steps)
        self.device = _present_device(device)
        self.dtype, numpy_dtype = _float_dtypes(dtype)
        self.autoreset_mode = _mode(autoreset_mode)
        self.metadata = {"render_modes": [], "torch": True, "autoreset_mode": self.autoreset_mode}
        self._check_actions = validate_actions or self.device.type == "cpu"

        seen = task.observation_space
        low, high = seen.low.astype(numpy_dtype), seen.high.astype(numpy_dtype)
        self.single_observation_space = Box(low, high, dtype=numpy_dtype)
        self.single_action_space = task.action_space
        self.action_space = batch_space(self.single_action_space, n)
        self.observation_space = batch_space(self.single_observation_space, n)

        self._rows = torch.arange(n, device=self.device)
        self._seeds = self._rows.clone()
        self._episode = torch.zeros_like(self._rows)  # how many episodes each row has begun under its seed
        self._elapsed = torch.zeros_like(self._rows, dtype=torch.int32)
        self._done = torch.zeros_like(self._rows, dtype=torch.bool)
        self._state = task.initial(torch.zeros(n, task.initial_noise_dim, dtype=self.dtype, device=self.device))
        self._was_reset = False
        self._pool_left = 0
        self._compile = compile
        self._make_functions()

    def _make_functions(self) -> None:
        self._advance = _advance(self.func_env, self._limit)
        self._start = _start(self.func_env, self.dtype)
        if self._compile:
            self._advance = torch.compile(self._advance, fullgraph=True, dynamic=False, **_ISOLATED)
            self._start = torch.compile(self._start, fullgraph=True, dynamic=True, **_ISOLATED)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_advance", "_start")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_functions()

    @torch.no_grad()
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
            self._seeds = torch.where(mask, self._rows + seed, self._seeds)
            self._episode = self._episode.masked_fill(mask, 0)
            self._pool_left = 0
        observations, told = self.func_env.observation(self._state, None), self.func_env.state_info(self._state)
        observations, told = self._begin_episodes(mask, observations, told)
        self._done = self._done & ~mask
        self._was_reset = True
        return observations, _with_masks(told, torch.ones_like(mask))

    @torch.no_grad()
    def step(self, actions: Tensor | np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Take one step in every row.

        Args:
            actions: (N, A), or (N,) integers where they are discrete; an array, or a tensor on the same device.

        Returns:
            Observations (N, O), rewards (N,), terminations and truncations bool (N,), infos: new tensors all.

        Raises:
            ResetNeeded: before the first reset, or (autoreset disabled) a finished row was not reset.
            ValueError: actions of another shape, kind or device, not finite, or none of the choices. The state is
                unharmed.
        """
        begins = self._done
        self._state, self._elapsed, observations, rewards, terminations, truncations, self._done, told = self._advance(
            self._state, self._elapsed, self._checked(actions)
        )
        infos: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            if self._maybe_any(begins):
                going = ~begins
                rewards = rewards.masked_fill(begins, 0)
                terminations, truncations, self._done = terminations & going, truncations & going, self._done & going
                observations, told = self._begin_episodes(begins, observations, told)
        elif self.autoreset_mode == AutoresetMode.SAME_STEP:
            ended = self._done.clone()
            infos = {"final_obs": observations, "_final_obs": ended, "final_info": told, "_final_info": ended.clone()}
            if self._maybe_any(ended):
                observations, told = self._begin_episodes(ended, observations, told)
            else:
                observations = observations.clone()
            infos["final_info"] = _with_masks(infos["final_info"], ended)
        return observations, rewards, terminations, truncations, infos | _with_masks(told, torch.ones_like(self._done))

    def _maybe_any(self, mask: Tensor) -> bool:
        """Return whether any row is in the mask; on an accelerator True, for to ask would wait for it."""
        return self.device.type != "cpu" or bool(mask.any())

    def _begin_episodes(
        self, mask: Tensor, observations: Tensor, told: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Put the rows of ``mask`` at the start of their next episode; return what is now seen and told."""
        if self.device.type == "cpu":
            rows = mask.nonzero().flatten()
            state, seen, news = self._start(self._seeds[rows], self._episode[rows])
            self._state = self._state.index_copy(0, rows, state)
            observations = observations.index_copy(0, rows, seen)
            told = {key: value.index_copy(0, rows, news[key]) for key, value in told.items()}
        else:
            self._state = torch.where(mask[:, None], self.func_env.initial(self._pooled_noise()), self._state)
            observations, told = self.func_env.observation(self._state, None), self.func_env.state_info(self._state)
        self._elapsed = self._elapsed.masked_fill(mask, 0)
        self._episode = self._episode + mask
        return observations, told

    def _pooled_noise(self) -> Tensor:
        """Return the uniforms of every row's next episode, (N, D), without asking the device who needs them.

        A row begins at most one episode per call, so a pool of K starts per row lasts K calls.
        """
        if self._pool_left == 0:
            self._pool_begin, self._pool_left = self._episode, _POOL
            ahead = self._episode + torch.arange(_POOL, device=self.device)[:, None]
            self._pool = uniforms(self._seeds, ahead, self.func_env.initial_noise_dim, self.dtype)
        self._pool_left -= 1
        return self._pool[self._episode - self._pool_begin, self._rows]

    def _checked(self, actions: Tensor | np.ndarray) -> Tensor:
        """Return the actions as a tensor that is fit for a step."""
        if not self._was_reset:
            raise ResetNeeded("call reset() before step()")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._done.any():
            raise ResetNeeded(f"rows {_where(self._done)} have finished: reset them with options={{'reset_mask': ...}}")
        if isinstance(actions, Tensor):
            if actions.device != self.device:
                raise ValueError(f"actions live on {actions.device}, the environment on {self.device}: move them there")
            action = actions
        else:
            action = torch.tensor(actions, device=self.device)  # a copy: as_tensor would share an array's memory
        if action.shape != self.action_space.shape:
            raise ValueError(f"actions must have shape {self.action_space.shape}, got {tuple(action.shape)}")
        if isinstance(self.single_action_space, Discrete):
            return self._checked_choices(action, int(self.single_action_space.n))
        if not action.is_floating_point():
            raise ValueError(f"actions must be floating-point numbers, got {action.dtype}")
        # The sum is finite unless a number is not, or numbers are so large that it overflows: a cheap first look.
        if self._check_actions and not action.sum().isfinite() and not action.isfinite().all():
            raise ValueError(f"actions must be finite, but those of rows {_where(~action.isfinite().all(-1))} are not")
        return action.to(self.dtype)

    def _checked_choices(self, action: Tensor, choices: int) -> Tensor:
        if action.is_floating_point() or action.dtype == torch.bool:
            raise ValueError(f"actions must be integers, got {action.dtype}")
        if self._check_actions:
            low, high = torch.aminmax(action)
            if low < 0 or high >= choices:
                rows = _where((action < 0) | (action >= choices))
                raise ValueError(f"actions must be from 0 to {choices - 1}, but those of rows {rows} are not")
        return action.long()

    def _reset_mask(self, options: dict[str, Any]) -> Tensor:
        """Return which rows to reset, bool (N,)."""
        if options.keys() - {"reset_mask"}:
            raise ValueError(f"reset knows the option 'reset_mask' only, got {sorted(options)}")
        if "reset_mask" not in options:
            return torch.ones_like(self._done)
        if not self._was_reset:
            raise ResetNeeded("the first reset must be of all rows: leave out 'reset_mask'")
        mask = torch.as_tensor(options["reset_mask"], device=self.device)
        if mask.dtype != torch.bool or mask.shape != self._done.shape or not mask.any():
            raise ValueError(f"reset_mask must be bool ({self.num_envs},) with at least one True, got {mask}")
        return mask


def _advance(task: Task, limit: int) -> Callable[..., Any]:
    """Return the pure function of one step in every row, without resets."""

    def advance(state: Tensor, elapsed: Tensor, action: Tensor) -> tuple[Any, ...]:
        next_state = task.transition(state, action, None)
        rewards = task.reward(state, action, next_state, None)
        terminations = task.terminal(next_state)
        elapsed = elapsed + 1
        truncations = elapsed >= limit
        ended = terminations | truncations
        observations = task.observation(next_state, None)
        told = task.state_info(next_state)
        return next_state, elapsed, observations, rewards, terminations, truncations, ended, told

    return advance


def _start(task: Task, dtype: torch.dtype) -> Callable[..., Any]:
    """Return the pure function of the starts of given episodes."""

    def start(seeds: Tensor, episodes: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        state = task.initial(uniforms(seeds, episodes, task.initial_noise_dim, dtype))
        return state, task.observation(state, None), task.state_info(state)

    return start


def _with_masks(told: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Return the infos as Gymnasium's vector environments give them: beside each "key", "_key" says for which rows."""
    return told | {f"_{key}": mask.clone() for key in told}


def _where(mask: Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()


def _mode(autoreset_mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(autoreset_mode)
    except ValueError:
        choices = ", ".join(repr(mode.value) for mode in AutoresetMode)
        raise ValueError(f"autoreset_mode must be an AutoresetMode or {choices}, got {autoreset_mode!r}") from None


def _float_dtypes(dtype: torch.dtype | str) -> tuple[torch.dtype, type[np.floating]]:
    name = str(dtype).removeprefix("torch.")
    if name == "float32":
        return torch.float32, np.float32
    if name == "float64":
        return torch.float64, np.float64
    raise ValueError(f"dtype must be torch.float32 or torch.float64, or its name, got {dtype!r}")


def _present_device(device: str | torch.device) -> torch.device:
    """Return the device, with its index; "auto" is a GPU if there is one."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # each backend refuses in its own way
        raise ValueError(f"device {str(device)!r} is not to be had here: take 'cpu' or 'auto'. ({error})") from error
