"""Flows: gradients of their transforms."""

import pytest
import torch
from torch import Tensor

from tests.laws_table import LAWS, SPLINES, B, draw, law
from tests.twins import twin


@pytest.mark.parametrize("name", ["flow", "inverse flow", "mixture of flows"])
def test_parameters_of_a_transform_get_their_gradient(name: str) -> None:
    """Density and draws, by finite differences in one direction of all weights of the splines."""
    build, parameters = LAWS[name]
    weights = list(SPLINES[torch.float64].parameters())
    steps = [draw(*p.shape, seed=i) for i, p in enumerate(weights)]
    z = law(name).sample((20,))

    def functions() -> list[Tensor]:
        torch.manual_seed(0)
        q = build(*parameters)
        return [q.log_prob(z).sum(), *([q.rsample((20,)).square().sum()] if q.has_rsample else [])]

    def moved(by: float) -> list[Tensor]:
        for weight, step in zip(weights, steps, strict=True):
            weight.add_(by * step)
        return functions()

    up, down, _ = moved(1e-6), moved(-2e-6), moved(1e-6)
    try:
        for weight in weights:
            weight.requires_grad_()
        values = functions()
        for value, above, below in zip(values, up, down, strict=True):
            slopes = torch.autograd.grad(value, weights, retain_graph=True)
            slope = sum((g * s).sum() for g, s in zip(slopes, steps, strict=True))
            assert torch.allclose(slope, (above - below) / 2e-6, rtol=1e-5)
    finally:
        for weight in weights:
            weight.requires_grad_(False)


@pytest.mark.parametrize("name", ["flow", "inverse flow"])
def test_mode_is_the_image_of_the_gaussians_mean(name: str) -> None:
    value = torch.zeros(B, 2).double()
    for move in twin(law(name)).transforms:
        value = move(value)
    assert torch.allclose(law(name).mode, value)
    assert not torch.allclose(value, LAWS[name][1][0])
