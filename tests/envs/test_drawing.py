"""The canvas: where what is drawn appears, how large, and what a task's pictures are."""

import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import DependencyNotInstalled

from latentrl_envs import Avoiding, MultiGoal, TorchEnv, Trace
from latentrl_envs.drawing import Canvas, DrawnTask


@pytest.fixture(autouse=True)
def _without_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def ink(canvas: Canvas) -> tuple[float, np.ndarray]:
    """Return the area in pixels that is black on white, and its centre (x, y) in pixels from the lower left."""
    dark = 1 - canvas.show().mean(-1) / 255
    rows, columns = np.indices(dark.shape) + 0.5
    return dark.sum(), np.array([(columns * dark).sum(), ((len(dark) - rows) * dark).sum()]) / dark.sum()


def test_a_circle_is_where_it_should_be_and_as_large() -> None:
    canvas = Canvas("rgb_array", (-2, 1), (2, 9), size=400)  # 50 pixels per unit
    canvas.circle((1.0, 6.5), 0.6)
    area, centre = ink(canvas)
    assert canvas.show().shape == (400, 200, 3)
    assert canvas.show().dtype == np.uint8
    assert area == pytest.approx(np.pi * 30**2, rel=0.03)
    np.testing.assert_allclose(centre, (150, 275), atol=0.6)


def test_a_line_is_as_wide_in_every_direction_and_bends_without_a_notch() -> None:
    for angle in (0.0, 0.3, np.pi / 4, 2.0):
        canvas = Canvas("rgb_array", (-1, -1), (1, 1), size=400)
        end = 0.5 * np.array([np.cos(angle), np.sin(angle)])
        canvas.line([-end, end], width=10)
        area, centre = ink(canvas)
        assert area == pytest.approx(200 * 10 + np.pi * 5**2, rel=0.06)
        np.testing.assert_allclose(centre, (200, 200), atol=0.6)
    canvas = Canvas("rgb_array", (-1, -1), (1, 1), size=400)
    canvas.line([(-0.5, -0.5), (0, 0.5), (0.5, -0.5)], width=20)
    assert canvas.show()[92:100, 200].max() == 0  # the outer side of the bend, up to its round edge at row 90


def test_a_polygon_fills_its_area_and_what_lies_outside_is_cut_off() -> None:
    canvas = Canvas("rgb_array", (0, 0), (4, 4), size=400)
    canvas.polygon([(1, 1), (3, 1), (1, 2)])
    area, centre = ink(canvas)
    assert area == pytest.approx(100**2, rel=0.02)
    np.testing.assert_allclose(centre, (100 * 5 / 3, 100 * 4 / 3), atol=0.6)
    canvas.clear()
    assert ink_free(canvas)
    canvas.polygon([(-9, -9), (2, -9), (2, 9), (-9, 9)])
    assert ink(canvas)[0] == pytest.approx(200 * 400, rel=0.01)


def ink_free(canvas: Canvas) -> bool:
    return bool((canvas.show() == 255).all())


def test_colours_have_names_numbers_and_an_order() -> None:
    canvas = Canvas("rgb_array", (0, 0), (1, 1), size=10)
    for color, pixel in (("red", (255, 0, 0)), ("#4477aa", (0x44, 0x77, 0xAA)), ((1, 2, 3), (1, 2, 3))):
        canvas.clear(color)
        assert (canvas.show() == pixel).all()


@pytest.mark.parametrize("high", [(1, 1), (3, 0.77), (0.013, 8), (1e-3, 1)])
def test_sides_are_even_and_in_proportion(high: tuple[float, float]) -> None:
    height, width, _ = Canvas("rgb_array", (0, 0), high, size=500).show().shape
    assert (height % 2, width % 2, max(height, width)) == (0, 0, 500)
    assert min(height, width) == pytest.approx(500 * min(high) / max(high), abs=2)


