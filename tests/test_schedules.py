"""KL weights: their values, and what they bring about in a linear autoencoder whose every optimum is known."""

import copy
import math
import pickle

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from latentrl import LatentRLError
from latentrl.schedules import (
    Capacity,
    Constant,
    Cosine,
    CyclicalAnnealing,
    FadeIn,
    FreeBits,
    Geco,
    KLConstraint,
    KLRange,
    LinearAnnealing,
    Multiplier,
    as_schedule,
)
from tests.linear_gaussian import LinearVAE

VARIANCES, NOISE = (4.0, 2.0, 1.0, 0.5), 0.25


def water_filling(beta: float) -> list[float]:
    """KL of each principal direction under β."""
    return [0.5 * max(0.0, math.log(variance / (beta * NOISE))) for variance in VARIANCES]


def beta_at(nats: float) -> float:
    """The β whose KL is ``nats``."""
    return float(brentq(lambda beta: sum(water_filling(beta)) - nats, 1e-3, VARIANCES[0] / NOISE - 1e-9))


def mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).mean())


def test_values() -> None:
    assert [Constant(0.3)(step, 1.0) for step in (0, 9)] == [0.3, 0.3]
    linear = LinearAnnealing(10, start=0.5, end=2.5)
    assert [linear(step, 1.0) for step in (0, 5, 10, 99)] == [0.5, 1.5, 2.5, 2.5]
    fading = FadeIn(Constant(2.0), 4)
    assert [fading(step, 1.0) for step in (0, 1, 4, 9)] == [0.0, 0.5, 2.0, 2.0]
    assert FadeIn(Constant(2.0), 0)(0, 1.0) == 2.0
    cosine = Cosine(0.1)
    assert (cosine(1.0), cosine(0.0)) == (0.1, 0.0)
    assert cosine(0.5) == pytest.approx(0.05)
    assert cosine(0.25) == pytest.approx(0.05 * (1 - math.cos(math.pi / 4)))


def test_cyclical_annealing() -> None:
    """Two cycles of ten updates: up in five, flat for five; then flat for good."""
    cyclical = CyclicalAnnealing(20, cycles=2, rise=0.5, beta=3.0)
    cycle = [0.0, 0.6, 1.2, 1.8, 2.4, 3.0, 3.0, 3.0, 3.0, 3.0]
    assert [cyclical(step, 1.0) for step in range(25)] == pytest.approx([*cycle, *cycle, *[3.0] * 5])
    saw = CyclicalAnnealing(8, cycles=2, rise=1.0)
    assert [saw(step, 1.0) for step in range(9)] == pytest.approx([0.0, 0.25, 0.5, 0.75] * 2 + [1.0])


def test_weights_that_read_the_kl() -> None:
    bits = FreeBits(2.0, beta=3.0)
    assert [float(bits(0, kl)) for kl in (1.9, 2.1, torch.tensor(1.9), torch.tensor(2.1))] == [0.0, 3.0, 0.0, 3.0]
    capacity = Capacity(4.0, steps=10, gamma=7.0)
    # C is 0, 2 and 4 at these steps.
    for step, kl, weight in ((0, 0.5, 7.0), (5, 1.9, -7.0), (5, 2.1, 7.0), (10, 3.9, -7.0), (99, 4.1, 7.0)):
        assert capacity(step, kl) == weight
        assert float(capacity(step, torch.tensor(kl))) == weight


def test_numbers_and_callables_become_schedules() -> None:
    assert as_schedule(2)(7, 0.0) == 2.0
    linear = LinearAnnealing(3)
    assert as_schedule(linear) is linear


@pytest.mark.parametrize("bad", ["one", None, [1.0]])
def test_other_kl_weights_are_refused(bad: object) -> None:
    with pytest.raises(LatentRLError, match="number or a schedule"):
        as_schedule(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(-1.0), "beta"),
        (lambda: LinearAnnealing(0), "annealing steps"),
        (lambda: CyclicalAnnealing(10, cycles=0), "cycles"),
        (lambda: CyclicalAnnealing(10, rise=0.0), "rise is a share"),
        (lambda: FreeBits(-1.0), "nats"),
        (lambda: Capacity(1.0, 0), "capacity steps"),
        (lambda: KLConstraint(0.0), "target"),
        (lambda: KLConstraint(1.0, initial=0.0), "initial"),
        (lambda: Geco(-3.0, initial=20.0, limits=(0.1, 10.0)), "give an initial one there"),
        (lambda: Geco(-3.0, scale=0.0), "scale"),
        (lambda: KLRange(2.0, 1.0), "high"),
    ],
)
def test_bad_values_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LatentRLError, match=message):
        make()


@pytest.mark.parametrize(("beta", "nats"), [(1.0, 1.0397), (3.0, 0.4904), (9.0, 0.0)])
def test_beta_is_a_water_level(beta: float, nats: float) -> None:
    """One direction of variance 4 with s² = ½, to four digits."""
    vae = LinearVAE((4.0,), 0.5)
    last = vae.train(Constant(beta), 250, 0.05)[-1]
    assert float(last.kl) == pytest.approx(nats, abs=1e-4)
    assert float(vae.weight.detach().square()) == pytest.approx(max(4.0 - beta * 0.5, 0.0), abs=1e-3)


