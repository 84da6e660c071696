"""The vector environment: its law, Gymnasium's semantics, and what it says to bad input."""

import copy
import pickle
from contextlib import nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from torch import Tensor

from latentrl_envs import LQR, CartPole, Pendulum, TorchEnv, TorchVectorEnv, Trace
from latentrl_envs.arguments import checked_actions
from latentrl_envs.noise import uniforms
from tests.envs.tasks_table import TASKS, Row, Talking, Tripping, names

every_task = pytest.mark.parametrize("row", TASKS, ids=names)
# torch.compile itself uses something of torch that is deprecated.
compiles = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
autoreset = pytest.mark.parametrize("mode", ["NextStep", "SameStep"])


def rollout(env: TorchVectorEnv, actions: Tensor) -> dict[str, Tensor]:
    """Step through actions (T, N, A) and return everything that the environment said, (T, N, ...)."""
    keys = ["observations", "rewards", "terminations", "truncations"]
    steps = []
    for action in actions:
        *said, infos = env.step(action)
        steps.append(dict(zip(keys, said, strict=True)) | {k: v for k, v in infos.items() if k != "final_info"})
    return {key: torch.stack([step[key] for step in steps]) for key in steps[0]}


def tensors_in(infos: dict[str, Any]) -> list[Tensor]:
    inner = [tensors_in(x) if isinstance(x, dict) else [x] for x in infos.values()]
    return [x for some in inner for x in some]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@every_task
@autoreset
@pytest.mark.parametrize("limit", [2, 7])
def test_row_of_a_batch_equals_that_row_alone(row: Row, mode: str, limit: int) -> None:
    """50 steps of 2 are 25 episodes under SAME_STEP, more than are drawn ahead."""
    seed, n, arguments = 3, 5, {"max_episode_steps": limit, "autoreset_mode": mode}
    actions = row.actions(n, spread=1.5, steps=50, generator=generator(0))
    batch = TorchVectorEnv(row.task, n, **arguments)
    starts, _ = batch.reset(seed=seed)
    together = rollout(batch, actions)
    for i in range(n):
        solo = TorchVectorEnv(row.task, 1, **arguments)
        start, _ = solo.reset(seed=seed + i)
        torch.testing.assert_close(start[0], starts[i], rtol=0, atol=1e-6)
        for key, alone in rollout(solo, actions[:, i : i + 1]).items():
            torch.testing.assert_close(alone[:, 0], together[key][:, i], rtol=1e-6, atol=1e-5, msg=f"{key}, row {i}")
    assert together["truncations"].any(0).all()
    if row.name == "tripping" and limit == 7:  # else rows would always end together
        assert (together["terminations"].any(1) & ~together["terminations"].all(1)).any()


