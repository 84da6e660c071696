"""Returns of latent policies: the gradient by the latent's law under every estimator, and by the actions'.

Statistical tests are seeded. Means: Bonferroni-corrected p of 1e-4 per test.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from latentrl import LatentConfig, LatentRLError
from latentrl.distributions import DiagonalNormal, OneHot
from latentrl.estimators import (
    Enumerate,
    Estimator,
    LeaveOneOut,
    MeasureValued,
    Pathwise,
    Rebar,
    ScoreFunction,
    Vimco,
)
from latentrl.latent_rollouts import LatentReturn
from latentrl.variance import gradient_variance
from latentrl_envs import LQR, CartPole, Pendulum
from tests.test_rollouts import Falls, Walk

STEPS = 3
MU, LOG_SIGMA, GAIN = 0.4, -0.5, 0.7


def normal(p: dict[str, Tensor], observation: Tensor) -> DiagonalNormal:
    """z ~ N(μ, σ²), whatever the start."""
    return DiagonalNormal(p["mu"].expand(observation.shape), p["log_sigma"].exp().expand(observation.shape))


def push(p: dict[str, Tensor], observation: Tensor, z: Tensor) -> Tensor:
    """a = k z, at every step."""
    return p["gain"] * z + 0.0 * observation


def parameters() -> dict[str, Tensor]:
    values = {"mu": MU, "log_sigma": LOG_SIGMA, "gain": GAIN}
    return {name: torch.full((1,), value, dtype=torch.float64) for name, value in values.items()}


def exact() -> Tensor:
    """x_t = x + t k z with E x = ½: J = −Σ_t E(x + t k z)² = −Σ_t (E x² + 2 t k E x E z + t² k² E z²)."""
    p = {name: tensor.requires_grad_() for name, tensor in parameters().items()}
    second = p["mu"].square() + (2 * p["log_sigma"]).exp()
    terms = [1 / 3 + t * p["gain"] * p["mu"] + t**2 * p["gain"] ** 2 * second for t in range(1, STEPS + 1)]
    return torch.cat(torch.autograd.grad(-sum(terms), list(p.values())))  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", [Pathwise(), ScoreFunction(), ScoreFunction(LeaveOneOut()), MeasureValued()])
def test_latent_and_actions_by_closed_form(estimator: Estimator) -> None:
    objective = LatentReturn(Walk(), normal, push, estimator, STEPS, 8, 4)
    report = gradient_variance(objective, parameters(), 4000, exact(), chunk_size=1000)
    assert report.bias_p > 1e-4
    assert report.cosine > 0.99
    assert objective.env_steps == STEPS * 8 * 4


@pytest.mark.parametrize("estimator", [ScoreFunction(LeaveOneOut()), Rebar()])
def test_choices_against_enumeration(estimator: Estimator) -> None:
    choose = lambda p, o: OneHot(p["logits"].expand(len(o), 3))  # noqa: E731
    act = lambda p, o, z: (z @ p["moves"]).unsqueeze(-1) - 0.1 * o  # noqa: E731
    p = {name: torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64) for name in ("logits", "moves")}

    def measured(rule: Estimator, seed: int, reference: object = None) -> object:
        objective = LatentReturn(Walk(), choose, act, rule, STEPS, 8, 3)
        return gradient_variance(objective, p, 2000, reference, chunk_size=500, seed=seed)  # type: ignore[arg-type]

    truth = measured(Enumerate(), 1)
    assert measured(estimator, 0, truth).bias_p > 1e-4  # type: ignore[attr-defined]


def test_episodes_end() -> None:
    """Beyond the edge nothing is earned, and nothing overflows into the gradient."""
    torch.manual_seed(0)
    p = {name: tensor.requires_grad_() for name, tensor in parameters().items()}
    act = lambda p, o, z: 0 * z + 0 * o + p["gain"]  # noqa: E731
    objective = LatentReturn(Walk(edge=0.6), normal, act, Pathwise(), 4, 6, 2)
    returns, surrogate = objective.estimate(p)
    torch.manual_seed(0)
    start = torch.rand(6, 1, dtype=torch.float64)[:, 0]
    # Every start passes the edge in one step, or began beyond it.
    expected = torch.where(start > 0.6, torch.zeros_like(start), -((start + GAIN) ** 2))
    torch.testing.assert_close(returns, expected)
    assert bool(torch.autograd.grad(surrogate.sum(), p["gain"])[0].isfinite())


@pytest.mark.parametrize("prior", ["vamp", "categorical"])
def test_of_a_model(prior: str) -> None:
    """A model's own play, under both ways through its latent; the noise-free parts agree with a rollout by hand."""
    torch.manual_seed(0)
    posterior = "categorical" if prior == "categorical" else "gaussian"
    config = LatentConfig(latent_dim=4, posterior=posterior, prior=prior, hidden=(8,), encoder_hidden=(8,), hold=1)
    model = config.build(Pendulum().observation_space, Pendulum().action_space)
    p = dict(model.named_parameters())
    score = LatentReturn.of(model, Pendulum(), ScoreFunction(LeaveOneOut()), 5, 6, 3)
    report = gradient_variance(score, p, 20)
    assert any(trace > 0 for name, trace in report.layer_traces.items() if name.startswith("decoder"))
    assert any(trace > 0 for name, trace in report.layer_traces.items() if not name.startswith("decoder"))
    torch.manual_seed(1)
    value = LatentReturn.of(model, Pendulum(), ScoreFunction(), 5, 6).estimate(p).value
    torch.manual_seed(1)
    task, total = Pendulum(), torch.zeros(6)
    state = task.initial(torch.rand(6, 2))
    with torch.no_grad():
        z = model.latent_law(task.observation(state)).sample((1,))[0]
        for _ in range(5):
            action = model.act(task.observation(state), z)
            following = task.transition(state, action)
            total += task.reward(state, action, following)
            state = following
    torch.testing.assert_close(value, total)


