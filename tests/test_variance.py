"""The meter on gradients whose law is known.

Statistical tests are seeded; the false-alarm rate of each is written beside it.
"""

import dataclasses
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.func import functional_call

from latentrl import LatentConfig, LatentModel
from latentrl.checks import LatentRLError
from latentrl.distributions import DiagonalNormal, OneHot
from latentrl.estimators import LeaveOneOut, LikelihoodRatio, ScoreFunction
from latentrl.noise_tape import Player, numbers_for, record
from latentrl.rollouts import ExpectedReturn
from latentrl.types import Batch, Estimate
from latentrl.variance import GradientReport, SharedOutputs, gradient_variance, variance_ratio
from latentrl_envs import Pendulum

SCALE = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
SIGNAL = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
THETA = {"theta": torch.zeros(3, dtype=torch.float64)}
TRACE = float(SCALE.square().sum())
KURTOSIS = 1 + 2 * float((SCALE**4).sum()) / TRACE**2


def gaussian(signal: Tensor = SIGNAL, scale: Tensor = SCALE) -> Callable:
    """An objective whose gradient is N(signal, diag(scale²))."""
    return lambda p: (p["theta"] * (signal + scale * torch.randn(3, dtype=torch.float64))).sum()


def student(p: dict[str, Tensor]) -> Tensor:
    """Gradients from Student's t with ν = 2.5: finite variance, infinite kurtosis (polar method, Bailey 1994)."""
    radius, angle = torch.rand(2, 3, dtype=torch.float64)
    return (p["theta"] * (2.5 * (radius ** (-2 / 2.5) - 1)).sqrt() * torch.cos(2 * math.pi * angle)).sum()


def forgetful() -> Callable:
    """Draws another way at each call."""
    functions = itertools.cycle([torch.rand, torch.randn])
    return lambda p: (p["theta"] * next(functions)(3)).sum()


def lognormal(p: dict[str, Tensor]) -> Tensor:
    return (p["theta"] * (3.0 * torch.randn(3, dtype=torch.float64)).exp()).sum()


def own_noise(seed: int, replicates: int, shape: tuple[int, ...]) -> Tensor:
    """What a replicate draws with one ``randn``."""
    drawn = [np.random.default_rng((seed, replicate)).standard_normal(shape) for replicate in range(replicates)]
    return torch.from_numpy(np.stack(drawn))


def measure(objective: Callable | None = None, replicates: int = 200, **options: object) -> GradientReport:
    return gradient_variance(objective or gaussian(), THETA, replicates, **options)


# --- What is reported


def test_moments_of_a_gaussian_gradient() -> None:
    """False alarms: three deviations at 4 errors, 2e-4, and the p-value, 1e-4; the rest at 4.5 or more."""
    replicates = 20_000
    report = measure(replicates=replicates, chunk_size=10_000, reference=SIGNAL)
    assert abs(math.log(report.trace / TRACE)) < 4.5 * math.sqrt((KURTOSIS - 1) / replicates)
    assert report.kurtosis == pytest.approx(KURTOSIS, rel=0.05)
    assert report.log_trace_se == pytest.approx(math.sqrt((KURTOSIS - 1) / replicates), rel=0.05)
    assert torch.allclose(report.mean_se * math.sqrt(replicates), SCALE, rtol=0.02)
    assert report.snr == pytest.approx(float(SIGNAL.norm()) / math.sqrt(TRACE), rel=0.03)
    low, high = report.trace_ci
    assert low < report.trace < high
    assert math.log(high / low) == pytest.approx(2 * 1.96 * report.log_trace_se, rel=0.15)  # bootstrap = delta method
    assert report.cosine > 0.999
    assert report.bias_p > 1e-4


