"""KL weights and learning rates are pure functions."""

import math

import pytest

from latentrl import LatentRLError
from latentrl.schedules import Constant, Cosine, FadeIn, LinearAnnealing, as_schedule


def test_values() -> None:
    assert [Constant(0.3)(step, 1.0) for step in (0, 9)] == [0.3, 0.3]
    linear = LinearAnnealing(10, start=0.5, end=2.5)
    assert [linear(step, 1.0) for step in (0, 5, 10, 99)] == [0.5, 1.5, 2.5, 2.5]
    fading = FadeIn(Constant(2.0), 4)
    assert [fading(step, 1.0) for step in (0, 1, 4, 9)] == [0.0, 0.5, 2.0, 2.0]
    assert FadeIn(Constant(2.0), 0)(0, 1.0) == 2.0
    cosine = Cosine(0.1)
    assert (cosine(1.0), cosine(0.0)) == (0.1, 0.0)
    assert cosine(0.5) == pytest.approx(0.05)
    assert cosine(0.25) == pytest.approx(0.05 * (1 - math.cos(math.pi / 4)))


def test_numbers_and_callables_become_schedules() -> None:
    assert as_schedule(2)(7, 0.0) == 2.0
    linear = LinearAnnealing(3)
    assert as_schedule(linear) is linear


@pytest.mark.parametrize("bad", ["one", None, [1.0]])
def test_other_kl_weights_are_refused(bad: object) -> None:
    with pytest.raises(LatentRLError, match="number or a schedule"):
        as_schedule(bad)  # type: ignore[arg-type]


def test_bad_values_are_refused() -> None:
    with pytest.raises(LatentRLError, match="beta"):
        Constant(-1.0)
    with pytest.raises(LatentRLError, match="annealing steps"):
        LinearAnnealing(0)
