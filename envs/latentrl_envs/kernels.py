"""The pure functions by which a batch of rows moves: draw starts, advance, begin episodes; eager or fused."""

from collections.abc import Callable
from typing import Any

import torch
from gymnasium.spaces import Discrete
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from latentrl_envs.noise import uniforms
from latentrl_envs.task import Task

# A hash uses each intermediate result twice. Were none written down, the compiler would have to expand 2^9 paths.
_WRITE_SOON = {"realize_opcount_threshold": 8}

Step = tuple[Tensor, Tensor, Tensor, Tensor | None]


class Kernels:
    """A task's functions on (N, S) states whose features are contiguous each (see ``task.columns``), without autograd.

    Args:
        task: whose functions they are.
        num_envs: number of rows N.
        ahead: how many starts to draw for each row at once.
        dtype: torch.float32 or torch.float64.
        device: where the rows live.
        compile: fuse each into one kernel. Compiled code takes tensors of the shapes, types and layouts given here, and
            no others.
    """

    def __init__(
        self, task: Task, num_envs: int, ahead: int, dtype: torch.dtype, device: torch.device, compile: bool
    ) -> None:
        self._arguments = task, num_envs, ahead, dtype, device, compile

        def draw(seeds: Tensor, episodes: Tensor) -> tuple[Tensor, ...]:
            return (_laid(task.initial(uniforms(seeds, episodes, task.initial_noise_dim, dtype))),)

        def begin(state: Tensor, starts: Tensor, begins: Tensor) -> tuple[Tensor, ...]:
            state = _laid(torch.where(begins[:, None] > 0, starts, state))
            return state, task.observation(state, None)

        def advance(state: Tensor, action: Tensor) -> tuple[Tensor, ...]:
            next_state = _laid(task.transition(state, action, None))
            rewards, observations = task.reward(state, action, next_state, None), task.observation(next_state, None)
            if type(task).terminal is Task.terminal:  # never
                return next_state, observations, rewards
            # A kernel that reads and writes numbers of one type only is up to three times as fast on a CPU.
            return next_state, observations, rewards, task.terminal(next_state).to(dtype)

        def advance_or_begin(state: Tensor, action: Tensor, starts: Tensor, begins: Tensor) -> tuple[Tensor, ...]:
            next_state, _, *outcomes = advance(state, action)
            outcomes = [torch.where(begins > 0, 0, outcome) for outcome in outcomes]
            return *begin(next_state, starts, begins), *outcomes

        self._draw, self._begin, self._advance, self._advance_or_begin = draw, begin, advance, advance_or_begin
        if compile:
            seeds = torch.zeros(num_envs, dtype=torch.long, device=device)
            state = draw(seeds, seeds)[0]
            kind = torch.long if isinstance(task.action_space, Discrete) else dtype
            action = torch.zeros(num_envs, *(task.action_space.shape or ()), dtype=kind, device=device)
            starts, begins = state.clone(), torch.zeros(num_envs, dtype=dtype, device=device)
            self._draw = _fused(draw, seeds, seeds.expand(ahead, -1).clone(), options=_WRITE_SOON)
            self._begin = _fused(begin, state, starts, begins)
            self._advance = _fused(advance, state, action)
            self._advance_or_begin = _fused(advance_or_begin, state, action, starts, begins)

    def __reduce__(self) -> tuple[Any, ...]:
        return Kernels, self._arguments

    def draw(self, seeds: Tensor, episodes: Tensor) -> Tensor:
        """Return the starts (K, N, S) of episodes int64 (K, N) under seeds int64 (N,)."""
        return self._draw(seeds, episodes)[0]

    def begin(self, state: Tensor, starts: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states with the rows of a bool mask (N,) put to their starts, and what is seen of them."""
        state, observations = self._begin(state, starts, _numbers(begins, state))
        return state, observations

    def advance(self, state: Tensor, action: Tensor) -> Step:
        """Return next states, what is seen of them, rewards, and where they are terminal, bool, or None for nowhere."""
        return _step(*self._advance(state, action))

    def advance_or_begin(self, state: Tensor, action: Tensor, starts: Tensor, begins: Tensor) -> Step:
        """Do the same, but put the rows of a bool mask (N,) to their starts, with reward 0."""
        return _step(*self._advance_or_begin(state, action, starts, _numbers(begins, state)))


def _step(state: Tensor, observations: Tensor, rewards: Tensor, terminal: Tensor | None = None) -> Step:
    return state, observations, rewards, None if terminal is None else terminal.bool()


def _numbers(mask: Tensor, like: Tensor) -> Tensor:
    """Return a bool mask as numbers of a tensor's type."""
    return mask.view(torch.uint8).to(like.dtype)  # from bool itself it takes several times as long


def _laid(state: Tensor) -> Tensor:
    """Return the states with each feature contiguous: no copy where ``columns`` made them."""
    return state.mT.contiguous().mT


def _fused(
    function: Callable[..., tuple[Tensor, ...]], *examples: Tensor, options: dict[str, Any] | None = None
) -> Callable[..., Any]:
    """Compile a function for tensors like the examples.

    ``torch.compile`` would look at each call whether code, constants or shapes have changed, which costs several times
    what a small kernel does.
    """
    with torch.no_grad(), torch.autocast(examples[0].device.type, enabled=False):
        return torch._inductor.compile(make_fx(function)(*examples), list(examples), options=options)
