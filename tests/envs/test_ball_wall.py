"""BallWall against the closed form of a throw, and what its gradients are worth."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from latentrl_envs import BallWall

HARD = math.inf


def distance(angle: np.ndarray, lift: np.ndarray | float, stiffness: float) -> np.ndarray:
    """Return how far a throw at this angle goes under a constant action, from the parabola: no steps."""
    across, up, pull = 8 * np.cos(angle), 8 * np.sin(angle), 9.81 - 2 * np.clip(lift, -1, 1)
    landing = (up + np.sqrt(up**2 + 2 * pull)) / pull
    meeting = 4 / across
    under = np.maximum(2.5 - (1 + up * meeting - pull * meeting**2 / 2), 0)
    with np.errstate(invalid="ignore"):
        share = np.where(under > 0, np.exp(-stiffness * under), 1.0)
    free = across * landing
    return np.where(free > 4, 4 + share * (free - 4), free)


def slope(lift: float, stiffness: float, step: float = 0.02) -> float:
    """Return d(expected distance)/d(constant action), by central differences of a mean over all angles."""
    angle = np.pi / 6 * (1 + (np.arange(400_000) + 0.5) / 400_000)
    high, low = (distance(angle, lift + sign * step, stiffness).mean() for sign in (1, -1))
    return (high - low) / (2 * step)


def fly(task: BallWall, noise: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances (N,) and last states of throws from uniforms (N, 1) under constant actions (N, 1)."""
    state = task.initial(noise)
    total = torch.zeros_like(state[:, 0])
    for _ in range(20):
        following = task.transition(state, actions)
        total, state = total + task.reward(state, actions, following), following
    return total, state


