"""Moments of single draws' gradients against those gradients, drawn one by one from the same noise."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from latentrl.checks import LatentRLError
from latentrl.output_jacobian import OutputJacobian
from latentrl.per_sample import sample_moments
from latentrl.variance import SharedOutputs

S = 40


class Odd(nn.Module):
    """Layers that see one vector, one that is used twice, one that sees two, and parameters outside of any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice = nn.Linear(3, 4), nn.Linear(4, 4)
        self.rows, self.last = nn.Linear(2, 3, bias=False), nn.Linear(6, 4)
        self.scale = nn.Parameter(torch.tensor(1.3))
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.twice(self.twice(self.first(x).tanh()).tanh())
        return self.last(self.rows(h.view(2, 2)).flatten() * self.scale).view(2, 2)


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4), nn.Unflatten(0, (2, 2)))
    return {"plain": plain.double(), "odd": Odd().double()}


NETWORKS, X = networks(), torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)


def objective(name: str, noise: Tensor | None = None) -> SharedOutputs:
    """E (μ + exp(λ) ε)² by the outputs (μ, λ), with given noise or new one."""

    def surrogate(outputs: Tensor) -> Tensor:
        loc, log_scale = outputs.unbind(-2)
        drawn = torch.randn_like(loc) if noise is None else noise
        return ((loc + log_scale.exp() * drawn) ** 2).sum(-1)

    return SharedOutputs(lambda p: functional_call(NETWORKS[name], p, (X,)), surrogate)


def one_by_one(name: str, noise: Tensor) -> Tensor:
    model = NETWORKS[name]
    rows = []
    for eps in noise:
        loss = objective(name, eps)(dict(model.named_parameters()))
        parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), parts, strict=True)]
        rows.append(torch.cat([part.flatten() for part in filled]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_that_all_draws_share(name: str) -> None:
    noise = torch.randn(S, 2, dtype=torch.float64)
    found = sample_moments(objective(name, noise), NETWORKS[name].named_parameters(), S)
    rows = one_by_one(name, noise)
    torch.testing.assert_close(found.mean, rows.mean(0))
    torch.testing.assert_close(found.variance, rows.var(0))
    torch.testing.assert_close(found.trace, rows.var(0).sum())
    debiased = rows.mean(0).square().sum() / (rows.var(0).sum() / S) - 1
    torch.testing.assert_close(found.snr, debiased.clamp_min(0).sqrt())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_jacobian_is_that_of_autograd(name: str) -> None:
    model = NETWORKS[name]
    jacobian = OutputJacobian(objective(name).outputs, dict(model.named_parameters()))
    blocks = torch.func.jacrev(objective(name).outputs)(dict(model.named_parameters()))
    dense = torch.cat([block.reshape(4, -1) for block in blocks.values()], 1)
    torch.testing.assert_close(jacobian.gram(), dense @ dense.T)
    v, root = torch.randn(4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    torch.testing.assert_close(jacobian.transposed(v), v @ dense)
    covariance = root @ root.T
    torch.testing.assert_close(jacobian.variance(covariance), (dense.T @ covariance @ dense).diagonal())
    single = jacobian.to("cpu", torch.float32)
    assert single.gram().dtype == torch.float32
    assert jacobian.gram().dtype == torch.float64


def test_large_layers_stay_outer_products() -> None:
    """The blocks hold no (D, out, in) numbers where a layer sees one vector."""
    model = nn.Sequential(nn.Linear(100, 200), nn.Tanh(), nn.Linear(200, 6))
    jacobian = OutputJacobian(
        lambda p: functional_call(model, p, (torch.ones(1, 100),)), dict(model.named_parameters())
    )
    assert max(block.rows.numel() for block in jacobian._blocks) == 6 * 200


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_streamed(chunk: int | None) -> None:
    """Whatever the chunks: each draw its own noise, moments of the same gradients in whatever order they come."""
    torch.manual_seed(0)

    def noisy(p: dict[str, Tensor]) -> Tensor:
        return (p["a"] * (1000.0 + torch.randn(3, dtype=torch.float64))).sum() + p["b"] * torch.rand(()).double()

    found = sample_moments(noisy, {"a": torch.ones(3).double(), "b": torch.ones(()).double()}, 3000, chunk)
    # 4.5 standard errors: 3e-5 for all eight
    assert torch.allclose(found.mean[:3], torch.tensor(1000.0).double(), atol=4.5 / 3000**0.5)
    assert torch.allclose(found.variance[:3], torch.tensor(1.0).double(), atol=4.5 * (2 / 3000) ** 0.5)
    assert abs(float(found.mean[3]) - 0.5) < 4.5 * (1 / 12 / 3000) ** 0.5
    assert abs(float(found.variance[3]) - 1 / 12) < 4.5 * (1 / 180 / 3000) ** 0.5


def test_refusals() -> None:
    noisy = SharedOutputs(lambda p: p["x"] + torch.randn(2), lambda out: out.sum(-1))
    with pytest.raises(LatentRLError, match="must not draw noise"):
        sample_moments(noisy, {"x": torch.ones(2)}, 10)
    with pytest.raises(LatentRLError, match="one tensor, not tuple"):
        sample_moments(SharedOutputs(lambda p: (p["x"], p["x"]), torch.sum), {"x": torch.ones(2)}, 10)
    with pytest.raises(LatentRLError, match="num_samples must be"):
        sample_moments(lambda p: p["x"].sum(), {"x": torch.ones(2)}, 1)


@pytest.mark.parametrize(
    "noise",
    [
        nn.functional.dropout,
        torch.bernoulli,
        lambda x: torch.normal(0.0, x),
        lambda x: x.multinomial(1),
        lambda x: torch.distributions.Normal(x, x).rsample(),
        lambda x: torch.empty_like(x).uniform_(),
    ],
)
def test_outputs_that_draw_in_any_way_are_refused(noise: Any) -> None:
    """Each draw of the surrogate would get the same."""
    objective = SharedOutputs(lambda p: p["x"] * noise(torch.full((2,), 0.5)).sum(), lambda out: out.sum(-1))
    with pytest.raises(LatentRLError, match="must not draw noise"):
        sample_moments(objective, {"x": torch.ones(2)}, 10)


def test_activations_that_write_into_their_input_are_seen() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    inplace = nn.Sequential(plain[0], nn.ReLU(inplace=True), plain[2])
    x, v = torch.randn(5).double(), torch.randn(4).double()
    found = [
        OutputJacobian(lambda p, net=net: functional_call(net, p, (x,)), dict(net.named_parameters())).transposed(v)
        for net in (plain, inplace)
    ]
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("surrogate", [lambda out: out.mean(), lambda out: out.chunk(2)[0].sum(-1)])
def test_surrogates_of_another_shape_are_refused(surrogate: Any) -> None:
    with pytest.raises(LatentRLError, match=r"must return one number for each, \(10,\), but returned"):
        sample_moments(SharedOutputs(lambda p: p["x"], surrogate), {"x": torch.ones(4)}, 10)


def test_gradients_of_nothing_have_no_signal() -> None:
    found = sample_moments(lambda p: 0.0 * p["x"].sum() * torch.randn(()), {"x": torch.ones(2)}, 8)
    assert float(found.snr) == 0.0
