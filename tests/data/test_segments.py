"""Segments: where they start, what the posterior sees, which steps are scored."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from latentrl import Demonstrations, LatentConfig, LatentRLError
from latentrl.data import Segments
from latentrl.data import segments as segment_files
from latentrl.nets import evenly
from latentrl.spaces import features


def counted(lengths: list[int]) -> Demonstrations:
    """Observation = row number, action = minus it."""
    rows = np.arange(sum(lengths), dtype=np.float32)[:, None]
    return Demonstrations.from_arrays(rows, -rows, lengths)


def test_whole_episodes() -> None:
    segments = Segments(counted([5, 9]), hold=0, context_length=3)
    assert (segments.starts.tolist(), segments.lengths.tolist()) == ([0, 5], [5, 9])
    observations, actions = segments.context(torch.tensor([0, 1]))
    assert observations[..., 0].tolist() == [[0, 2, 4], [5, 9, 13]]
    torch.testing.assert_close(actions, -observations)


def test_arrays_that_were_turned_over() -> None:
    """Such as pictures that a renderer stores from below; torch takes none with negative strides."""
    rng = np.random.default_rng(0)
    seen, actions = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(6, 2)).astype(np.float32)
    turned = Segments(Demonstrations.from_arrays(seen[:, ::-1], actions[::-1], [6]), 0, 6)
    np.testing.assert_array_equal(turned.observations, seen[:, ::-1])
    np.testing.assert_array_equal(turned.actions, actions[::-1])


def test_windows_never_cross_episodes() -> None:
    segments = Segments(counted([3, 4]), hold=3, context_length=8)
    windows = segments.batch(torch.arange(len(segments))).observations[..., 0]
    assert windows.tolist() == [[0, 1, 2], [3, 4, 5], [4, 5, 6]]


def test_transitions_have_no_time() -> None:
    segments = Segments(counted([3, 4]), hold=1, context_length=8)
    batch = segments.batch(torch.tensor([6, 0]), steps=5)
    assert batch.observations.tolist() == [[6.0], [0.0]]
    assert batch.context_actions.tolist() == [[-6.0], [0.0]]
    assert batch.weight is None


def test_random_steps_stay_inside_and_are_uniform() -> None:
    """Each of 9 steps is drawn alike: χ² with 8 degrees of freedom, 1e-4 quantile 31.8."""
    segments = Segments(counted([5, 9]), hold=0, context_length=3)
    batch = segments.batch(torch.ones(900, dtype=torch.long), steps=10)
    counts = torch.bincount(batch.observations.long().flatten() - 5, minlength=9)
    assert counts.sum() == 9000
    assert float(((counts - 1000.0) ** 2 / 1000.0).sum()) < 31.8
    assert batch.weight is not None
    torch.testing.assert_close(batch.weight, torch.full((900,), 0.9))
    torch.testing.assert_close(batch.actions, -batch.observations)


def test_too_long_a_hold_is_refused() -> None:
    with pytest.raises(LatentRLError, match="hold=4, but episode 0 has only 3 steps"):
        Segments(counted([3, 5]), hold=4, context_length=8)


def test_all_steps_need_equal_lengths() -> None:
    with pytest.raises(LatentRLError, match="differ in length"):
        Segments(counted([3, 5]), hold=0, context_length=2).batch(torch.tensor([0, 1]))


def test_rows_are_the_segments() -> None:
    for hold in (0, 1, 3):
        segments = Segments(counted([3, 4]), hold=hold, context_length=3)
        index = torch.tensor([1, 0, 1])
        assert segments.batch(index, steps=2).rows is index


def test_short_segments_are_seen_step_by_step() -> None:
    segments = Segments(counted([2, 4, 9]), hold=0, context_length=4, pads=True)
    batch = segments.batch(torch.arange(3), steps=1)
    assert batch.context_lengths is not None
    assert batch.context_lengths.tolist() == [2, 4, 4]
    # Row 1 behind the end of the first segment is padding; of the third, every third step is seen.
    assert batch.context_observations[..., 0].tolist() == [[0, 1, 1, 1], [2, 3, 4, 5], [6, 9, 11, 14]]
    torch.testing.assert_close(batch.context_actions, -batch.context_observations)
    evenly = Segments(counted([2, 4, 9]), hold=0, context_length=4).batch(torch.arange(3), steps=1)
    assert evenly.context_lengths is None
    assert evenly.context_observations[..., 0].tolist() == [[0, 0, 1, 1], [2, 3, 4, 5], [6, 9, 11, 14]]


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_padding_has_no_influence(encoder: str) -> None:
    """Whatever stands behind the end of short segments: same ELBO, same pseudo-inputs; and steps before it count."""
    data = counted([2, 4, 9])
    config = LatentConfig(latent_dim=2, encoder=encoder, context_length=4, n_components=3, encoder_hidden=(16,))
    segments = Segments(data, config.hold, config.context_length, pads=config.pads)
    batch = segments.batch(torch.arange(3), steps=3)
    model = config.build(data.observation_space, data.action_space)

    def values(row: int, size: float) -> torch.Tensor:
        """Mean and spread of q, and the seeded pseudo-inputs, after ``row`` of the first segment was changed."""
        observations, actions = batch.context_observations.clone(), batch.context_actions.clone()
        observations[0, row], actions[0, row] = size, -size
        changed = batch._replace(context_observations=observations, context_actions=actions)
        model.seed_prior(changed)
        q = model.infer(changed)
        inputs = model.prior.pseudo_inputs  # type: ignore[union-attr]
        return torch.cat([q.mean.flatten(), q.stddev.flatten(), inputs.flatten()]).detach().clone()

    for row in (2, 3):
        torch.testing.assert_close(values(row, 1e4), values(row, -1e4), rtol=0, atol=1e-6)
    for row in (0, 1):
        assert float((values(row, 1.0) - values(row, -1.0)).abs().max()) > 1e-3


def test_nothing_is_padded_where_all_are_long() -> None:
    for hold in (0, 3):
        segments = Segments(counted([5, 9]), hold=hold, context_length=3, pads=True)
        assert segments.batch(torch.tensor([0]), steps=1).context_lengths is None


def test_chunks_are_the_actions_ahead() -> None:
    segments = Segments(counted([4, 3]), hold=1, context_length=4, chunk=3)
    batch = segments.batch(torch.arange(len(segments)))
    assert batch.observations.tolist() == [[0], [1], [4]]
    assert batch.actions.tolist() == [[0, -1, -2], [-1, -2, -3], [-4, -5, -6]]
    assert batch.context_actions is batch.actions


def test_chunks_of_episodes() -> None:
    """Each action counts once: n // T plans, whether every T-th row is scored or a random few."""
    segments = Segments(counted([6, 7]), hold=0, context_length=2, chunk=2)
    assert (segments.starts.tolist(), segments.lengths.tolist()) == ([0, 5], [5, 6])
    for index, first in ((0, 0.0), (1, 6.0)):
        batch = segments.batch(torch.tensor([index]))
        starts = [first, first + 2, first + 4]
        assert batch.observations[0, :, 0].tolist() == starts
        assert batch.actions[0].tolist() == [[-start, -start - 1] for start in starts]
        drawn = segments.batch(torch.tensor([index]), steps=12)
        assert drawn.weight is not None
        assert drawn.weight.tolist() == [3 / 12]
        assert set(drawn.observations.flatten().tolist()) <= {first + step for step in range(5 + index)}
    context, chunks = segments.context(torch.tensor([0, 1]))
    assert context[..., 0].tolist() == [[0, 4], [6, 11]]
    torch.testing.assert_close(chunks, torch.cat([-context, -context - 1], -1))


