"""Gradients of the importance-weighted bound against quadrature and enumeration, in float64.

Quadrature, because the law's K draws are all points of a K-dimensional grid (``tests.exact_draws``), leaves no noise.
Statistical tests are seeded; means have a Bonferroni-corrected p of 1e-4 per test.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from latentrl.checks import LatentRLError
from latentrl.distributions import Bernoullis, DiagonalNormal, GaussianMixture, OneHot
from latentrl.estimators.multi_sample import DReG, ImportanceWeighted, MultiSample, StickingTheLanding, Vimco
from latentrl.estimators.pathwise import Pathwise
from latentrl.types import Estimate
from latentrl.variance import GradientReport, gradient_variance
from tests.exact_draws import AllBits, AllChoices, Parameters, Quadrature, expected_gradient

REPARAMETERIZED = [ImportanceWeighted(), StickingTheLanding(), DReG()]
SCORED = [Vimco(), Vimco("arithmetic")]
ALL = REPARAMETERIZED + SCORED
UNBIASED = [estimator for estimator in ALL if estimator.unbiased]
X = 1.0
LINE = {name: torch.tensor([value]).double() for name, value in (("mu", 0.2), ("sigma", 0.6), ("k", -0.5))}
POINTS = {1: 80, 2: 80, 3: 40}


def log_joint(k: Tensor) -> Callable[[Tensor], Tensor]:
    """z ~ N(k, 1), x | z ~ N(z, 1), up to a constant."""
    return lambda z: -0.5 * ((z - k) ** 2 + (X - z) ** 2).sum(-1)


def log_weights(e: Tensor, p: Parameters) -> Tensor:
    """log p(x, z) − log q(z) of draws z = μ + σε, up to a constant."""
    z = p["mu"] + p["sigma"] * e
    return log_joint(p["k"])(z) + (0.5 * e**2 + p["sigma"].log()).sum(-1) + 0.5 * math.log(2 * math.pi)


def grid(p: Parameters, draws: int) -> Quadrature:
    return Quadrature(p["mu"], p["sigma"], draws, POINTS[draws])


def exact_bound(p: Parameters, draws: int) -> Tensor:
    q = grid(p, draws)
    return (q.weight * (log_weights(q.noise, p).exp().mean(0).log())).sum()


def flat(gradients: Parameters) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def on_the_line(estimator: MultiSample, draws: int) -> Tensor:
    """Expected gradient by (μ, σ, k)."""

    def estimate(p: Parameters) -> tuple[Quadrature, Estimate]:
        q = grid(p, draws)
        return q, estimator(q, log_joint(p["k"]), draws)

    return expected_gradient(estimate, LINE)


@pytest.mark.parametrize(
    ("estimator", "draws"),
    [(e, k) for e in UNBIASED for k in (1, 2, 3) if k > 1 or not isinstance(e, Vimco)],
    ids=repr,
)
def test_expected_gradient_of_all_parameters_by_quadrature(estimator: MultiSample, draws: int) -> None:
    exact = flat(torch.func.grad(lambda p: exact_bound(p, draws))(LINE))
    torch.testing.assert_close(on_the_line(estimator, draws), exact, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("estimator", ALL, ids=repr)
def test_value_is_the_bound(estimator: MultiSample) -> None:
    q = grid(LINE, 2)
    estimate = estimator(q, log_joint(LINE["k"]), 2)
    torch.testing.assert_close(estimate.value, log_weights(q.noise, LINE).exp().mean(0).log())
    loc = torch.randn(4, 5, 2, requires_grad=True)
    estimate = estimator(DiagonalNormal(loc, torch.ones(2)), lambda z: -z.square().sum(-1), 3)
    assert estimate.value.shape == estimate.surrogate.shape == (4, 5)
    assert not estimate.value.requires_grad


@pytest.mark.parametrize("draws", [2, 3])
def test_sticking_the_landing_is_biased_by_the_score_that_it_drops(draws: int) -> None:
    """For q's parameters by E Σ_k w̃_k ∇log q(z_k); not for k."""
    exact = flat(torch.func.grad(lambda p: exact_bound(p, draws))(LINE))
    e, weight = grid(LINE, draws).noise, grid(LINE, draws).weight
    normalized = log_weights(e, LINE).softmax(0)
    scores = torch.stack([e[..., 0], e[..., 0] ** 2 - 1, torch.zeros_like(e[..., 0])]) / LINE["sigma"]
    dropped = (weight * (normalized * scores).sum(1)).sum(-1)
    found = on_the_line(StickingTheLanding(), draws)
    torch.testing.assert_close(found, exact + dropped, rtol=1e-7, atol=1e-7)
    assert (dropped[:2] > 0.7 * exact[:2]).all()  # nearly as large as the gradient
    assert not StickingTheLanding.unbiased


