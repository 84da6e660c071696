"""Rows of the meter, of what it measures, of studies and of the tasks; the others: :mod:`tests.constructors_table`."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import latentrl_envs as envs
from latentrl.cells import Cells
from latentrl.comparison import compare
from latentrl.distributions import DiagonalNormal
from latentrl.estimators import LikelihoodRatio, Pathwise
from latentrl.latent_rollouts import LatentReturn
from latentrl.rollouts import ExpectedReturn
from latentrl.sweeps import sweep
from latentrl.variance import gradient_variance
from tests.constructors_table import Row

N = 3
GAIN = {"gain": torch.zeros(2, 4)}


def _act(p: dict[str, Tensor], o: Tensor) -> Tensor:
    return o @ p["gain"].T


def _policy(p: dict[str, Tensor], o: Tensor) -> DiagonalNormal:
    return DiagonalNormal(_act(p, o), torch.ones(2).expand(*o.shape[:-1], 2))


def _noisy(p: dict[str, Tensor]) -> Tensor:
    return (p["theta"] * torch.randn(3)).sum()


def _value(objective: Any, _: dict[str, Any]) -> Tensor:
    return objective(GAIN)


def _job() -> dict[str, Any]:
    return {"found": 1.0}


def _study(**arguments: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return sweep(Cells(folder, {}), label=None, **arguments)


def _reported(found: Any, _: dict[str, Any]) -> list[Any]:
    return [found.trace, found.mean, *found.trace_ci, found.trace_per_sample, found.cost_normalized]


def _compared(found: Any, _: dict[str, Any]) -> list[Any]:
    assert not found.failures
    with tempfile.TemporaryDirectory() as folder:
        found.to_json(Path(folder) / "compared.json")
    return [report.trace for report in found.reports.values()]


def _stepped(task: Any, _: dict[str, Any]) -> list[Any]:
    """Both ways to play it."""
    several = envs.TorchVectorEnv(task, N)
    seen, _info = several.reset(seed=0)
    several.action_space.seed(0)
    return [seen, *several.step(several.action_space.sample())[:2], *_once(envs.TorchEnv(task))]


def _once(env: Any) -> list[Any]:
    seen, _ = env.reset(seed=0)
    env.action_space.seed(0)
    return [seen, *env.step(env.action_space.sample())[:2]]


def _together(env: Any, _: dict[str, Any]) -> list[Any]:
    return _once(env)


def _task(make: Callable[..., Any], **good: Any) -> Row:
    return Row(make, good, _stepped, error=ValueError)


MEASURED = {"replicates": 4, "chunk_size": 2, "seed": 0, "batch_size": 1}
ROLLED = {"task": envs.LQR(), "horizon": 2, "num_envs": N}
ENOUGH = frozenset({"replicates", "horizon", "num_envs", "max_episode_steps", "workers"})
"""What is done as often as is asked."""

METER = {
    "gradient_variance": Row(
        partial(gradient_variance, _noisy, {"theta": torch.zeros(3)}), {**MEASURED, "env_steps": 2}, _reported,
        endless=ENOUGH,
    ),
    "compare": Row(
        partial(compare, {"a": _noisy, "b": _noisy}, {"theta": torch.zeros(3)}), {**MEASURED, "reference": "a"},
        _compared, endless=ENOUGH,
    ),
    "ExpectedReturn": Row(
        ExpectedReturn, {**ROLLED, "policy": _policy, "estimator": LikelihoodRatio(), "segment": 1}, _value,
        endless=ENOUGH,
    ),
    "LatentReturn": Row(
        LatentReturn, {**ROLLED, "law": _policy, "act": lambda _p, _o, z: z, "estimator": Pathwise(), "num_samples": 2},
        _value, endless=ENOUGH,
    ),
    "sweep": Row(_study, {"jobs": {"a": _job}, "workers": 1, "backend": "processes", "gpus": 0.0}, endless=ENOUGH),
}  # fmt: skip

TASKS = {
    "LQR": _task(envs.LQR, state_dim=4, action_dim=2, seed=0, spectral_radius=0.95),
    "Avoiding": _task(envs.Avoiding, start_jitter=0.1),
    "BallWall": _task(envs.BallWall, stiffness=10.0),
    "CartPole": _task(envs.CartPole, sutton_barto_reward=False),
    "MountainCarContinuous": _task(envs.MountainCarContinuous, goal_velocity=0.0),
    "MultiGoal": _task(
        envs.MultiGoal, goal_reward=10.0, actuation_cost_coeff=30.0, distance_cost_coeff=1.0, init_sigma=0.1,
        goal_threshold=1.0,
    ),
    "Pendulum": _task(envs.Pendulum, g=10.0),
    "Pushing": _task(envs.Pushing, stiffness=100.0),
    "Trace": _task(envs.Trace, horizon=100, max_speed=5.0, start_jitter=0.0),
    "TorchEnv": Row(envs.TorchEnv, {"func_env": envs.Pendulum(), "render_mode": None}, _together, error=ValueError),
    "TorchVectorEnv": Row(
        envs.TorchVectorEnv,
        {
            "func_env": envs.Pendulum(), "num_envs": N, "max_episode_steps": 5, "device": "cpu",
            "dtype": torch.float32, "autoreset_mode": "NextStep", "validate_actions": True,
        },
        _together, error=ValueError, endless=ENOUGH,
    ),
}  # fmt: skip

ROWS = METER | TASKS