@every_task
@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_an_accelerators_way_through_a_step_gives_the_same(
    row: Row, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There no value may be looked at, so that other branches are taken and more starts are drawn ahead."""
    n, arguments = 5, {"max_episode_steps": 2, "autoreset_mode": mode}
    actions = row.actions(n, spread=1.5, steps=40, generator=generator(0))
    said = []
    for may_ask in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr("latentrl_envs.vector.may_ask", lambda _, answer=may_ask: answer)
            env = TorchVectorEnv(row.task, n, **arguments)
        start, _ = env.reset(seed=3)
        said.append({"starts": start} | (rollout(env, actions) if mode != "Disabled" else {}))
        for i in range(20):
            mask = torch.arange(n) % 2 == i % 2 if i else torch.ones(n, dtype=torch.bool)
            said[-1][f"reset {i}"], _ = env.reset(seed=9 if i == 7 else None, options={"reset_mask": mask})
        env.reset()
        said[-1]["step"] = env.step(actions[0])[0]
    assert said[0].keys() == said[1].keys()
    for key, ours in said[0].items():
        torch.testing.assert_close(said[1][key], ours, rtol=0, atol=0, msg=key)


@every_task
@autoreset
def test_same_seed_same_trajectory(row: Row, mode: str) -> None:
    env = TorchVectorEnv(row.task, 4, max_episode_steps=3, autoreset_mode=mode)
    actions = row.actions(4, spread=1.0, steps=9, generator=generator(0))
    runs = []
    for seed in (7, 7, 8):
        start, infos = env.reset(seed=seed)
        assert {key for key in infos if key[0] != "_"} == row.task.state_info(env._state).keys()
        assert env.np_random_seed == seed
        runs.append({"start": start} | rollout(env, actions))
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)
    if row.name != "trace":  # which always starts at the origin
        assert not torch.equal(runs[0]["start"], runs[2]["start"])


def test_reset_without_a_seed_goes_on() -> None:
    env, again = TorchVectorEnv(Pendulum(), 3), TorchVectorEnv(Pendulum(), 3)
    starts = [env.reset(seed=1)[0], env.reset()[0], env.reset()[0]]
    assert torch.stack(starts).view(9, 3).unique(dim=0).shape[0] == 9
    again.reset(seed=1)
    torch.testing.assert_close([again.reset()[0], again.reset()[0]], starts[1:], rtol=0, atol=0)


def test_first_reset_without_a_seed_takes_a_new_one_and_tells_it() -> None:
    env, other = TorchVectorEnv(Pendulum(), 2), TorchVectorEnv(Pendulum(), 2)
    start = env.reset()[0]
    assert not torch.equal(start, other.reset()[0])
    assert torch.equal(start, other.reset(seed=env.np_random_seed)[0])


class Stream:
    """The numbers of one row, in the shape of a numpy generator."""

    def __init__(self, seed: int) -> None:
        self.seed, self.episode = seed, 0

    def random(self, dim: int) -> np.ndarray:
        drawn = uniforms(torch.tensor(self.seed), torch.tensor(self.episode), dim, torch.float64)
        self.episode += 1
        return drawn.numpy()

    def uniform(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return low + (high - low) * self.random(len(low))


def sync_twin(make: Any, n: int, limit: int, mode: str, seed: int) -> SyncVectorEnv:
    """Return Gymnasium's own vector environment, fed with the numbers of our rows."""
    env = SyncVectorEnv([lambda: TimeLimit(make(), limit)] * n, autoreset_mode=mode)
    for i, single in enumerate(env.envs):
        single.unwrapped.np_random = Stream(seed + i)
    return env


def assert_same_infos(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """What is told of the rows equals what Gymnasium's vector environment tells, masks included."""
    final = {"final_obs", "_final_obs", "final_info", "_final_info"}
    assert ours.keys() - final == theirs.keys() - final
    for key in {key for key in theirs if key[0] != "_"} - final:
        mask = theirs[f"_{key}"]
        np.testing.assert_array_equal(ours[f"_{key}"], mask)
        np.testing.assert_allclose(ours[key].double()[mask], theirs[key][mask].astype(float), rtol=0, atol=1e-5)


def view(task: type) -> Any:
    return lambda: TorchEnv(task())


@pytest.mark.parametrize(
    ("task", "make"),
    [
        (Pendulum, PendulumEnv),
        (Pendulum, view(Pendulum)),
        (Talking, view(Talking)),
        (Trace, view(Trace)),
        (CartPole, view(CartPole)),
    ],
    ids=["Gymnasium's Pendulum", "our view", "our view, talking", "our view, Trace", "our view, CartPole"],
)
@autoreset
def test_steps_and_infos_equal_gymnasiums_sync_vector_env(task: type, make: Any, mode: str) -> None:
    n, limit, seed = 3, 6, 11
    env = TorchVectorEnv(task(), n, max_episode_steps=limit, dtype="float64", autoreset_mode=mode)
    twin = sync_twin(make, n, limit, mode, seed)
    close = {"rtol": 0, "atol": 1e-5}  # the twin rounds its observations to float32
    start, told = env.reset(seed=seed)
    start_twin, told_twin = twin.reset()
    np.testing.assert_allclose(start, start_twin, **close)
    assert_same_infos(told, told_twin)
    ends = 0
    for action in Row("", task(), ()).actions(n, spread=1.5, steps=40, generator=generator(2)):
        *said, infos = env.step(action)
        *reference, twin_infos = twin.step(action.numpy())
        for ours, theirs in zip(said, reference, strict=True):
            np.testing.assert_allclose(ours, theirs, **close)
        if "_final_obs" in twin_infos:
            ended = twin_infos["_final_obs"]
            ends += 1
            for key in ("_final_obs", "_final_info"):
                np.testing.assert_array_equal(infos[key], twin_infos[key])
            np.testing.assert_allclose(infos["final_obs"][ended], np.stack(twin_infos["final_obs"][ended]), **close)
            assert_same_infos(infos["final_info"], twin_infos["final_info"])
        elif mode == "SameStep":
            assert not infos["_final_obs"].any()
            np.testing.assert_array_equal(infos["final_obs"], said[0])
        assert_same_infos(infos, twin_infos)
    assert (ends > 3) == (mode == "SameStep")


@autoreset
def test_reset_mask_touches_only_its_rows(mode: str) -> None:
    env = TorchVectorEnv(Tripping(), 4, max_episode_steps=4, autoreset_mode=mode)
    env.reset(seed=0)
    twin = copy.deepcopy(env)
    action = torch.full((4, 1), 0.1)
    before, _ = (e.step(action)[0] for e in (env, twin))
    mask = np.array([True, False, True, False])
    options = {"reset_mask": mask}
    seen, _ = env.reset(options=options)
    assert options == {"reset_mask": mask}  # Gymnasium's wrappers read it afterwards
    fresh = TorchVectorEnv(Tripping(), 4)
    fresh.reset(seed=0)
    second = fresh.reset()[0]
    np.testing.assert_array_equal(seen[mask], second[mask])
    np.testing.assert_array_equal(seen[~mask], before[~mask])
    actions = action.expand(6, 4, 1)
    ours, theirs = rollout(env, actions), rollout(twin, actions)
    for key in ours:
        np.testing.assert_array_equal(ours[key][:, ~mask], theirs[key][:, ~mask])
    assert ours["truncations"][:, 0].nonzero()[0] == 3  # the masked rows' clocks began anew
    twin = copy.deepcopy(env)
    seeded, _ = env.reset(seed=5, options={"reset_mask": torch.tensor([False, True, False, False])})
    assert torch.equal(seeded[1], fresh.reset(seed=5)[0][1])
    others = torch.tensor([0, 2, 3])
    assert torch.equal(env.reset()[0][others], twin.reset()[0][others])  # still of their own seed


def test_reset_mask_ends_the_wait_of_a_finished_row() -> None:
    env = TorchVectorEnv(Pendulum(), 2, max_episode_steps=1)
    env.reset(seed=0)
    env.step(torch.zeros(2, 1))
    env.reset(options={"reset_mask": np.array([True, False])})
    assert env.step(torch.zeros(2, 1))[3].tolist() == [True, False]  # row 0 stepped, row 1 was reset


def test_without_autoreset_a_finished_row_must_be_reset() -> None:
    env = TorchVectorEnv(Pendulum(), 3, max_episode_steps=2, autoreset_mode="Disabled")
    env.reset(seed=0)
    env.step(torch.zeros(3, 1))
    env.reset(options={"reset_mask": torch.tensor([False, True, False])})
    last, _, _, truncations, _ = env.step(torch.zeros(3, 1))
    assert truncations.tolist() == [True, False, True]
    with pytest.raises(ResetNeeded, match=r"rows \[0, 2\] have finished"):
        env.step(torch.zeros(3, 1))
    seen, _ = env.reset(options={"reset_mask": truncations})
    assert torch.equal(seen[1], last[1])
    assert env.step(torch.zeros(3, 1))[3].tolist() == [False, True, False]


@every_task
@autoreset
def test_what_a_caller_does_to_the_results_changes_nothing(row: Row, mode: str) -> None:
    env, untouched = (TorchVectorEnv(row.task, 3, max_episode_steps=2, autoreset_mode=mode) for _ in range(2))
    env.reset(seed=1)[0].fill_(0.7)
    untouched.reset(seed=1)
    for action in row.actions(3, spread=1.0, steps=8, generator=generator(1)):
        mine, reference = action.clone(), untouched.step(action)
        *said, infos = env.step(mine)
        torch.testing.assert_close(said, list(reference[:4]), rtol=0, atol=0)
        tensors = [*said, mine, *tensors_in(infos)]
        assert len({x.data_ptr() for x in tensors}) == len(tensors)
        for spoilt in tensors:
            spoilt.logical_not_() if spoilt.dtype == torch.bool else spoilt.fill_(0.7)


def test_spaces_metadata_and_types() -> None:
    env = TorchVectorEnv("latentrl_envs.trace:Trace", 3, horizon=9, autoreset_mode=AutoresetMode.SAME_STEP)
    assert env.func_env.horizon == 9
    assert env.single_observation_space == Trace(horizon=9).observation_space
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert (env.observation_space.shape, env.action_space.shape) == ((3, 5), (3, 2))
    seen, _ = env.reset(seed=0)
    assert seen.numpy() in env.observation_space
    _, rewards, terminations, truncations, _ = env.step(env.action_space.sample())
    assert (rewards.dtype, terminations.dtype, truncations.dtype) == (torch.float32, torch.bool, torch.bool)
    assert rewards.shape == terminations.shape == truncations.shape == (3,)
    double = TorchVectorEnv(Trace(max_speed=0.7), 2, dtype=torch.float64)
    double.reset(seed=0)
    seen, rewards, *_ = double.step(np.full((2, 2), 99.0))
    assert rewards.dtype == torch.float64
    assert seen.numpy() in double.observation_space


def test_no_limit_never_truncates() -> None:
    env = TorchVectorEnv(Pendulum(), 2)
    env.reset(seed=0)
    assert not rollout(env, torch.zeros(300, 2, 1))["truncations"].any()


def test_arrays_lists_and_read_only_arrays_are_actions_too() -> None:
    env, twin = TorchVectorEnv(Pendulum(), 2), TorchVectorEnv(Pendulum(), 2)
    read_only = np.array([[0.5], [-1.0]])
    read_only.flags.writeable = False
    for action in (read_only, [[0.5], [-1.0]], torch.tensor([[0.5], [-1.0]], dtype=torch.float64)):
        env.reset(seed=0), twin.reset(seed=0)
        assert torch.equal(env.step(action)[0], twin.step(torch.tensor([[0.5], [-1.0]]))[0])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (torch.zeros(2), r"shape \(2, 1\), got \(2,\)"),
        (torch.zeros(3, 1), r"shape \(2, 1\), got \(3, 1\)"),
        (torch.tensor([[0.0], [float("nan")]]), r"rows \[1\]"),
        (np.array([[np.inf], [np.nan]]), r"rows \[0, 1\]"),
        (torch.zeros(2, 1, dtype=torch.int64), "floating-point numbers, got torch.int64"),
        (torch.zeros(2, 1, device="meta"), "actions live on meta, the environment on cpu"),
    ],
)
def test_bad_actions_leave_the_state_unharmed(action: Any, message: str) -> None:
    env, twin = TorchVectorEnv(Pendulum(), 2), TorchVectorEnv(Pendulum(), 2)
    env.reset(seed=0), twin.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    assert torch.equal(env.step(torch.zeros(2, 1))[0], twin.step(torch.zeros(2, 1))[0])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (torch.zeros(2, 1, dtype=torch.int64), r"shape \(2,\), got \(2, 1\)"),
        (torch.tensor([0, 2]), r"from 0 to 1, but those of rows \[1\]"),
        (np.array([-1, 7]), r"rows \[0, 1\]"),
        (torch.zeros(2), "integers, got torch.float32"),
        (torch.tensor([True, False]), "integers, got torch.bool"),
    ],
)
def test_bad_choices_leave_the_state_unharmed(action: Any, message: str) -> None:
    env, twin = TorchVectorEnv(CartPole(), 2), TorchVectorEnv(CartPole(), 2)
    env.reset(seed=0), twin.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    assert torch.equal(env.step(np.array([1, 0], dtype=np.int8))[0], twin.step(torch.tensor([1, 0]))[0])


