"""The held-out bound: exact over segments of any length, in any number of batches, at no change of random numbers."""

import numpy as np
import pytest
import torch

from latentrl import Demonstrations, LatentConfig, LatentRLError
from latentrl.data import Segments
from latentrl.model import LatentModel
from latentrl.training import held_out
from latentrl.training.held_out import groups, held_out_bound


def model_and_segments(lengths: list[int], **config: object) -> tuple[LatentModel, Segments]:
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(sum(lengths), 2)).astype(np.float32)
    actions = generator.normal(size=(sum(lengths), 1)).astype(np.float32)
    data = Demonstrations.from_arrays(observations, actions, lengths)
    made = LatentConfig(**{"latent_dim": 2, "hidden": (8,), "prior": "normal", "context_length": 3, **config})  # type: ignore[arg-type]
    model = made.build(data.observation_space, data.action_space).eval()
    return model, Segments(data, made.hold, made.context_length)


def test_without_a_latent_it_is_the_log_likelihood() -> None:
    model, segments = model_and_segments([4, 7, 4, 2], latent_dim=0, hold=0)
    law = model.decoder(segments.observations, torch.zeros(17, 0))
    expected = float(law.log_prob(segments.actions).sum().detach()) / 4
    found = held_out_bound(model, segments)
    assert found.elbo == pytest.approx(expected, rel=1e-5)
    assert found.kl == 0.0


@pytest.mark.parametrize("hold", [0, 1])
def test_small_batches_give_the_same_bound(monkeypatch: pytest.MonkeyPatch, hold: int) -> None:
    """The KL has no chance in it, so it does not depend on how segments are grouped."""
    model, segments = model_and_segments([4, 7, 4, 2, 7, 7], hold=hold)
    whole = held_out_bound(model, segments)
    monkeypatch.setattr(held_out, "ROWS", 8)
    parts = groups(segments)
    assert max(int(segments.lengths[part].sum()) for part in parts) <= 8
    assert sorted(torch.cat(parts).tolist()) == list(range(len(segments)))
    assert held_out_bound(model, segments).kl == pytest.approx(whole.kl, rel=1e-5)


def test_draws_are_the_same_each_time_and_disturb_nothing() -> None:
    model, segments = model_and_segments([4, 7, 4, 2], hold=0)
    before = torch.get_rng_state()
    first = held_out_bound(model, segments)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert held_out_bound(model, segments) == first
    assert held_out_bound(model, segments, seed=1) != first


def test_a_posterior_of_its_own_data_has_none() -> None:
    model, segments = model_and_segments([4, 4], hold=0)
    from latentrl.posteriors import PerDatapointPosterior

    model.posterior = PerDatapointPosterior(2, 2)
    with pytest.raises(LatentRLError, match="says nothing of held-out data"):
        held_out_bound(model, segments)
