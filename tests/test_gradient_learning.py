"""Runs side by side learn as runs alone would; what is tabulated of them is what was learned."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from experiments.gradient_learning import Args, at_the_edge, best_rate, late, rows
from experiments.learners import METHODS, STARTS, STARTS_SEED, WARM_UP, Learner, Runs, make_runs
from latentrl.estimators.rollout import LikelihoodRatio
from latentrl.gradients.problem import make_task
from latentrl.rollouts import ExpectedReturn
from latentrl_envs import Pendulum

HORIZON, NUM_ENVS = 4, 6


def learner_of(method: str) -> Learner:
    chosen = METHODS[method]
    return Learner(Pendulum(), lambda v: chosen.estimator(v, 1e3), chosen.learns_value, HORIZON, NUM_ENVS)


def runs_of(method: str, rates: Sequence[float] = (1e-2, 1e-2), clip: float = 1.0) -> Runs:
    return make_runs("Pendulum-v1", method, rates, range(len(rates)), HORIZON, NUM_ENVS, clip, gamma=1e3)


def norm(gradients: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(part.square().sum()) for part in gradients.values()))


def gradients(runs: Runs, run: int) -> dict[str, Tensor]:
    return {name: tensor.grad for name, tensor in runs.policies[run].items() if tensor.grad is not None}


@pytest.mark.parametrize("method", METHODS)
def test_gradient_is_that_of_the_mean_reward_per_step(method: str) -> None:
    """By plain autograd, with the same noise."""
    learner = learner_of(method)
    policy, value = learner.start(0)
    torch.manual_seed(1)
    gradient, seen = learner.gradient(policy, value)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in policy.items()}
    estimator = METHODS[method].estimator(lambda o, k: learner.worth(value, o, k), 1e3)
    torch.manual_seed(1)
    (-ExpectedReturn(learner.task, learner.law, estimator, HORIZON, NUM_ENVS)(leaves) / HORIZON).backward()
    assert norm(gradient) > 1e-3
    for name, leaf in leaves.items():
        torch.testing.assert_close(gradient[name], leaf.grad)
    assert len(seen) == 2 * METHODS[method].learns_value


def test_value_function_learns_the_rewards_to_go() -> None:
    learner = learner_of("LR, value")
    policy, value = learner.start(0)
    torch.manual_seed(1)
    _, (observations, returns) = learner.gradient(policy, value)
    torch.manual_seed(1)
    played = learner.objective(LikelihoodRatio()).roll_out(LikelihoodRatio(), policy)
    for t in range(HORIZON):
        torch.testing.assert_close(observations[t], played.observations[t])
        torch.testing.assert_close(returns[t], played.rewards[t:].sum(0))
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in value.items()}
    errors = [
        learner.worth(leaves, observations[t], torch.tensor([float(HORIZON - t)])) - returns[t] for t in range(HORIZON)
    ]
    torch.stack(errors).square().mean().backward()
    for name, gradient in learner.value_gradient(value, (observations, returns)).items():
        torch.testing.assert_close(gradient, leaves[name].grad)


def test_value_function_is_fitted_after_its_use() -> None:
    """Policies wait until it is warm; then a gradient comes from the value function as it was before its rollout."""
    runs = runs_of("LR, value", rates=(1e-2,), clip=math.inf)
    first = {name: tensor.clone() for name, tensor in runs.policies[0].items()}
    for _ in range(WARM_UP):
        runs.update()
    assert all(torch.equal(tensor, first[name]) for name, tensor in runs.policies[0].items())
    before = {name: tensor.clone() for name, tensor in runs.values[0].items()}
    torch.manual_seed(3)
    expected, _ = runs.learner.gradient(first, before)
    torch.manual_seed(3)
    runs.update()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients(runs, 0)[name], gradient)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in runs.values[0].items())
    assert not torch.equal(runs.policies[0]["log_sigma"], first["log_sigma"])


def test_each_run_has_its_rate_start_and_noise() -> None:
    """Adam's first step is the rate, whatever the gradient."""
    runs = runs_of("RP", rates=(1e-2, 3e-2))
    starts = [{name: tensor.clone() for name, tensor in policy.items()} for policy in runs.policies]
    assert not torch.equal(starts[0]["0.weight"], starts[1]["0.weight"])
    assert all(torch.equal(starts[1][name], tensor) for name, tensor in runs.learner.start(1)[0].items())
    runs.update()
    for rate, start, policy in zip((1e-2, 3e-2), starts, runs.policies, strict=True):
        for name, tensor in policy.items():
            moved = (tensor - start[name]).abs()
            assert float(moved.max()) == pytest.approx(rate, rel=1e-3), name
    same = runs_of("LR", rates=(1e-2, 1e-2))
    same.policies[1].update({name: tensor.clone() for name, tensor in same.policies[0].items()})
    same.update()
    assert not torch.equal(gradients(same, 0)["0.weight"], gradients(same, 1)["0.weight"])


