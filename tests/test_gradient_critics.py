"""Gradients through critics, against closed forms and against stable-baselines3's own loss.

Statistical tests are seeded. Means: Bonferroni-corrected p of 1e-4 for each method.
"""

import math
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from torch import Tensor
from torch.distributions import Normal

from experiments import critics, gradient_critics
from latentrl.distributions import DiagonalNormal
from latentrl.variance import GradientReport, gradient_variance

SIZE, DRAWS, ALPHA = 2, 3, 0.4
METHODS = critics.methods(SIZE, DRAWS)
EACH = pytest.mark.parametrize("name", list(METHODS))
Parameters = dict[str, Tensor]


class Quadratic:
    """f = uᵀg(s) + ½ uᵀHu for u ~ N(W s, σ²): J and its gradient have closed forms."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.slope, half = torch.randn(3, SIZE).double(), torch.randn(SIZE, SIZE).double()
        self.hessian = half + half.T
        self.parameters = {"w": torch.randn(3, SIZE).double(), "log_std": torch.tensor([-0.7, 0.2]).double()}
        self.states = torch.randn(3, 3).double()
        self.seen = 0
        self.value = critics.SoftValue(self.law, self.worth, ALPHA)

    def law(self, p: Parameters, observations: Tensor) -> DiagonalNormal:
        mean = observations @ p["w"]
        return DiagonalNormal(mean, p["log_std"].exp().expand(mean.shape))

    def worth(self, observations: Tensor, u: Tensor) -> Tensor:
        self.seen += len(u)
        return (u * (observations @ self.slope)).sum(-1) + 0.5 * ((u @ self.hessian) * u).sum(-1)

    def exact(self, p: Parameters, observations: Tensor) -> Tensor:
        mean, variance = observations @ p["w"], (2.0 * p["log_std"]).exp()
        spread = 0.5 * (self.hessian.diagonal() * variance).sum()
        return (
            self.worth(observations, mean) + spread + ALPHA * Normal(mean, variance.sqrt()).entropy().sum(-1)
        ).mean()

    def gradient(self, observations: Tensor) -> Tensor:
        slopes = torch.func.grad(self.exact)(self.parameters, observations)
        return torch.cat([slope.flatten() for slope in slopes.values()])

    def objective(self, name: str, choose: Callable[[], Tensor] | None = None) -> Callable[[Parameters], Tensor]:
        return critics.objective(self.value, choose or (lambda: self.states), METHODS[name])


@EACH
def test_gradient_of_a_quadratic_critic(name: str) -> None:
    critic = Quadratic()
    reference = critic.gradient(critic.states)
    report = gradient_variance(critic.objective(name), critic.parameters, 600, reference, chunk_size=300)
    assert report.bias_p > 1e-4
    assert (report.trace < 1e-20) is (name == "delta method")


@pytest.mark.parametrize("name", ["leave-one-out", "reparameterization"])
def test_new_states_add_the_variance_of_what_a_state_expects(name: str) -> None:
    """Of single states: Var g = E Var(g|s) + Var E(g|s); log-variances within 4.5 standard errors, 7e-6 each."""
    critic = Quadratic()
    alone = [critic.states[i : i + 1] for i in range(len(critic.states))]
    within = [
        gradient_variance(critic.objective(name, lambda s=state: s), critic.parameters, 1000, chunk_size=500, seed=seed)
        for seed, state in enumerate(alone)
    ]
    expected = torch.stack([critic.gradient(state) for state in alone])
    exact = sum(report.trace for report in within) / len(alone) + float(expected.var(0, correction=0).sum())
    choose = lambda: critic.states[torch.randint(len(critic.states), (1,))]  # noqa: E731
    found = gradient_variance(
        critic.objective(name, choose), critic.parameters, 2000, critic.gradient(critic.states), 1000, seed=99
    )
    assert found.bias_p > 1e-4
    error = math.hypot(found.log_trace_se, max(report.log_trace_se for report in within))
    assert abs(math.log(found.trace / exact)) < 4.5 * error + 1e-6


@EACH
def test_evaluations_are_counted(name: str) -> None:
    critic = Quadratic()
    critic.objective(name)(critic.parameters)
    assert critic.seen == METHODS[name].evaluations * len(critic.states)


@pytest.fixture
def agent() -> SAC:
    """One that has not learned, with critics steep enough to matter."""
    box = spaces.Box(-1.0, 1.0, (SIZE,))

    class Still(gym.Env):
        observation_space, action_space = spaces.Box(-1.0, 1.0, (3,)), box

    made = SAC("MlpPolicy", Still(), seed=0, device="cpu", ent_coef=ALPHA, policy_kwargs={"net_arch": [8]})
    with torch.no_grad():
        for network in made.critic.q_networks:
            network[-1].weight.mul_(10.0)
    return made


def own_loss(agent: SAC, observations: Tensor) -> Tensor:
    """As in ``SAC.train``."""
    actions, log_prob = agent.actor.action_log_prob(observations)
    worth = torch.min(torch.cat(agent.critic(observations, actions), dim=1), dim=1).values
    return (ALPHA * log_prob - worth).mean()


def flat_gradient(agent: SAC, scalar: Tensor) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(scalar, list(agent.actor.parameters()))])


def test_reparameterization_is_the_step_that_sac_takes(agent: SAC) -> None:
    """The same noise gives the same gradient: min, log-determinant, entropy, α and all parameters are SAC's."""
    observations = torch.randn(64, 3)
    value, parameters = critics.soft_value(agent)
    assert len(parameters) == len(list(agent.actor.parameters()))
    torch.manual_seed(1)
    own = flat_gradient(agent, -own_loss(agent, observations))
    u = agent.actor.action_dist.gaussian_actions.detach()

    def estimate(q: DiagonalNormal, f: Callable[[Tensor], Tensor]) -> critics.Estimate:
        noise = (u - q.loc.detach()) / q.scale.detach()
        cost = f((q.loc + q.scale * noise).unsqueeze(0)).squeeze(0)
        return critics.Estimate(cost.detach(), cost)

    for parameter in parameters.values():
        parameter.requires_grad_()
    ours = flat_gradient(agent, value.surrogate(parameters, observations, estimate))
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["score function", "leave-one-out", "value at the mean"])
def test_score_function_is_autograd_of_a_mean_of_scores(agent: SAC, name: str) -> None:
    """The same draws, with everything but the critic written out in torch's own law."""
    observations = torch.randn(4, 3)
    value, parameters = critics.soft_value(agent)
    for parameter in parameters.values():
        parameter.requires_grad_()
    torch.manual_seed(1)
    ours = flat_gradient(agent, value.surrogate(parameters, observations, METHODS[name].estimate))

    torch.manual_seed(1)
    mean, log_std, _ = agent.actor.get_action_dist_params(observations)
    law = Normal(mean, log_std.exp())
    u = (mean + log_std.exp() * torch.randn(METHODS[name].evaluations if "out" in name else 1, 4, SIZE)).detach()
    costs = torch.stack([value.worth(observations, each) for each in u]).detach()
    if name == "leave-one-out":
        baseline = torch.stack([costs[[j for j in range(DRAWS) if j != i]].mean(0) for i in range(DRAWS)])
    else:
        baseline = value.worth(observations, mean).detach() if "mean" in name else torch.zeros(())
    scores = (costs - baseline) * law.log_prob(u).sum(-1) + ALPHA * law.entropy().sum(-1)
    torch.testing.assert_close(ours, flat_gradient(agent, scores.mean()), rtol=1e-4, atol=1e-6)


