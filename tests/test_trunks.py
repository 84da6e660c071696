"""Trunks that read a history: order, latent, queries, and what they refuse."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from latentrl import LatentRLError
from latentrl.decoders import GaussianDecoder
from latentrl.trunks import GRUTrunk, HistoryTrunk, TransformerTrunk

F, H, Z = 3, 4, 2
TRUNKS: dict[str, Callable[..., HistoryTrunk]] = {
    "gru": partial(GRUTrunk, hidden=(16, 8), history=H),
    "transformer": partial(TransformerTrunk, hidden=(16, 16), history=H, chunk=3),
}


@pytest.mark.parametrize("name", TRUNKS)
def test_every_frame_and_the_order_count(name: str) -> None:
    trunk = TRUNKS[name](F * H, Z)
    frames, z = torch.randn(5, H, F), torch.randn(5, Z)
    before = trunk(frames.flatten(1), z)
    assert before.shape == (5, trunk.features_dim)
    for frame in range(H):
        changed = frames.clone()
        changed[:, frame] += 1.0
        assert not torch.allclose(trunk(changed.flatten(1), z), before, atol=1e-4)
    assert not torch.allclose(trunk(frames.flip(1).flatten(1), z), before, atol=1e-4)
    assert not torch.allclose(trunk(frames.flatten(1), -z), before, atol=1e-4)


@pytest.mark.parametrize("name", TRUNKS)
def test_rows_do_not_see_one_another(name: str) -> None:
    trunk = TRUNKS[name](F * H, Z)
    observations, z = torch.randn(6, 5, F * H), torch.randn(3, 6, Z)
    together = trunk(observations, z)
    assert together.shape == (3, 6, 5, trunk.features_dim)
    alone = trunk(observations[2, 3:4], z[1, 2:3])
    torch.testing.assert_close(together[1, 2, 3], alone[0])


def test_gru_is_torchs_own() -> None:
    trunk = TRUNKS["gru"](F * H, 0)
    assert isinstance(trunk, GRUTrunk)
    frames = torch.randn(5, H, F)
    cell = nn.GRUCell(F, 16)
    cell.load_state_dict({key.removesuffix("_l0"): value for key, value in trunk.net.state_dict().items()})
    state = torch.zeros(5, 16)
    for frame in frames.unbind(1):
        state = cell(frame, state)
    torch.testing.assert_close(trunk(frames.flatten(1), torch.empty(5, 0)), trunk.head(state))


def test_each_planned_action_has_a_query_of_its_own() -> None:
    """A change of one query reaches its own features most directly; all plans' features differ."""
    trunk = TRUNKS["transformer"](F * H, Z)
    features = trunk(torch.randn(5, F * H), torch.randn(5, Z)).unflatten(-1, (3, 16))
    assert not torch.allclose(features[:, 0], features[:, 1], atol=1e-3)
    assert not torch.allclose(features[:, 1], features[:, 2], atol=1e-3)


@pytest.mark.parametrize("name", TRUNKS)
def test_learns_what_only_the_history_tells(name: str) -> None:
    """The action is the oldest of four observations."""
    torch.manual_seed(0)
    decoder = GaussianDecoder(H, 0, 1, partial(TRUNKS[name].func, hidden=(32, 32), history=H))  # type: ignore[attr-defined]
    optimizer = torch.optim.Adam(decoder.parameters(), 3e-3)
    for _ in range(300):
        seen = torch.rand(64, H) * 2 - 1
        loss = -decoder(seen, seen[:, :0]).log_prob(seen[:, :1]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen = torch.rand(256, H) * 2 - 1
    assert (decoder(seen, seen[:, :0]).mean - seen[:, :1]).square().mean() < 0.03  # 1/3 without the history


def test_refused() -> None:
    with pytest.raises(LatentRLError, match="no history to read: take the trunk 'mlp'"):
        GRUTrunk(0, Z, (8,), 1)
    for hidden in ((16, 8), (6, 6)):
        with pytest.raises(LatentRLError, match=r"as wide as one another, and a multiple of 4"):
            TransformerTrunk(F, Z, hidden, 1)