def test_chunks_lie_inside_the_steps_of_a_latent() -> None:
    segments = Segments(counted([5, 4]), hold=4, context_length=8, chunk=2)
    batch = segments.batch(torch.arange(len(segments)))
    assert batch.actions.tolist() == [[[0, -1], [-2, -3]], [[-1, -2], [-3, -4]], [[-5, -6], [-7, -8]]]
    whole = Segments(counted([5, 4]), hold=4, context_length=8, chunk=4).batch(torch.arange(3))
    assert whole.actions.tolist() == [[[0, -1, -2, -3]], [[-1, -2, -3, -4]], [[-5, -6, -7, -8]]]
    padded = Segments(counted([5, 4]), hold=4, context_length=8, chunk=2, pads=True).batch(torch.tensor([1]))
    assert padded.context_lengths is not None
    assert (padded.context_lengths.tolist(), padded.context_observations[0, :, 0].tolist()) == ([3], [1, 2, 3, 3])


def test_pictures_are_not_copied_for_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for batches, and not all of them for a look at what a trunk makes of them."""
    pictures = np.arange(90, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 3, 2, 2), np.uint8)
    data = Demonstrations.from_arrays(pictures, np.arange(90.0)[:, None], [60, 30])
    segments = Segments(data, hold=1, context_length=2, chunk=2, raw_observations=True)
    assert segments.observations.data_ptr() == pictures.ctypes.data
    batch = segments.batch(torch.tensor([58, 59, 87]))
    assert batch.observations[:, 0].tolist() == batch.actions[:, 0].tolist() == [58, 60, 88]
    assert len(segments.sample_rows()[0]) == len(segments) == 88
    monkeypatch.setattr(segment_files, "TRUNK_ROWS", 5)
    seen, actions = segments.sample_rows()
    assert seen[:, 0].tolist() == actions[evenly(88, 5), 0].tolist()


def test_chunks_of_choices_lie_side_by_side() -> None:
    data = Demonstrations.from_arrays(np.zeros((3, 1)), [0, 2, 1], [3])
    chunks = Segments(data, hold=1, context_length=2, chunk=2).actions
    assert chunks.tolist() == [[1, 0, 0, 0, 0, 1], [0, 0, 1, 0, 1, 0]]


def test_misfitting_chunks_are_refused() -> None:
    with pytest.raises(LatentRLError, match=r"chunk=4, but episode 0 has only 3 steps: use a smaller chunk$"):
        Segments(counted([3, 5]), hold=0, context_length=8, chunk=4)
    with pytest.raises(LatentRLError, match="chunk=3 actions do not fit into hold=2 steps"):
        Segments(counted([3, 5]), hold=2, context_length=8, chunk=3)


def test_raw_observations_of_a_dict() -> None:
    space = spaces.Dict(camera=spaces.Box(0, 255, (2, 1, 1), np.uint8), goal=spaces.Discrete(5))
    parts = {"goal": np.array([4, 0, 2]), "camera": np.arange(6, dtype=np.uint8).reshape(3, 2, 1, 1)}
    data = Demonstrations.from_arrays(parts, np.zeros((3, 1)), [3], space)
    assert Segments(data, 1, 2, raw_observations=True).observations.tolist() == [[0, 1, 4], [2, 3, 0], [4, 5, 2]]
    pictures = Demonstrations.from_arrays(parts["camera"], np.zeros((3, 1)), [3])
    assert Segments(pictures, 1, 2, raw_observations=True).observations.dtype == torch.uint8


def test_features_of_spaces() -> None:
    assert features(spaces.Discrete(3, start=5), torch.tensor([5, 7])).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert features(spaces.Box(0, 1, (2, 2)), torch.ones(4, 2, 2)).shape == (4, 4)
    assert features(spaces.Box(0, 1, ()), torch.ones(4)).shape == (4, 1)


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_a_mixture_is_seeded_at_posterior_means_of_short_segments_too(encoder: str) -> None:
    data = counted([2, 4, 9])
    config = LatentConfig(
        latent_dim=2, encoder=encoder, context_length=8, prior="mixture", n_components=3, encoder_hidden=(16,)
    )
    model = config.build(data.observation_space, data.action_space).eval()
    batch = Segments(data, config.hold, config.context_length, pads=config.pads).batch(torch.arange(3), steps=1)
    model.seed_prior(batch)
    nearest = torch.cdist(model.prior.loc, model.infer(batch).mean).amin(1)  # type: ignore[union-attr]
    assert float(nearest.detach().max()) < 1e-5