def by_quadrature(agent: SAC, observations: Tensor) -> Tensor:
    """The gradient of E[min Q − α log π], log π by stable-baselines3, summed over a grid of the noise."""
    line = torch.linspace(-6.0, 6.0, 241)
    noise = torch.cartesian_prod(line, line)
    weight = (-0.5 * noise.square().sum(-1)).exp()
    total = torch.zeros(())
    for observation in observations:
        mean, log_std, _ = agent.actor.get_action_dist_params(observation.expand(len(noise), -1))
        u = mean + log_std.exp() * noise
        log_prob = agent.actor.action_dist.proba_distribution(mean, log_std).log_prob(u.tanh(), u)
        worth = torch.cat(agent.critic(observation.expand(len(noise), -1), u.tanh()), dim=1).amin(1)
        total = total + (weight / weight.sum() * (worth - ALPHA * log_prob)).sum()
    return flat_gradient(agent, total / len(observations))


@EACH
def test_gradient_of_an_agent(agent: SAC, name: str) -> None:
    observations = torch.randn(4, 3)
    value, parameters = critics.soft_value(agent)
    objective = critics.objective(value, lambda: observations, METHODS[name])
    report = gradient_variance(objective, parameters, 1500, by_quadrature(agent, observations), chunk_size=500)
    assert report.bias_p > 1e-4
    assert report.snr > 0.05  # the noise is not so large as to hide any bias


