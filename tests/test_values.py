"""Value functions as baseline and as critic, on a linear-quadratic task whose value function is known.

Statistical tests are seeded. Means: Bonferroni-corrected p of 1e-4 per test.
"""

import pytest
import torch
from torch import Tensor

from latentrl.distributions import DiagonalNormal
from latentrl.estimators import LikelihoodRatio, RolloutEstimator
from latentrl.estimators.rollout import ShortHorizon, ValueFunction
from latentrl.rollouts import ExpectedReturn
from latentrl.variance import GradientReport, gradient_variance
from latentrl_envs import LQR

GAIN = torch.tensor([[-0.3, 0.1, 0.0, 0.2], [0.1, -0.2, 0.1, 0.0]], dtype=torch.float64)
SIGMA, HORIZON, TASK = 0.6, 8, LQR()


def gaussian(p: dict[str, Tensor], observation: Tensor) -> DiagonalNormal:
    loc = observation @ p["gain"].mT
    return DiagonalNormal(loc, torch.full_like(loc, SIGMA))


def lqr_value(observations: Tensor, to_go: Tensor) -> Tensor:
    """−(xᵀ P x + c) with P = I + KᵀK + Mᵀ P' M, c = c' + σ² (A + tr Bᵀ P' B), going back from P = 0."""
    closed = TASK.A + TASK.B @ GAIN
    cost, constant = torch.zeros(4, 4, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    costs, constants = [cost], [constant]
    for _ in range(HORIZON):
        constant = constant + SIGMA**2 * (2 + (TASK.B.mT @ cost @ TASK.B).trace())
        cost = torch.eye(4, dtype=torch.float64) + GAIN.mT @ GAIN + closed.mT @ cost @ closed
        costs.append(cost)
        constants.append(constant)
    steps = to_go.long().squeeze(-1)
    quadratic = torch.einsum("tni,tij,tnj->tn", observations, torch.stack(costs)[steps], observations)
    return -(quadratic + torch.stack(constants)[steps].unsqueeze(-1))


def measure(estimator: RolloutEstimator, replicates: int = 600) -> GradientReport:
    exact, _ = TASK.expected_return_gradient(GAIN, torch.tensor(SIGMA, dtype=torch.float64), HORIZON)
    objective = ExpectedReturn(TASK, gaussian, estimator, HORIZON, 16)
    return gradient_variance(objective, {"gain": GAIN.clone()}, replicates, exact.flatten(), chunk_size=200)


def test_value_of_a_state_is_what_it_earns() -> None:
    """The closed form is the expected return of 20 000 rollouts, within 4.5 standard errors."""
    objective = ExpectedReturn(TASK, gaussian, LikelihoodRatio(), HORIZON, 20_000)
    trajectories = objective.roll_out(LikelihoodRatio(), {"gain": GAIN})
    left = trajectories.rewards.sum(0) - lqr_value(trajectories.observations[0][None], torch.tensor([[HORIZON]]))[0]
    assert abs(float(left.mean())) < 4.5 * float(left.std()) / 20_000**0.5


def test_a_value_baseline_is_unbiased_and_quieter() -> None:
    """It knows the state, which the mean of other trajectories does not."""
    known, others = measure(LikelihoodRatio(lqr_value)), measure(LikelihoodRatio())
    assert known.bias_p > 1e-4
    assert known.trace < 0.8 * others.trace


@pytest.mark.parametrize("window", [1, 3, 8, 20])
def test_windows_with_the_true_critic_are_unbiased(window: int) -> None:
    assert measure(ShortHorizon(window, lqr_value)).bias_p > 1e-4


def test_windows_without_a_critic_are_short_sighted() -> None:
    """With V = 0 each window of one step sees its own reward alone: ∂K E[−uᵀu] = −2 Σ_t K X_t. Eight coordinates within
    4.5 errors: 6e-5.
    """
    report = measure(ShortHorizon(1, lambda observations, _: observations[..., 0] * 0))
    moments, _, _ = TASK._moments(GAIN, torch.tensor(SIGMA, dtype=torch.float64), HORIZON)
    blind = -2 * sum(GAIN @ moment for moment in moments)
    z = (report.mean - blind.flatten()).abs() / report.mean_se
    assert float(z.max()) < 4.5
    assert report.bias_p < 1e-12


def test_value_function_learns_the_value() -> None:
    """Its error against the true value falls to a tenth of the spread of values."""
    torch.manual_seed(0)
    function = ValueFunction(4, HORIZON).double()
    optimizer = torch.optim.Adam(function.parameters(), 1e-2)
    objective = ExpectedReturn(TASK, gaussian, LikelihoodRatio(), HORIZON, 256)
    for _ in range(200):
        trajectories = objective.roll_out(LikelihoodRatio(), {"gain": GAIN})
        optimizer.zero_grad()
        function.loss(trajectories).backward()
        optimizer.step()
    observations = torch.stack(trajectories.observations[:HORIZON])
    to_go = torch.arange(HORIZON, 0, -1.0, dtype=torch.float64).unsqueeze(-1)
    true = lqr_value(observations, to_go)
    error = (function(observations, to_go).detach() - true).square().mean()
    assert float(error) < 0.1 * float(true.var())
