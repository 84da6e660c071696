"""Trace: a pen moved by its velocity."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from latentrl_envs import Trace


def test_replaying_a_stroke_s_velocities_draws_the_stroke() -> None:
    stroke = torch.randn(21, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)
    stroke = stroke - stroke[0]
    task = Trace(horizon=20)
    state = task.initial(torch.rand(2, dtype=torch.float64))
    drawn = [task.observation(state)]
    for velocity in stroke.diff(dim=0):
        state = task.transition(state, velocity)
        drawn.append(task.observation(state))
    seen = torch.stack(drawn)
    torch.testing.assert_close(seen[:, :2], stroke)
    torch.testing.assert_close(seen[1:, 2:4], stroke.diff(dim=0))
    torch.testing.assert_close(seen[:, 4], torch.arange(21) / 20.0, check_dtype=False)
    assert (seen[0, 2:] == 0).all()


def test_speed_is_clipped_per_axis_and_the_clock_stops_at_one() -> None:
    task = Trace(horizon=2, max_speed=1.5)
    state = task.initial(torch.rand(2))
    for _ in range(4):
        state = task.transition(state, torch.tensor([9.0, -0.25]))
    assert task.observation(state).tolist() == [3.0, -1.0, 1.5, -0.25, 1.0]  # x has met the sheet's edge, 2 * 1.5


def test_starts_fill_the_square_and_only_that() -> None:
    corners = torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 0.0]])
    assert Trace(start_jitter=3.0).initial(corners)[:, :2].tolist() == [[-3, -3], [0, 0], [3, -3]]
    assert Trace().initial(torch.rand(5, 2)).abs().max() == 0


def test_reward_is_zero_and_nothing_is_terminal() -> None:
    task = Trace()
    state = torch.randn(4, 5)
    assert (task.reward(state, torch.randn(4, 2), state) == 0).all()
    assert not task.terminal(1e6 * state).any()


@pytest.mark.parametrize("arguments", [{"horizon": 0}, {"horizon": 2.5}, {"max_speed": 0.0}, {"start_jitter": -1}])
def test_bad_arguments_are_named(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        Trace(**arguments)


def test_an_episode_starts_on_a_clean_sheet() -> None:
    """Also where its start is not looked at."""
    pytest.importorskip("pygame")

    def picture(before: int) -> np.ndarray:
        with gym.make("latentrl_envs:latentrl/Trace-v0", render_mode="rgb_array") as env:
            env.reset(seed=0)
            for _ in range(before):
                env.step(np.float32([3, 2]))
                env.render()
            env.reset()
            for _ in range(3):
                env.step(np.float32([-3, 2]))
                shown = env.render()
        return shown

    np.testing.assert_array_equal(picture(30), picture(0))