def test_a_window_shows_the_same_picture_and_closes_twice() -> None:
    import pygame

    window, sheet = (Canvas(mode, (0, 0), (2, 1), fps=1000) for mode in ("human", "rgb_array"))
    for canvas in (window, sheet):
        canvas.circle((0.5, 0.5), 0.3, "red")
    assert window.show() is None
    np.testing.assert_array_equal(pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1), sheet.show())
    for canvas in (window, sheet, window):
        canvas.close()
    assert not pygame.display.get_init()


def test_pictures_without_pygame_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = TorchEnv(MultiGoal(), render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(DependencyNotInstalled, match=r"pip install latentrl\[render\]"):
        env.render()


@pytest.mark.parametrize("task", [Avoiding(), MultiGoal(), Trace()], ids=lambda task: type(task).__name__)
@pytest.mark.parametrize("mode", ["rgb_array", "human"])
def test_tasks_draw_their_states(task: DrawnTask, mode: str) -> None:
    with TorchEnv(task, render_mode=mode) as env:
        env.reset(seed=0)
        start = env.render()
        env.step(np.array([0.9, 0.4]))
        picture = env.render()
        if mode == "human":
            assert start is None
            assert picture is None
        else:
            assert picture.dtype == np.uint8
            assert not np.array_equal(start, picture)
            np.testing.assert_array_equal(picture, env.render())


def place(task: DrawnTask, color: tuple[int, int, int], state: torch.Tensor) -> np.ndarray:
    """Return where (x, y) of the world the pixels of exactly one colour are, on average."""
    canvas = task.render_init(render_mode="rgb_array")
    _, picture = task.render_image(state, canvas)
    low, high = (np.asarray(corner, dtype=float) for corner in task.view)
    rows, columns = np.nonzero((picture == color).all(-1))
    share = np.stack(((columns + 0.5) / picture.shape[1], 1 - (rows + 0.5) / picture.shape[0]), 1).mean(0)
    return low + share * (high - low)


def test_the_point_is_drawn_at_its_position() -> None:
    blue, red = (0x44, 0x77, 0xAA), (255, 0, 0)
    np.testing.assert_allclose(place(MultiGoal(), blue, torch.tensor([-3.0, 2.5])), (-3.0, 2.5), atol=0.03)
    on_the_way = torch.tensor([1.2, 6.0, -1, -1, -1, 0])
    np.testing.assert_allclose(place(Avoiding(), blue, on_the_way), (1.2, 6.0), atol=0.03)
    failed = torch.tensor([-0.4, 3.0, -1, -1, -1, -1])
    np.testing.assert_allclose(place(Avoiding(), red, failed), (-0.4, 3.0), atol=0.03)


def test_a_picture_shows_nothing_of_the_one_before() -> None:
    used, fresh = (MultiGoal().render_init(render_mode="rgb_array") for _ in range(2))
    MultiGoal().render_image(torch.tensor([-3.0, 2.5]), used)
    pictures = [MultiGoal().render_image(torch.tensor([1.0, 1.0]), canvas)[1] for canvas in (used, fresh)]
    np.testing.assert_array_equal(*pictures)


def test_trace_leaves_ink_until_the_next_episode() -> None:
    """The stroke turns once: the bounding box of the ink is that of the stroke, and its length gives its area."""
    env = gym.make("latentrl_envs:latentrl/Trace-v0", render_mode="rgb_array")
    env.reset(seed=0)
    start = env.render()
    for velocity in [(4.0, 0.0)] * 10 + [(0.0, -3.0)] * 20:
        env.step(np.array(velocity))
        picture = env.render()
    rows, columns = np.nonzero(picture.min(-1) < 128)
    scale = 500 / 200  # pixels per mm
    for side, pixels in ((columns - 249.5, 40), (rows - 249.5, 60)):
        np.testing.assert_allclose((side.min() / scale, side.max() / scale), (0, pixels), atol=1.5)
    assert len(rows) == pytest.approx(3 * scale * 100, rel=0.05)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), start)
