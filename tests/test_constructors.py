"""Any argument of any public constructor replaced by something odd: refused at the door, or what comes of it works.

Refused is by LatentRLError. Where something is of another kind altogether, such as None or a dict in place of a number,
Python's own TypeError says so as well.
"""

import inspect
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import latentrl
import latentrl_envs
from latentrl import (
    decoders,
    distributions,
    encoders,
    estimators,
    metrics,
    posteriors,
    priors,
    schedules,
)
from latentrl import sb3 as latentrl_sb3
from tests import constructors_table, meter_table
from tests.constructors_table import numbers
from tests.metrics import constructors_table as metrics_table
from tests.sb3 import constructors_table as sb3_table

ROWS = constructors_table.ROWS | metrics_table.ROWS | sb3_table.ROWS | meter_table.ROWS
NUMBERS: list[Any] = [
    True, -1, 0, 1, 2.5, math.nan, math.inf, -math.inf, 1e30, 1e-30, 2**62, np.int64(2), np.float32(0.5), np.True_,
]  # fmt: skip
THINGS: list[Any] = [
    None, "", "x", (), [], {}, object(), (1, 2, 3), (0,), (2.5,), (math.nan,), (True,), (2**62,), ("x",),
]  # fmt: skip
ARRAYS: list[Any] = [np.zeros((2, 3)), np.full(3, np.nan), np.zeros(0), np.array(["x"]), torch.zeros(2, 2)]
UNCHECKED = {
    # Laws: they are made at each step, by modules that make their arguments right (see latentrl.distributions).
    *(law for law in distributions.__all__ if law != "monte_carlo_kl"),
    # Bases, which do nothing by themselves, and errors.
    "Decoder", "NetworkDecoder", "BoxDecoder", "Encoder", "Posterior", "AmortizedPosterior", "Prior", "Estimator",
    "MultiSample", "Task", "RolloutEstimator", "LatentRLError",
    # Records of results.
    "Trajectories", "BestOfK", "Entropy", "HeldOut", "Mean", "Modes", "Nearest", "Score", "Evaluation",
    # Buffers to which the library adds no argument, and functions that are tested as methods of a policy.
    "LatentRolloutBuffer", "LatentDictRolloutBuffer", "export_onnx", "export_program",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _as_users_have_it() -> Iterator[None]:
    """Without the checks of annotations that only tests have (see tests/conftest.py)."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number | np.bool_)


def odd(name: str, good: Any) -> list[Any]:
    """What may stand in place of an argument; arrays only where numbers do, and where they do not come from text."""
    several = is_number(good) and not isinstance(good, bool) and name not in constructors_table.COMMANDS
    return NUMBERS + THINGS + (ARRAYS if several or isinstance(good, np.ndarray | torch.Tensor) else [])


@st.composite
def changes(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """One or two arguments of a row, replaced."""
    row = ROWS[name]
    chosen = draw(st.lists(st.sampled_from(sorted(row.good)), min_size=1, max_size=2, unique=True))
    values = {argument: odd(name, row.good[argument]) for argument in chosen}
    for argument in row.endless & values.keys():
        values[argument] = [value for value in values[argument] if not (is_number(value) and value > 1e6)]
    return {argument: draw(st.sampled_from(values[argument])) for argument in chosen}


def works(name: str, arguments: dict[str, Any], made: Any) -> None:
    found = ROWS[name].use(made, arguments)
    assert all(np.isfinite(values).all() for values in numbers(found)), found


@pytest.mark.parametrize("name", ROWS)
def test_a_good_call_works(name: str) -> None:
    torch.manual_seed(0)
    works(name, ROWS[name].good, ROWS[name].make(**ROWS[name].good))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ROWS)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_odd_arguments_are_refused_or_work(name: str, data: st.DataObject) -> None:
    row, changed = ROWS[name], data.draw(changes(name))
    arguments = {**row.good, **changed}
    torch.manual_seed(0)
    try:
        made = row.make(**arguments)
    except row.error:
        return
    except TypeError:
        if all(is_number(value) and is_number(row.good[argument]) for argument, value in changed.items()):
            raise
        return
    works(name, arguments, made)


def public(module: ModuleType) -> Iterator[str]:
    """Names of the classes that a module exports or defines, and of the functions that a package exports."""
    for name in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
        found = getattr(module, name)
        own = hasattr(module, "__all__") or getattr(found, "__module__", "") == module.__name__
        if own and (inspect.isclass(found) or (inspect.isfunction(found) and hasattr(module, "__all__"))):
            yield name


@pytest.mark.parametrize(
    "module",
    [
        latentrl,
        latentrl_envs,
        latentrl_sb3,
        decoders,
        distributions,
        encoders,
        estimators,
        metrics,
        posteriors,
        priors,
        schedules,
    ],
    ids=lambda module: module.__name__,
)
def test_every_public_constructor_has_a_row(module: ModuleType) -> None:
    def takes_nothing(made: Any) -> bool:
        return inspect.isclass(made) and not set(inspect.signature(made).parameters) - {"args", "kwargs"}

    missing = set(public(module)) - UNCHECKED - ROWS.keys()
    missing = {name for name in missing if not takes_nothing(getattr(module, name))}
    assert not missing, "add rows to constructors_table.py"
