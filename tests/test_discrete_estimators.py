"""Estimators for laws over finite sets against enumeration in float64 and, for one bit, quadrature.

Statistical tests are seeded. Means: Bonferroni-corrected p of 1e-4 per test. Variances: log sample variance within
4.5 standard errors √((κ − 1)/R): 7e-6 per comparison where that is normal.
"""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from latentrl.checks import LatentRLError
from latentrl.distributions import Bernoullis, DiagonalNormal, Mixture, OneHot, OneHots
from latentrl.estimators import Estimator, LearnedBaseline, LeaveOneOut, RunningMean, ScoreFunction
from latentrl.estimators.disarm import DisArm
from latentrl.estimators.enumerate import Enumerate
from latentrl.estimators.muprop import MuProp
from latentrl.estimators.rebar import Rebar, Relax
from latentrl.estimators.relaxed import GumbelSoftmax, StraightThrough
from latentrl.variance import GradientReport, gradient_variance
from tests.finite_table import (
    BIASED,
    CASES,
    EVERY,
    LOGIT,
    PARAMETERS,
    SIZES,
    UNBIASED,
    WEIGHT,
    B,
    D,
    R,
    Z,
    bump,
    bump_slope,
    cost,
    expectation,
    flat_gradient,
    law,
    masses,
    measure,
    support,
)
from tests.laws_table import draw

# --- Unbiased ones


@pytest.mark.parametrize(("name", "member"), CASES)
def test_unbiased_for_the_law_and_for_what_f_reads(name: str, member: str) -> None:
    """f also reads q: that share of the gradient, too."""

    def f(p: dict[str, Tensor], z: Tensor) -> Tensor:
        return cost(p, z) + 0.3 * (z * p["logits"].mean(0).cos()).sum(-1) ** 2

    reference = flat_gradient(lambda p: expectation(name, p, f), PARAMETERS)
    report = measure(name, UNBIASED[member](), reference, f)
    assert report.bias_p > 1e-4
    assert report.cosine > 0.99


@pytest.mark.parametrize("name", SIZES)
def test_enumeration_is_exact(name: str) -> None:
    p = {key: value.clone().requires_grad_() for key, value in PARAMETERS.items()}
    estimates = [Enumerate()(law(name, p["logits"]), lambda z: cost(p, z), samples) for samples in (None, 1, 7)]
    exact = expectation(name, p)
    for estimate in estimates:
        assert estimate.value.shape == (B,)
        assert torch.allclose(estimate.value.mean(), exact)
        found = torch.autograd.grad(estimate.surrogate.mean(), p.values())
        assert torch.allclose(
            torch.cat([g.reshape(-1) for g in found]), flat_gradient(lambda p: expectation(name, p), p)
        )


@pytest.mark.parametrize("name", SIZES)
def test_muprop_has_no_noise_where_f_is_linear(name: str) -> None:
    logits, slope = draw(B, D), draw(D, seed=4)
    gradient = torch.func.grad(lambda x: MuProp()(law(name, x), lambda z: z @ slope + 5.0).surrogate.sum())(logits)
    assert torch.allclose(gradient, torch.func.grad(lambda x: (law(name, x).probs @ slope).sum())(logits))


def test_muprop_refuses_a_baseline_that_would_learn_something_else() -> None:
    with pytest.raises(LatentRLError, match=r"take RunningMean\(\)"):
        MuProp(LearnedBaseline(nn.Linear(3, 1)))


class Bent:
    """Linear and 10 more at draws; its mean field lacks the 10."""

    slope = draw(D, seed=4)

    def __call__(self, z: Tensor) -> Tensor:
        assert bool(((z == 0) | (z == 1)).all())
        return self.mean_field(z) + 10.0

    def mean_field(self, z: Tensor) -> Tensor:
        return z @ self.slope


def test_muprop_takes_the_tangent_of_the_mean_field_and_a_baseline_what_is_left() -> None:
    """The mean of what was left before is all of it."""
    rule, f = MuProp(RunningMean()), Bent()
    logits = draw(B, D).requires_grad_()
    found = [torch.autograd.grad(rule(law("bits", logits), f, 3).surrogate.sum(), logits)[0] for _ in range(2)]
    exact = torch.autograd.grad((law("bits", logits).probs @ f.slope).sum(), logits)[0]
    assert (found[0] - exact).abs().max() > 1.0
    torch.testing.assert_close(found[1], exact)