def test_huge_actions_are_finite() -> None:
    env = TorchVectorEnv(Pendulum(), 2)
    env.reset(seed=0)
    assert env.step(torch.full((2, 1), 3e38))[0].isfinite().all()


def test_numbers_beyond_float32_are_not_finite_there() -> None:
    env = TorchVectorEnv(Pendulum(), 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"finite, but those of rows \[1\]"):
        env.step(np.array([[0.0], [1e39]]))


@pytest.mark.parametrize("nothing", [None, {}, "abcd", np.array([None, None])])
def test_what_is_no_array(nothing: Any) -> None:
    env = TorchVectorEnv(CartPole(), 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="actions must be an array or a tensor of numbers"):
        env.step(nothing)
    with pytest.raises(ValueError, match="reset_mask must be an array or a tensor"):
        env.reset(options={"reset_mask": nothing})


def test_views_are_arrays_too() -> None:
    """Backwards, read-only and lazily negated ones."""
    env, twin = (TorchVectorEnv(CartPole(), 3, dtype="float64") for _ in range(2))
    env.reset(seed=0), twin.reset(seed=0)
    choices, mask = np.array([0, 0, 1]), np.array([True, False, False])
    assert torch.equal(env.step(choices[::-1])[0], twin.step(choices[::-1].copy())[0])
    mask.flags.writeable = False
    ours, theirs = (e.reset(options={"reset_mask": m})[0] for e, m in ((env, mask[::-1]), (twin, mask[::-1].copy())))
    assert torch.equal(ours, theirs)
    negated = torch.complex(torch.zeros(1, 1), torch.ones(1, 1)).conj().imag
    assert negated.is_neg()
    assert not checked_actions(negated, Pendulum().action_space, 1, torch.float32, torch.device("cpu"), True).is_neg()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_inference_mode_leaves_nothing_behind(mode: str) -> None:
    env, twin = (TorchVectorEnv(Tripping(), 3, max_episode_steps=3, autoreset_mode=mode) for _ in range(2))
    actions = torch.randn(12, 3, 1, generator=generator(0))
    with torch.inference_mode():
        env.reset(seed=0)
        rollout(env, actions[:5])
    twin.reset(seed=0)
    rollout(twin, actions[:5])
    torch.testing.assert_close(rollout(env, actions), rollout(twin, actions), rtol=0, atol=0)