def test_replicates_run_as_a_loop_would() -> None:
    """A module with noise inside, one replicate at a time with plain autograd."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def loss(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, p, (x,)).square().mean()

    report = gradient_variance(
        lambda p: loss(p, torch.randn(5, 4, dtype=torch.float64)), model.named_parameters(), 30, chunk_size=10, seed=7
    )
    rows = []
    for x in own_noise(7, 30, (5, 4)):
        gradient = torch.autograd.grad(loss(dict(model.named_parameters()), x), list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradient]))
    g = torch.stack(rows)
    d = (g - g.mean(0)).square().sum(1)
    assert torch.allclose(report.mean, g.mean(0), rtol=1e-10)
    assert torch.allclose(report.mean_se, g.std(0) / math.sqrt(30), rtol=1e-10)
    assert report.trace == pytest.approx(float(g.var(0).sum()), rel=1e-10)
    assert report.kurtosis == pytest.approx(float(d.square().mean() / d.mean() ** 2), rel=1e-10)
    assert report.tail_share == pytest.approx(float(d.max() ** 2 / d.square().sum()), rel=1e-10)
    assert all(p.grad is None for p in model.parameters())


def test_snr_is_debiased() -> None:
    """Zero-mean gradients: the signed SNR² averages to 0 over 400 runs; the plug-in one has a floor near 1/R."""
    objective = gaussian(signal=torch.zeros(3, dtype=torch.float64))
    reports = [measure(objective, 50, seed=seed) for seed in range(400)]
    signed = torch.tensor([r.snr_squared for r in reports])
    assert abs(signed.mean()) < 4 * signed.std() / 20  # 6e-5
    plug_in = torch.tensor([float(r.mean.square().sum()) / r.trace for r in reports])
    assert plug_in.mean() > 0.75 / 50  # it is 1.02 / 50, known to .057 / 50: 1e-6
    assert min(r.snr for r in reports) == 0.0


def test_bootstrap_interval_covers() -> None:
    """300 runs at R = 100: a percentile interval of 95 % covers about 92 % there; the bounds are 3.4 σ away: 6e-4."""
    covered = 0
    for seed in range(300):
        low, high = measure(replicates=100, seed=seed).trace_ci
        covered += low <= TRACE <= high
    assert 0.865 <= covered / 300 <= 0.985


def test_bootstrap_is_the_same_through_either_matrix() -> None:
    """P > R goes through the Gram matrix, P ≤ R through the gradients: padding with zeros changes nothing."""
    padded = {"theta": torch.zeros(60, dtype=torch.float64)}
    wide = gradient_variance(lambda p: gaussian()({"theta": p["theta"][:3]}), padded, 20)
    narrow = measure(replicates=20)
    assert wide.trace_ci == pytest.approx(narrow.trace_ci, rel=1e-9)


def test_trace_interval_by_brute_force() -> None:
    """Resample the gradients themselves, with the meter's own draws of their indices."""
    report = measure(replicates=6, seed=4)
    g = SIGNAL + SCALE * own_noise(4, 6, (3,))
    torch.manual_seed(4)
    traces = g[torch.randint(6, (1000, 6))].var(1).sum(-1)
    expected = traces.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    assert report.trace_ci == pytest.approx(expected.tolist(), rel=1e-9)


@pytest.mark.parametrize("noisy", [False, True])
def test_bias_test_is_calibrated(noisy: bool) -> None:
    """Under the null p < .05 in at most 5 % of 300 runs of six replicates, against the truth and against another
    report with as much error of its own; 27 of 300 or more happen once in 400 times."""
    false_alarms = 0
    for seed in range(300):
        reference = measure(replicates=6, seed=seed + 1000) if noisy else SIGNAL
        false_alarms += measure(replicates=6, seed=seed, reference=reference).bias_p < 0.05
    assert 0 < false_alarms < 27


def test_norm_of_the_bias() -> None:
    """Calibrated beside another report: of 300 p-values some are below .05, fewer than 27 (but once in 400 times); and
    with power."""
    small = [
        measure(replicates=30, seed=seed, reference=measure(replicates=30, seed=seed + 1000)).bias_norm_p < 0.05
        for seed in range(300)
    ]
    assert 0 < sum(small) < 27
    assert measure(reference=SIGNAL + 0.5 * SCALE).bias_norm_p < 1e-6
    assert measure(gaussian(SIGNAL + 1.0), 500, reference=measure(replicates=500, seed=1)).bias_norm_p < 1e-6