REFUSED: dict[str, Callable[[], object]] = {
    "importance": lambda: LatentReturn(Walk(), normal, push, Vimco(), 3, 4),  # type: ignore[arg-type]
    "horizon must be": lambda: LatentReturn(Walk(), normal, push, Pathwise(), 0, 4),
    "num_samples must be": lambda: LatentReturn(Walk(), normal, push, Pathwise(), 3, 4, 0),
    "has no latent: use ExpectedReturn": lambda: LatentReturn.of(built(latent_dim=0), LQR(), Pathwise(), 3, 4),
    "decoder MixtureDecoder draws on its own": lambda: LatentReturn.of(
        built(decoder="mixture"), LQR(), Pathwise(), 3, 4
    ),
    "decoder DiscretizedLogisticDecoder are steps": lambda: LatentReturn.of(
        built(decoder="discretized_logistic"), LQR(), Pathwise(), 3, 4
    ),
    "decoder BernoulliDecoder are steps": lambda: LatentReturn.of(
        built(spaces.MultiBinary(2)), LQR(), Pathwise(), 3, 4
    ),
    "decoder CategoricalDecoder are steps": lambda: LatentReturn.of(
        built(spaces.MultiDiscrete([3, 2])), LQR(), Pathwise(), 3, 4
    ),
    "model plays latents of its data": lambda: LatentReturn.of(built(latents="aggregate"), LQR(), Pathwise(), 3, 4),
    "gives 6 numbers, but an action of the task has 2": lambda: LatentReturn.of(
        built(chunk=3, hold=0), LQR(), Pathwise(), 3, 4
    ).estimate(dict(built(chunk=3, hold=0).named_parameters())),
    "those of the task are choices": lambda: LatentReturn.of(built(), CartPole(), ScoreFunction(), 3, 4),
    r"actions must have shape \(1, 4, 1\)": lambda: LatentReturn(
        Pendulum(), normal, lambda _p, _o, z: z[..., 0], ScoreFunction(), 3, 4
    ).estimate(parameters()),
    "clips its latents": lambda: LatentReturn.of(built(latent_clip=2.0), LQR(), Pathwise(), 3, 4),
}


BOX = spaces.Box(-1, 1, (2,))


def built(actions: spaces.Space[Any] = BOX, **options: object) -> Any:
    config = LatentConfig(hidden=(4,), encoder_hidden=(4,), **{"latent_dim": 2, "hold": 1, **options})  # type: ignore[arg-type]
    return config.build(spaces.Box(-1, 1, (4,)), actions)


@pytest.mark.parametrize("message", REFUSED)
def test_refusals(message: str) -> None:
    with pytest.raises(LatentRLError, match=message):
        REFUSED[message]()


def test_an_end_that_is_not_finite_stays_out_of_the_gradient() -> None:
    def act(p: dict[str, Tensor], observation: Tensor, z: Tensor) -> Tensor:
        return p["gain"] * (z + observation)

    found = []
    for edge in (math.inf, 1e7):
        torch.manual_seed(0)
        tensors = {name: tensor.requires_grad_() for name, tensor in parameters().items()}
        surrogate = LatentReturn(Falls(edge), normal, act, Pathwise(), 6, 16, 4)(tensors)
        found.append(torch.stack(torch.autograd.grad(surrogate, list(tensors.values()))))
    assert found[0].isfinite().all()
    torch.testing.assert_close(*found)


def test_autocast_leaves_the_task_as_it_is() -> None:
    def act(p: dict[str, Tensor], observation: Tensor, z: Tensor) -> Tensor:
        return p["gain"] * (z[..., :1] + observation[..., :2])

    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            single = {name: tensor.float() for name, tensor in parameters().items()}  # autocast leaves doubles alone
            found.append(LatentReturn(LQR(), normal, act, ScoreFunction(), 20, 8).estimate(single).value)
    torch.testing.assert_close(*found)
