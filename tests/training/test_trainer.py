"""The trainer: corrective noise, seeding, and that it learns."""

import numpy as np
import pytest
import torch

from latentrl import CorrectiveNoise, Demonstrations, LatentConfig, LatentRLError
from latentrl.data import HostSegments, Segments
from latentrl.priors import MixturePrior
from latentrl.schedules import Constant, FadeIn, KLConstraint, Schedule
from latentrl.training import ElboTrainer
from latentrl.training.average import WeightAverage


def trainer(data: Demonstrations, noise: CorrectiveNoise | None = None, **config: object) -> ElboTrainer:
    made = LatentConfig(**{"latent_dim": 2, "hidden": (16,), "n_components": 4, "context_length": 6, **config})  # type: ignore[arg-type]
    model = made.build(data.observation_space, data.action_space)
    segments = Segments(data, made.hold, made.context_length)
    model.standardize(segments.observations, segments.actions)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return ElboTrainer(model, segments, optimizer, Constant(1.0), 16, 8, noise, total_steps=100)


def test_velocity_control_noise() -> None:
    noise = CorrectiveNoise.velocity_control(5, slice(0, 2), position_std=1.0, velocity_std=0.2, steps=8)
    assert noise.std.tolist() == pytest.approx([1, 1, 0.2, 0.2, 0])
    assert noise.gain is not None
    assert noise.gain.tolist() == [[-0.125, 0, 0, 0, 0], [0, -0.125, 0, 0, 0]]
    short = CorrectiveNoise.velocity_control(4, slice(2), position_std=1.0, velocity_std=0.2)
    assert short.std.tolist() == pytest.approx([1, 1, 0.2, 0.2])
    with pytest.raises(LatentRLError, match="do not fit 2 features"):
        CorrectiveNoise.velocity_control(2, slice(0, 2), position_std=1.0, velocity_std=0.2)


def test_diagnostics_see_each_segment_once(two_ways: Demonstrations) -> None:
    """24 well separated posteriors tell their datum apart, whatever the draw."""
    learner = trainer(two_ways, prior="normal")
    seen = learner.diagnostic_batch(24).context_observations.flatten(1)
    assert len(seen.unique(dim=0)) == 24


def test_noise_moves_what_the_decoder_sees_and_corrects_the_target(two_ways: Demonstrations) -> None:
    gain = np.array([[-0.5, 0.0], [0.0, -0.5]])
    noisy = trainer(two_ways, CorrectiveNoise(np.array([1.0, 2.0]), gain))
    clean = noisy.segments.batch(torch.arange(24), steps=500)
    moved = noisy._perturbed(clean)
    delta = moved.observations - clean.observations
    torch.testing.assert_close(moved.actions - clean.actions, -0.5 * delta, atol=1e-5, rtol=1e-4)
    # 12 000 draws: the standard deviation is known to 0.65 %, five of which are 3.3 %: a false alarm in 10⁶.
    torch.testing.assert_close(delta.flatten(0, 1).std(0), torch.tensor([1.0, 2.0]), rtol=0.033, atol=0)
    assert moved.context_observations is clean.context_observations


@pytest.mark.parametrize(
    ("std", "gain", "message"),
    [
        ([-1.0, 0.0], None, "≥ 0"),
        ([1.0, 0.0], [[1.0]], r"shape \(A, 2\)"),
        ([1.0, 0.0, 0.0], None, "3 features, observations have 2"),
        ([1.0, 0.0], [[1.0, 0.0]], "1 rows, actions have 2"),
    ],
)
def test_bad_noise(two_ways: Demonstrations, std: object, gain: object, message: str) -> None:
    with pytest.raises(LatentRLError, match=message):
        trainer(two_ways, CorrectiveNoise(std, gain))  # type: ignore[arg-type]


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp"])
def test_learns_both_ways(two_ways: Demonstrations, prior: str) -> None:
    """Half of the sampled latents go up, half go down: neither side below 20 % of 200."""
    learner = trainer(two_ways, prior=prior)
    first = float(learner.update(0).value)
    for step in range(200):
        last = learner.update(step)
    assert float(last.value) > first + 10
    start = torch.zeros(200, 2)
    up = learner.model.act(start, learner.model.sample_latent(start))[:, 1] > 0
    assert 0.2 < float(up.float().mean()) < 0.8


