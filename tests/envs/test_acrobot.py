"""Acrobot against Gymnasium's own, and its equations against energy."""

import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import AcrobotEnv
from scipy.integrate import solve_ivp
from torch import Tensor

from latentrl_envs import Acrobot
from latentrl_envs.acrobot import derivatives, rk4
from tests.envs.parity import assert_same_episode, assert_same_pictures, assert_same_steps

CONSTANTS = {"m1": 1.3, "m2": 0.7, "l1": 1.1, "lc1": 0.4, "lc2": 0.6, "I1": 0.2, "I2": 0.3, "g": 9.1}


def pump(seen: np.ndarray) -> int:
    """Push the way that the elbow turns: puts in energy until the tip is up."""
    return 2 if seen[5] > 0 else 0


def energy(
    state: Tensor, m1: float, m2: float, l1: float, lc1: float, lc2: float, I1: float, I2: float, g: float
) -> Tensor:
    """Return kinetic plus potential energy in J, from where the centres of mass are and how they move."""
    angle1, angle2, velocity1, velocity2 = state.unbind(-1)
    angle, velocity = angle1 + angle2, velocity1 + velocity2
    x = l1 * velocity1 * angle1.cos() + lc2 * velocity * angle.cos()
    y = l1 * velocity1 * angle1.sin() + lc2 * velocity * angle.sin()
    kinetic = m1 * lc1**2 * velocity1**2 + I1 * velocity1**2 + m2 * (x**2 + y**2) + I2 * velocity**2
    return kinetic / 2 - m1 * g * lc1 * angle1.cos() - m2 * g * (l1 * angle1.cos() + lc2 * angle.cos())


def test_one_step_equals_gymnasium() -> None:
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (10_000, 4)) * (np.pi, np.pi, 4 * np.pi, 9 * np.pi)
    states[:5000, 2:] /= 10  # slower ones
    states[:100, :2] *= 3  # angles beyond one turn
    following, ends = assert_same_steps(Acrobot(), AcrobotEnv(), states, rng.integers(0, 3, 10_000))
    turned = np.abs(following - states) > np.pi
    assert turned[:, 0].sum() > 500
    assert turned[:, 1].sum() > 500
    for at, top in ((2, 4 * np.pi), (3, 9 * np.pi)):
        assert min((following[:, at] == top).sum(), (following[:, at] == -top).sum()) > 100
    assert 1000 < ends.sum() < 9000


def test_the_power_of_the_torque_is_the_change_of_energy() -> None:
    """With constants of which no two are equal, so that none is taken for another."""
    generator = torch.Generator().manual_seed(0)
    state = 6 * torch.rand(200, 4, dtype=torch.float64, generator=generator) - 3
    torque = 4 * torch.rand(200, dtype=torch.float64, generator=generator) - 2
    slope = torch.func.vmap(torch.func.grad(lambda x: energy(x, **CONSTANTS)))(state)
    power = (slope * derivatives(state, torque, **CONSTANTS)).sum(-1)
    torch.testing.assert_close(power, torque * state[:, 3], rtol=1e-9, atol=1e-9)


def test_the_torque_leaves_no_momentum_about_the_hinge() -> None:
    """Without gravity the angular momentum about the hinge, dE/d(velocity 1), stays what it is."""
    constants = CONSTANTS | {"g": 0.0}

    def momentum(state: Tensor) -> Tensor:
        return torch.func.grad(lambda x: energy(x, **constants))(state)[2]

    for state in 6 * torch.rand(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 3:
        slope = torch.func.grad(momentum)(state)
        assert slope @ derivatives(state, torch.tensor(1.7), **constants) == pytest.approx(0, abs=1e-9)


def test_rk4_is_of_fourth_order() -> None:
    """Against scipy at 1e-12: halving the step divides the error by about 16."""
    state, torque = torch.tensor([0.5, -0.4, 1.0, 2.0], dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)

    def slope(x: Tensor) -> Tensor:
        return derivatives(x, torque)

    exact = solve_ivp(lambda _, x: slope(torch.from_numpy(x)).numpy(), (0, 0.4), state, rtol=1e-12, atol=1e-12)
    errors = []
    for steps in (8, 16):
        x = state
        for _ in range(steps):
            x = rk4(slope, x, 0.4 / steps)
        errors.append(np.abs(x.numpy() - exact.y[:, -1]).max())
    assert 12 < errors[0] / errors[1] < 20


@pytest.mark.parametrize("seed", range(3))
def test_same_seed_gives_the_same_episode_to_the_goal(seed: int) -> None:
    steps, terminated, truncated = assert_same_episode("Acrobot-v1", pump, seed, atol=1e-6)
    assert (terminated, truncated) == (True, False)
    assert steps < 500


def test_same_seed_gives_the_same_episode_to_the_limit() -> None:
    """Random play reaches the goal before it with 1 % of seeds."""
    rng = np.random.default_rng(0)
    assert assert_same_episode("Acrobot-v1", lambda _: rng.integers(3), seed=0, atol=1e-6) == (500, False, True)


def test_spaces_are_gymnasiums() -> None:
    theirs, ours = AcrobotEnv(), Acrobot()
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)


def test_gradient_is_zero_in_a_velocity_that_is_cut() -> None:
    task, state = Acrobot(), torch.tensor([0.3, 0.2, 12.5, 28.0])
    by_state = torch.func.jacrev(task.transition)(state, torch.tensor(2))
    cut = task.transition(state, torch.tensor(2)).abs() == torch.tensor([0, 0, 4 * np.pi, 9 * np.pi])
    assert cut.any()
    assert by_state[cut].abs().max() == 0
    assert by_state[~cut].abs().max() > 0


def test_picture_is_gymnasiums(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_pictures("Acrobot-v1", 2, monkeypatch)
