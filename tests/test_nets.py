"""Networks: standardisation."""

import torch

from latentrl.nets import Unstandardize, positive


def test_unstandardize_scales_deviations() -> None:
    """Deviations in raw units are the data's spread times the standardised ones, floor included."""
    units = Unstandardize(2, "action")
    data = torch.randn(1000, 2) * torch.tensor([3.0, 0.01]) + 5.0
    units.fit(data)
    unbounded = torch.tensor([[0.3, -2.0], [-50.0, 1.0]])
    torch.testing.assert_close(units.scale(unbounded), data.std(0, correction=0) * positive(unbounded))