def test_a_schedule_of_the_users_own_gets_this_updates_kl(two_ways: Demonstrations) -> None:
    """``(step, kl) -> weight`` is asked once an update, and its weight is used."""
    asked: list[tuple[int, float]] = []

    def weight(step: int, kl: torch.Tensor | float) -> float:
        assert isinstance(kl, torch.Tensor)
        assert not kl.requires_grad
        asked.append((step, float(kl)))
        return 0.5 + step

    learner = trainer(two_ways, prior="gaussian")
    learner = with_schedule(learner, weight)
    for step in range(3):
        terms = learner.update(step)
        assert asked[-1] == (step, pytest.approx(float(terms.kl)))
        assert terms.beta == 0.5 + step
        expected = terms.log_likelihoods.mean() - (0.5 + step) * terms.kls.mean()
        torch.testing.assert_close(-terms.loss.detach(), expected)
    assert len(asked) == 3


def test_a_multiplier_sees_what_its_weight_brought_about(two_ways: Demonstrations) -> None:
    """After each update, but not while it is faded in; a schedule without ``observe`` is left alone."""

    class Recorder(KLConstraint):
        def observe(self, step: int, kl: torch.Tensor, reconstruction: torch.Tensor) -> None:
            seen.append((step, float(kl), float(reconstruction)))
            super().observe(step, kl, reconstruction)

    for schedule, first in ((Recorder(1.0), 0), (FadeIn(Recorder(1.0), 2), 2)):
        seen: list[tuple[int, float, float]] = []
        learner = with_schedule(trainer(two_ways, prior="vamp"), schedule)
        terms = [learner.update(step) for step in range(4)]
        assert seen == [(step, float(terms[step].kl), float(terms[step].reconstruction)) for step in range(first, 4)]
        assert float(terms[first].beta) == 1.0 != float(terms[first + 1].beta)


def with_schedule(learner: ElboTrainer, schedule: Schedule) -> ElboTrainer:
    return ElboTrainer(
        learner.model, learner.segments, learner.optimizer, schedule, learner.batch_size, 8, None, total_steps=100
    )


def test_gradients_are_clipped(two_ways: Demonstrations) -> None:
    learner = trainer(two_ways, prior="normal")
    norms = []
    for limit in (None, 1e-3):
        learner.max_grad_norm = limit
        learner.update(0)
        gradients = [p.grad.flatten() for p in learner.model.parameters() if p.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))
    assert norms[0] > 1e-2
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)
    # And it is the clipped one that is followed.
    learner.optimizer = torch.optim.SGD(learner.model.parameters(), 0.5)
    before = torch.cat([p.detach().flatten() for p in learner.model.parameters()])
    learner.update(0)
    after = torch.cat([p.detach().flatten() for p in learner.model.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.5e-3, rel=1e-2)


def test_the_average_of_a_mixture_begins_where_that_is_seeded(two_ways: Demonstrations) -> None:
    learner = trainer(two_ways, prior="mixture")
    prior = learner.model.prior
    assert isinstance(prior, MixturePrior)
    learner.optimizer = torch.optim.SGD(learner.model.parameters(), 0.0)
    learner.average = WeightAverage(learner.model.parameters(), 0.99)
    for step in range(31):
        learner.update(step)
    seeded = prior.loc.detach().clone()
    learner.average.show()
    torch.testing.assert_close(prior.loc, seeded)


def test_a_mixture_is_seeded_when_its_share_of_training_is_over(two_ways: Demonstrations) -> None:
    """.3 of 100 updates; other priors at once."""
    learner = trainer(two_ways, prior="mixture")
    seeded = []
    for step in (0, 29, 30):
        learner.update(step)
        assert learner.model.prior is not None
        seeded.append(bool(learner.model.prior.seeded))
    assert seeded == [False, False, True]


def test_processes_learn_from_different_batches(two_ways: Demonstrations) -> None:
    shown = []
    for rank in (0, 1, 1):
        learner = trainer(two_ways, prior="normal")
        learner.data_seed, learner._rank, learner._size = 3, rank, 2
        learner.segments = HostSegments(two_ways, 0, 6, torch.device("cpu"))
        shown.append(learner._batch(0).observations)
        learner.close()
    assert torch.equal(shown[1], shown[2])
    assert not torch.equal(shown[0], shown[1])
