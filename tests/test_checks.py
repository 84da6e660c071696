"""Errors at the door name what was given, what is accepted and what to do."""

import math

import numpy as np
import pytest
import torch

from latentrl import LatentRLError
from latentrl.checks import (
    LARGEST,
    at_least,
    count,
    dimension,
    instance,
    layer_sizes,
    one_of,
    real,
    require,
    resolve_device,
)


def test_one_of() -> None:
    assert one_of("prior", "vamp", ["vamp"]) == "vamp"
    with pytest.raises(LatentRLError, match="unknown prior 'x': choose one of 'a', 'b'"):
        one_of("prior", "x", ["b", "a"])


@pytest.mark.parametrize("bad", [0, -1, math.nan, "3", None, True])
def test_at_least(bad: object) -> None:
    assert at_least("n", 3, 1) == 3
    with pytest.raises(LatentRLError, match="n must be a number of at least 1"):
        at_least("n", bad, 1)  # type: ignore[arg-type]


def test_count_takes_whole_numbers_of_any_make() -> None:
    assert count("n", np.int64(3), 1) == 3
    assert at_least("x", np.float32(0.5), 0.0) == 0.5
    for given in (
        at_least("x", np.float64(2.0), 0.0),
        real("x", np.float64(2.0)),
        at_least("x", np.float32(2), 0, True),
    ):
        assert type(given) is float  # which files hold
    for bad in (2.5, 0, True, "3", None):
        with pytest.raises(LatentRLError, match="n must be a whole number of at least 1"):
            count("n", bad, 1)


def test_numbers_are_finite_where_nothing_else_is_said() -> None:
    assert at_least("n", math.inf, 1, infinite=True) == math.inf
    assert real("x", -2) == -2
    for bad in (math.inf, -math.inf, math.nan, "3", None, True):
        with pytest.raises(LatentRLError, match="x must be a finite number"):
            real("x", bad)  # type: ignore[arg-type]
    with pytest.raises(LatentRLError, match="n must be a finite number, but inf was given"):
        at_least("n", math.inf, 1)


def test_sizes() -> None:
    assert dimension("n", np.int64(3)) == 3
    assert layer_sizes("hidden", [np.int64(3), 4]) == (3, 4)
    assert layer_sizes("hidden", ()) == ()
    with pytest.raises(LatentRLError, match=f"n must be at most {LARGEST}"):
        dimension("n", LARGEST + 1)
    for bad in (64, None, "64", (0,), (2.5,), (True,), (LARGEST + 1,)):
        with pytest.raises(LatentRLError, match="hidden must be positive layer sizes"):
            layer_sizes("hidden", bad)


def test_instance() -> None:
    assert instance("x", "a", str) == "a"
    with pytest.raises(LatentRLError, match="x must be a str, but 3 was given"):
        instance("x", 3, str)


def test_require() -> None:
    assert require("math", "any") is math
    with pytest.raises(LatentRLError, match=r"pip install 'latentrl\[report\]'"):
        require("no_such_package", "report")


def test_resolve_device() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")
    for absent in ("cuda:99", "toaster"):
        with pytest.raises(LatentRLError, match=f"device '{absent}' is not available"):
            resolve_device(absent)