def test_autocast_changes_no_physics() -> None:
    env, twin = (TorchVectorEnv(LQR(), 3) for _ in range(2))
    actions = torch.randn(4, 3, 2, generator=generator(0))
    env.reset(seed=0), twin.reset(seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = rollout(env, actions)
    torch.testing.assert_close(mixed, rollout(twin, actions), rtol=0, atol=0)


def test_reset_comes_first() -> None:
    env = TorchVectorEnv(Pendulum(), 2)
    with pytest.raises(ResetNeeded, match="before step"):
        env.step(torch.zeros(2, 1))
    with pytest.raises(ResetNeeded, match="first reset must be of all rows"):
        env.reset(options={"reset_mask": np.array([True, False])})


@pytest.mark.parametrize("mask", [np.array([True]), np.array([1, 0]), np.array([False, False]), torch.ones(2)])
def test_bad_masks(mask: Any) -> None:
    env = TorchVectorEnv(Pendulum(), 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="reset_mask must be bool"):
        env.reset(options={"reset_mask": mask})


def test_bad_seeds_and_options() -> None:
    env = TorchVectorEnv(Pendulum(), 2)
    for seed in (-1, 1.5):
        with pytest.raises(gym.error.Error, match="Seed must be"):
            env.reset(seed=seed)
    with pytest.raises(ValueError, match=r"below 2\*\*62"):
        env.reset(seed=2**62)
    with pytest.raises(ValueError, match="'reset_mask' only"):
        env.reset(options={"reset_masks": np.array([True, False])})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs must be"),
        ({"max_episode_steps": -1}, "max_episode_steps must be"),
        ({"dtype": torch.float16}, "float32 or torch.float64"),
        ({"autoreset_mode": "same_step"}, "'NextStep', 'SameStep', 'Disabled'"),
        ({"device": "banana"}, "'banana' is not to be had"),
        ({"device": "meta"}, "holds no numbers"),
        ({"render_mode": "rgb_array"}, "draws no pictures"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchVectorEnv(Pendulum(), **arguments)


def test_devices() -> None:
    auto = TorchVectorEnv(Pendulum(), device="auto").device.type
    assert auto == ("cuda" if torch.cuda.is_available() else "cpu")
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ValueError, match="take 'cpu' or 'auto'"):
        TorchVectorEnv(Pendulum(), device=absent)


def assert_compiled_equals_eager(row: Row, mode: str) -> None:
    actions = row.actions(5, spread=1.5, steps=40, generator=generator(0))
    runs = []
    for compiled in (False, True):
        env = TorchVectorEnv(row.task, 5, 6, dtype="float64", autoreset_mode=mode, compile=compiled)
        start, _ = env.reset(seed=2)
        runs.append({"start": start} | rollout(env, actions))
    torch.testing.assert_close(runs[1], runs[0], rtol=0, atol=1e-9)
    again = pickle.loads(pickle.dumps(env))
    strided = torch.stack((actions, actions), -1)[..., 0]
    torch.testing.assert_close(rollout(again, strided[:2]), rollout(env, actions[:2]))


@compiles
@pytest.mark.slow
@autoreset
def test_compiled_equals_eager(mode: str) -> None:
    assert_compiled_equals_eager(Row("talking", Talking(), ()), mode)


@compiles
@pytest.mark.slow
def test_compiled_equals_eager_in_an_accelerators_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentrl_envs.vector.may_ask", lambda _: False)
    assert_compiled_equals_eager(Row("talking", Talking(), ()), "NextStep")


@compiles
@pytest.mark.slow
@every_task
@autoreset
def test_compiled_equals_eager_for_every_task(row: Row, mode: str) -> None:
    assert_compiled_equals_eager(row, mode)


def test_pickle_goes_on_with_the_same_episode_and_close_is_idempotent() -> None:
    env = TorchVectorEnv(Tripping(), 3, max_episode_steps=4)
    env.reset(seed=5)
    actions = torch.randn(12, 3, 1, generator=generator(0))
    rollout(env, actions)
    again = pickle.loads(pickle.dumps(env))
    torch.testing.assert_close(rollout(again, actions), rollout(env, actions), rtol=0, atol=0)
    env.close()
    env.close()
    assert env.closed


@pytest.mark.gpu
@every_task
@autoreset
def test_gpu_equals_cpu(row: Row, mode: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    actions = row.actions(5, spread=1.5, steps=40, generator=generator(0))
    runs = []
    for device in ("cpu", "cuda"):
        env = TorchVectorEnv(row.task, 5, 6, device=device, dtype="float64", autoreset_mode=mode)
        start, _ = env.reset(seed=2)
        assert start.device == env.device
        run = {"start": start} | rollout(env, actions.to(device))
        runs.append({key: value.cpu() for key, value in run.items()})
    torch.testing.assert_close(runs[1], runs[0], rtol=0, atol=1e-9)


@pytest.mark.gpu
def test_steps_on_a_gpu_do_not_wait_for_it() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for mode in ("NextStep", "SameStep"):
        env = TorchVectorEnv(Tripping(), 64, 6, device="cuda", autoreset_mode=mode, validate_actions=False)
        env.reset(seed=0)
        action = torch.zeros(64, 1, device="cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(40):
                env.step(action)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_actions_are_looked_at_unless_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where looking waits for an accelerator."""
    monkeypatch.setattr("latentrl_envs.vector.may_ask", lambda _: False)
    bad = torch.full((2, 1), torch.nan)
    for looks in (True, False):
        env = TorchVectorEnv(Tripping(), 2, 6, validate_actions=looks)
        env.reset(seed=0)
        with pytest.raises(ValueError, match="finite") if looks else nullcontext():
            env.step(bad)