def test_sticking_the_landing_and_dreg_are_the_same_for_one_draw() -> None:
    """And free of variance where q is the posterior."""

    def draw(estimator: MultiSample, p: Parameters) -> GradientReport:
        return gradient_variance(
            lambda p: estimator(DiagonalNormal(p["mu"], p["sigma"]), log_joint(p["k"])).surrogate.mean(), p, 50
        )

    first, second = (draw(estimator, LINE) for estimator in (StickingTheLanding(), DReG()))
    assert torch.equal(first.mean, second.mean)
    assert first.trace == second.trace > 0.1
    posterior = {"mu": (LINE["k"] + X) / 2, "sigma": torch.tensor([0.5]).double().sqrt(), "k": LINE["k"]}
    for estimator in (StickingTheLanding(), DReG()):
        report = draw(estimator, posterior)
        assert report.mean[:2].abs().max() < 1e-12
        assert report.mean_se[:2].max() < 1e-12
        assert report.mean_se[2] > 0.01
    assert draw(ImportanceWeighted(), posterior).mean_se[:2].min() > 0.01


@pytest.mark.parametrize("estimator", UNBIASED, ids=repr)
def test_unbiased_with_its_own_noise_under_vmap(estimator: MultiSample) -> None:
    exact = flat(torch.func.grad(lambda p: exact_bound(p, 3))(LINE))

    def objective(p: Parameters) -> Tensor:
        q = DiagonalNormal(p["mu"].expand(2, 1), p["sigma"])
        return estimator(q, log_joint(p["k"]), 3).surrogate.mean()

    report = gradient_variance(objective, LINE, 4000, exact, chunk_size=2000)
    assert report.bias_p > 1e-4
    assert report.cosine > 0.98


def test_the_meter_sees_the_bias_of_sticking_the_landing() -> None:
    exact = flat(torch.func.grad(lambda p: exact_bound(p, 3))(LINE))

    def objective(p: Parameters) -> Tensor:
        return StickingTheLanding()(DiagonalNormal(p["mu"], p["sigma"]), log_joint(p["k"]), 3).surrogate.mean()

    assert gradient_variance(objective, LINE, 2000, exact).bias_p < 1e-6


def test_variance_for_q_is_lower_with_dreg_and_with_either_mean_of_vimco() -> None:
    """K = 8 draws. Mnih & Rezende's baselines against none at all, Tucker et al.'s estimator against the plain one.
    The ratios are .41, .43 and .02, their logarithms known to .2 and .3: false alarms 1e-3."""

    class WithoutBaseline(Vimco):
        def _without_each(self, log_weights: Tensor) -> Tensor:
            return torch.zeros_like(log_weights)

    def trace(estimator: MultiSample) -> float:
        def objective(p: Parameters) -> Tensor:
            q = DiagonalNormal(p["mu"], p["sigma"])
            return estimator(q, log_joint(LINE["k"]), 8).surrogate.mean()

        return gradient_variance(objective, {n: LINE[n] for n in ("mu", "sigma")}, 1000).trace

    assert trace(DReG()) < 0.06 * trace(ImportanceWeighted())
    assert max(trace(estimator) for estimator in SCORED) < 0.8 * trace(WithoutBaseline())


# --- Discrete laws