def test_clipping_is_for_each_run() -> None:
    free, clipped = runs_of("LR", clip=math.inf), runs_of("LR", clip=0.5)
    for runs in (free, clipped):
        torch.manual_seed(4)
        runs.update()
    for i in range(2):
        whole, cut = gradients(free, i), gradients(clipped, i)
        assert norm(whole) > 0.5
        assert norm(cut) == pytest.approx(0.5, rel=1e-3)
        for name, part in whole.items():
            torch.testing.assert_close(cut[name], part * 0.5 / norm(whole), rtol=1e-3, atol=1e-6)
    assert (free.clipped, clipped.clipped) == ([0, 0], [1, 1])


def test_gradient_that_is_not_finite_is_skipped() -> None:
    runs = runs_of("LR")
    runs.policies[0]["log_sigma"].fill_(1e3)
    before = [policy["0.weight"].clone() for policy in runs.policies]
    runs.update()
    assert torch.equal(runs.policies[0]["0.weight"], before[0])
    assert not torch.equal(runs.policies[1]["0.weight"], before[1])
    assert runs.skipped == [1, 0]


def test_policies_are_judged_without_noise_from_the_same_starts() -> None:
    runs, task = runs_of("LR"), make_task("Pendulum-v1", None)
    state = torch.get_rng_state()
    judged = runs.judge()
    assert torch.equal(state, torch.get_rng_state())
    for policy, value in zip(runs.policies, judged, strict=True):
        policy["log_sigma"].fill_(3.0)
        current = task.initial(torch.rand(STARTS, 2, generator=torch.Generator().manual_seed(STARTS_SEED)))
        total = torch.zeros(STARTS)
        for _ in range(HORIZON):
            action = runs.learner.law(policy, task.observation(current)).loc
            following = task.transition(current, action)
            total += task.reward(current, action, following)
            current = following
        assert value == pytest.approx(float(total.mean()), rel=1e-5)
    assert runs.judge() == pytest.approx(judged)


def test_learning_goes_on_for_so_many_updates() -> None:
    record = runs_of("LR").learn(updates=5, every=2)
    assert record["updates"] == [0, 2, 4]
    assert [len(curve) for curve in record["returns"]] == [3, 3]
    assert all(later != earlier for curve in record["returns"] for earlier, later in pairwise(curve))


def test_the_rate_with_the_best_late_returns_is_chosen() -> None:
    curves = [[0.0, -9.0, -1.0, -3.0], [-9.0, -9.0, -4.0, -4.0], [0.0, 0.0, -9.0, 0.0], [0.0, 0.0, -1.0, 0.0]]
    assert best_rate([0.1, 0.1, 0.2, 0.2], curves) == (0.2, {"0.1": -3.0, "0.2": -2.5})


def test_late_returns_are_those_up_to_a_point() -> None:
    assert late([0, 10, 20, 30, 40], [1.0, 2.0, 3.0, 7.0, 100.0], 35.0) == 4.0
    assert late([0, 10], [1.0, 3.0], 10) == 2.0


def test_rows_compare_at_the_steps_and_seconds_that_all_were_given() -> None:
    """Pendulum: 200 updates of 16 × 200 steps; the slow one spends 200 s, so the quick one is seen at its 50th."""
    about = {"task": "Pendulum-v1", "rate": 0.01}
    quick = {
        **about,
        "estimator": "LR",
        "updates": [0, 25, 50, 200, 600],
        "returns": [[-900.0, -600.0, -300.0, -200.0, -100.0], [-900.0] * 5],
        "clipped": [60, 0],
        "skipped": [0, 6],
    }
    slow = {**about, "estimator": "RP", "updates": [0, 200], "returns": [[-900.0, -700.0]]}
    slow |= {"clipped": [200], "skipped": [0]}
    seconds = {"Pendulum-v1": {"LR": 4.0, "RP": 1.0}}
    first, second, third = rows([quick, slow], seconds, Args())
    assert first == {
        "method": "Pendulum-v1: LR",
        "rate": 0.01,
        "return, same steps": pytest.approx(-1100 / 3),
        "return, same seconds": -600.0,
        "ms per update": 4000.0,
        "share that learns, same steps": 1.0,
        "share that learns, same seconds": 0.0,
        "clipped": 0.1,
        "skipped": 0.0,
        "1000 steps to its first look above": 50 * 16 * 200 / 1000,
    }
    assert (second["share that learns, same steps"], second["skipped"]) == (0.0, 0.01)
    assert not [name for name in second if "first look" in name]
    assert (third["return, same steps"], third["return, same seconds"], third["clipped"]) == (-800.0, -800.0, 1.0)
    falls = {**quick, "returns": [[-300.0, -300.0, -300.0, -900.0, -900.0]], "clipped": [0], "skipped": [0]}
    (fourth, _) = rows([falls, slow], seconds, Args())
    assert (fourth["share that learns, same steps"], fourth["share that learns, same seconds"]) == (0.0, 1.0)
    assert fourth["s to its first look above"] == 0.0


def test_rates_at_the_edge_are_named() -> None:
    found = [{"task": "T", "estimator": name, "rate": rate} for name, rate in (("a", 0.1), ("b", 0.2), ("c", 0.3))]
    assert at_the_edge(found, (0.1, 0.2, 0.3)) == "\nRates at the edge of those tried: 0.3, of T: c; 0.1, of T: a.\n"
    assert at_the_edge(found[1:2], (0.1, 0.2, 0.3)) == ""