@pytest.mark.parametrize("replicates", [30, 100])
def test_norm_of_the_bias_of_one_number(replicates: int) -> None:
    """Student's t squared, in effect: of 400 p-values of unbiased gradients 8 to 38 are below .05 (but once in 500
    times); of fewer than 30 replicates nothing is said."""
    number = {"theta": torch.zeros(1, dtype=torch.float64)}

    def noise(p: dict[str, Tensor]) -> Tensor:
        return p["theta"][0] * torch.randn((), dtype=torch.float64)

    found = [gradient_variance(noise, number, replicates, torch.zeros(1), seed=seed).bias_norm_p for seed in range(400)]
    assert 8 <= sum(p < 0.05 for p in found) <= 38
    few = gradient_variance(noise, number, 29, torch.zeros(1))
    assert few.bias_norm_p is None
    assert few.bias_p is not None
    other = gradient_variance(noise, number, 29, seed=1)
    assert gradient_variance(noise, number, 30, other).bias_norm_p is None


def test_a_large_gradient_does_not_hide_the_bias_of_a_small_one() -> None:
    """Off by all of itself, with an error of a thousandth of that, beside one ten million times as large."""
    both = {"big": torch.zeros(1, dtype=torch.float64), "small": torch.zeros(3, dtype=torch.float64)}

    def objective(p: dict[str, Tensor]) -> Tensor:
        noise = torch.randn(3, dtype=torch.float64)
        return (1e4 * p["big"]).sum() + (2e-3 + 1e-5 * noise) @ p["small"]

    found = gradient_variance(objective, both, 200, torch.tensor([1e4, 1e-3, 1e-3, 1e-3]).double())
    assert found.bias_p < 1e-6
    assert found.bias_norm_p < 1e-6
    exact = gradient_variance(objective, both, 200, torch.tensor([1e4, 2e-3, 2e-3, 2e-3]).double())
    assert exact.bias_p > 1e-3


def test_what_is_left_of_large_terms_is_no_bias() -> None:
    """A softmax over nothing but constants, whose gradient is 0, beside a gradient of 1."""
    parameters = {"one": torch.zeros(1), "none": torch.randn(20, generator=torch.Generator().manual_seed(0))}
    found = gradient_variance(lambda p: (p["one"] + p["none"].softmax(0).sum()).sum(), parameters, 30, torch.eye(21)[0])
    assert found.bias_p > 0.01


NOISES: dict[str, Callable[[Tensor], Tensor]] = {
    "signs": lambda noise: noise[:1].sign(),  # κ = 1; whose p-values have steps, .056 of them below .05
    "cubes": lambda noise: noise[:1] ** 3,  # κ = 46
    "cubes of 40": lambda noise: noise**3,
    "in one direction": lambda noise: noise[:1].expand(40),
    "tails": lambda noise: noise[1:] * (1.5 * noise[0]).exp(),  # κ = 8500
}


