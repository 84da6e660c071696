"""Rollout gradients against closed forms, enumeration and the Pendulum anchors.

Statistical tests are seeded. Means: Bonferroni-corrected p of 1e-4 per test.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal

from latentrl.checks import LatentRLError
from latentrl.distributions import DiagonalNormal, OneHot
from latentrl.estimators import LikelihoodRatio, Pathwise, RolloutEstimator, ScoreFunction, Trajectories
from latentrl.estimators.combinations import InverseVariance, TotalPropagation
from latentrl.estimators.rollout import ShortHorizon
from latentrl.rollouts import ExpectedReturn
from latentrl.variance import GradientReport, gradient_variance, variance_ratio
from latentrl_envs import LQR, CartPole, Pendulum, TorchVectorEnv

SIGMA = 0.7
LIKELIHOOD_RATIOS = [
    LikelihoodRatio(baseline, reward_to_go) for baseline in (None, "leave_one_out") for reward_to_go in (False, True)
]


@dataclass(frozen=True)
class Walk:
    """x' = x + a, reward −x'²; the walk ends beyond ``edge``, where x overflows soon."""

    edge: float = math.inf
    initial_noise_dim: int = 1

    def initial(self, rng: Tensor) -> Tensor:
        return rng

    def transition(self, state: Tensor, action: Tensor) -> Tensor:
        return torch.where(state > self.edge, state * 1e30, state + action)

    def observation(self, state: Tensor) -> Tensor:
        return state

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:  # noqa: ARG002
        return -next_state[..., 0].square()

    def terminal(self, state: Tensor) -> Tensor:
        return state[..., 0] > self.edge


class Survival(Walk):
    """Reward 1 per step; an action whose second entry exceeds ½ ends the episode."""

    def transition(self, state: Tensor, action: Tensor) -> Tensor:  # noqa: ARG002
        return action[..., 1:].clone()

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:  # noqa: ARG002
        return torch.ones_like(next_state[..., 0])

    def terminal(self, state: Tensor) -> Tensor:
        return state[..., 0] > 0.5

    def initial(self, rng: Tensor) -> Tensor:
        return 0 * rng


def constant(p: dict[str, Tensor], observation: Tensor) -> DiagonalNormal:
    """a ~ N(θ, σ²), whatever is seen."""
    return DiagonalNormal(p["theta"].expand(observation.shape), torch.full_like(observation, SIGMA))


def linear(p: dict[str, Tensor], observation: Tensor) -> DiagonalNormal:
    loc = observation @ p["theta"].T
    return DiagonalNormal(loc, torch.ones_like(loc))


def one_hot(p: dict[str, Tensor], observation: Tensor) -> OneHot:
    return OneHot(p["theta"].expand(*observation.shape[:-1], 2))


def measure(objective: ExpectedReturn, theta: Tensor, replicates: int, **options: object) -> GradientReport:
    return gradient_variance(
        objective, {"theta": theta}, replicates, batch_size=objective.num_envs, env_steps=objective.env_steps, **options
    )


@pytest.mark.parametrize("estimator", [Pathwise(), *LIKELIHOOD_RATIOS], ids=repr)
def test_mean_gradient_of_a_walk(estimator: RolloutEstimator) -> None:
    """x_t = x_0 + tθ + σ Σε and E x_0 = ½, so ∂θ E Σ_{t≤T} −x_t² = −Σ 2t(½ + tθ)."""
    theta, steps = torch.full((1,), 0.4, dtype=torch.float64), 4
    exact = torch.tensor([-sum(2 * t * (0.5 + 0.4 * t) for t in range(1, steps + 1))])
    report = measure(
        ExpectedReturn(Walk(), constant, estimator, steps, 6), theta, 4000, reference=exact, chunk_size=2000
    )
    assert report.bias_p > 1e-4
    assert report.env_steps_per_gradient == 24


@pytest.mark.parametrize("estimator", LIKELIHOOD_RATIOS, ids=repr)
def test_likelihood_ratio_by_its_formula(estimator: LikelihoodRatio) -> None:
    """Three trajectories, two steps, spelled out; the second trajectory ended after its first step."""
    torch.manual_seed(0)
    laws = [DiagonalNormal(torch.randn(3, 2), torch.ones(3, 2)) for _ in range(2)]
    actions, rewards = [q.sample() for q in laws], torch.tensor([[1.0, 2.0, 4.0], [8.0, 0.0, 16.0]])
    alive = torch.tensor([[True, True, True], [True, False, True]])
    total = {True: [[9.0, 2.0, 20.0], [8.0, 0.0, 16.0]], False: [[9.0, 2.0, 20.0]] * 2}[estimator.reward_to_go]
    expected = torch.zeros(3)
    for i, others in enumerate(((1, 2), (0, 2), (0, 1))):
        for t in range(2 if i != 1 else 1):
            baseline = sum(total[t][j] for j in others) / 2 if estimator.baseline else 0.0
            expected[i] += (total[t][i] - baseline) * laws[t].log_prob(actions[t])[i]
    log_probs = torch.stack([q.log_prob(a) for q, a in zip(laws, actions, strict=True)])
    assert torch.allclose(estimator.surrogate(Trajectories(log_probs, rewards, alive, [])), expected)


def test_each_refinement_lowers_the_variance() -> None:
    """Reward-to-go, then leave-one-out, then pathwise: .741, .594 and .155 of the one before by exact moments; with the
    same noise for all the ratios are known to .8, 3 and 6 %: nine errors from the bound.
    """
    theta = torch.full((1,), 0.4, dtype=torch.float64)
    members = [LikelihoodRatio(None, False), LikelihoodRatio(None, True), LikelihoodRatio(), Pathwise()]
    traces = [measure(ExpectedReturn(Walk(), constant, e, 4, 6), theta, 4000, chunk_size=2000).trace for e in members]
    assert all(low < 0.8 * high for high, low in pairwise(traces))


@pytest.mark.parametrize("num_envs", [2, 4])
def test_leave_one_out_over_trajectories_has_its_closed_form(num_envs: int) -> None:
    """One step: the estimator is the sample covariance C of return and score, E f removed. With r = −(y + σε)²,
    y = x_0 + θ and x_0 ~ U(0, 1), moments of y give Var C = (E[(r − Er)² ε²]/σ² − C²)/n + (C² + Var r/σ²)/(n(n − 1)).
    """
    x = torch.linspace(0, 1, 401, dtype=torch.float64)[:, None] + 0.4
    e = torch.linspace(-12, 12, 1001, dtype=torch.float64)
    weight = torch.exp(-0.5 * e.square()) * torch.ones_like(x)
    weight[[0, -1]] *= 0.5
    weight /= weight.sum()
    r = -((x + SIGMA * e) ** 2)
    mean = (weight * r).sum()
    var_r, covariance = (weight * (r - mean) ** 2).sum(), (weight * r * e).sum() / SIGMA
    cross = (weight * ((r - mean) * e / SIGMA) ** 2).sum()
    expected = (cross - covariance**2) / num_envs
    expected += (covariance**2 + var_r / SIGMA**2) / (num_envs * (num_envs - 1))
    objective = ExpectedReturn(Walk(), constant, LikelihoodRatio(), 1, num_envs)
    report = measure(objective, torch.full((1,), 0.4, dtype=torch.float64), 20_000, chunk_size=10_000)
    assert abs(math.log(report.trace / float(expected))) < 4.5 * report.log_trace_se  # 7e-6


@pytest.mark.parametrize("estimator", LIKELIHOOD_RATIOS, ids=repr)
def test_no_reward_after_the_end(estimator: LikelihoodRatio) -> None:
    """Survival with probability 1 − p per step: E steps = Σ_{t<T} (1 − p)^t, differentiated exactly."""
    theta, steps = torch.tensor([0.8, -0.4], dtype=torch.float64), 6
    exact = torch.func.grad(lambda x: (x.softmax(-1)[0] ** torch.arange(steps)).sum())(theta)
    objective = ExpectedReturn(Survival(), one_hot, estimator, steps, 4)
    assert measure(objective, theta, 5000, reference=exact, chunk_size=2500).bias_p > 1e-4
    returns = objective.estimate({"theta": theta}).value
    assert returns.shape == (4,)
    assert returns.min() >= 1
    assert returns.max() <= steps


def test_pathwise_does_not_see_a_termination() -> None:
    """Longer survival pays more, and the gradient through the dynamics is exactly 0: bias."""

    def policy(p: dict[str, Tensor], observation: Tensor) -> DiagonalNormal:
        return DiagonalNormal(p["theta"].expand(*observation.shape[:-1], 2), torch.ones(2))

    theta, found = torch.zeros(2), {}
    for estimator in (LikelihoodRatio(), Pathwise()):
        objective = ExpectedReturn(Survival(), policy, estimator, 5, 500)
        torch.manual_seed(0)
        leaf = theta.clone().requires_grad_()
        surrogate = objective({"theta": leaf}) + 0.0 * leaf.sum()
        found[type(estimator)] = torch.autograd.grad(surrogate, leaf)[0]
    assert float(found[LikelihoodRatio][1]) == pytest.approx(-1.81, abs=0.43)  # known to .094: 5e-6
    assert torch.equal(found[Pathwise], torch.zeros(2))


@pytest.mark.parametrize("estimator", [Pathwise(), LikelihoodRatio()], ids=repr)
def test_what_lies_beyond_the_end_stays_out_of_the_gradient(estimator: RolloutEstimator) -> None:
    """Past its edge the walk overflows within ten steps; episodes end there, so 60 steps give a finite gradient."""
    torch.manual_seed(0)
    theta = torch.full((1,), 1.0, requires_grad=True)
    surrogate = ExpectedReturn(Walk(edge=3.0), constant, estimator, 60, 8)({"theta": theta})
    assert torch.autograd.grad(surrogate, theta)[0].isfinite().all()


class Falls(Walk):
    """Ends beyond 1, in a state that is not finite; a reward that is."""

    def transition(self, state: Tensor, action: Tensor) -> Tensor:
        following = state + action
        return torch.where(following > 1.0, torch.full_like(following, self.edge), following)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:  # noqa: ARG002
        return -action[..., 0].square()

    def terminal(self, state: Tensor) -> Tensor:
        return ~(state[..., 0].abs() < 1e6)


@pytest.mark.parametrize(
    "estimator",
    [
        LikelihoodRatio(),
        LikelihoodRatio(lambda observations, _: (observations * 0.1).sum(-1)),
        Pathwise(),
        ShortHorizon(2, lambda observations, _: (observations * 0.1).sum(-1)),
        InverseVariance(),
        TotalPropagation(),
    ],
)
@pytest.mark.parametrize("segment", [None, 3])
def test_an_end_that_is_not_finite_stays_out_of_the_gradient(estimator: Any, segment: int | None) -> None:
    """Whatever it is: the same as with an end at a place where numbers are numbers."""
    options = {} if segment is None or not hasattr(estimator, "draw") else {"segment": segment}
    found = []
    for edge in (math.inf, math.nan, 1e7):
        torch.manual_seed(0)
        theta = torch.full((1, 1), 0.3, requires_grad=True)
        surrogate = ExpectedReturn(Falls(edge), linear, estimator, 6, 16, **options)({"theta": theta})
        found.append(torch.autograd.grad(surrogate, theta)[0])
    assert found[2].isfinite().all()
    for other in found[:2]:
        torch.testing.assert_close(other, found[2])


class Turns(Falls):
    """Seen by an angle's cosine, whose slope is no number at an end that is infinite."""

    def transition(self, state: Tensor, action: Tensor) -> Tensor:
        following = state + action
        return following + torch.where(following > 1.0, self.edge, 0.0)

    def terminal(self, state: Tensor) -> Tensor:
        return ~(state[..., 0].isfinite() & (state[..., 0] < 1e6))

    def observation(self, state: Tensor) -> Tensor:
        return torch.cat([state.cos(), state.sin()], -1)


