"""The average of the weights: its formula, and that showing it changes nothing."""

import pytest
import torch
from torch import nn

from latentrl import LatentRLError
from latentrl.training.average import WeightAverage


def test_it_is_the_weighted_mean_of_all_weights_so_far() -> None:
    """Against the sum written out, in float64."""
    layer = nn.Linear(3, 2).double()
    average = WeightAverage(layer.parameters(), 0.9)
    seen: list[torch.Tensor] = []
    for step in range(1, 31):
        with torch.no_grad():
            layer.weight.add_(torch.randn(2, 3, dtype=torch.float64))
        seen.append(layer.weight.detach().clone())
        average.update()
        weights = torch.tensor([0.9 ** (step - i) for i in range(1, step + 1)], dtype=torch.float64)
        expected = (torch.stack(seen) * (weights / weights.sum())[:, None, None]).sum(0)
        torch.testing.assert_close(average.state()["average"][0], expected, rtol=1e-12, atol=1e-12)
    average.show()
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-12, atol=1e-12)
    average.show()
    average.hide()
    assert torch.equal(layer.weight, seen[-1])


def test_before_the_first_update_there_is_none_to_show() -> None:
    layer = nn.Linear(1, 1)
    before = layer.weight.detach().clone()
    WeightAverage(layer.parameters(), 0.9).show()
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, True, "0.9"])
def test_bad_decays(decay: float) -> None:
    with pytest.raises(LatentRLError, match="ema_decay must lie between 0 and 1"):
        WeightAverage([], decay)
