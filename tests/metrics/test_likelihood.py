"""Held-out likelihood against the exact one of linear-Gaussian and finite models."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor, nn

from latentrl import Demonstrations, LatentConfig, LatentModel, LatentRLError, metrics
from latentrl.data import HostSegments, host_segments, played
from latentrl.distributions import DiagonalNormal, FullNormal
from latentrl.metrics import likelihood
from latentrl.priors import StandardNormalPrior
from latentrl.types import Batch

LENGTHS = [5, 9, 5, 3]
WEIGHT, NOISE = torch.tensor([[1.0, 0.3], [-0.5, 0.8]]), 0.7


class Held(nn.Module):
    """p(a|s, z) = N(s + W z, r²), the same z at all steps of a segment; notes how much it is asked at once."""

    most = 0

    def forward(self, observations: Tensor, z: Tensor) -> DiagonalNormal:
        shift = z @ WEIGHT.T
        loc = observations + (shift.unsqueeze(-2) if observations.dim() == 3 else shift)
        self.most = max(self.most, loc.numel() // 2)
        return DiagonalNormal(loc, torch.tensor(NOISE))


class Exact(nn.Module):
    """The posterior p(z|segment), its scale times ``inflate``."""

    latent_dim = 2

    def __init__(self, inflate: float = 1.0) -> None:
        super().__init__()
        self.inflate = inflate

    def infer(self, batch: Batch, bound: Callable[..., Tensor]) -> FullNormal:  # noqa: ARG002
        left = batch.actions - batch.observations
        left = left if left.dim() == 3 else left.unsqueeze(1)
        precision = torch.eye(2) + left.shape[1] * WEIGHT.T @ WEIGHT / NOISE**2
        loc = left.sum(1) @ WEIGHT @ torch.linalg.inv(precision) / NOISE**2
        scale = torch.linalg.cholesky(torch.linalg.inv(precision))
        return FullNormal(loc, (self.inflate * scale).expand(len(loc), 2, 2))


def model(inflate: float = 1.0) -> LatentModel:
    return LatentModel(Exact(inflate), StandardNormalPrior(2), Held())  # type: ignore[arg-type]


def shown(lengths: list[int] = LENGTHS) -> Demonstrations:
    generator = np.random.default_rng(0)
    observations, actions = generator.normal(size=(2, sum(lengths), 2)).astype(np.float32)
    return Demonstrations.from_arrays(observations, actions, lengths)


def marginal(data: Demonstrations, hold: int) -> list[float]:
    """log p(actions | observations) of each episode by scipy: what shares a z is jointly Gaussian."""
    sums = []
    for episode in np.split(data.actions - data.observations, np.cumsum(data.episode_lengths)[:-1]):
        total = 0.0
        for piece in [episode] if hold == 0 else [episode[i : i + hold] for i in range(0, len(episode), hold)]:
            shared = np.kron(np.ones((len(piece), len(piece))), (WEIGHT @ WEIGHT.T).numpy())
            covariance = shared + NOISE**2 * np.eye(2 * len(piece))
            total += multivariate_normal(np.zeros(2 * len(piece)), covariance).logpdf(piece.flatten())
        sums.append(total)
    return sums


@pytest.mark.parametrize("hold", [0, 4, 1])
def test_under_the_exact_posterior_all_draws_agree(hold: int) -> None:
    """Then every weight is the likelihood itself."""
    found = metrics.held_out(model(), played(shown(), hold, 32), num_samples=3)
    np.testing.assert_allclose(found.likelihood.values, marginal(shown(), hold), rtol=1e-4)
    np.testing.assert_allclose(found.bound.values, found.likelihood.values, rtol=1e-4)
    assert (found.errors < 1e-3).all()
    assert found.likelihood.steps.tolist() == LENGTHS


@pytest.mark.parametrize("hold", [0, 4, 1])
def test_data_that_do_not_fit_on_the_device(hold: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked at batch by batch, with the same result."""
    expected = metrics.held_out(model(), played(shown(), hold, 32), num_samples=3)
    monkeypatch.setattr(host_segments, "fits", lambda *_: False)
    cut = played(shown(), hold, 32)
    assert isinstance(cut.segments, HostSegments)
    found = metrics.held_out(model(), cut, num_samples=3)
    np.testing.assert_allclose(found.bound.values, expected.bound.values, rtol=1e-6)


