"""Many environments as one batch of tensors: seeding, time limits and autoreset, written once for every task."""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from latentrl_envs.arguments import checked_actions, checked_mode, float_dtypes, present_device, where
from latentrl_envs.noise import uniforms
from latentrl_envs.task import Task, build_task, checked_count, columns

_POOL = 16  # episode starts drawn ahead for each row, so that an accelerator need not hash at each step
_NO_LIMIT = 2**62
_MAX_SEED = 2**62
# Each environment compiles its own functions; sharing one cache, as older torch has it, the ninth runs eagerly.
_ISOLATED: dict[str, Any] = (
    {"isolate_recompiles": True} if "isolate_recompiles" in signature(torch.compile).parameters else {}
)


def _tensors_only(guards: Sequence[Any]) -> list[bool]:
    """Have a compiled function look at the tensors that it gets and not, at each call, at the task's constants too."""
    return [guard.guard_type == "TENSOR_MATCH" for guard in guards]


_TENSORS: dict[str, Any] = {"guard_filter_fn": _tensors_only}


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
            takes some seconds longer, the later ones are several times faster. The task's constants are those of the
            first step from then on.
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
        self.device = present_device(device)
        self.dtype, numpy_dtype = float_dtypes(dtype)
        self.autoreset_mode = checked_mode(autoreset_mode)
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
        self._time = 0  # steps taken in all
        self._born = torch.zeros_like(self._rows)  # when each row's episode began
        self._due = 0  # no row reaches the limit before
        self._done = torch.zeros_like(self._rows, dtype=torch.bool)
        self._some_done = False
        state = task.initial(torch.zeros(n, task.initial_noise_dim, dtype=self.dtype, device=self.device))
        self._state = columns(*state.unbind(-1))  # later starts are copied into this layout
        self._was_reset = False
        self._starts: tuple[Tensor, Tensor]  # of every row's next episode: states and observations
        self._used = torch.ones_like(self._done)  # rows whose next start is not among them
        self._pool_left = 0
        self._compile = compile
        self._make_functions()

    def _make_functions(self) -> None:
        self._advance, self._start = _advance(self.func_env, self._compile), _start(self.func_env, self.dtype)
        if self._compile:
            self._advance = torch.compile(self._advance, fullgraph=True, dynamic=False, options=_TENSORS, **_ISOLATED)
            self._start = torch.compile(self._start, fullgraph=True, dynamic=False, options=_TENSORS, **_ISOLATED)

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
            self._pool_left, self._used = 0, torch.ones_like(mask)
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
        action = self._checked(actions)
        self._state, rewards, observations, *terminal = self._advance(self._state, action)
        self._time += 1
        begins, some_begin = self._done, self._some_done
        terminations = terminal[0].bool() if terminal else torch.zeros_like(begins)
        truncations = self._truncations()
        self._done = terminations | truncations
        self._some_done = self._maybe_any(self._done)
        infos: dict[str, Any] = {}
        told = self.func_env.state_info(self._state)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            if some_begin:
                going = ~begins
                rewards = torch.where(going, rewards, 0)
                terminations, truncations, self._done = terminations & going, truncations & going, self._done & going
                observations, told = self._begin_episodes(begins, observations, told)
        elif self.autoreset_mode == AutoresetMode.SAME_STEP:
            ended = self._done.clone()
            infos = {"final_obs": observations, "_final_obs": ended}
            infos |= {"final_info": _with_masks(told, ended), "_final_info": ended.clone()}
            observations, told = observations.clone(), {key: value.clone() for key, value in told.items()}
            if self._some_done:
                observations, told = self._begin_episodes(ended, observations, told)
        return observations, rewards, terminations, truncations, infos | _with_masks(told, torch.ones_like(self._done))

    def _truncations(self) -> Tensor:
        """Return which rows have reached the time limit."""
        if self._time < self._due:
            return torch.zeros_like(self._done)
        ages = self._time - self._born
        truncations = ages >= self._limit
        if self.device.type == "cpu":  # episodes that go on, or begin from now on, have so many steps at least
            self._due = self._time + self._limit - int(ages.masked_fill(truncations, 0).max())
        return truncations

    def _maybe_any(self, mask: Tensor) -> bool:
        """Return whether any row is in the mask; on an accelerator True, for to ask would wait for it."""
        return self.device.type != "cpu" or bool(mask.count_nonzero())

    def _begin_episodes(
        self, mask: Tensor, observations: Tensor, told: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Put the rows of ``mask`` at the start of their next episode; return what is now seen and told.

        On a CPU what is given is overwritten.
        """
        if self.device.type == "cpu":
            rows = torch.from_numpy(np.flatnonzero(mask.numpy()))  # several times as fast as nonzero()
            if self._used.index_select(0, rows).count_nonzero():
                self._starts, self._used = self._start(self._seeds, self._episode), torch.zeros_like(mask)
            state, seen = (start.index_select(0, rows) for start in self._starts)
            self._used.index_fill_(0, rows, True)
            # In place, so that the layout in memory stays what the task made it.
            self._state.index_copy_(0, rows, state)
            observations.index_copy_(0, rows, seen)
            for key, news in self.func_env.state_info(state).items():
                told[key].index_copy_(0, rows, news)
            self._born.index_fill_(0, rows, self._time)
            self._episode.index_add_(0, rows, torch.ones_like(rows))
        else:
            self._state = torch.where(mask[:, None], self.func_env.initial(self._pooled_noise()), self._state)
            observations, told = self.func_env.observation(self._state, None), self.func_env.state_info(self._state)
            self._born = self._born.masked_fill(mask, self._time)
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
        mask = torch.as_tensor(options["reset_mask"], device=self.device)
        if mask.dtype != torch.bool or mask.shape != self._done.shape or not mask.any():
            raise ValueError(f"reset_mask must be bool ({self.num_envs},) with at least one True, got {mask}")
        return mask


def _advance(task: Task, compiled: bool) -> Callable[..., tuple[Tensor, ...]]:
    """Return the pure function of one step in every row, without resets."""

    def advance(state: Tensor, action: Tensor) -> tuple[Tensor, ...]:
        next_state = task.transition(state, action, None)
        rewards, observations = task.reward(state, action, next_state, None), task.observation(next_state, None)
        if type(task).terminal is Task.terminal:  # never
            return next_state, rewards, observations
        terminal = task.terminal(next_state)
        # A kernel that writes numbers of one type only is up to three times as fast on a CPU.
        return next_state, rewards, observations, terminal.to(state.dtype) if compiled else terminal

    return advance


def _start(task: Task, dtype: torch.dtype) -> Callable[..., Any]:
    """Return the pure function of the starts of given episodes: states and observations."""

    def start(seeds: Tensor, episodes: Tensor) -> tuple[Tensor, Tensor]:
        state = task.initial(uniforms(seeds, episodes, task.initial_noise_dim, dtype))
        return state, task.observation(state, None)

    return start


def _with_masks(told: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Return the infos as Gymnasium's vector environments give them: beside each "key", "_key" says for which rows."""
    return told | {f"_{key}": mask.clone() for key in told} if told else {}
