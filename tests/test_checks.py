"""Errors at the door name what was given, what is accepted and what to do."""

import math

import numpy as np
import pytest
import torch

from latentrl import LatentRLError
from latentrl.checks import at_least, count, one_of, require, resolve_device


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
    for bad in (2.5, 0, True, "3", None):
        with pytest.raises(LatentRLError, match="n must be a whole number of at least 1"):
            count("n", bad, 1)


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
