"""The same numbers in, the same gradients out, on the CPU and on CUDA."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad

from latentrl.distributions import Bernoullis, DiagonalNormal, OneHot
from latentrl.estimators import (
    DisArm,
    DReG,
    Enumerate,
    GumbelSoftmax,
    InverseVariance,
    LeaveOneOut,
    LikelihoodRatio,
    MeasureValued,
    MuProp,
    Pathwise,
    Rebar,
    ScoreFunction,
    StraightThrough,
    TotalPropagation,
    Vimco,
)
from latentrl.noise_tape import Player, numbers_for, record
from latentrl.rollouts import ExpectedReturn
from latentrl_envs import Pendulum

PARAMETERS = {"a": torch.tensor([0.3, -0.8, 0.1]), "b": torch.tensor([0.2, -0.1, 0.4])}


def expectation(estimator: Callable, law: Callable) -> Callable:
    return lambda p: estimator(law(p), lambda z: (z * p["b"]).sum(-1).sin(), 4).surrogate


def gaussian(p: dict[str, Tensor]) -> DiagonalNormal:
    return DiagonalNormal(p["a"], p["b"].exp())


def swing(estimator: object) -> ExpectedReturn:
    policy = lambda p, o: DiagonalNormal(o @ p["a"].unsqueeze(-1), torch.ones_like(o[..., :1]))  # noqa: E731
    return ExpectedReturn(Pendulum(), policy, estimator, 6, 8)  # type: ignore[arg-type]


OBJECTIVES: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    **{
        type(rule).__name__: expectation(rule, gaussian)
        for rule in (Pathwise(), ScoreFunction(LeaveOneOut()), MeasureValued(), DReG())
    },
    **{
        f"{type(rule).__name__}, choice": expectation(rule, lambda p: OneHot(p["a"]))
        for rule in (Enumerate(), GumbelSoftmax(), StraightThrough(), Rebar(), MuProp(), Vimco())
    },
    "DisArm, bits": expectation(DisArm(), lambda p: Bernoullis(p["a"])),
    **{
        f"{type(rule).__name__}, rollout": swing(rule)
        for rule in (LikelihoodRatio(), Pathwise(), InverseVariance(), TotalPropagation())
    },
}


def gradient(objective: Callable, device: str) -> list[Tensor]:
    parameters = {name: tensor.double() for name, tensor in PARAMETERS.items()}
    draws = record(lambda: objective(parameters))
    numbers = [number[0].to(device) for number in numbers_for(draws, 0, range(1))]
    there = {name: tensor.to(device) for name, tensor in parameters.items()}
    moved = _moved(objective, device)
    with Player(draws, numbers):
        return [part.cpu() for part in grad(moved)(there).values()]


def _moved(objective: Callable, device: str) -> Callable:
    """Modules with parameters of their own, such as REBAR's temperature, go along."""
    for cell in getattr(objective, "__closure__", None) or ():
        if isinstance(cell.cell_contents, torch.nn.Module):
            cell.cell_contents.to(device)
    return objective


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_those_of_the_cpu(name: str) -> None:
    torch.testing.assert_close(gradient(OBJECTIVES[name], "cuda"), gradient(OBJECTIVES[name], "cpu"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_same_numbers_give_the_same_gradient(name: str) -> None:
    """What the test above relies on."""
    first, second = gradient(OBJECTIVES[name], "cpu"), gradient(OBJECTIVES[name], "cpu")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(bool(part.any()) for part in first)