@pytest.mark.parametrize("draws", [2, 3])
@pytest.mark.parametrize("estimator", SCORED, ids=repr)
def test_vimco_on_discrete_laws_by_enumeration(estimator: Vimco, draws: int) -> None:
    """The expected gradient by logits and by f's own parameters, over all K-tuples."""
    parameters = {"logits": torch.tensor([0.2, -1.0, 0.9]).double(), "table": torch.tensor([0.5, -2.0, 1.0]).double()}
    for law, one in ((AllChoices, OneHot), (AllBits, Bernoullis)):

        def estimate(p: Parameters, law: type = law) -> tuple[AllChoices | AllBits, Estimate]:
            q = law(p["logits"], draws)
            return q, estimator(q, lambda z: z @ p["table"], draws)

        def exact(p: Parameters, one: type = one) -> Tensor:
            q = one(p["logits"])
            z = q.enumerate_support()
            log_q = q.log_prob(z)
            tuples = torch.cartesian_prod(*[torch.arange(len(z))] * draws)
            weights = (z @ p["table"] - log_q).exp()
            return (log_q[tuples].sum(-1).exp() * weights[tuples].mean(-1).log()).sum()

        reference = flat(torch.func.grad(exact)(parameters))
        torch.testing.assert_close(expected_gradient(estimate, parameters), reference)


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_vimco_is_safe_where_one_weight_is_all(mean: str) -> None:
    """float32 log weights that span 200 nats: taking the largest from the sum would leave nothing, or NaN."""
    log_w = torch.tensor([[-90.0, 0.0], [0.0, 0.0], [-100.0, 0.0], [-200.0, 0.0], [-95.0, 1e-3]])
    found = Vimco(mean)._without_each(log_w)
    for k in range(5):
        others = log_w[[j for j in range(5) if j != k]].double()
        stand_in = others.mean(0) if mean == "geometric" else others.exp().mean(0).log()
        expected = torch.cat([others, stand_in[None]]).logsumexp(0) - math.log(5)
        torch.testing.assert_close(found[k].double(), expected, rtol=1e-5, atol=1e-5)


def test_vimco_needs_no_gradient_of_f() -> None:
    logits = torch.zeros(3, requires_grad=True)
    table = np.array([0.0, 1.0, 2.0])
    estimate = Vimco()(OneHot(logits), lambda z: torch.from_numpy(z.numpy() @ table).float(), 4)
    estimate.surrogate.backward()
    assert logits.grad is not None


# --- How the signal-to-noise ratio grows with K