@pytest.mark.parametrize(("name", "kept"), [*((name, True) for name in NOISES), ("tails", False), ("cubes", False)])
def test_norm_of_the_bias_whatever_the_tails(name: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unbiased gradients: of 100 p-values fewer than 14 are below .05 (but once in 600 times), however heavy the tails
    and however many coordinates go together; and with power."""
    if not kept:
        monkeypatch.setattr("latentrl.variance.MOST_KEPT", 1)
    noise = NOISES[name]
    size = len(noise(torch.zeros(40)))
    parameters = {"theta": torch.zeros(size, dtype=torch.float64)}

    def objective(p: dict[str, Tensor]) -> Tensor:
        return p["theta"] @ noise(torch.randn(40, dtype=torch.float64))

    reports = [gradient_variance(objective, parameters, 200, torch.zeros(size), seed=seed) for seed in range(500, 600)]
    assert sum(report.bias_norm_p < 0.05 for report in reports) < 14
    # Ten times as far off as the mean is from its expectation on average.
    far = 10 * torch.tensor([report.trace / 200 / size for report in reports]).sqrt()
    far_p = [
        gradient_variance(objective, parameters, 200, torch.full((size,), far[seed]), seed=seed).bias_norm_p
        for seed in range(5)
    ]
    assert max(far_p) < 1e-3


def test_what_few_replicates_reach_is_no_bias_of_the_norm() -> None:
    """A coordinate with mean 1 that one replicate in 500 carries: seldom seen, taken for 0 without error."""

    def rare(p: dict[str, Tensor]) -> Tensor:
        hit = (torch.rand((), dtype=torch.float64) < 1 / 500) * 500.0
        return p["theta"] @ torch.stack([torch.randn((), dtype=torch.float64) * 30, hit, hit])

    reports = [gradient_variance(rare, THETA, 50, torch.tensor([0.0, 1.0, 1.0]), seed=seed) for seed in range(20)]
    unseen = [report for report in reports if report.mean[1] == 0]
    assert len(unseen) >= 10  # .9 each: 1e-6
    assert all(report.bias_p < 1e-6 for report in unseen)
    assert all(report.bias_norm_p > 1e-6 for report in unseen)  # below .01 in 2 % of them


def test_bias_test_has_power() -> None:
    """False alarms: four replicates, whose error is itself guessed from them, 4e-3; else 1e-4."""
    assert measure(reference=SIGNAL + 0.5 * SCALE).bias_p < 1e-6
    assert measure(gaussian(SIGNAL + 1.0), 500, reference=measure(replicates=500, seed=1)).bias_p < 1e-6
    # Four replicates say little, and the same numbers, one of their errors off, taken for the truth say too much.
    few = dataclasses.replace(measure(replicates=4, seed=1), mean=SIGNAL + 0.5 * SCALE)
    assert measure(reference=few).bias_p > 0.01
    assert measure(reference=few.mean).bias_p < 1e-3


def test_a_generator_of_none_is_torchs_own() -> None:
    """Whose draws are the same whatever the chunks."""

    def objective(p: dict[str, Tensor]) -> Tensor:
        return p["theta"] @ torch.randn(3, dtype=torch.float64, generator=None)

    first, second = (gradient_variance(objective, THETA, 12, chunk_size=size) for size in (2, 6))
    assert torch.equal(first.mean, second.mean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exact_estimator_has_no_variance_and_no_bias(dtype: torch.dtype) -> None:
    report = gradient_variance(
        lambda p: (p["x"] / 3).sum(), {"x": torch.ones(2, dtype=dtype)}, 30, torch.full((2,), 1 / 3)
    )
    assert report.trace < 1e-30
    assert report.snr > 1e14
    assert report.bias_p == pytest.approx(1.0)
    assert report.trustworthy
    json.dumps(report.to_dict(), allow_nan=False)


# --- Whether it can be believed


def test_trust() -> None:
    """Gaussian always; infinite kurtosis mostly not; a log-normal whose sample variance is off by e⁵ never."""
    assert sum(measure(replicates=100, seed=seed).trustworthy for seed in range(50)) >= 48  # .996 each: 1e-3
    assert all(measure(replicates=640, seed=seed).trustworthy for seed in range(50))
    doubted = sum(not measure(student, 640, seed=seed).trustworthy for seed in range(50))
    assert doubted >= 25  # about .75 of them, so fewer once in 25 000 times
    assert not any(measure(lognormal, 640, seed=seed).trustworthy for seed in range(50))
    assert not any(measure(replicates=few, seed=seed).trustworthy for few in (2, 4, 8, 29) for seed in range(10))


def test_ratio_of_two_reports() -> None:
    a, b = measure(replicates=2000), measure(gaussian(scale=2 * SCALE), 2000, seed=1)
    ratio, error = variance_ratio(b, a), math.sqrt(2 * (KURTOSIS - 1) / 2000)
    assert abs(math.log(ratio.value / 4)) < 4.5 * error  # 7e-6
    assert ratio.ci[0] < ratio.value < ratio.ci[1]
    assert ratio.ci[1] / ratio.ci[0] == pytest.approx(math.exp(2 * 1.96 * error), rel=0.05)
    assert ratio.trustworthy
    assert not variance_ratio(a, measure(lognormal, 2000)).trustworthy
    with pytest.raises(LatentRLError, match="one batch_size"):
        variance_ratio(a, measure(batch_size=2))
    with pytest.raises(LatentRLError, match="without variance"):
        variance_ratio(a, measure(lambda p: p["theta"].sum()))


# --- How it is run


def test_the_callers_noise_is_untouched() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    measure()
    assert torch.equal(before, torch.get_rng_state())


def test_chunks_bound_what_runs_at_once() -> None:
    calls = []

    def counted(p: dict[str, Tensor]) -> Tensor:
        calls.append(1)  # once per chunk: vmap traces the objective
        return gaussian()(p)

    measure(counted, 100, chunk_size=30)
    assert len(calls) == 1 + 4  # the first, to see what is drawn
    measure(counted, 100)
    assert len(calls) == 1 + 4 + 1 + 2  # never more than half, so that something is timed after the warm-up


def test_costs_and_plain_numbers() -> None:
    report = measure(batch_size=16, env_steps=320)
    assert report.seconds_per_gradient > 0
    assert report.cost_normalized == report.trace * report.seconds_per_gradient
    assert report.trace_per_sample == 16 * report.trace
    record = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert record["env_steps_per_gradient"] == 320
    assert record["cost_normalized_env_steps"] == report.trace * 320
    assert record["trace_ci"] == list(report.trace_ci)
    assert record["cosine"] is record["bias_z"] is None
    assert record["trustworthy"] is True


# --- Bit for bit, and the ways to the same moments


def minibatch(p: dict[str, Tensor]) -> Tensor:
    """Data drawn by index, uniforms and a Gaussian, in that order."""
    data = torch.arange(12, dtype=torch.float32).view(6, 2)
    rows = data[torch.randint(2, 6, (4,))]
    return ((rows + torch.rand(4, 2)) @ p["w"] * torch.randn(4)).mean()


def elbo(p: dict[str, Tensor]) -> Tensor:
    model, batch = ELBO
    return functional_call(LossOf(model), {f"model.{name}": value for name, value in p.items()}, (batch,))


class LossOf(nn.Module):
    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return self.model.elbo(batch).loss


def small_elbo() -> tuple[LatentModel, Batch]:
    torch.manual_seed(0)
    config = LatentConfig(latent_dim=2, hidden=(8,), encoder_hidden=(8,), hold=1)
    model = config.build(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)))
    return model, Batch.full(torch.randn(16, 3), torch.randn(16, 2))


ELBO = small_elbo()
PENDULUM = ExpectedReturn(
    Pendulum(), lambda p, o: DiagonalNormal(o @ p["w"], torch.ones_like(o[..., :1])), LikelihoodRatio(), 10, 8
)
SAME: dict[str, tuple[Callable, dict[str, Tensor]]] = {
    "minibatch": (minibatch, {"w": torch.ones(2)}),
    "ELBO": (elbo, dict(ELBO[0].named_parameters())),
    "rollout": (PENDULUM, {"w": torch.zeros(3, 1)}),
}


@pytest.mark.parametrize("name", SAME)
def test_same_seed_same_report_whatever_the_chunks(name: str) -> None:
    objective, parameters = SAME[name]
    first, *others = (gradient_variance(objective, parameters, 30, chunk_size=chunk) for chunk in (15, 1, 7))
    for other in others:
        assert torch.equal(first.mean, other.mean)
        assert torch.equal(first.mean_se, other.mean_se)
        a, b = first.to_dict(), other.to_dict()
        for key in a.keys() - {"seconds_per_gradient", "cost_normalized", "peak_memory"}:
            assert a[key] == b[key], key
    assert gradient_variance(objective, parameters, 30, seed=1).trace != first.trace


def test_integers_are_within_their_bounds() -> None:
    """All three spellings of randint give what they should; p of missing one of four values in 400: 4e-50."""
    seen: list[Tensor] = []

    def f(p: dict[str, Tensor]) -> Tensor:
        drawn = [torch.randint(4, (2,)), torch.randint(2, 6, (2,)), torch.randint(low=-3, high=1, size=(2,))]
        return (torch.cat(drawn) * p["x"]).sum()

    for least, rows in zip((0, 2, -3), (slice(0, 2), slice(2, 4), slice(4, 6)), strict=True):
        draws = record(lambda: f({"x": torch.ones(6)}))
        seen = [torch.cat(numbers_for(draws, 0, range(200)), 1)[:, rows]]
        assert sorted(set(torch.cat(seen).flatten().tolist())) == list(range(least, least + 4))


def test_gradients_too_many_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn twice, they give the same moments; the interval differs by a share of about 1/R."""
    kept, few = measure(replicates=400, chunk_size=100), measure(replicates=60)
    monkeypatch.setattr("latentrl.variance.MOST_KEPT", 100)
    streamed, again = (measure(replicates=400, chunk_size=chunk) for chunk in (100, 30))
    assert torch.equal(streamed.mean, again.mean)
    assert streamed.trace_ci == again.trace_ci
    torch.testing.assert_close(streamed.mean, kept.mean)
    torch.testing.assert_close(streamed.mean_se, kept.mean_se)
    for name in ("trace", "kurtosis", "tail_share", "snr_squared"):
        assert getattr(streamed, name) == pytest.approx(getattr(kept, name), rel=1e-10)
    assert streamed.trace_ci == pytest.approx(kept.trace_ci, rel=0.01)
    # Without the share of the mean's own spread it would be 2 % higher.
    assert measure(replicates=60, chunk_size=10).trace_ci == pytest.approx(few.trace_ci, rel=0.01)
    with pytest.raises(LatentRLError, match="exactly 0"):
        measure(lambda p: (p["theta"].detach() * torch.randn(3)).sum(), 400)


def test_outputs_that_replicates_share() -> None:
    """The moments by a Jacobian are those of gradients through the network, drawn from the same noise."""
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 4)).double(), torch.randn(3).double()
    objective = SharedOutputs(
        lambda p: functional_call(model, p, (x,)),
        lambda out: (out[:2] + out[2:].exp() * torch.randn(2, dtype=torch.float64)).square().sum(),
    )
    reference = torch.zeros(sum(p.numel() for p in model.parameters()))
    shared, plain = (
        gradient_variance(f, model.named_parameters(), 50, reference) for f in (objective, lambda p: objective(p))
    )
    torch.testing.assert_close(shared.mean, plain.mean)
    torch.testing.assert_close(shared.mean_se, plain.mean_se)
    for name in ("trace", "trace_ci", "kurtosis", "tail_share", "snr", "bias_z"):
        assert getattr(shared, name) == pytest.approx(getattr(plain, name), rel=1e-8), name
    assert shared.layer_traces == pytest.approx(plain.layer_traces, rel=1e-8)
    noisy = SharedOutputs(lambda p: functional_call(model, p, (torch.randn_like(x),)), torch.sum)
    with pytest.raises(LatentRLError, match="must not draw noise"):
        gradient_variance(noisy, model.named_parameters(), 10)


