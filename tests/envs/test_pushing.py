"""Pushing: its contact against momentum, scipy and an event-driven collision, and where its gradients vanish."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import solve_ivp
from torch import Tensor

from latentrl_envs import Pushing
from tests.envs.tasks_table import central_differences

RIGID = math.inf
every_stiffness = pytest.mark.parametrize("stiffness", [1e-3, 10.0, 1000.0, 1e9, RIGID])


def pushing(stiffness: float, friction: float = 1.0, dt: float = 0.05) -> Pushing:
    task = Pushing(stiffness)
    task.friction, task.dt = friction, dt
    return task


def roll(task: Pushing, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of rewards and the last states under actions (T, ..., 1)."""
    total = torch.zeros_like(state[..., 0])
    for action in actions:
        following = task.transition(state, action)
        total, state = total + task.reward(state, action, following), following
    return total, state


def starts(n: int) -> Tensor:
    return Pushing().initial(torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


def constant(value: float, steps: int) -> Tensor:
    return torch.full((steps, 1), value, dtype=torch.float64)


def some_states(n: int) -> Tensor:
    """Return states of which half overlap, at up to 3 m/s."""
    box = torch.tensor([0.2, 3.0, 0.2, 3.0], dtype=torch.float64)
    return box * (2 * torch.rand(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1)


@every_stiffness
def test_only_the_force_and_the_friction_change_the_momentum(stiffness: float) -> None:
    state, action = some_states(1000), torch.linspace(-1.5, 1.5, 1000, dtype=torch.float64)[:, None]
    _, velocity, _, sliding = Pushing(stiffness).transition(state, action).unbind(-1)
    gained = velocity + sliding - state[:, 1] - state[:, 3]
    torch.testing.assert_close(gained, 0.05 * (5 * action[:, 0].clamp(-1, 1) - state[:, 3]), rtol=0, atol=1e-12)


@every_stiffness
def test_the_contact_only_pushes(stiffness: float) -> None:
    """The object is never slower to the right than friction leaves it, the pusher never faster than its force does."""
    state, action = some_states(1000), constant(0.5, 1000)
    _, velocity, _, sliding = Pushing(stiffness).transition(state, action).unbind(-1)
    assert (sliding > 0.95 * state[:, 3] - 1e-12).all()
    assert (velocity < state[:, 1] + 0.125 + 1e-12).all()


@pytest.mark.parametrize(("stiffness", "restitution"), [(10.0, 0.80), (100.0, 0.39), (1000.0, 0.11), (RIGID, 0.0)])
def test_bodies_part_with_the_share_of_their_closing_speed_that_is_told(stiffness: float, restitution: float) -> None:
    task, start = pushing(stiffness, friction=0.0), torch.tensor([-1.5, 1.0, 0.0, 0.0], dtype=torch.float64)
    _, end = roll(task, start, constant(0.0, 200))
    assert end[3] - end[1] == pytest.approx(restitution, abs=0.005)
    assert end[1] + end[3] == pytest.approx(1, abs=1e-12)


def test_a_soft_contact_is_the_springs_differential_equation() -> None:
    """Against scipy at 1e-10: 1.5 s through a bounce, to the first order of the step."""

    def slope(_: float, x: np.ndarray) -> tuple[float, ...]:
        force = np.logaddexp(0, 30 * (x[0] - x[2]))
        return x[1], 2.0 - force, x[3], force - x[3]

    start = torch.tensor([-0.5, 1.0, 0.0, 0.0], dtype=torch.float64)
    exact = torch.from_numpy(solve_ivp(slope, (0, 1.5), start, rtol=1e-10, atol=1e-10).y[:, -1])
    errors = [
        (roll(pushing(30.0, dt=1.5 / n), start, constant(0.4, n))[1] - exact).abs().max().item() for n in (600, 1200)
    ]
    assert errors[0] < 0.04
    assert 1.8 < errors[0] / errors[1] < 2.2


def test_a_rigid_contact_is_an_inelastic_collision() -> None:
    """Against the events in closed form: 5 N drive the pusher over a gap of 0.3 m, the bodies go on at half the speed,
    and then both are driven and only one is braked: 2 dV/dt = 5 - V. To 0.12 m after 3.7 m, and to a tenth of that at
    a tenth of the step."""
    met = math.sqrt(2 * 0.3 / 5)
    speed, after = 5 * met / 2, 2.0 - met
    moved = 5 * after + 2 * (speed - 5) * (1 - math.exp(-after / 2))
    start, errors = torch.tensor([-0.3, 0.0, 0.0, 0.0], dtype=torch.float64), []
    for steps in (40, 400):
        _, end = roll(pushing(RIGID, dt=2 / steps), start, constant(1.0, steps))
        torch.testing.assert_close(end[:2], end[2:], rtol=0, atol=1e-12)
        errors.append(abs(end[2].item() - moved))
    assert errors[0] < 0.12
    assert errors[1] < 0.15 * errors[0]


def test_a_stiff_contact_tends_to_the_rigid_one() -> None:
    state, actions = starts(50), constant(0.4, 60)[:, None].expand(60, 50, 1)
    rigid = roll(Pushing(RIGID), state, actions)[1]
    gaps = [(roll(Pushing(k), state, actions)[1] - rigid).abs().max().item() for k in (1e3, 1e5, 1e7)]
    assert gaps[0] > 10 * gaps[1]
    assert gaps[2] < 1e-4


@pytest.mark.parametrize("stiffness", [5.0, 20.0, 100.0, RIGID])
def test_without_contact_the_gradient_is_flat(stiffness: float) -> None:
    """The gap never closes under forces that begin to the left and average 0. The gradient of the return by them is
    exactly 0 if the contact is rigid, else of the order of exp(-stiffness · gap) at most, and never 0."""
    task, state = Pushing(stiffness), starts(40)
    actions = (0.1 * torch.tensor([-1.0, 1.0] * 30, dtype=torch.float64)).view(60, 1, 1).repeat(1, 40, 1)
    actions.requires_grad_()
    total = roll(task, state, actions)[0]
    (gradient,) = torch.autograd.grad(total.sum(), actions)
    size = gradient.norm(dim=(0, 2))
    if stiffness == RIGID:
        assert (size == 0).all()
    else:
        assert (size > 0).all()
        assert (size < 2000 * (-stiffness * (state[:, 2] - state[:, 0])).exp()).all()


@pytest.mark.parametrize("stiffness", [10.0, RIGID])
def test_the_mean_pathwise_gradient_is_the_slope_of_the_mean_return(stiffness: float) -> None:
    """The return has kinks and no jumps: over 400 starts and noises, none of them at a kink, both agree. With a
    rigid contact more than a third of the episodes have no gradient at all."""
    task, state = Pushing(stiffness), starts(400)
    noise = 0.3 * torch.randn(60, 400, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    shift = torch.zeros(400, 1, dtype=torch.float64, requires_grad=True)
    total = roll(task, state, noise + shift)[0]
    (gradient,) = torch.autograd.grad(total.sum(), shift)
    mean = central_differences(
        lambda x: roll(task, state, noise + x)[0].mean(), torch.zeros(1, dtype=torch.float64), 1e-7
    )
    torch.testing.assert_close(gradient.mean(), mean[0], rtol=1e-6, atol=0)
    assert ((gradient == 0).double().mean() > 1 / 3) == (stiffness == RIGID)


@every_stiffness
def test_no_stiffness_is_too_large_for_the_step(stiffness: float) -> None:
    _, end = roll(Pushing(stiffness), starts(100), constant(1.0, 60)[:, None].expand(60, 100, 1))
    assert end.isfinite().all()
    assert end[:, 1].max() < 15  # 5 N for 3 s give 1 kg 15 m/s
    if stiffness >= 10:
        assert end[:, 2].min() > 1  # the object has been pushed beyond its goal


def test_the_object_can_be_brought_to_its_goal() -> None:
    """By a pusher that is at the goal, as fast as the distance left to it: it pushes the object there."""
    task, state = Pushing(), starts(100)
    for _ in range(60):
        action = (4 * (-state[:, 2:3].clamp(max=0.0)) - 3 * state[:, 1:2]) / 5
        state = task.transition(state, action)
    assert state[:, 2].abs().max() < 0.2


def test_starts_are_at_rest_and_apart() -> None:
    """False alarms: 2e-4 per seed (two Kolmogorov-Smirnov tests at 1e-4)."""
    pusher, velocity, block, sliding = starts(5000).numpy().T
    assert (velocity == 0).all()
    assert (sliding == 0).all()
    assert stats.kstest(block, stats.uniform(-1.2, 0.4).cdf).pvalue > 1e-4
    assert stats.kstest(block - pusher, stats.uniform(0.2, 0.2).cdf).pvalue > 1e-4


def test_the_reward_is_that_of_where_the_object_is_led_to() -> None:
    state, following = torch.tensor([3.0, 1.0, 2.0, 1.0]), torch.tensor([-1.0, 1.0, 0.5, 1.0])
    assert Pushing().reward(state, torch.ones(1), following) == -0.25


def test_a_force_beyond_the_bounds_is_cut_and_has_no_gradient() -> None:
    task, state = Pushing(), torch.tensor([-0.3, 0.0, 0.0, 0.0])
    assert torch.equal(task.transition(state, torch.tensor([1.7])), task.transition(state, torch.tensor([1.0])))
    by_action = torch.func.jacrev(task.transition, argnums=1)
    assert by_action(state, torch.tensor([1.7])).abs().max() == 0
    assert by_action(state, torch.tensor([0.7]))[1] == pytest.approx(0.25)


@pytest.mark.parametrize("stiffness", [0.0, -1.0, -math.inf, math.nan, "1", None, True])
def test_bad_stiffness(stiffness: object) -> None:
    with pytest.raises(ValueError, match="stiffness must be"):
        Pushing(stiffness)


def test_the_picture_shows_both_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    task = gym.make("latentrl_envs:latentrl/Pushing-v0").unwrapped.func_env
    canvas = task.render_init(render_mode="rgb_array")
    _, picture = task.render_image(torch.tensor([-1.3, 0.0, -0.8, 0.0]), canvas)
    metre = picture.shape[1] / 3.6
    block = np.nonzero((picture == (0xCA, 0x98, 0x65)).all(-1))[1]
    assert (block.min(), block.max()) == pytest.approx((1.4 * metre, 1.8 * metre), abs=3)
    pusher = np.nonzero((picture == (0x44, 0x77, 0xAA)).all(-1))[1]
    assert pusher.max() == pytest.approx(0.9 * metre, abs=3)
