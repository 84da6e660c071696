"""CartPoleSwingUp: its equations against Gymnasium's CartPole, its steps against energy and scipy."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from scipy import stats
from scipy.integrate import solve_ivp
from torch import Tensor

from latentrl_envs import CartPoleSwingUp

NO_FORCE = torch.zeros(1, dtype=torch.float64)


def draw(n: int) -> Tensor:
    """Return states with any angle, up to 5 m/s and 10 rad/s."""
    box = torch.tensor([2.0, 5.0, math.pi, 10.0], dtype=torch.float64)
    return box * (2 * torch.rand(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1)


def energy(state: Tensor) -> Tensor:
    """Return kinetic and potential energy in J: a cart of 1 kg, a uniform rod of 0.1 kg and 1 m."""
    _, velocity, angle, spin = state.unbind(-1)
    across, up = velocity + 0.5 * spin * angle.cos(), -0.5 * spin * angle.sin()
    rod = 0.1 * (across**2 + up**2) / 2 + 0.1 / 12 * spin**2 / 2 + 0.1 * 9.8 * 0.5 * angle.cos()
    return velocity**2 / 2 + rod


def roll(task: CartPoleSwingUp, state: Tensor, action: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        state = task.transition(state, action)
    return state


def test_derivatives_are_gymnasiums() -> None:
    """Gymnasium takes an Euler step of 0.02 s under a force of ±10 N."""
    task, theirs = CartPoleSwingUp(), CartPoleEnv()
    states = draw(1000).numpy()
    for state, action in zip(states, np.arange(1000) % 2, strict=True):
        theirs.reset()
        theirs.state = state
        theirs.step(action)
        slope = task.derivatives(torch.from_numpy(state), torch.tensor(20.0 * action - 10).double())
        np.testing.assert_allclose(slope, (theirs.state - state) / 0.02, rtol=0, atol=1e-9)


def test_the_power_of_the_force_is_the_change_of_energy() -> None:
    state, force = draw(200), torch.linspace(-20, 20, 200, dtype=torch.float64)
    slope = torch.func.vmap(torch.func.grad(energy))(state)
    power = (slope * CartPoleSwingUp().derivatives(state, force)).sum(-1)
    torch.testing.assert_close(power, force * state[:, 1], rtol=1e-10, atol=1e-10)


def test_an_unforced_episode_keeps_its_energy() -> None:
    """To 2e-5 J, at up to 10 rad/s. (Semi-implicit Euler steps of the same size drift by 1.3 J.)"""
    start = draw(200)
    drift = energy(roll(CartPoleSwingUp(), start, NO_FORCE, 240)) - energy(start)
    assert drift.abs().max() < 2e-5


def test_steps_equal_scipys_to_the_fourth_order() -> None:
    """15 steps of 1/60 s against scipy at 1e-12: to 1e-5 from any state, and half the step divides the error by 16."""
    task, fine, start = CartPoleSwingUp(), CartPoleSwingUp(), draw(20)
    fine.dt = task.dt / 2
    push, force = torch.tensor([0.7], dtype=torch.float64), torch.tensor(7.0, dtype=torch.float64)

    def slope(_: float, x: np.ndarray) -> np.ndarray:
        return task.derivatives(torch.from_numpy(x), force).numpy()

    ends = [solve_ivp(slope, (0, 0.25), x, rtol=1e-12, atol=1e-12).y[:, -1] for x in start]
    exact = torch.from_numpy(np.array(ends))
    error = (roll(task, start, push, 15) - exact).abs().max()
    assert error < 1e-5
    assert 12 < error / (roll(fine, start, push, 30) - exact).abs().max() < 20


def test_starts_hang_with_a_jitter() -> None:
    """False alarms: 4e-4 per seed (four Kolmogorov-Smirnov tests at 1e-4)."""
    noise = torch.rand(5000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for value, center in zip(CartPoleSwingUp().initial(noise).numpy().T, (0, 0, np.pi, 0), strict=True):
        assert stats.kstest(value, stats.uniform(center - 0.05, 0.1).cdf).pvalue > 1e-4


def test_the_reward_is_that_of_the_state_led_to() -> None:
    task, before = CartPoleSwingUp(), torch.full((4,), 9.0)
    upright, action = torch.zeros(4), torch.zeros(1)
    assert task.reward(before, action, upright) == 0
    state = torch.tensor([2.0, -3.0, 1.0, 4.0])
    expected = math.cos(1) - 1 - 0.05 * 4 - 0.01 * 9 - 0.005 * 16
    assert task.reward(before, action, state) == pytest.approx(expected, rel=1e-6)
    assert task.reward(before, action - 0.5, state) == pytest.approx(expected - 0.001 * 0.25, rel=1e-6)
    assert task.reward(before, action + 3, state) == pytest.approx(expected - 0.001, rel=1e-6)
    hanging = task.transition(torch.tensor([0, 0, math.pi, 0]), action)
    assert 240 * task.reward(before, action, hanging) == pytest.approx(-480, rel=1e-4)


def test_a_force_beyond_the_bounds_is_cut_and_has_no_gradient() -> None:
    task, state = CartPoleSwingUp(), draw(1)[0]
    full = task.transition(state, NO_FORCE + 1)
    assert torch.equal(task.transition(state, NO_FORCE + 3), full)
    by_action = torch.func.jacrev(task.transition, argnums=1)
    assert by_action(state, NO_FORCE + 3).abs().max() == 0
    assert by_action(state, NO_FORCE - 0.9).abs().min() > 0


def test_the_pole_can_be_swung_up_and_held() -> None:
    """By pumping energy until the pole is near upright and then a linear feedback: -172 on average, all poles up. Mean
    of 50 starts −172.3 ± .6, over 30 errors away; none of 600 starts fell.
    """
    task = CartPoleSwingUp()
    noise = torch.rand(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    feedback = torch.tensor([1.8, 2.2, 12.5, 2.9], dtype=torch.float64)
    state, total = task.initial(noise), torch.zeros(50, dtype=torch.float64)
    for _ in range(240):
        position, velocity, angle, spin = state.unbind(-1)
        wrapped = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        missing = 0.49 * (1 - angle.cos()) - spin**2 / 60
        pump = -3 * missing * spin * angle.cos() - 0.5 * position - 0.2 * velocity
        hold = torch.stack((position, velocity, wrapped, spin), -1) @ feedback
        action = torch.where(wrapped.abs() < 0.8, hold, pump)[:, None]
        following = task.transition(state, action)
        total, state = total + task.reward(state, action, following), following
    assert state[:, 2].cos().min() > 0.99
    assert -190 < total.mean() < -150


def test_the_picture_shows_the_pole(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with gym.make("latentrl_envs:latentrl/CartPoleSwingUp-v0", render_mode="rgb_array") as env:
        env.reset(seed=0)
        picture = env.render()
    rows, columns = np.nonzero((picture == (0xCA, 0x98, 0x65)).all(-1))
    height, width, _ = picture.shape
    metre = width / 6
    assert rows.max() == pytest.approx(height / 2 + metre, abs=6)  # hanging by its length of 1 m
    assert rows.min() > height / 2 - 3  # smooth edges differ between processors
    assert columns.mean() == pytest.approx(width / 2, abs=0.1 * metre)