def test_signal_to_noise_ratios_have_their_slopes() -> None:
    """Rainforth et al. 2018's toy: z ~ N(θ, I), x|z ~ N(z, I), q = N(x/2 + b, 2/3 I), D = 20, near the optimum.

    Slopes of log SNR over log K: −½ for b with the plain bound, ½ with DReG (Tucker et al. 2019; here .38 to .41, as it
    is still flat at K = 2), ½ for θ. The plain gradient's own mean is lost in its noise, and DReG has the same: see the
    tests by quadrature.
    """
    size, draws = 20, {2: 6000, 8: 6000, 64: 1000, 512: 400}
    torch.manual_seed(0)
    x, one = math.sqrt(2) * torch.randn(1, size), torch.ones(1, size)
    parameters = {"b": 0.01 * torch.randn(size), "theta": 0.01 * torch.randn(size)}

    def report(estimator: MultiSample, k: int, seed: int) -> GradientReport:
        def objective(p: Parameters) -> Tensor:
            prior = DiagonalNormal(p["theta"].expand(1, size), one)
            return estimator(
                DiagonalNormal(0.5 * x + p["b"], math.sqrt(2 / 3) * one),
                lambda z: prior.log_prob(z) + DiagonalNormal(z, one).log_prob(x),
                k,
            ).surrogate.mean()

        return gradient_variance(objective, parameters, draws[k], chunk_size=24_000 // k, seed=seed)

    signal, noise, of_theta = [], {"plain": [], "dreg": []}, []
    for k in draws:
        dreg, plain = report(DReG(), k, 1), report(ImportanceWeighted(), k, 2)
        square = dreg.mean.square() - dreg.mean_se.square()  # without the noise's own share
        signal.append(float(square[:size].sum().sqrt()))
        for name, found in (("plain", plain), ("dreg", dreg)):
            noise[name].append(math.sqrt(draws[k]) * float(found.mean_se[:size].norm()))
        of_theta.append(float(plain.mean[size:].norm() / plain.mean_se[size:].norm()) / math.sqrt(draws[k]))
    ratios = {-0.5: np.divide(signal, noise["plain"]), 0.5: np.divide(signal, noise["dreg"])}
    for expected, ratio in (*ratios.items(), (0.5, of_theta)):
        slope = np.polyfit(np.log([*draws]), np.log(ratio), 1)[0]
        assert abs(slope - expected) < 0.15


# --- Laws and refusals


def test_other_laws_with_rsample() -> None:
    """Mixtures with implicit gradients, and torch's own laws: one seeded gradient of each equals its definition."""
    torch.manual_seed(0)
    p = {"loc": torch.randn(2, 3).double(), "raw": torch.randn(2, 3).double()}
    laws = {
        "mixture": lambda p: GaussianMixture(p["raw"][0, :2], p["loc"], p["raw"].exp()),
        "torch": lambda p: Independent(Normal(p["loc"], p["raw"].exp()), 1),
        "scalars": lambda p: Normal(p["loc"], p["raw"].exp()),
    }
    for name, law in laws.items():
        leaf = {n: value.clone().requires_grad_() for n, value in p.items()}

        def f(z: Tensor, scalar: bool = name == "scalars") -> Tensor:
            cost = -(z**2) - z.cos()
            return cost if scalar else cost.sum(-1)

        torch.manual_seed(1)
        z = law(leaf).rsample((4,))
        log_w = f(z) - law({n: value.detach() for n, value in leaf.items()}).log_prob(z)
        definition = (log_w.softmax(0).detach() ** 2 * log_w).sum()
        expected = torch.autograd.grad(definition, [*leaf.values()])
        torch.manual_seed(1)
        found = torch.autograd.grad(DReG()(law(leaf), f, 4).surrogate.sum(), [*leaf.values()])
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("estimator", REPARAMETERIZED, ids=repr)
def test_laws_without_rsample_are_refused(estimator: MultiSample) -> None:
    with pytest.raises(LatentRLError, match=f"{type(estimator).__name__} needs .*OneHot has none: use Vimco"):
        estimator(OneHot(torch.zeros(3)), lambda z: z.sum(-1), 4)


@pytest.mark.parametrize("estimator", ALL, ids=repr)
def test_what_cannot_work_is_refused(estimator: MultiSample) -> None:
    q = DiagonalNormal(torch.zeros(5, 2), torch.ones(5, 2))
    with pytest.raises(LatentRLError, match=r"\(2, 5, 2\) to \(2, 5\).*returned \(2, 5, 2\)"):
        estimator(q, lambda z: z, 2)
    with pytest.raises(LatentRLError, match="num_samples"):
        estimator(q, lambda z: z.sum(-1), 0)
    assert estimator.multi_sample
    assert not getattr(Pathwise, "multi_sample", False)


def test_vimco_refuses_a_single_draw_and_unknown_means() -> None:
    q = DiagonalNormal(torch.zeros(5, 2), torch.ones(5, 2))
    for samples in (1, None):
        with pytest.raises(LatentRLError, match=r"at least 2, but 1 was given.*use ScoreFunction"):
            Vimco()(q, lambda z: z.sum(-1), samples)
    with pytest.raises(LatentRLError, match="arithmetic"):
        Vimco("harmonic")


@pytest.mark.parametrize("impossible", [-torch.inf, torch.finfo(torch.float32).min])
def test_vimco_where_a_draw_is_impossible(impossible: float) -> None:
    """Its own baseline is made of the others alone; and where they are impossible it is 0."""
    found = Vimco()._without_each(torch.tensor([impossible, -3.0, -4.0]))
    expected = torch.tensor([-3.0, -4.0, -3.5]).logsumexp(0) - math.log(3)
    torch.testing.assert_close(found[0], expected)
    for estimator in SCORED:
        alone = estimator._without_each(torch.tensor([-torch.inf, -3.0]))
        torch.testing.assert_close(alone, torch.tensor([-3.0, 0.0]))