def test_length_of_a_gradient_lacks_the_noise() -> None:
    """‖ḡ‖² has mean ‖E g‖² + tr Σ/R; where there is none, the difference is negative in .63 of cases."""

    def report(signal: float, seed: int) -> GradientReport:
        noise = lambda: 5.0 * torch.randn(2).double()  # noqa: E731
        return gradient_variance(
            lambda p: (p["x"] * (signal + noise())).sum(), {"x": torch.zeros(2).double()}, 40, seed=seed
        )

    found = report(3.0, 0)
    assert gradient_critics.length(found) ** 2 == pytest.approx(float(found.mean.square().sum()) - found.trace / 40)
    lengths = [gradient_critics.length(report(0.0, seed)) for seed in range(20)]  # none or all: 9e-5
    assert 0 < lengths.count(0.0) < 20


def test_runs_compare_each_minibatch_with_its_own_reference() -> None:
    def record(name: str, factor: float, p: float) -> dict[str, object]:
        figures = dict.fromkeys(gradient_critics.RATIOS, factor)
        kinds = {"trustworthy": True, "bias_norm_p": p}
        return {
            "estimator": name,
            **figures,
            **{f"{k}, {kind}": v for k, v in kinds.items() for kind in ("actions", "both")},
        }

    about = {"task": "task", "seed": 0, "step": 10, "return": 0.0}
    cells = [
        {
            **about,
            "minibatch": i,
            "estimators": [record("a", 6.0 * scale, 0.02), record(gradient_critics.REFERENCE, scale, 1.0)],
        }
        for i, scale in enumerate((1.0, 2.0))
    ]
    runs = gradient_critics.flatten(cells)
    ratios = [f"{name} ÷ {gradient_critics.REFERENCE}'s" for name in gradient_critics.RATIOS]
    assert [[run[ratio] for ratio in ratios] for run in runs] == [[6.0] * 3, [1.0] * 3] * 2
    # Two minibatches, two kinds of noise.
    assert [run.get("smallest bias p") for run in runs] == [pytest.approx(0.08), 1.0, None, None]


def test_a_killed_training_starts_anew_and_a_finished_one_is_kept(tmp_path: Path) -> None:
    task, steps = critics.Task("Pendulum-v1", 130), (110, 130)
    job = (task, 0, tmp_path, steps, (4,))
    critics.train(job)
    before = critics.checkpoint(tmp_path, 130)
    assert before.observations.shape == (129, 3)  # the step under way is not in the buffer yet
    written = (tmp_path / "130.npz").stat().st_mtime_ns
    critics.train(job)
    assert (tmp_path / "130.npz").stat().st_mtime_ns == written
    (tmp_path / "130.npz").unlink()
    critics.train(job)
    after = critics.checkpoint(tmp_path, 130)
    assert torch.equal(after.observations, before.observations)
    assert after.mean_return == before.mean_return
    for mine, other in zip(after.agent.actor.parameters(), before.agent.actor.parameters(), strict=True):
        assert torch.equal(mine, other)