def unit_noise(p: dict[str, Tensor], observation: Tensor) -> DiagonalNormal:
    return DiagonalNormal(observation @ p["theta"], torch.ones(1))


@pytest.mark.parametrize("segment", [None, 1, 3])
@pytest.mark.parametrize(
    "estimator", [Pathwise(), ShortHorizon(2, lambda observations, _: (observations * 0.1).sum(-1))]
)
def test_an_end_is_seen_without_gradient(estimator: Any, segment: int | None) -> None:
    """As above, where what is seen of it has a slope that is no number."""
    found = []
    for edge in (math.inf, math.nan, 1e7):
        torch.manual_seed(0)
        theta = torch.full((2, 1), 0.3, requires_grad=True)
        surrogate = ExpectedReturn(Turns(edge), unit_noise, estimator, 6, 16, segment)({"theta": theta})
        found.append(torch.autograd.grad(surrogate, theta)[0])
    assert found[2].isfinite().all()
    for other in found[:2]:
        torch.testing.assert_close(other, found[2])


@pytest.mark.parametrize(("horizon", "anchor"), [(5, 743.0), (10, 110.0), (25, 35.0)])
def test_pendulum_variance_ratio(horizon: int, anchor: float) -> None:
    """Var LR / Var RP of one trajectory at θ = 0, σ = 1 (anchors from 40 000 trajectories, good to 5 %).

    Leave-one-out over 64 adds 1/63. Bound: 4 standard errors (6e-5) and the 5 %; the means agree, each within 1e-4.
    """
    theta, reports = torch.zeros(1, 3), []
    for seed, estimator in enumerate((Pathwise(), LikelihoodRatio())):
        objective = ExpectedReturn(Pendulum(), linear, estimator, horizon, 64)
        reference = reports[0] if reports else None
        reports.append(measure(objective, theta, 320, reference=reference, chunk_size=160, seed=seed))
    ratio = variance_ratio(reports[1], reports[0])
    error = math.hypot(reports[0].log_trace_se, reports[1].log_trace_se)
    assert abs(math.log(ratio.value / (anchor * 64 / 63))) < 4 * error + 0.05
    assert reports[1].bias_p > 1e-4
    assert ratio.trustworthy