def test_a_jump_harms_relaxed_control_variates_but_not_a_tangent() -> None:
    def step(p: dict[str, Tensor], z: Tensor) -> Tensor:
        return cost(p, z) + ((z * p["logits"][0].detach()).sum(-1) > 0.3)

    reference = flat_gradient(lambda p: expectation("choices", p, step), PARAMETERS)
    assert measure("choices", MuProp(), reference, step).bias_p > 1e-4
    assert measure("choices", Rebar(), reference, step).bias_p < 1e-6


# --- Biased ones: how much is known


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("member", BIASED)
def test_biased_ones_are_seen_to_be_biased(name: str, member: str) -> None:
    reference = flat_gradient(lambda p: expectation(name, p), PARAMETERS)
    assert measure(name, BIASED[member](), reference).bias_p < 1e-6


@pytest.mark.parametrize("name", SIZES)
def test_straight_through_has_the_bias_of_a_first_order_expansion(name: str) -> None:
    """Its expectation Σ_b q(b) f'(b)ᵀ ∂probs by enumeration; where f is linear that is the exact gradient."""

    def expanded(p: dict[str, Tensor], f: Callable) -> Tensor:
        probs, values = law(name, p["logits"]).probs, support(name).unsqueeze(1)
        slopes = torch.func.grad(lambda z: f(p, z).sum())(values).detach()
        weights = masses(name, p["logits"]).detach()
        return (weights * ((slopes * probs).sum(-1) + f(p, values))).sum(0).mean()

    report = measure(name, StraightThrough(), flat_gradient(lambda p: expanded(p, cost), PARAMETERS))
    assert report.bias_p > 1e-4

    def linear(p: dict[str, Tensor], z: Tensor) -> Tensor:
        return (z @ p["weight"]).sum(-1) + p["target"].sum()

    reference = flat_gradient(lambda p: expectation(name, p, linear), PARAMETERS)
    assert torch.allclose(flat_gradient(lambda p: expanded(p, linear), PARAMETERS), reference)


def gumbel_mean(temperature: float, hard: bool) -> float:
    """Expected gradient by the logit, by quadrature."""
    relaxed = (Z / temperature).sigmoid()
    seen = (Z > 0).double() if hard else relaxed
    return float((WEIGHT * bump_slope(seen) * relaxed * (1 - relaxed) / temperature).sum())