def test_layers_share_the_trace() -> None:
    parts = {"a": torch.zeros(2, dtype=torch.float64), "b": torch.zeros(1, dtype=torch.float64)}
    report = gradient_variance(lambda p: gaussian()({"theta": torch.cat([p["a"], p["b"]])}), parts, 4000)
    whole = measure(replicates=4000)
    assert sum(report.layer_traces.values()) == pytest.approx(report.trace)
    assert report.layer_traces["b"] == pytest.approx(float(whole.mean_se[2] ** 2) * 4000)
    assert report.layer_traces["b"] == pytest.approx(4.0, rel=0.1)  # 4.5 standard errors: 7e-6
    assert json.loads(json.dumps(report.to_dict()))["layer_traces"]["b"] == report.layer_traces["b"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel tells no peak")
def test_memory_grows_with_the_chunk() -> None:
    """Each replicate holds 8 MB; four at a time hold some 24 MB more than one.

    In a process of its own: what earlier tests let go of would be used again without being seen.
    """
    script = """
import torch
from latentrl.variance import gradient_variance
def heavy(p):
    return (p["theta"].sum() + torch.randn(1_000_000, dtype=torch.float64)).sin().sum()
theta = {"theta": torch.zeros(3, dtype=torch.float64)}
print(*(gradient_variance(heavy, theta, 8, chunk_size=chunk).peak_memory for chunk in (1, 1, 4)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    _, one, four = map(int, done.stdout.split())  # the first loads libraries
    assert four - one > 20e6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_noise_is_seeded_and_restored() -> None:
    def objective(p: dict[str, Tensor]) -> Tensor:
        return (p["theta"] * torch.randn(3, device="cuda")).sum()

    theta = {"theta": torch.zeros(3, device="cuda")}
    before = torch.cuda.get_rng_state()
    first, second = (gradient_variance(objective, theta, 100) for _ in range(2))
    assert torch.equal(before, torch.cuda.get_rng_state())
    assert torch.equal(first.mean, second.mean)
    assert first.mean.device.type == "cpu"


# --- What it refuses

REFUSED = {
    "at least 2": lambda: measure(replicates=1),
    "chunk_size must be": lambda: measure(chunk_size=0),
    r"scalar tensor.*\(3,\)": lambda: measure(lambda p: p["theta"] + torch.randn(3)),
    "scalar tensor.*Estimate": lambda: measure(lambda p: Estimate(p["theta"].sum(), p["theta"].sum())),
    "200 of 200 gradients are not finite": lambda: measure(lambda p: (p["theta"] * math.nan).sum()),
    "exactly 0": lambda: measure(lambda p: (p["theta"].detach() * torch.randn(3)).sum()),
    "no parameters": lambda: gradient_variance(gaussian(), {}, 10),
    "by name": lambda: gradient_variance(gaussian(), nn.Linear(1, 1), 10),
    "these are not: theta": lambda: gradient_variance(gaussian(), {"theta": torch.zeros(3, dtype=torch.int64)}, 10),
    "flat with 3 numbers": lambda: measure(reference=torch.zeros(1, 3)),
    "same shapes": lambda: measure(forgetful()),
    "same seed 0": lambda: measure(reference=measure()),
}


@pytest.mark.parametrize("message", REFUSED)
def test_errors_at_the_door(message: str) -> None:
    with pytest.raises(LatentRLError, match=message):
        REFUSED[message]()


def test_draws_inside_of_a_vmap_are_refused() -> None:
    def objective(p: dict[str, Tensor]) -> Tensor:
        return torch.vmap(lambda x: (p["w"] + torch.randn(())) ** 2 * x, randomness="different")(torch.ones(64)).mean()

    with pytest.raises(LatentRLError, match="draws inside of a vmap of its own"):
        gradient_variance(objective, {"w": torch.zeros(())}, 100)


@pytest.mark.parametrize(
    "draw", [lambda n: torch.randn(n), lambda n: torch.rand((n,)), lambda n: torch.randn_like(torch.zeros(n)),
             lambda n: torch.randint(0, 5, (n,)).float(), lambda n: torch.randn(size=(n,))],
)  # fmt: skip
def test_draws_that_change_their_shape_are_refused(draw: Callable[[int], Tensor]) -> None:
    sizes = itertools.count(3)
    with pytest.raises(LatentRLError, match="must draw the same shapes"):
        gradient_variance(lambda p: (p["w"] * draw(next(sizes))).sum(), {"w": torch.ones(())}, 100)
    report = gradient_variance(lambda p: (p["w"] * draw(3)).sum(), {"w": torch.ones(())}, 100)
    assert report.trace > 0.0


@pytest.mark.parametrize("name", ["rand", "randn", "randint"])
def test_draws_into_a_given_tensor_are_refused(name: str) -> None:
    """It would keep what it held."""

    def draw(**into: Tensor) -> Tensor:
        return torch.randint(0, 5, (3,), **into) if name == "randint" else getattr(torch, name)(3, **into)

    given = draw().zero_()
    with pytest.raises(LatentRLError, match=rf"torch\.{name} was called with out"):
        gradient_variance(lambda p: (p["w"] * draw(out=given)).sum(), {"w": torch.ones(())}, 100)
    (own,) = record(lambda: draw(out=None))
    with pytest.raises(LatentRLError, match=rf"torch\.{name} was called with out"), Player([own], [given]):
        draw(out=given)


def test_numbers_are_those_of_their_replicates() -> None:
    """By numpy, one sort of draw after another, each replicate from its own generator."""

    def draw() -> None:
        torch.randn(2, 3), torch.rand(4, dtype=torch.float64), torch.randn(5), torch.randint(2, 9, (2, 2))
        torch.rand(3, dtype=torch.bfloat16), torch.randn(0)

    found = numbers_for(record(draw), 7, range(4, 9))
    for row, replicate in enumerate(range(4, 9)):
        source = np.random.default_rng((7, replicate))
        normal = torch.from_numpy(source.standard_normal(11, np.float32))
        uniform, integers = torch.from_numpy(source.random(4)), torch.from_numpy(source.integers(2, 9, 4))
        half = torch.from_numpy(source.random(3)).bfloat16()
        expected = (normal[:6].view(2, 3), uniform, normal[6:], integers.view(2, 2), half, torch.zeros(0))
        for numbers, wanted in zip(found, expected, strict=True):
            assert numbers.dtype == wanted.dtype
            assert torch.equal(numbers[row], wanted)


def test_uniform_numbers_of_half_precision_are_below_1() -> None:
    draws = record(lambda: torch.rand(50_000, dtype=torch.bfloat16))
    (numbers,) = numbers_for(draws, 0, range(1))
    assert float(numbers.max()) < 1.0


def test_numbers_are_where_they_were_drawn() -> None:
    draws = record(lambda: (torch.rand(2, device="meta"), torch.randint(0, 3, (2,))))
    first, second = numbers_for(draws, 0, range(2))
    assert (first.device.type, second.device.type) == ("meta", "cpu")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reference_must_be_finite(value: float) -> None:
    with pytest.raises(LatentRLError, match="reference holds NaN or infinite"):
        measure(replicates=30, reference=torch.tensor([0.0, value, 0.0]))


def test_what_shared_outputs_do_not_see_is_no_bias_of_nan() -> None:
    """Softmax ignores a shift of all logits: its variance is 0 but for rounding. It is claimed to be 5."""
    parameters = {"shift": torch.zeros(1), "logits": torch.randn(5, generator=torch.Generator().manual_seed(2))}
    rewards = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0])
    exact = torch.func.grad(lambda logits: (logits.softmax(-1) * rewards).sum())(parameters["logits"])
    shared = SharedOutputs(
        lambda p: p["logits"] + p["shift"],
        lambda outputs: ScoreFunction(LeaveOneOut())(OneHot(outputs), lambda z: z @ rewards, 4).surrogate,
    )
    for seed in range(4):
        report = gradient_variance(
            shared, parameters, 200, reference=torch.cat([torch.tensor([5.0]), exact]), seed=seed
        )
        assert report.mean_se.isfinite().all()
        assert report.bias_p == 0.0
