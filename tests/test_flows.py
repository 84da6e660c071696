"""Flows: gradients of their transforms, and the density that is kept of a draw."""

import pytest
import torch
from torch import Tensor

from tests.laws_table import LAWS, SPLINES, B, draw, flow, law
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


@pytest.mark.parametrize("name", ["flow", "inverse flow"])
def test_density_of_a_flows_own_draw(name: str) -> None:
    """It is known from the drawing: its value and its total derivative are those of the way back through the map."""
    build, parameters = LAWS[name]
    leaves = [p.clone().requires_grad_() for p in parameters]
    q = build(*leaves)
    z = q.rsample((5,))
    known, anew = q.log_prob(z), q.log_prob(z.clone())
    assert known is q.log_prob(z)
    assert known is not anew
    assert torch.allclose(known, anew)
    by_known, by_anew = (
        torch.autograd.grad(v.cos().sum(), leaves, retain_graph=True, materialize_grads=True) for v in (known, anew)
    )
    assert all(torch.allclose(a, b) for a, b in zip(by_known, by_anew, strict=True))
    wide = q.expand((4, B))
    z = wide.rsample((5,))
    assert wide.log_prob(z).shape == (5, 4, B)
    assert torch.allclose(wide.log_prob(z), q.log_prob(z))


def test_only_a_flows_own_draw_is_known() -> None:
    leaves = [p.clone().requires_grad_() for p in LAWS["flow"][1]]
    q = flow(*leaves)

    def partial(z: Tensor) -> Tensor:
        """Derivative by the location at a fixed value; that of a known density is the total one, zero."""
        return torch.autograd.grad(q.log_prob(z).sum(), leaves[0], materialize_grads=True)[0]

    drawn = q.rsample((5,))
    assert partial(drawn).abs().max() == 0
    assert partial(drawn.detach()).abs().min() > 0
    drawn = q.sample((5,))
    assert torch.allclose(partial(drawn), partial(drawn.clone()))
    drawn.requires_grad_()  # a draw without gradient leaves nothing behind
    assert torch.autograd.grad(q.log_prob(drawn).sum(), drawn)[0].abs().min() > 0
    first, second = q.rsample((5,)), q.rsample((5,))
    assert torch.allclose(q.log_prob(first), q.log_prob(first.clone()))
    assert torch.allclose(q.log_prob(second), q.log_prob(second.clone()))
    second += 1.0  # the same object, another value
    assert torch.allclose(q.log_prob(second), q.log_prob(second.clone()))
    third = q.rsample((5,))
    with torch.no_grad():
        assert not q.log_prob(third).requires_grad
    third.detach_()
    assert torch.allclose(partial(third), partial(third.clone()))