def one_bit(estimator: Estimator, reference: float | None = None, choice: bool = False) -> GradientReport:
    """Gradient by one logit; as a choice, the logits are 0 and that one."""

    def objective(p: dict[str, Tensor]) -> Tensor:
        q = OneHot(torch.cat([torch.zeros_like(p["logit"]), p["logit"]])) if choice else Bernoullis(p["logit"])
        return estimator(q, lambda z: bump(z[..., -1])).surrogate

    logit = torch.tensor([LOGIT]).double()
    exact = None if reference is None else torch.tensor([reference])
    return gradient_variance(objective, {"logit": logit}, R, exact, chunk_size=R // 2)


@pytest.mark.parametrize("choice", [False, True])
@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_softmax_against_quadrature(choice: bool, hard: bool) -> None:
    """As the temperature falls, the bias vanishes and the variance grows; hard draws keep straight-through's bias. The
    traces differ 109- and 75-fold: thirteen errors from 20 and more.
    """
    p = 1 / (1 + math.exp(-LOGIT))
    exact = p * (1 - p) * float(bump(torch.ones(1)) - bump(torch.zeros(1)))
    biases, traces = [], []
    for temperature in (1.0, 0.2, 0.02):
        mean = gumbel_mean(temperature, hard)
        report = one_bit(GumbelSoftmax(temperature, hard), mean, choice)
        assert report.bias_p > 1e-4
        biases.append(abs(mean - exact))
        traces.append(report.trace)
    assert traces == sorted(traces)
    assert traces[-1] > 20 * traces[0]
    if not hard:
        assert biases == sorted(biases, reverse=True)
        assert biases[-1] < 0.02 * abs(exact)
    else:
        assert min(biases) > 0.05 * abs(exact)


# --- Variances


def test_disarm_and_leave_one_out_have_their_exact_variances() -> None:
    """All pairs of two bits, with their masses when drawn apart and when drawn from opposite noise."""
    logits, values = torch.tensor([0.7, -1.6]).double(), torch.tensor([0.3, -1.0, 2.0, 0.5]).double()
    p = logits.sigmoid()
    pairs = torch.tensor(list(itertools.product(((1, 1), (1, 0), (0, 1), (0, 0)), repeat=2))).double()
    one, other = pairs.unbind(-1)
    rare = torch.minimum(p, 1 - p)
    apart = (torch.where(one > 0, p, 1 - p) * torch.where(other > 0, p, 1 - p)).prod(-1)
    opposite = torch.where(one != other, rare, torch.where(one > 0, 2 * p - 1, 1 - 2 * p).clamp_min(0)).prod(-1)
    places = torch.tensor([2.0, 1.0]).double()
    gradient = 0.5 * (values[(one @ places).long()] - values[(other @ places).long()]).unsqueeze(-1) * (one - other)
    reference = torch.func.grad(lambda x: (Bernoullis(x).log_prob(BITS).exp() * values).sum())(logits)

    traces = []
    for estimator, samples, mass, factor in (
        (DisArm(), 1, opposite, logits.abs().sigmoid()),
        (ScoreFunction(LeaveOneOut()), 2, apart, 1.0),
    ):
        drawn = gradient * factor
        assert torch.allclose(mass @ drawn, reference)
        spread = (drawn - reference).square()
        exact = mass @ spread
        kurtosis = (mass @ spread.square()) / exact.square()
        report = gradient_variance(
            lambda x: estimator(Bernoullis(x["logits"]), lookup(values), samples).surrogate,  # noqa: B023
            {"logits": logits},
            R,
            reference,
            chunk_size=R // 2,
        )
        assert report.bias_p > 1e-4
        found = report.mean_se.square() * R
        assert ((found / exact).log().abs() < 4.5 * ((kurtosis - 1) / R).sqrt()).all()
        traces.append(float(exact.sum()))
    assert traces[0] < 0.8 * traces[1]


BITS = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).double()


def lookup(values: Tensor) -> Callable[[Tensor], Tensor]:
    """A table of two bits as f: no slope anywhere."""
    return lambda z: ((z.unsqueeze(-2) == BITS).all(-1) * values).sum(-1)


# --- What f sees, and who is trained


@pytest.mark.parametrize("member", sorted(EVERY.keys() - {"enumerate"}))
@pytest.mark.parametrize("samples", [None, 3])
def test_value_and_gradient_of_f_are_means_over_what_it_saw(member: str, samples: int | None) -> None:
    """Saw last, that is: hard draws, but for the plain relaxation. Control variates add nothing to f's own gradient."""
    seen: list[Tensor] = []
    p = {**PARAMETERS, "logits": draw(4, B, D).requires_grad_(), "weight": draw(D, 3, seed=1).requires_grad_()}

    def f(z: Tensor) -> Tensor:
        seen.append(z.detach())
        return cost(p, z)

    for name in ("bits",) if member == "disarm" else SIZES:
        estimate = EVERY[member]()(law(name, p["logits"]), f, samples)
        assert seen[-1].shape == ((samples or 1) * (2 if member == "disarm" else 1), 4, B, D)
        assert bool(((seen[-1] == 0) | (seen[-1] == 1)).all()) == (member != "gumbel")
        mean = cost(p, seen[-1]).mean(0)
        assert estimate.value.shape == estimate.surrogate.shape == (4, B)
        assert not estimate.value.requires_grad
        assert torch.equal(estimate.value, mean)
        found, expected = (torch.autograd.grad(x.sum(), p["weight"])[0] for x in (estimate.surrogate, mean))
        assert torch.allclose(found, expected)


