"""Random numbers that belong to a replicate: the same ones however many replicates are computed together.

What an objective draws with ``torch.rand``, ``torch.randn``, their ``_like`` forms and ``torch.randint`` is recorded
once, as a list of shapes. Each replicate then gets numbers of its own for that list, from a generator seeded with
(seed, replicate), and ``vmap`` runs over them as over any other input. Other random functions are left to torch.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from latentrl.checks import LatentRLError

UNIFORM, NORMAL, INTEGER = "uniform", "normal", "integer"
KINDS: dict[Callable[..., Tensor], str] = {
    torch.rand: UNIFORM,
    torch.rand_like: UNIFORM,
    torch.randn: NORMAL,
    torch.randn_like: NORMAL,
    torch.randint: INTEGER,
}


class Draw(NamedTuple):
    """One call of a random function."""

    kind: str
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    bounds: tuple[int, int] = (0, 0)
    """Of integers: the least, and one more than the largest."""


class Recorder(TorchFunctionMode):
    """Notes what is drawn.

    :raises LatentRLError: on draws into a given tensor
    """

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        noted = _from_tape(func, kwargs or {})
        made = func(*args, **(kwargs or {}))
        if noted:
            bounds = _bounds(args, kwargs or {}) if func is torch.randint else (0, 0)
            self.draws.append(Draw(KINDS[func], made.shape, made.dtype, made.device, bounds))
        return made


class Player(TorchFunctionMode):
    """Hands out numbers in place of drawing them.

    :param draws: what was recorded
    :param numbers: one tensor for each of them
    :raises LatentRLError: on another order of draws, or other shapes, than was recorded; on draws into a given tensor
    """

    def __init__(self, draws: Sequence[Draw], numbers: Sequence[Tensor]) -> None:
        super().__init__()
        self._left = iter(list(zip(draws, numbers, strict=True)))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _from_tape(func, kwargs or {}):
            return func(*args, **(kwargs or {}))
        draw, numbers = next(self._left, (None, None))
        if draw is None or (draw.kind, draw.shape) != (KINDS[func], _size(func, args, kwargs or {})):
            raise LatentRLError(
                "the objective draws other random numbers than it did a moment ago: it must draw the same shapes in "
                "the same order each time"
            )
        return numbers


def _from_tape(function: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is noted, and numbers are handed out in place of it.

    :raises LatentRLError: they would have to be written into a given tensor
    """
    if function not in KINDS or kwargs.get("generator") is not None:
        return False
    if kwargs.get("out") is not None:
        raise LatentRLError(
            f"torch.{function.__name__} was called with out, but the numbers of a replicate or of a segment come as "
            "new tensors: leave out away and take what it returns"
        )
    return True


def generator_state(devices: Iterable[torch.device]) -> Tensor:
    """Of torch's own generators on the CPU and on devices."""
    cuda = dict.fromkeys(device for device in devices if device.type == "cuda")
    return torch.cat([torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in cuda)])


def _size(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Size:
    """The shape that is asked for, of numbers as of an array (``_like``), by a size, or by one number after another."""
    if function in (torch.rand_like, torch.randn_like):
        return torch.Size(args[0].shape if args else kwargs["input"].shape)
    given = kwargs.get("size", next((value for value in args if isinstance(value, Sequence)), None))
    return torch.Size(args if given is None else given)


def _bounds(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, int]:
    """Of ``randint(high, size)`` or ``randint(low, high, size)``, each of them perhaps by name."""
    given = [value for value in args if isinstance(value, int)]
    high = kwargs.get("high", given[-1] if given else None)
    low = kwargs.get("low", given[0] if len(given) > ("high" not in kwargs) else 0)
    return low, high


class _Alone(Recorder):
    """Refuses draws for many elements at once, which know the shape of one alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = super().__torch_function__(func, types, args, kwargs)
        if func in KINDS and torch._C._functorch.is_batchedtensor(made):
            raise LatentRLError(
                "the objective draws inside of a vmap of its own, whose elements would all get the same numbers: draw "
                "for all of them before it, or average over a batch without vmap"
            )
        return made


def record(function: Callable[[], Any]) -> list[Draw]:
    """What a function draws in one call.

    :raises LatentRLError: it draws inside of a ``vmap``
    """
    with _Alone() as recorder:
        function()
    return recorder.draws


def numbers_for(draws: Sequence[Draw], seed: int, replicates: range) -> list[Tensor]:
    """Numbers for every draw of every replicate, each (R, *shape); those of one sort are drawn in one go, then cut."""
    sources = [np.random.default_rng((seed, replicate)) for replicate in replicates]
    pools: dict[Draw, list[Tensor]] = {}
    for sort in dict.fromkeys(map(_sort, draws)):
        sizes = [math.prod(draw.shape) for draw in draws if _sort(draw) == sort]
        pools[sort] = list(_fill(sort, sum(sizes), sources).split(sizes, dim=1))
    return [pools[_sort(draw)].pop(0).contiguous().view(len(sources), *draw.shape) for draw in draws]


def _sort(draw: Draw) -> Draw:
    """The draw, whatever its shape."""
    return draw._replace(shape=torch.Size())


def _fill(sort: Draw, size: int, sources: Sequence[np.random.Generator]) -> Tensor:
    """(R, size) numbers, a row from each source."""
    kind, dtype, device = sort.kind, sort.dtype, sort.device
    if kind == INTEGER:
        rows = np.stack([source.integers(*sort.bounds, size) for source in sources])
        return torch.from_numpy(rows).to(device, dtype)
    if device.type == "cuda":
        function = torch.rand if kind == UNIFORM else torch.randn
        generators = (torch.Generator(device).manual_seed(int(source.integers(2**63))) for source in sources)
        return torch.stack([function(size, generator=own, dtype=dtype, device=device) for own in generators])
    # numpy's streams have 128 bits of state from (seed, replicate); torch's CPU generator takes a seed of 32 bits.
    precision: Any = np.float32 if dtype == torch.float32 else np.float64
    names = {UNIFORM: "random", NORMAL: "standard_normal"}
    draws = [getattr(source, names[kind]) for source in sources]
    if dtype.itemsize < 4:
        found = torch.stack([torch.from_numpy(draw(size, precision)).to(device, dtype) for draw in draws])
        # Half precision rounds up to 1, whose logarithms are infinite.
        return found.clamp_max(1.0 - torch.finfo(dtype).eps) if kind == UNIFORM else found
    made = np.empty((len(sources), size), precision)
    for row, draw in zip(made, draws, strict=True):
        draw(out=row, dtype=precision)
    return torch.from_numpy(made).to(device, dtype)