@pytest.mark.parametrize("nats", [0.1, 0.5, 1.0, 2.0, 4.0])
def test_constrained_beta_is_reverse_water_filling(nats: float) -> None:
    """KL ≤ ε finds the β, and in each principal direction the KL, of reverse water-filling, to 1 %."""
    vae, constraint = LinearVAE(VARIANCES, NOISE), KLConstraint(nats, rate=0.05)
    last = vae.train(constraint, 400, 0.05)[-1]
    beta = beta_at(nats)
    assert float(last.kl) == pytest.approx(nats, rel=0.01)
    assert constraint.beta == pytest.approx(beta, rel=0.01)
    torch.testing.assert_close(
        vae.directions(), torch.tensor(water_filling(beta), dtype=torch.float64), rtol=0.01, atol=1e-3
    )


def test_noisy_minibatches_move_beta_to_the_same_place() -> None:
    """16 draws at a time: the KL scatters by an eighth, its mean over the last 400 updates does not leave ε by 3 %."""
    constraint = KLConstraint(2.0)
    terms = LinearVAE(VARIANCES, NOISE).train(constraint, 800, 0.01, batch_size=16)[400:]
    assert float(torch.stack([each.kl for each in terms]).std()) > 0.1 * 2.0
    assert mean([each.kl for each in terms]) == pytest.approx(2.0, rel=0.03)
    assert mean([torch.as_tensor(each.beta) for each in terms]) == pytest.approx(beta_at(2.0), rel=0.05)


def test_a_constraint_that_does_not_bind_lets_beta_fall_to_its_limit() -> None:
    constraint = KLConstraint(100.0, rate=0.1, limits=(0.3, 10.0))
    LinearVAE(VARIANCES, NOISE).train(constraint, 20, 0.02)
    assert constraint.beta == pytest.approx(0.3)


def test_geco_reaches_its_reconstruction() -> None:
    """κ is what β = 3 reconstructs, Σ −½ (min(λ, βs²)/s² + log 2πs²): KL and β come out as if β had been given."""
    errors = sum(min(variance, 3.0 * NOISE) / NOISE for variance in VARIANCES)
    target = -0.5 * (errors + len(VARIANCES) * math.log(2 * math.pi * NOISE))
    vae, geco = LinearVAE(VARIANCES, NOISE), Geco(target, rate=0.05)
    last = vae.train(geco, 350, 0.05)[-1]
    assert float(last.reconstruction) == pytest.approx(target, rel=0.01)
    assert geco.beta == pytest.approx(3.0, rel=0.01)
    assert float(last.kl) == pytest.approx(sum(water_filling(3.0)), rel=0.01)


@pytest.mark.parametrize(
    ("low", "high", "nats", "beta"),
    [(2.0, 5.0, sum(water_filling(1.0)), 1.0), (0.5, 2.0, 2.0, beta_at(2.0)), (4.5, 6.0, 4.5, beta_at(4.5))],
    ids=["inside", "above", "below"],
)
def test_a_range_leaves_beta_at_one_where_it_can(low: float, high: float, nats: float, beta: float) -> None:
    between = KLRange(low, high, rate=0.05)
    last = LinearVAE(VARIANCES, NOISE).train(between, 450, 0.05)[-1]
    assert float(last.kl) == pytest.approx(nats, rel=0.01)
    assert between.beta == pytest.approx(beta, rel=0.01)


def test_capacity_pulls_the_kl_from_either_side() -> None:
    for nats in (1.0, 5.0):
        terms = LinearVAE(VARIANCES, NOISE).train(Capacity(nats, 100), 300, 0.005)
        assert mean([each.kl for each in terms[-100:]]) == pytest.approx(nats, rel=0.05)


def test_free_bits_are_a_floor() -> None:
    """More than the optimum's KL is taken where it is free; less than it changes nothing."""
    for free in (5.0, 1.0):
        terms = LinearVAE(VARIANCES, NOISE).train(FreeBits(free), 300, 0.05)
        expected = max(free, sum(water_filling(1.0)))
        assert mean([each.kl for each in terms[-100:]]) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("make", [lambda: KLConstraint(0.5), lambda: Geco(0.0), lambda: KLRange(0.1, 0.5)])
def test_fading_in_keeps_a_multiplier_still_until_it_is_over(make) -> None:  # type: ignore[no-untyped-def]
    multiplier: Multiplier = make()
    fading = FadeIn(multiplier, 10)
    assert fading.observes
    assert not FadeIn(Constant(), 10).observes
    kl, reconstruction = torch.tensor(3.0), torch.tensor(2.0)
    for step in range(10):
        assert float(fading(step, kl)) == pytest.approx(step / 10)
        fading.observe(step, kl, reconstruction)
        assert multiplier.beta == 1.0
    fading.observe(10, kl, reconstruction)
    assert multiplier.beta == pytest.approx(math.exp(multiplier.rate))
    assert float(fading(11, kl)) == pytest.approx(math.exp(multiplier.rate))


@pytest.mark.parametrize("make", [lambda: KLConstraint(0.5), lambda: Geco(0.0), lambda: KLRange(0.1, 0.5)])
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_a_multiplier_goes_on_from_its_copy_bit_by_bit(make, copier) -> None:  # type: ignore[no-untyped-def]
    original: Multiplier = make()
    values = torch.linspace(0.05, 3.0, 40)
    for step, kl in enumerate(values):
        original.observe(step, kl, 1.0 - kl)
    twin: Multiplier = copier(original)
    for step, kl in enumerate(values):
        assert float(twin(step, kl)) == float(original(step, kl))
        original.observe(step, kl, 1.0 - kl)
        assert float(twin(step, kl)) != float(original(step, kl))
        twin.observe(step, kl, 1.0 - kl)
    assert original.beta == twin.beta
