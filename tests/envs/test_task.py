"""Laws of every task's pure functions."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from latentrl_envs import BallWall, Pendulum, Pushing, Task, TorchEnv, Trace
from latentrl_envs.task import build_task, checked_count, checked_number
from tests.envs.tasks_table import REGISTERED, TASKS, Row, central_differences, names

every_task = pytest.mark.parametrize("row", TASKS, ids=names)


def outputs(task: Task, noise: Tensor, state: Tensor, action: Tensor) -> dict[str, Tensor]:
    """Return what every function of the task says."""
    following = task.transition(state, action)
    return {
        "initial": task.initial(noise),
        "transition": following,
        "observation": task.observation(following),
        "reward": task.reward(state, action, following),
        "terminal": task.terminal(following),
        **task.state_info(following),
    }


def inputs(row: Row, n: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(n, row.task.initial_noise_dim, dtype=torch.float64, generator=generator)
    return (noise, *row.draw(n, spread=2.0))


@every_task
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shapes_and_dtypes_follow_the_input(row: Row, dtype: torch.dtype) -> None:
    noise, state, action = (x.to(dtype) if x.is_floating_point() else x for x in inputs(row))
    flat = outputs(row.task, noise, state, action)
    folded = outputs(row.task, *(x.view(2, 3, *x.shape[1:]) for x in (noise, state, action)))
    alone = outputs(row.task, noise[0], state[0], action[0])
    for name, value in flat.items():
        if name in ("terminal", *row.task.state_info(state)):
            assert value.shape == (6,)
        else:
            assert value.dtype == dtype
        torch.testing.assert_close(folded[name], value.view(2, 3, *value.shape[1:]))
        torch.testing.assert_close(alone[name], value[0])


@every_task
def test_vmap_equals_eager(row: Row) -> None:
    arguments = inputs(row)
    eager = outputs(row.task, *arguments)
    mapped = torch.func.vmap(lambda *rows: outputs(row.task, *rows))(*arguments)
    torch.testing.assert_close(mapped, eager)


@pytest.mark.parametrize("row", REGISTERED, ids=names)
def test_compiles_without_a_graph_break(row: Row) -> None:
    torch.compiler.reset()  # every row compiles the same lambda, and torch allows one only so many versions
    arguments = inputs(row)
    compiled = torch.compile(lambda *rows: outputs(row.task, *rows), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), outputs(row.task, *arguments))


@every_task
def test_functions_return_new_tensors_and_leave_their_arguments_alone(row: Row) -> None:
    noise, state, action = inputs(row)
    before = [x.clone() for x in (noise, state, action)]
    following = row.task.transition(state, action)
    results = [row.task.initial(noise), following, row.task.observation(following), row.task.observation(state)]
    results += [row.task.reward(state, action, following), row.task.terminal(following)]
    for result in results:
        result.zero_()
    for x, old in zip((noise, state, action), before, strict=True):
        assert torch.equal(x, old)


@every_task
def test_gradients_equal_central_differences_inside_the_clips(row: Row) -> None:
    if not row.task.differentiable:
        pytest.skip("the task says that it is not differentiable")
    state, action = row.draw(4, spread=row.gradient_spread)
    weights = torch.linspace(0.3, 1.0, row.task.observation_space.shape[0], dtype=torch.float64)

    def score(start: Tensor, push: Tensor) -> Tensor:
        following = row.task.transition(start, push)
        again = row.task.transition(following, push)
        rewards = row.task.reward(start, push, following) + row.task.reward(following, push, again)
        return (row.task.observation(again) @ weights + rewards).sum()

    by_state = torch.func.grad(score)(state, action)
    torch.testing.assert_close(by_state, central_differences(lambda x: score(x, action), state), rtol=1e-6, atol=1e-7)
    if action.is_floating_point():
        by_action = torch.func.grad(score, argnums=1)(state, action)
        reference = central_differences(lambda x: score(state, x), action)
        torch.testing.assert_close(by_action, reference, rtol=1e-6, atol=1e-7)
        assert by_action.abs().min() > 0


@every_task
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def test_every_observation_lies_in_the_space(row: Row, dtype: type) -> None:
    """Also beyond the horizon, and at three times the full speed in one direction for a third of the rows."""
    generator = torch.Generator().manual_seed(0)
    state = row.task.initial(torch.rand(50, row.task.initial_noise_dim, dtype=torch.float64, generator=generator))
    low, top = (row.task.observation_space.low.astype(dtype), row.task.observation_space.high.astype(dtype))
    alive = torch.ones(50, dtype=torch.bool)
    for push in row.actions(50, spread=3.0, steps=120, generator=generator):
        if push.is_floating_point():
            push[:17] = 3.0 * torch.from_numpy(row.task.action_space.high).double()
        else:
            push[:17] = 0
        seen = row.task.observation(state).numpy().astype(dtype)
        assert (seen[alive] >= low).all()
        assert (seen[alive] <= top).all()
        state = row.task.transition(state, push)
        alive &= ~row.task.terminal(state)


@every_task
def test_pickle_keeps_the_constants(row: Row) -> None:
    arguments = inputs(row)
    again = pickle.loads(pickle.dumps(row.task))
    torch.testing.assert_close(outputs(again, *arguments), outputs(row.task, *arguments), rtol=0, atol=0)


def test_build_task_takes_a_task_or_its_name() -> None:
    task = Trace()
    assert build_task(task) is task
    assert build_task("latentrl_envs.pendulum:Pendulum", g=3.0).g == 3.0
    with pytest.raises(TypeError, match=r"unexpected arguments \['g'\]"):
        build_task(task, g=3.0)
    with pytest.raises(TypeError, match="gravity"):
        build_task("latentrl_envs.pendulum:Pendulum", gravity=3.0)
    with pytest.raises(TypeError, match="must be a latentrl_envs Task"):
        build_task(TorchEnv(Pendulum()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, "1", None, True])
def test_checked_number_refuses(value: object) -> None:
    with pytest.raises(ValueError, match="g must be"):
        checked_number("g", value, minimum=0)
    assert checked_number("g", np.float32(2)) == 2.0


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", None, True])
def test_checked_count_refuses(value: object) -> None:
    with pytest.raises(ValueError, match="n must be an integer"):
        checked_count("n", value)
    assert checked_count("n", np.int64(2)) == 2


@pytest.mark.parametrize("name", ["nonsense", "latentrl_envs.pendulum:Nope", "no_such_module:Pendulum"])
def test_names_of_no_task_are_explained(name: str) -> None:
    with pytest.raises(ValueError, match=r'names no task .*: give "module:Class"'):
        build_task(name)


@pytest.mark.parametrize("task", [BallWall, Pushing])
def test_a_stiffness_beyond_float32_is_infinite(task: type) -> None:
    """Or nothing times it would be no number."""
    assert [task(stiffness).stiffness for stiffness in (1e29, 1e31, 1e39)] == [1e29, math.inf, math.inf]


def test_what_a_task_itself_lacks_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacking_task.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        build_task("lacking_task:Lacking")
