"""LQR: its closed forms against the task itself, autograd, finite differences and scipy."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import solve_discrete_are
from torch import Tensor

from latentrl_envs import LQR
from tests.envs.tasks_table import central_differences


def a_policy(task: LQR, sigma: tuple[float, ...] | float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a gain that is not the best one and σ."""
    noise = torch.randn(task.B.mT.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return task.best_gains(50)[0] + 0.1 * noise, torch.tensor(sigma, dtype=torch.float64)


def returns(task: LQR, gain: Tensor, start: Tensor, pushes: Tensor) -> Tensor:
    """Return the sums of rewards (N,) from starts (N, S) under u = K x + pushes (T, N, A), step by step."""
    state, total = start, torch.zeros_like(start[:, 0])
    for push in pushes:
        action = state @ gain.mT + push
        following = task.transition(state, action)
        total, state = total + task.reward(state, action, following), following
    return total


def summed_over_impulses(task: LQR, gain: Tensor, sigma: Tensor, horizon: int) -> Tensor:
    """Return the expected return exactly, without a second moment: it is quadratic in independent numbers of mean 0 and
    variance 1, the start and the noise, so it is the sum of the returns of one of them being 1 and all others 0."""
    size, pushed = len(task.A), len(gain)
    spread = sigma.expand(pushed)
    by_start = returns(task, gain, torch.eye(size).double(), torch.zeros(horizon, size, pushed).double())
    impulses = torch.eye(horizon * pushed).double().view(-1, horizon, pushed).transpose(0, 1) * spread
    by_noise = returns(task, gain, torch.zeros(horizon * pushed, size).double(), impulses)
    return by_start.sum() + by_noise.sum()


def test_the_matrices_come_from_the_seed() -> None:
    """Two of 24 pairs of normals are close by chance in 8e-5."""
    task, same, other = LQR(seed=5), LQR(seed=5), LQR(seed=6)
    assert torch.equal(task.A, same.A)
    assert torch.equal(task.B, same.B)
    assert not torch.isclose(task.A, other.A).any()
    assert not torch.isclose(task.B, other.B).any()
    torch.testing.assert_close(LQR(seed=5, spectral_radius=0.19).A, task.A / 5)


@pytest.mark.parametrize(("state_dim", "action_dim", "radius"), [(1, 1, 0.95), (4, 2, 0.5), (100, 10, 1.02)])
def test_sizes_and_spectral_radius(state_dim: int, action_dim: int, radius: float) -> None:
    task = LQR(state_dim=state_dim, action_dim=action_dim, spectral_radius=radius)
    assert np.abs(np.linalg.eigvals(task.A.numpy())).max() == pytest.approx(radius, rel=1e-9)
    assert (task.A.shape, task.B.shape) == ((state_dim, state_dim), (state_dim, action_dim))
    assert (task.observation_space.shape, task.action_space.shape) == ((state_dim,), (action_dim,))
    assert task.initial(torch.rand(3, task.initial_noise_dim)).shape == (3, state_dim)


def test_one_step_is_linear_far_beyond_the_bounds_of_the_action_space() -> None:
    task, rng = LQR(state_dim=7, action_dim=3), np.random.default_rng(0)
    x, u = rng.normal(0, 100, 7), rng.normal(0, 100, 3)
    state, action = torch.from_numpy(x), torch.from_numpy(u)
    following = task.transition(state, action)
    np.testing.assert_allclose(following, task.A.numpy() @ x + task.B.numpy() @ u, rtol=1e-12)
    assert task.reward(state, action, following) == pytest.approx(-(x @ x + u @ u), rel=1e-12)


def test_starts_have_mean_0_and_variance_1() -> None:
    """False alarms: 1e-4 per seed (a Kolmogorov-Smirnov test against the uniform law that has them)."""
    noise = torch.rand(5000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    law = stats.uniform(-np.sqrt(3), 2 * np.sqrt(3))
    assert (law.mean(), law.var()) == pytest.approx((0, 1))
    assert stats.kstest(LQR().initial(noise).flatten(), law.cdf).pvalue > 1e-4


@pytest.mark.parametrize("sigma", [0.0, 0.7, (0.3, 0.9)])
@pytest.mark.parametrize("horizon", [1, 2, 30])
def test_the_expected_return_is_that_of_the_task(sigma: tuple[float, ...] | float, horizon: int) -> None:
    task = LQR(state_dim=6, action_dim=2, seed=1)
    gain, spread = a_policy(task, sigma)
    expected = summed_over_impulses(task, gain, spread, horizon)
    torch.testing.assert_close(task.expected_return(gain, spread, horizon), expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("sigma", [0.7, (0.3, 0.9)])
@pytest.mark.parametrize("horizon", [1, 2, 30])
def test_the_gradient_is_autograds_and_that_of_finite_differences(
    sigma: tuple[float, ...] | float, horizon: int
) -> None:
    task = LQR(state_dim=6, action_dim=2, seed=1)
    gain, spread = a_policy(task, sigma)
    gradient = task.expected_return_gradient(gain, spread, horizon)
    by_autograd = torch.func.grad(task.expected_return, argnums=(0, 1))(gain, spread, horizon)
    torch.testing.assert_close(gradient, by_autograd, rtol=1e-11, atol=1e-11)
    by_task = (
        central_differences(lambda x: summed_over_impulses(task, x, spread, horizon), gain),
        central_differences(lambda x: summed_over_impulses(task, gain, x, horizon), spread),
    )
    torch.testing.assert_close(gradient, by_task, rtol=1e-6, atol=1e-6)


def test_both_estimators_are_unbiased() -> None:
    """20,000 rollouts: their mean return and both gradients are within 4.5 standard errors of the closed form. False
    alarms: 1e-4 per seed (15 comparisons at 7e-6)."""
    task, horizon, n = LQR(state_dim=3, action_dim=2, seed=2), 10, 20_000
    generator = torch.Generator().manual_seed(0)
    gain, sigma = a_policy(task, 0.6)
    start = task.initial(torch.rand(n, 3, dtype=torch.float64, generator=generator))
    noise = torch.randn(horizon, n, 2, dtype=torch.float64, generator=generator)

    def pathwise(K: Tensor, s: Tensor, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        total = returns(task, K, x[None], s * e[:, None])[0]
        return total, total

    gradient = torch.func.vmap(torch.func.grad(pathwise, argnums=(0, 1), has_aux=True), in_dims=(None, None, 0, 1))
    by_path, total = gradient(gain, sigma, start, noise)

    # The score of u = K x + σ ε: ε xᵀ / σ for K and (|ε|² - A) / σ for σ, summed over the steps.
    state, by_gain, by_sigma = start, torch.zeros(n, 2, 3).double(), torch.zeros(n).double()
    for e in noise:
        by_gain += e[:, :, None] * state[:, None] / sigma
        by_sigma += (e.square().sum(-1) - 2) / sigma
        state = task.transition(state, state @ gain.mT + sigma * e)
    centered = total - total.mean()
    by_score = (centered[:, None, None] * by_gain, centered * by_sigma)

    value, exact = task.expected_return(gain, sigma, horizon), task.expected_return_gradient(gain, sigma, horizon)
    for samples, truth in [(total, value), *zip(by_path, exact, strict=True), *zip(by_score, exact, strict=True)]:
        z = (samples.mean(0) - truth) / (samples.std(0) / n**0.5)
        assert z.abs().max() < 4.5


def test_the_best_gains_leave_nothing_to_improve() -> None:
    """Autograd through the task, from every unit vector: no gain at any step has a slope."""
    task = LQR(state_dim=5, action_dim=2, seed=3)

    def total(gains: Tensor) -> Tensor:
        state, rewards = torch.eye(5).double(), torch.tensor(0.0).double()
        for gain in gains:
            action = state @ gain.mT
            following = task.transition(state, action)
            rewards, state = rewards + task.reward(state, action, following).sum(), following
        return rewards

    best = task.best_gains(20)
    assert best[-1].abs().max() == 0  # a last push earns nothing
    slope = torch.func.grad(total)
    assert slope(best).abs().max() < 1e-10
    assert slope(0.9 * best).abs().max() > 0.1


def test_the_first_gain_of_a_long_horizon_is_scipys_stationary_one() -> None:
    task = LQR(state_dim=10, action_dim=3, seed=4, spectral_radius=1.05)
    A, B = task.A.numpy(), task.B.numpy()
    P = solve_discrete_are(A, B, np.eye(10), np.eye(3))
    K = -np.linalg.solve(np.eye(3) + B.T @ P @ B, B.T @ P @ A)
    np.testing.assert_allclose(task.best_gains(400)[0], K, rtol=1e-8, atol=1e-10)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="state_dim must be an integer of at least 1"):
        LQR(state_dim=0)
    with pytest.raises(ValueError, match="action_dim must be an integer of at least 1"):
        LQR(action_dim=1.5)
    with pytest.raises(ValueError, match="spectral_radius must be finite and at least 0"):
        LQR(spectral_radius=-0.1)
    for seed in (-1, True, 0.5, None):
        with pytest.raises(ValueError, match="seed must be an integer of at least 0"):
            LQR(seed=seed)
    for closed_form in (LQR().expected_return, LQR().expected_return_gradient):
        with pytest.raises(ValueError, match="horizon must be an integer of at least 1"):
            closed_form(*a_policy(LQR(), 0.1), 0)