def test_pendulum_long_horizon_is_not_to_be_believed() -> None:
    objective = ExpectedReturn(Pendulum(), linear, Pathwise(), 200, 64)
    assert not measure(objective, torch.zeros(1, 3), 128, chunk_size=64).trustworthy


def test_errors_at_the_door() -> None:
    theta = {"theta": torch.zeros(2)}
    with pytest.raises(LatentRLError, match="horizon"):
        ExpectedReturn(Walk(), constant, Pathwise(), 0, 1)
    with pytest.raises(LatentRLError, match="num_envs"):
        ExpectedReturn(Walk(), constant, Pathwise(), 1, 0)
    with pytest.raises(LatentRLError, match="at least 2 trajectories"):
        ExpectedReturn(Survival(), one_hot, LikelihoodRatio(), 1, 1)(theta)
    with pytest.raises(LatentRLError, match="leave_one_out"):
        LikelihoodRatio("mean")
    with pytest.raises(LatentRLError, match=r"OneHot has none: use ScoreFunction \(in rollouts LikelihoodRatio"):
        ExpectedReturn(Survival(), one_hot, Pathwise(), 1, 2)(theta)


def test_shapes_that_would_broadcast_are_refused() -> None:
    def scalar_law(p: dict[str, Tensor], observation: Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(p["theta"].expand(observation.shape), 1.0)

    class WideReward(Walk):
        def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:  # noqa: ARG002
            return next_state

    theta = {"theta": torch.zeros(1)}
    cases: list[tuple[Walk, Callable, str]] = [
        (Walk(), scalar_law, r"batch_shape \(3,\).*\(3, 1\)"),
        (WideReward(), constant, r"reward must have shape \(3,\)"),
    ]
    for task, policy, message in cases:
        with pytest.raises(LatentRLError, match=message):
            ExpectedReturn(task, policy, LikelihoodRatio(), 2, 3)(theta)


def small_net(p: dict[str, Tensor], observation: Tensor) -> DiagonalNormal:
    hidden = torch.tanh(torch.nn.functional.linear(observation, p["first"], p["bias"]))
    return DiagonalNormal(hidden @ p["second"], p["log_scale"].exp())


def net_parameters(dtype: torch.dtype = torch.float64, hidden: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(3)
    shapes = {"first": (hidden, 1), "bias": (hidden,), "second": (hidden, 1), "log_scale": (1,)}
    return {name: (0.7 * torch.randn(shape, dtype=dtype)).requires_grad_() for name, shape in shapes.items()}


def square(observations: Tensor, to_go: Tensor) -> Tensor:
    return -observations.square().sum(-1) * to_go


COMPILER_WARNS = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch, of its own code
WAYS = [Pathwise(), LikelihoodRatio(), LikelihoodRatio(square), ShortHorizon(4, square)]


def value_and_gradient(p: dict[str, Tensor], estimator: RolloutEstimator, **options: Any) -> tuple[Tensor, ...]:
    """Of 7 walks of up to 10 steps, some of which end early."""
    torch.manual_seed(1)
    objective = ExpectedReturn(Walk(edge=1.2), small_net, estimator, 10, 7, **options)
    surrogate = objective(p)
    return surrogate.detach(), *torch.autograd.grad(surrogate, list(p.values()))


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_some_of_these_walks_end_early() -> None:
    torch.manual_seed(1)
    trajectories = ExpectedReturn(Walk(edge=1.2), small_net, Pathwise(), 10, 7).roll_out(Pathwise(), net_parameters())
    assert 0 < int(trajectories.alive[-1].sum()) < 7


@pytest.mark.parametrize("segment", [1, 3, 5, 20])
@pytest.mark.parametrize("estimator", WAYS, ids=["pathwise", "lr", "lr with values", "windows"])
def test_segments_change_neither_value_nor_gradient(estimator: RolloutEstimator, segment: int) -> None:
    p = net_parameters()
    assert_same(value_and_gradient(p, estimator, segment=segment), value_and_gradient(p, estimator))


@pytest.mark.slow
@COMPILER_WARNS
@pytest.mark.parametrize("estimator", WAYS, ids=["pathwise", "lr", "lr with values", "windows"])
def test_compiling_changes_neither_value_nor_gradient(estimator: RolloutEstimator) -> None:
    """Over segments of 3, 1, and 2 steps in the case of windows of 4; a second call takes what was compiled."""
    p = net_parameters()
    expected = value_and_gradient(p, estimator)
    assert_same(value_and_gradient(p, estimator, compiled=True, segment=3), expected)


@pytest.mark.slow
@COMPILER_WARNS
def test_compiled_code_is_used_again_and_told_apart() -> None:
    """By another number type; the second call of each compiles nothing, and float32 agrees to its own precision."""
    objective = ExpectedReturn(Walk(edge=1.2), small_net, Pathwise(), 4, 7, segment=2, compiled=True)
    for kinds, dtype in enumerate((torch.float64, torch.float32), start=1):
        p = net_parameters(dtype)
        for _ in range(2):
            torch.manual_seed(1)
            found = torch.autograd.grad(objective(p), list(p.values()))
            assert len(objective._kernels) == 2 * kinds
        torch.manual_seed(1)
        plain = torch.autograd.grad(replace(objective, compiled=False)(p), list(p.values()))
        torch.testing.assert_close(found, plain)


def test_segments_of_other_laws_than_gaussians() -> None:
    """One-hot actions, under the likelihood ratio."""
    p = {"theta": torch.tensor([0.8, -0.4], dtype=torch.float64, requires_grad=True)}
    found = []
    for segment in (None, 4):
        torch.manual_seed(0)
        objective = ExpectedReturn(Survival(), one_hot, LikelihoodRatio(), 6, 5, segment)
        found.append(torch.autograd.grad(objective(p), p["theta"]))
    assert_same(*found)


@pytest.mark.parametrize("estimator", WAYS, ids=["pathwise", "lr", "lr with values", "windows"])
def test_segments_under_the_meter(estimator: RolloutEstimator) -> None:
    """The same noise and so the same moments as in one piece."""
    p = {name: tensor.detach() for name, tensor in net_parameters().items()}
    plain, parted = (
        gradient_variance(ExpectedReturn(Walk(edge=1.2), small_net, estimator, 10, 7, segment), p, 20, chunk_size=10)
        for segment in (None, 3)
    )
    assert_same([plain.mean, plain.mean_se], [parted.mean, parted.mean_se])


def noisy_net(p: dict[str, Tensor], observation: Tensor) -> DiagonalNormal:
    """Sees through noise, twice: a latent of the policy's own."""
    hidden = small_net(p, observation + torch.rand(observation.shape, dtype=observation.dtype)).rsample()
    return DiagonalNormal(observation - 0.5 * hidden, p["log_scale"].exp())


@pytest.mark.parametrize("estimator", WAYS, ids=["pathwise", "lr", "lr with values", "windows"])
def test_segments_of_policies_that_draw(estimator: RolloutEstimator) -> None:
    """On the way back, and under the meter, they draw what they drew."""
    p, found, means = net_parameters(), [], []
    for segment in (None, 3):
        objective = ExpectedReturn(Walk(edge=1.2), noisy_net, estimator, 10, 7, segment)
        torch.manual_seed(1)
        surrogate = objective(p)
        found.append([surrogate.detach(), *torch.autograd.grad(surrogate, list(p.values()))])
        means.append([gradient_variance(objective, p, 20, chunk_size=10).mean])
    assert_same(*found)
    assert_same(*means)


def test_traced_policies_that_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be compiled, as it was traced."""
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, _: graph)
    p, found = net_parameters(), []
    for compiled in (False, True):
        torch.manual_seed(1)
        surrogate = ExpectedReturn(Walk(edge=1.2), noisy_net, Pathwise(), 4, 7, 2, compiled)(p)
        found.append(torch.autograd.grad(surrogate, list(p.values())))
    assert_same(*found)


def dropping(p: dict[str, Tensor], observation: Tensor) -> DiagonalNormal:
    return small_net(p, torch.nn.functional.dropout(observation))


OWN = torch.Generator()


def own_noise(p: dict[str, Tensor], observation: Tensor, source: torch.Generator = OWN) -> DiagonalNormal:
    noise = torch.randn(observation.shape, generator=source, dtype=observation.dtype)
    return small_net(p, observation + noise)


def seeded_noise(p: dict[str, Tensor], observation: Tensor) -> DiagonalNormal:
    return own_noise(p, observation, torch.Generator().manual_seed(0))


def test_segments_of_policies_that_draw_the_same_each_time() -> None:
    p, found = net_parameters(), []
    for segment in (None, 2):
        torch.manual_seed(1)
        surrogate = ExpectedReturn(Walk(), seeded_noise, Pathwise(), 4, 3, segment)(p)
        found.append(torch.autograd.grad(surrogate, list(p.values())))
    assert_same(*found)


@pytest.mark.parametrize("policy", [dropping, own_noise])
@pytest.mark.parametrize("estimator", [Pathwise(), LikelihoodRatio()])
def test_segments_of_policies_that_draw_otherwise_are_refused(policy: Callable, estimator: RolloutEstimator) -> None:
    p = net_parameters()
    assert ExpectedReturn(Walk(), policy, estimator, 4, 3)(p).isfinite()
    segmented = ExpectedReturn(Walk(), policy, estimator, 4, 3, segment=2)
    with pytest.raises(LatentRLError, match=r"the policy with its law DiagonalNormal .* as dropout does"):
        segmented(p)


def test_segments_keep_little() -> None:
    """What autograd saves of 100 steps in segments of 10 is less than a tenth of what it saves in one piece."""
    kept = {}
    for segment in (None, 10):
        storages: dict[int, int] = {}

        def pack(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        p = net_parameters(hidden=64)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            surrogate = ExpectedReturn(Walk(), small_net, Pathwise(), 100, 50, segment)(p)
        assert surrogate.requires_grad
        kept[segment] = sum(storages.values())
    assert kept[10] < 0.1 * kept[None]


class Still(DiagonalNormal):
    """Draws nothing."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: ARG002
        return self.loc


class Foreign(DiagonalNormal):
    """Draws in a way that cannot be repeated."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: ARG002
        return torch.normal(self.loc, self.stddev)


def test_what_segments_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    p = net_parameters()

    def rollout(policy: Callable = small_net, **options: Any) -> ExpectedReturn:
        return ExpectedReturn(Walk(), policy, LikelihoodRatio(), 4, 3, **options)

    with pytest.raises(LatentRLError, match="segment must be a whole number of at least 1"):
        rollout(segment=0)
    with pytest.raises(LatentRLError, match="TotalPropagation goes back step by step"):
        ExpectedReturn(Walk(), small_net, TotalPropagation(), 4, 4, segment=2)
    with pytest.raises(LatentRLError, match=r"Still draws none, or otherwise"):
        ExpectedReturn(
            Walk(), lambda p, o: Still(small_net(p, o).loc, p["log_scale"].exp()), Pathwise(), 4, 3, segment=2
        )(p)
    with pytest.raises(LatentRLError, match=r"Foreign draws none, or otherwise than with torch\.rand"):
        rollout(lambda q, o: Foreign(small_net(q, o).loc, q["log_scale"].exp()), segment=2)(p)
    with pytest.raises(LatentRLError, match="no second derivatives"):
        torch.autograd.grad(rollout(segment=2)(p), p["first"], create_graph=True)
    with pytest.raises(LatentRLError, match=r"not under torch\.func .* leave compiled out"):
        gradient_variance(rollout(compiled=True), p, 4)

    def no_compiler(*_: object) -> None:
        raise RuntimeError("no g++ here")

    monkeypatch.setattr(torch._inductor, "compile", no_compiler)
    with pytest.raises(LatentRLError, match=r"could not be compiled \(no g\+\+ here\)"):
        rollout(compiled=True, segment=1)(p)


class Edge(Walk):
    """Its reward has an infinite slope where it ends."""

    def reward(self, state: Tensor, action: Tensor, following: Tensor) -> Tensor:  # noqa: ARG002
        return (1.0 - state[..., 0]).sqrt()

    def transition(self, state: Tensor, action: Tensor) -> Tensor:
        return (state + action.square()).clamp_max(1.0)

    def terminal(self, state: Tensor) -> Tensor:
        return state[..., 0] >= 1.0


@pytest.mark.parametrize(("estimator", "segment"), [(Pathwise(), None), (Pathwise(), 2), (TotalPropagation(), None)])
def test_infinite_slopes_at_the_end_stay_out_of_the_gradient(estimator: RolloutEstimator, segment: int | None) -> None:
    p = {"theta": torch.full((1,), 2.0, dtype=torch.float64, requires_grad=True)}
    objective = ExpectedReturn(Edge(), constant, estimator, 4, 8, segment=segment)
    objective(p).backward()
    assert p["theta"].grad is not None
    assert bool(p["theta"].grad.isfinite())


def angle(p: dict[str, Tensor], observation: Tensor) -> Tensor:
    return observation @ p["gain"]


@pytest.mark.parametrize("estimator", [LikelihoodRatio(), Pathwise()])
def test_one_number_for_each_trajectory_is_no_action(estimator: Any) -> None:
    """It would play the first trajectory's in all of them."""
    policy = lambda p, o: Normal(angle(p, o), 1.0)  # noqa: E731
    with pytest.raises(LatentRLError, match=r"actions must have shape \(8, 1\), one of Box"):
        ExpectedReturn(Pendulum(), policy, estimator, 4, 8)({"gain": torch.zeros(3)})


@pytest.mark.parametrize(
    ("estimator", "segment"),
    [(LikelihoodRatio(), None), (Pathwise(), None), (LikelihoodRatio(), 2), (Pathwise(), 2), (InverseVariance(), None)],
)
def test_three_numbers_are_no_action_of_a_task_that_takes_one(estimator: Any, segment: int | None) -> None:
    three = lambda p, o: DiagonalNormal(torch.stack([angle(p, o)] * 3, -1), torch.ones(3))  # noqa: E731
    with pytest.raises(LatentRLError, match=r"actions must have shape \(8, 1\), one of Box"):
        ExpectedReturn(Pendulum(), three, estimator, 4, 8, segment=segment)({"gain": torch.zeros(3)})


def test_choices_of_a_task_against_its_environment() -> None:
    """CartPole by coin tosses: the return is the number of steps until it falls, as in the environment of the same
    task; the means of 4000 episodes agree within 4.5 of their common standard error (7e-6)."""
    torch.manual_seed(0)
    coin = lambda p, o: Categorical(logits=o @ p["w"])  # noqa: E731
    objective = ExpectedReturn(CartPole(), coin, LikelihoodRatio(), 60, 4000)
    w = torch.zeros(4, 2, requires_grad=True)
    estimate = objective.estimate({"w": w})
    estimate.surrogate.mean().backward()
    assert w.grad is not None
    assert bool(w.grad.isfinite().all() and (w.grad != 0).any())
    envs = TorchVectorEnv(CartPole(), 4000)
    envs.reset(seed=0)
    alive, lengths = torch.ones(4000, dtype=torch.bool), torch.zeros(4000)
    for _ in range(60):
        _, _, terminated, _, _ = envs.step(torch.randint(2, (4000,)))
        lengths += alive
        alive &= ~terminated
    error = ((estimate.value.var() + lengths.var()) / 4000).sqrt()
    assert (estimate.value.mean() - lengths.mean()).abs() < 4.5 * error


@pytest.mark.parametrize("horizon", [4, 8])
def test_values_that_would_be_spread_over_others_are_refused(horizon: int) -> None:
    """A last dimension that was not squeezed; with as many steps as trajectories it would pass for a table."""
    unsqueezed = lambda observations, _: observations[..., :1]  # noqa: E731
    for estimator in (LikelihoodRatio(unsqueezed), ShortHorizon(horizon // 2, unsqueezed)):
        with pytest.raises(LatentRLError, match="one number for each observation"):
            ExpectedReturn(Walk(), constant, estimator, horizon, 8)({"theta": torch.ones(1)})


def test_what_is_refused_at_the_door() -> None:
    with pytest.raises(LatentRLError, match="differentiated by LikelihoodRatio"):
        ExpectedReturn(Walk(), constant, ScoreFunction(), 3, 4)  # type: ignore[arg-type]
    for estimator in (Pathwise(), InverseVariance()):
        with pytest.raises(LatentRLError, match="there are none"):
            ExpectedReturn(Walk(), constant, estimator, 3, 4)({})


@pytest.mark.parametrize("estimator", [Pathwise(), InverseVariance()])
def test_autocast_leaves_the_task_as_it_is(estimator: Any) -> None:
    """Its matrix products in bfloat16 would be off by a percent; the policy's law is in float32."""
    law = lambda p, o: DiagonalNormal((o[..., :1] * p["gain"]).expand(*o.shape[:-1], 2), torch.ones(2))  # noqa: E731
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(ExpectedReturn(LQR(), law, estimator, 20, 8).estimate({"gain": torch.ones(1)}).value)
    torch.testing.assert_close(*found)


class Pushed(Walk):
    """Multiplies actions by a matrix, which takes no two kinds of numbers."""

    def transition(self, state: Tensor, action: Tensor) -> Tensor:
        return state + action @ torch.eye(1)


@COMPILER_WARNS
@pytest.mark.parametrize("estimator", [LikelihoodRatio(), Pathwise()])
@pytest.mark.parametrize(
    "options", [{}, {"segment": 2}, pytest.param({"segment": 2, "compiled": True}, marks=pytest.mark.slow)]
)
def test_the_way_back_is_as_precise_inside_and_outside_of_autocast(estimator: Any, options: dict[str, Any]) -> None:
    """Actions are in bfloat16 there, as a network makes them, and the same in both."""
    law = lambda p, o: DiagonalNormal(o @ p["gain"], torch.ones_like(o @ p["gain"]))  # noqa: E731
    found = []
    for inside in (True, False):
        torch.manual_seed(0)
        p = {"gain": torch.full((1, 1), 0.3, requires_grad=True)}
        with torch.autocast("cpu", torch.bfloat16):
            surrogate = ExpectedReturn(Pushed(), law, estimator, 4, 8, **options)(p)
            if inside:
                surrogate.backward()
        if not inside:
            surrogate.backward()
        found.append(p["gain"].grad)
    assert torch.equal(*found)
