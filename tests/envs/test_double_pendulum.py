"""DoublePendulum: its steps against Gymnasium's equations and energy, its chaos, and what that does to gradients."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.acrobot import rk4 as their_rk4
from scipy import stats
from torch import Tensor

from latentrl_envs import DoublePendulum

NO_TORQUE = torch.zeros(1, dtype=torch.float64)


def starts(n: int, seed: int = 0) -> Tensor:
    return DoublePendulum().initial(
        torch.rand(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )


def energy(state: Tensor) -> Tensor:
    """Return kinetic and potential energy in J of two links of 1 kg, 1 m and 1 kg m² about their middles."""
    angle1, angle2, velocity1, velocity2 = state.unbind(-1)
    angle, velocity = angle1 + angle2, velocity1 + velocity2
    across = velocity1 * angle1.cos() + 0.5 * velocity * angle.cos()
    up = velocity1 * angle1.sin() + 0.5 * velocity * angle.sin()
    kinetic = (0.25 * velocity1**2 + across**2 + up**2 + velocity1**2 + velocity**2) / 2
    return kinetic - 9.8 * (1.5 * angle1.cos() + 0.5 * angle.cos())


def test_one_step_is_a_runge_kutta_step_of_gymnasiums_equations() -> None:
    task, theirs = DoublePendulum(), AcrobotEnv()
    states = 3 * starts(200)
    actions = torch.linspace(-1.5, 1.5, 200, dtype=torch.float64)[:, None]  # a third of them beyond the clip
    expected = [
        their_rk4(theirs._dsdt, np.append(state, 5 * np.clip(action, -1, 1)), [0, 0.05])[:4]
        for state, action in zip(states.numpy(), actions.numpy(), strict=True)
    ]
    np.testing.assert_allclose(task.transition(states, actions), expected, rtol=0, atol=1e-9)


def test_an_episode_without_torque_keeps_its_energy() -> None:
    """To 0.02 J, where the starts differ by 40 J."""
    task, state = DoublePendulum(), starts(200)
    before = energy(state)
    assert before.max() - before.min() > 30
    for _ in range(200):
        state = task.transition(state, NO_TORQUE)
    assert (energy(state) - before).abs().max() < 0.02


def lyapunov(state: Tensor, dt: float, seconds: float = 30.0) -> Tensor:
    """Return the largest exponents (N,) in 1/s by Benettin's method: how fast a neighbour 1e-7 away parts, brought back
    to that distance twice a second."""
    task = DoublePendulum()
    task.dt = dt
    every = round(0.5 / dt)
    away = torch.randn(state.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    growth = torch.zeros(len(state), dtype=torch.float64)
    for step in range(round(seconds / dt)):
        if step % every == 0:
            distance = away.norm(dim=-1, keepdim=True)
            growth += (distance / 1e-7).log()[:, 0] if step else 0
            away = away * (1e-7 / distance)
        both = task.transition(torch.stack((state, state + away)), NO_TORQUE)
        state, away = both[0], both[1] - both[0]
    return growth / seconds


def test_it_is_chaotic_whatever_the_step() -> None:
    """The mean exponent over 300 starts is 0.35 ± 0.05 per second (3 standard errors of one mean), within 4 standard
    errors of the difference of that at half the step, and more than 10 above 0. False alarms: 1e-3 per seed. The same
    measure is small where the links hang almost still."""
    coarse, fine = lyapunov(starts(300), 0.05), lyapunov(starts(300), 0.025)
    error = ((coarse.var() + fine.var()) / 300).sqrt()
    assert (coarse.mean() - fine.mean()).abs() < 4 * error
    assert coarse.mean() > 10 * error
    assert coarse.mean() == pytest.approx(0.35, abs=0.05)
    assert lyapunov(0.02 * starts(20), 0.05).max() < 0.15


def test_gradients_grow_exponentially_with_the_horizon() -> None:
    """The gradient of the return by a constant torque, at 0, over 200 starts: its median grows five times and more in
    100 steps, its standard deviation still faster."""
    task, state = DoublePendulum(), starts(200)
    action = torch.zeros(200, 1, dtype=torch.float64, requires_grad=True)
    total, norms, spreads = torch.zeros(200, dtype=torch.float64), [], []
    for step in range(1, 201):
        following = task.transition(state, action)
        total, state = total + task.reward(state, action, following), following
        if step % 100 == 0 or step == 10:
            (gradient,) = torch.autograd.grad(total.sum(), action, retain_graph=True)
            norms.append(gradient.abs().median().item())
            spreads.append(gradient.std().item())
    assert norms[1] > 20 * norms[0]
    assert norms[2] > 5 * norms[1]
    assert spreads[2] > 20 * spreads[1] > 400 * spreads[0]


def test_starts_are_uniform() -> None:
    """False alarms: 4e-4 per seed (four Kolmogorov-Smirnov tests at 1e-4)."""
    for value, high in zip(starts(5000).numpy().T, (np.pi, np.pi, 1, 1), strict=True):
        assert stats.kstest(value, stats.uniform(-high, 2 * high).cdf).pvalue > 1e-4


def test_the_reward_is_that_of_the_state_led_to() -> None:
    task, before, action = DoublePendulum(), torch.full((4,), 9.0), torch.zeros(1)
    assert task.reward(before, action, torch.tensor([math.pi, 0, 0, 0])) == 2
    assert task.reward(before, action, torch.zeros(4)) == -2
    state = torch.tensor([1.0, 0.5, -3.0, 2.0])
    expected = -math.cos(1) - math.cos(1.5) - 0.01 * (9 + 4)
    assert task.reward(before, action, state) == pytest.approx(expected, rel=1e-6)
    assert task.reward(before, action - 0.5, state) == pytest.approx(expected - 0.01 * 0.25, rel=1e-6)
    assert task.reward(before, action + 3, state) == pytest.approx(expected - 0.01, rel=1e-6)


def test_a_torque_beyond_the_bounds_has_no_gradient() -> None:
    by_action = torch.func.jacrev(DoublePendulum().transition, argnums=1)
    assert by_action(starts(1)[0], NO_TORQUE + 1.5).abs().max() == 0
    assert by_action(starts(1)[0], NO_TORQUE + 0.9).abs().min() > 0


def test_the_picture_shows_the_links(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gym.make("latentrl_envs:latentrl/DoublePendulum-v0", render_mode="rgb_array").unwrapped
    canvas = env.func_env.render_init(render_mode="rgb_array")
    state = torch.tensor([math.pi / 2, math.pi / 2, 0, 0])  # to the right, then up
    _, picture = env.func_env.render_image(state, canvas)
    rows, columns = np.nonzero((picture == (0, 0xCC, 0xCC)).all(-1))
    size = len(picture)
    metre = size / 4.4
    assert columns.max() == pytest.approx(size / 2 + metre, abs=9)
    assert rows.min() == pytest.approx(size / 2 - metre, abs=9)
    assert (columns.min() > size / 2 - 9) & (rows.max() < size / 2 + 9)
    _, pushed = env.func_env.render_image(state, canvas, action=torch.tensor([1.0]))
    assert not np.array_equal(picture, pushed)