def pathwise(stiffness: float, n: int, lift: float = 0.0) -> Tensor:
    """Return the gradients (n,) of seeded random throws by a constant action."""
    noise = torch.rand(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    actions = torch.full((n, 1), lift, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(fly(BallWall(stiffness), noise, actions)[0].sum(), actions)
    return gradient[:, 0]


@pytest.mark.parametrize("stiffness", [0.0, 2.0, 1000.0, HARD])
def test_flights_have_the_closed_forms_distance(stiffness: float) -> None:
    """The share is .572: a false alarm in 30 000."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(5000, 1, dtype=torch.float64, generator=generator)
    actions = 3 * torch.rand(5000, 1, dtype=torch.float64, generator=generator) - 1.5  # a third beyond the clip
    total, end = fly(BallWall(stiffness), noise, actions)
    expected = distance(np.pi / 6 * (1 + noise[:, 0].numpy()), actions[:, 0].numpy(), stiffness)
    np.testing.assert_allclose(total, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(end[:, 0], expected, rtol=0, atol=1e-9)
    assert (end[:, 1:] == 0).all()  # all have landed within the time limit, and rest
    if stiffness == HARD:
        assert 0.4 < (total == 4.0).double().mean() < 0.6  # at the foot of the wall exactly


def test_the_distance_jumps_where_a_ball_just_clears_the_hard_wall() -> None:
    """And is continuous with a soft one."""
    angle = np.pi / 6 * (1 + np.linspace(0, 1, 100_001))
    edge = np.abs(np.diff(distance(angle, 0.0, HARD))).argmax()
    noise = torch.tensor([[edge], [edge + 1]], dtype=torch.float64) / 100_000
    for stiffness, low, high in ((HARD, 3.4, 3.5), (3.0, 0.0, 1e-3)):
        below, above = fly(BallWall(stiffness), noise, torch.zeros(2, 1, dtype=torch.float64))[0]
        assert low < above - below < high


@pytest.mark.parametrize("stiffness", [3.0, HARD])
def test_a_landed_ball_is_terminal_stays_and_has_finite_gradients(stiffness: float) -> None:
    task = BallWall(stiffness)
    action = torch.tensor([0.5], dtype=torch.float64)
    flying = torch.tensor([3.9, 0.3, 5.0, -4.0], dtype=torch.float64)  # through the wall and down within a step
    landed = task.transition(flying, action)
    assert not task.terminal(flying)
    assert task.terminal(landed)
    assert torch.equal(landed[1:], torch.zeros(3).double())
    assert torch.equal(task.transition(landed, action), landed)
    assert task.reward(landed, action, task.transition(landed, action)) == 0
    for state in (flying, landed, torch.tensor([4.0, 2.0, 0.0, -1.0], dtype=torch.float64)):  # stopped by the wall
        for jacobian in torch.func.jacrev(task.transition, argnums=(0, 1))(state, action):
            assert jacobian.isfinite().all()


def test_the_mean_pathwise_gradient_is_biased_with_the_hard_wall() -> None:
    """0.68 against a slope of 1.69: more than 50 standard errors of 20,000 throws. It is the slope within each side
    alone, which the closed form gives as well. False alarms: 6e-5 per seed (one comparison at 4 standard errors)."""
    gradient, truth = pathwise(HARD, 20_000), slope(0.0, HARD)
    error = gradient.std().item() / 20_000**0.5
    assert truth == pytest.approx(1.69, abs=0.02)
    assert truth - gradient.mean().item() > 50 * error
    angle = np.pi / 6 * (1 + (np.arange(400_000) + 0.5) / 400_000)
    each = (distance(angle, 1e-6, HARD) - distance(angle, -1e-6, HARD)) / 2e-6
    within = each[np.abs(each) < 100].mean()  # without the throws that change sides
    assert gradient.mean().item() == pytest.approx(within, abs=4 * error)


@pytest.mark.parametrize("lift", [-0.3, 0.0, 0.4])
@pytest.mark.parametrize("stiffness", [1.0, 3.0, 30.0])
def test_the_mean_pathwise_gradient_is_right_with_a_soft_wall(stiffness: float, lift: float) -> None:
    """Within 4 standard errors of 20,000 throws of the slope. False alarms: 6e-4 per seed (nine at 6e-5)."""
    gradient = pathwise(stiffness, 20_000, lift)
    error = gradient.std().item() / 20_000**0.5
    assert gradient.mean().item() == pytest.approx(slope(lift, stiffness), abs=4 * error + 2e-3)
    assert error < 0.04


def test_its_spread_grows_as_the_root_of_the_stiffness() -> None:
    """Until a sample falls on the edge of a stiff wall, it looks like the hard one's: the median does not change.

    Kurtosis is about twice the stiffness, so spreads are known to .7, 2.2 and 7 %; 4.5 of these, and 2 % for the digits
    given. False alarms: 2e-5 per seed.
    """
    for stiffness, spread, error in ((10.0, 2.7, 0.007), (100.0, 9.1, 0.022), (1000.0, 29.0, 0.07)):
        assert pathwise(stiffness, 100_000).std().item() == pytest.approx(spread, rel=4.5 * error + 0.02)
    assert pathwise(1e4, 2001).median().item() == pytest.approx(pathwise(HARD, 2001).median().item(), abs=1e-3)


def test_the_score_functions_gradient_is_unbiased_with_the_hard_wall() -> None:
    """By the mean of a normal action, the same in every step; the slope is that of the closed form under the same law.
    Within 4 standard errors of 100,000 throws; the pathwise mean is not within 20. False alarms: 6e-5 per seed."""
    n, sigma = 100_000, 0.2
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(n, 1, dtype=torch.float64, generator=generator)
    deviation = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    actions = (sigma * deviation).requires_grad_()
    total = fly(BallWall(HARD), noise, actions)[0]
    (by_path,) = torch.autograd.grad(total.sum(), actions)
    by_score = (total - total.mean()).detach() * deviation[:, 0] / sigma

    angle = np.pi / 6 * (1 + (np.arange(2000) + 0.5) / 2000)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    means = [
        sum(w * distance(angle, mean + sigma * x, HARD).mean() for x, w in zip(nodes, weights, strict=True))
        for mean in (-0.05, 0.05)
    ]
    truth = (means[1] - means[0]) / 0.1 / weights.sum()
    error = by_score.std().item() / n**0.5
    assert by_score.mean().item() == pytest.approx(truth, abs=4 * error + 0.01)
    assert truth - by_path.mean().item() > 20 * error


def test_starts_are_throws_from_30_to_60_degrees() -> None:
    """False alarms: 1e-4 per seed (a Kolmogorov-Smirnov test)."""
    noise = torch.rand(5000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, y, across, up = BallWall().initial(noise).numpy().T
    assert (x == 0).all()
    assert (y == 1).all()
    np.testing.assert_allclose(np.hypot(across, up), 8, rtol=1e-12)
    assert stats.kstest(np.degrees(np.arctan2(up, across)), stats.uniform(30, 30).cdf).pvalue > 1e-4


def test_an_action_beyond_the_bounds_is_cut_and_has_no_gradient() -> None:
    task, state = BallWall(), torch.tensor([0.0, 1.0, 5.0, 5.0])
    assert torch.equal(task.transition(state, torch.tensor([1.7])), task.transition(state, torch.tensor([1.0])))
    by_action = torch.func.jacrev(task.transition, argnums=1)
    assert by_action(state, torch.tensor([1.7])).abs().max() == 0
    assert by_action(state, torch.tensor([0.7]))[3] == pytest.approx(0.2)


@pytest.mark.parametrize("stiffness", [-1.0, -math.inf, math.nan, "1", None, True])
def test_bad_stiffness(stiffness: object) -> None:
    with pytest.raises(ValueError, match="stiffness must be"):
        BallWall(stiffness)


def test_the_picture_shows_wall_and_ball(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with gym.make("latentrl_envs:latentrl/BallWall-v0", render_mode="rgb_array") as env:
        env.reset(seed=0)
        picture = env.render()
    metre = picture.shape[1] / 10.5
    ground = picture.shape[0] - 0.5 * metre
    rows, columns = np.nonzero((picture == (0x66, 0x66, 0x66)).all(-1))
    assert columns.mean() == pytest.approx(4.5 * metre, abs=2)
    assert rows.min() == pytest.approx(ground - 2.5 * metre, abs=5)
    rows, columns = np.nonzero((picture == (0x44, 0x77, 0xAA)).all(-1))
    assert (columns.mean(), rows.mean()) == pytest.approx((0.5 * metre, ground - metre), abs=2)
