"""The variance that REBAR and RELAX lower: their loss against the meter, quadrature and finite differences.

Statistical tests are seeded: within 4.5 standard errors, 7e-6 per comparison where the estimate is normal.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latentrl.distributions import Bernoullis, OneHot
from latentrl.estimators import ScoreFunction
from latentrl.estimators.rebar import Rebar, Relax
from latentrl.variance import gradient_variance, variance_ratio
from tests.finite_table import (
    LOGIT,
    PARAMETERS,
    SIZES,
    UNBIASED,
    WEIGHT,
    B,
    D,
    R,
    Z,
    bump,
    bump_slope,
    cost,
    law,
    masses,
    measure,
    network,
    support,
)
from tests.laws_table import draw


@pytest.mark.parametrize("name", SIZES)
def test_rebar_is_quieter_than_the_score_function_and_can_be_tuned(name: str) -> None:
    def start() -> Rebar:
        return Rebar(3.0, 0.3)

    rebar = start()
    tuner = torch.optim.Adam(rebar.parameters(), lr=0.07)
    q = law(name, PARAMETERS["logits"])
    for _ in range(40):
        tuner.zero_grad()
        rebar.variance_loss(q, lambda z: cost(PARAMETERS, z), 64).backward(inputs=list(rebar.parameters()))
        tuner.step()
    reports = [measure(name, e, seed=i) for i, e in enumerate((ScoreFunction(), start(), rebar))]
    traces = [float(r.mean_se[: B * D].square().sum()) for r in reports]
    assert traces[1] < 0.9 * traces[0]
    assert traces[2] < min(0.4 * traces[0], 0.6 * traces[1])
    assert variance_ratio(reports[2], reports[0]).ci[1] < 1.0


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("member", ["rebar", "relax"])
def test_variance_loss_is_the_second_moment_of_the_gradient(name: str, member: str) -> None:
    """Of one draw's, by the unnormalised logits: trace + ‖exact gradient‖²."""
    rebar, logits = UNBIASED[member](), PARAMETERS["logits"][0]
    f = lambda z: cost(PARAMETERS, z)  # noqa: E731
    exact = torch.func.grad(lambda x: (masses(name, x) * f(support(name))).sum())(logits)
    report = gradient_variance(
        lambda p: rebar(law(name, p["logits"]), f).surrogate, {"logits": logits}, R, exact, chunk_size=R // 2
    )
    losses = torch.stack([rebar.variance_loss(law(name, logits), f, 1000).detach() for _ in range(20)])
    expected = report.trace + float(exact.square().sum())
    error = math.hypot(report.trace * report.log_trace_se, float(losses.std()) / math.sqrt(20))
    assert abs(float(losses.mean()) - expected) < 6 * error  # 9e-6 for Student's t with 19 degrees of freedom


def test_variance_loss_of_one_bit_against_quadrature() -> None:
    def second_moment(p: dict[str, Tensor]) -> Tensor:
        relaxed, bit = (Z * (-p["log_temperature"]).exp()).sigmoid(), (Z > 0).double()
        probability = torch.tensor(LOGIT).double().sigmoid()
        mass = torch.where(bit > 0, probability, 1 - probability)
        slope = bump_slope(relaxed) * relaxed * (1 - relaxed) * (-p["log_temperature"]).exp()
        path = p["eta"] * slope * (1 - (1 - (-Z.abs()).exp()) * mass)
        return (WEIGHT * ((bump(bit) - p["eta"] * bump(relaxed)) * (bit - probability) + path).square()).sum()

    rebar = Rebar(0.4, 0.7).double()
    exact = torch.func.grad(second_moment)({k: v.detach() for k, v in rebar.named_parameters()})
    q = Bernoullis(torch.tensor([LOGIT]).double())
    rows = []
    for _ in range(40):
        loss = rebar.variance_loss(q, lambda z: bump(z[..., 0]), 2000)
        rows.append(torch.stack(torch.autograd.grad(loss, list(rebar.parameters()))))
    found = torch.stack(rows)
    error = found.std(0) / math.sqrt(len(rows))
    expected = torch.stack([exact["log_temperature"], exact["eta"]])
    assert ((found.mean(0) - expected).abs() < 5.5 * error).all()  # 5e-6 for Student's t with 39 degrees of freedom
    assert (error < 0.05 * expected.abs()).all()


@pytest.mark.parametrize("name", SIZES)
def test_variance_loss_against_finite_differences(name: str) -> None:
    """With common noise, for every parameter: temperature, η and the network's."""
    relax = Relax(network(), 0.4, 0.7).double()
    q = law(name, PARAMETERS["logits"])

    def loss() -> Tensor:
        torch.manual_seed(5)
        return relax.variance_loss(q, lambda z: cost(PARAMETERS, z), 50)

    for parameter, slope in zip(relax.parameters(), torch.autograd.grad(loss(), list(relax.parameters())), strict=True):
        flat, expected = parameter.data.view(-1), []
        for i in range(len(flat)):
            sides = []
            for step in (1e-5, -2e-5):
                flat[i] += step
                sides.append(float(loss().detach()))
            flat[i] += 1e-5
            expected.append((sides[0] - sides[1]) / 2e-5)
        assert torch.allclose(slope.reshape(-1), torch.tensor(expected).double(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("member", [Rebar, lambda temperature: Relax(nn.Linear(3, 1), temperature)])
@pytest.mark.parametrize("temperature", [0.1, 1e-6])
def test_options_that_are_ruled_out_leave_the_slope_of_the_loss_finite(member: Any, temperature: float) -> None:
    logits, values = torch.tensor([0.0, 0.5, -math.inf]), torch.tensor([1.0, -0.5, 7.0])
    rebar = member(temperature)
    torch.manual_seed(0)
    rebar.variance_loss(OneHot(logits), lambda z: (z @ values).square(), 50).backward()
    assert all(bool(p.grad.isfinite().all()) for p in rebar.parameters())


def test_the_surrogate_trains_no_control_variate_and_the_loss_no_law() -> None:
    relax, logits = Relax(network()), draw(B, D).requires_grad_()
    q = Bernoullis(logits)
    relax(q, lambda z: cost(PARAMETERS, z), 3).surrogate.sum().backward()
    assert all(p.grad is None for p in relax.parameters())
    logits.grad = None
    relax.variance_loss(q, lambda z: cost(PARAMETERS, z), 3).backward()
    assert logits.grad is None
    assert all(p.grad.abs().sum() > 0 for p in relax.parameters())
