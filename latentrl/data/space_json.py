"""Gymnasium's spaces as JSON, so that a file tells its spaces without a pickle."""

import json
from typing import Any

import numpy as np
from gymnasium import spaces

from latentrl.checks import LatentRLError


def to_json(space: spaces.Space[Any]) -> str:
    """A space as text, exactly; see :func:`from_json`.

    :raises LatentRLError: a space of another kind than demonstrations can have
    """
    return json.dumps(_record(space))


def from_json(text: str) -> spaces.Space[Any]:
    """The space that :func:`to_json` wrote.

    :raises LatentRLError: where the text is no such space
    """
    try:
        return _space(json.loads(text))
    except LatentRLError:
        raise
    except Exception as error:  # spaces raise assertions as well for numbers that make none
        raise LatentRLError(f"{text[:80]!r} describes no space ({error})") from error


def _record(space: spaces.Space[Any]) -> dict[str, Any]:
    if isinstance(space, spaces.Dict):
        # A list of pairs, for the order.
        return {"type": "Dict", "spaces": [[name, _record(part)] for name, part in space.spaces.items()]}
    if isinstance(space, spaces.Box):
        bounds = {"low": _short(space.low), "high": _short(space.high)}
        return {"type": "Box", "shape": space.shape, "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        # Older versions of Gymnasium know int64 alone.
        kind = {} if space.dtype == np.int64 else {"dtype": str(space.dtype)}
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), **kind}
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "MultiDiscrete",
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
            "dtype": str(space.dtype),
        }
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.shape)}
    raise LatentRLError(f"space {space} cannot be written: use Box, Discrete, MultiDiscrete, MultiBinary or a Dict")


def _short(bound: Any) -> Any:
    """One number for a bound that is the same everywhere, as that of pictures is."""
    same = bound.size > 0 and (bound == bound.flat[0]).all()
    return bound.flat[0].item() if same else bound.tolist()


def _space(record: dict[str, Any]) -> spaces.Space[Any]:
    kind = record["type"]
    if kind == "Dict":
        return spaces.Dict([(name, _space(part)) for name, part in record["spaces"]])
    if kind == "Box":
        shape, dtype = tuple(record["shape"]), np.dtype(record["dtype"])
        low, high = (np.broadcast_to(np.array(record[bound], dtype), shape) for bound in ("low", "high"))
        return spaces.Box(low.copy(), high.copy(), shape, dtype.type)
    if kind == "Discrete":
        kind = {"dtype": np.dtype(record["dtype"]).type} if "dtype" in record else {}
        return spaces.Discrete(record["n"], start=record["start"], **kind)
    if kind == "MultiDiscrete":
        dtype = np.dtype(record["dtype"])
        return spaces.MultiDiscrete(np.array(record["nvec"]), dtype.type, start=np.array(record["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(record["n"])
    raise LatentRLError(f"there is no space {kind!r}")