@pytest.mark.parametrize("member", EVERY)
@pytest.mark.parametrize("scale", [30.0, 1e5])
def test_sure_and_sharp_choices_stay_finite_in_single_precision(member: str, scale: float) -> None:
    p = {key: value.float() for key, value in PARAMETERS.items()}
    for name in ("bits",) if member == "disarm" else SIZES:
        logits = (scale * draw(4, D)).float().requires_grad_()
        estimator = EVERY[member]().float()
        if isinstance(estimator, GumbelSoftmax):
            estimator.temperature = 0.01
        estimate = estimator(law(name, logits), lambda z: cost(p, z), 20)
        assert estimate.value.isfinite().all()
        assert torch.autograd.grad(estimate.surrogate.sum(), logits)[0].isfinite().all()
        if isinstance(estimator, Rebar):
            loss = estimator.variance_loss(law(name, logits), lambda z: cost(p, z), 20)
            assert all(g.isfinite().all() for g in torch.autograd.grad(loss, list(estimator.parameters())))


# --- What is refused


@pytest.mark.parametrize("member", EVERY)
def test_refusals_name_what_was_given_and_what_works(member: str) -> None:
    estimator, q = EVERY[member](), Bernoullis(draw(B, D))
    with pytest.raises(LatentRLError, match=r"f must map z .* but returned"):
        estimator(q, lambda z: z, 2)
    if member != "enumerate":
        with pytest.raises(LatentRLError, match="num_samples"):
            estimator(q, lambda z: z.sum(-1), 0)
    instead = r"use Rebar\(\)" if member == "disarm" else r"use Pathwise\(\)"
    with pytest.raises(LatentRLError, match=f"{type(estimator).__name__}.* DiagonalNormal was given: {instead}"):
        estimator(DiagonalNormal(torch.zeros(B, D), torch.ones(B, D)), lambda z: z.sum(-1))


def test_refusals_of_single_members() -> None:
    mixture = Mixture(torch.zeros(2), DiagonalNormal(torch.zeros(2, 3), torch.ones(2, 3)))
    with pytest.raises(LatentRLError, match=r"but Mixture was given: use ScoreFunction\(LeaveOneOut\(\)\)"):
        MuProp()(mixture, lambda z: z.sum(-1))
    with pytest.raises(LatentRLError, match=r"Bernoullis, but OneHot was given: use Rebar\(\).*LeaveOneOut"):
        DisArm()(OneHot(torch.zeros(3)), lambda z: z.sum(-1))
    for q, size in ((Bernoullis(torch.zeros(13)), 8192), (OneHots(torch.zeros(130), (65, 65)), 4225)):
        with pytest.raises(LatentRLError, match=rf"at most 4096 values.* has {size}: use Rebar\(\)"):
            Enumerate()(q, lambda z: z.sum(-1))
    assert Enumerate()(Bernoullis(torch.zeros(12)), lambda z: z.sum(-1)).value == pytest.approx(6.0)
    for temperature in (0.0, -1.0, math.nan):
        for make in (GumbelSoftmax, Rebar):
            with pytest.raises(LatentRLError, match="temperature"):
                make(temperature)
    annealed = GumbelSoftmax()
    annealed.temperature *= 0.5
    assert annealed.temperature == 0.5
    with pytest.raises(LatentRLError, match="temperature"):
        annealed.temperature = 0.0
    with pytest.raises(LatentRLError, match=r"control must map z \(1, 3\) to \(1, 1\).* returned \(1, 2\)"):
        Relax(nn.Linear(3, 2))(OneHot(torch.zeros(3)), lambda z: z.sum(-1))


@pytest.mark.parametrize(
    "estimator",
    [ScoreFunction(LearnedBaseline(nn.Linear(3, 1))), Relax(nn.Linear(3, 1))],
    ids=["learned baseline", "RELAX"],
)
def test_networks_read_no_infinity_of_an_option_that_is_ruled_out(estimator: Estimator) -> None:
    logits = torch.tensor([0.0, 0.5, -torch.inf], requires_grad=True)
    q = OneHot(logits)
    estimator(q, lambda z: z.square().sum(-1), 4).surrogate.sum().backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 10.0


def test_two_choices_with_options_that_are_ruled_out() -> None:
    q = OneHots(torch.tensor([0.0, -torch.inf, 0.0, -torch.inf]), (2, 2))
    estimate = Enumerate()(q, q.log_prob)
    assert float(estimate.value) == 0.0
    assert float(estimate.surrogate) == 0.0