@pytest.mark.parametrize("hold", [0, 4, 1])
def test_a_wider_posterior_costs_its_divergence(hold: int) -> None:
    """The bound lies below by KL(q ‖ p(z|segment)) for each latent, the weighted one by next to nothing. 4000 draws,
    within 5 standard errors in each of 4 episodes (false alarm 2e-6 each)."""
    inflate, data = 1.4, shown()
    cut = played(data, hold, 32)
    found = metrics.held_out(model(inflate), cut, num_samples=4000, seed=1)
    exact = np.array(marginal(data, hold))
    latents = np.bincount(cut.episodes)
    gap = latents * 2 * (0.5 * (inflate**2 - 1) - math.log(inflate))
    # The variance of log q − log p is that of half a chi-square of two degrees of freedom, scaled.
    error = np.sqrt(latents * (inflate**2 - 1) ** 2 / 4000)
    assert (np.abs(found.bound.values - (exact - gap)) < 5 * error).all()
    assert (np.abs(found.likelihood.values - exact) < 5 * found.errors + 1e-4).all()
    assert (found.errors < 0.1).all()
    assert (gap > 10 * found.errors).all()


def test_memory_is_bounded_and_the_value_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine steps times 40 draws do not fit into 60, so that draws are shared out, too."""
    data = shown([5, 9] * 6)
    whole = metrics.held_out(model(), played(data, 0, 32), 40)
    monkeypatch.setattr(likelihood, "STEPS", 60)
    careful = model()
    parts = metrics.held_out(careful, played(data, 0, 32), 40)
    np.testing.assert_allclose(parts.likelihood.values, whole.likelihood.values, rtol=1e-4)
    assert careful.decoder.most <= 60


def test_so_it_is_where_finite_latents_are_summed_out(
    two_ways: Demonstrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LatentConfig(latent_dim=12, factors=3, prior="categorical", posterior="categorical", hidden=(8,), hold=1)
    chosen = config.build(two_ways.observation_space, two_ways.action_space)
    rows: list[int] = []
    chosen.decoder.register_forward_hook(lambda _, inputs, __: rows.append(inputs[1].shape[:-1].numel()))
    monkeypatch.setattr(likelihood, "STEPS", 640)
    metrics.held_out(chosen, played(two_ways, 1, 32), 4)
    assert max(rows) == 640  # ten transitions, with 64 latents each


def test_the_same_seed_gives_the_same_and_nothing_else_moves() -> None:
    wide, cut = model(1.5).train(), played(shown(), 0, 32)
    torch.manual_seed(3)
    first = metrics.held_out(wide, cut, 10, seed=5)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    assert wide.training
    again, other = metrics.held_out(wide, cut, 10, seed=5), metrics.held_out(wide, cut, 10, seed=6)
    assert (again.likelihood.values == first.likelihood.values).all()
    assert (other.likelihood.values != first.likelihood.values).all()


def test_finite_latents_are_summed_out(two_ways: Demonstrations) -> None:
    torch.manual_seed(0)
    config = LatentConfig(latent_dim=3, posterior="categorical", prior="categorical", hidden=(8,))
    made = config.build(two_ways.observation_space, two_ways.action_space)
    found = metrics.held_out(made, played(two_ways, 0, config.context_length), 20)
    assert (found.errors == 0).all()
    z, shares = torch.eye(3), made.prior(torch.zeros(1, 2)).log_prob(torch.eye(3)).detach()
    states, actions = (torch.as_tensor(x[:12]) for x in (two_ways.observations, two_ways.actions))
    with torch.no_grad():
        given = torch.stack([made.decoder(states, one.expand(12, 3)).log_prob(actions).sum() for one in z])
    assert found.likelihood.values[0] == pytest.approx((shares + given).logsumexp(0).item(), rel=1e-4)
    assert (found.bound.values <= found.likelihood.values + 1.0).all()


@pytest.mark.parametrize(("hold", "chunk"), [(0, 1), (1, 1), (5, 1), (0, 4), (1, 4), (5, 4)])
def test_without_latent_it_is_the_law_of_actions(two_ways: Demonstrations, hold: int, chunk: int) -> None:
    """Whole plans one after another; of 12 steps 5 + 5 + 2 in pieces hold two plans of 4."""
    config = LatentConfig(latent_dim=0, hold=hold, chunk=chunk, hidden=(8,))
    made = config.build(two_ways.observation_space, two_ways.action_space)
    found = metrics.held_out(made, played(two_ways, hold, 32, chunk=chunk), 7)
    states = torch.as_tensor(two_ways.observations).reshape(24, 12, 2)
    actions = torch.as_tensor(two_ways.actions).reshape(24, 12, 2)
    starts = {(5, 4): [0, 5]}.get((hold, chunk), list(range(0, 12, chunk)))
    none = torch.empty(24, 0)
    by_hand = sum(made.decoder(states[:, t], none).log_prob(actions[:, t : t + chunk].flatten(1)) for t in starts)
    assert isinstance(by_hand, Tensor)
    np.testing.assert_allclose(found.likelihood.values, by_hand.detach(), rtol=1e-4)
    assert (found.bound.values == found.likelihood.values).all()
    assert (found.likelihood.steps == chunk * len(starts)).all()


def test_means_have_the_errors_of_a_bootstrap() -> None:
    """Over episodes of unequal lengths; 4000 bootstrap replicates know an error to 1.1 %, five of which are 6 %: a
    false alarm in 10⁶."""
    generator = np.random.default_rng(0)
    steps = generator.integers(5, 50, 300)
    values = steps * generator.normal(-1.0, 0.3, 300) + generator.normal(size=300)
    score = metrics.Score(values, steps)
    drawn = generator.integers(0, 300, (4000, 300))
    assert score.per_episode.value == pytest.approx(values.mean())
    assert score.per_episode.error == pytest.approx(values[drawn].mean(1).std(), rel=0.06)
    assert score.per_step.value == pytest.approx(values.sum() / steps.sum())
    assert score.per_step.error == pytest.approx((values[drawn].sum(1) / steps[drawn].sum(1)).std(), rel=0.06)
    alone = metrics.Score(values[:1], steps[:1]).per_step
    assert alone.value == values[0] / steps[0]
    assert alone.error == math.inf


def test_refusals() -> None:
    cut = played(shown(), 0, 32)
    with pytest.raises(LatentRLError, match="num_samples must be"):
        metrics.held_out(model(), cut, 0)
    broken = model(math.nan).train()
    with pytest.raises(LatentRLError, match="episode 0 is not a number"):
        metrics.held_out(broken, cut, 2)
    assert broken.training


def test_models_are_judged_as_they_predict() -> None:
    """Without dropout, and in training mode again afterwards."""

    class Dropping(Held):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, observations: Tensor, z: Tensor) -> DiagonalNormal:
            return super().forward(observations, self.drop(z))

    cut = played(shown(), 0, 32)
    made = LatentModel(Exact(), StandardNormalPrior(2), Dropping()).train()  # type: ignore[arg-type]
    found, expected = metrics.held_out(made, cut, 3), metrics.held_out(model(), cut, 3)
    assert made.training
    np.testing.assert_allclose(found.bound.values, expected.bound.values)
