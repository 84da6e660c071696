"""The diffusion decoder: its process, DDIM against a law whose denoiser is known, and a choice that it learns."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from latentrl import LatentConfig, LatentRLError
from latentrl.diffusion import DataBox, Denoised, DiffusionDecoder

O, A = 3, 2  # noqa: E741  (the glossary's letters)


def test_schedule_is_the_cosine() -> None:
    """ᾱ_t = f(t)/f(0) with f = cos²((t/T + .008)/1.008 · π/2), but no step takes more than .999 of the variance."""
    signal = DiffusionDecoder(O, 0, A, (8,)).signal
    f = [math.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(101)]
    torch.testing.assert_close(signal[:100], torch.tensor([x / f[0] for x in f[:100]]), rtol=1e-4, atol=1e-7)
    assert signal[100] == pytest.approx(1e-3 * float(signal[99]))
    assert signal[0] == 1.0
    assert bool((signal.diff() < 0).all())


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.1), (-0.2, 0.2)])
def test_ddim_draws_what_the_optimal_denoiser_belongs_to(mean: float, std: float) -> None:
    """For x_0 ~ N(m, s²), E[x_0 | x_t] = m + √ᾱ s² (x_t − √ᾱ m) / (ᾱ s² + 1 − ᾱ).

    Kolmogorov-Smirnov at a level of 1e-4 after 1000 steps. Few steps draw too close to the mean: 10 of 100, as policies
    take them, lose a fifth to a half of so small a spread, but not the modes.
    """
    torch.manual_seed(0)
    signal = DiffusionDecoder(O, 0, 1, (8,), steps=1000).signal

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        kept = signal[t].unsqueeze(-1)
        return mean + kept.sqrt() * std**2 * (x - kept.sqrt() * mean) / (kept * std**2 + 1 - kept)

    law = Denoised(denoise, DataBox(1), signal, 1000, torch.Size([5000]))
    draws = law.sample()
    assert kstest(draws[:, 0].numpy(), "norm", (mean, std)).pvalue > 1e-4
    torch.testing.assert_close(law.mode, torch.full((5000, 1), mean), atol=0.02, rtol=0)
    few = Denoised(denoise, DataBox(1), signal, 10, torch.Size([5000])).sample()
    assert float(few.mean()) == pytest.approx(mean, abs=0.01)  # more than four standard errors: 1e-5
    assert 0.45 * std < float(few.std()) < 0.8 * std


def test_objective_is_the_weighted_variance_where_the_expected_is_predicted() -> None:
    """E[−½ w‖x_0 − x̂_0‖²] for x_0 ~ N(0, s²) is −½ mean_t w s²(1 − ᾱ)/(ᾱ s² + 1 − ᾱ), w = min(ᾱ/(1 − ᾱ), 5): four
    standard errors, 20 000 draws; a false alarm in 16 000."""
    torch.manual_seed(0)
    signal, std = DiffusionDecoder(O, 0, 1, (8,)).signal, 0.5

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        kept = signal[t].unsqueeze(-1)
        return x * kept.sqrt() * std**2 / (kept * std**2 + 1 - kept)

    law = Denoised(denoise, DataBox(1), signal, 10, torch.Size([20_000]))
    terms = law.log_prob(std * torch.randn(20_000, 1))
    kept = signal[1:]
    weight = (kept / (1 - kept)).clamp_max(5.0)
    expected = -0.5 * (weight * std**2 * (1 - kept) / (kept * std**2 + 1 - kept)).mean()
    assert float(terms.mean()) == pytest.approx(float(expected), abs=4 * float(terms.std()) / math.sqrt(20_000))


def test_actions_are_scaled_to_the_box_of_the_data_and_back() -> None:
    box = DataBox(3)
    data = torch.tensor([[1.0, 10.0, 7.0], [3.0, -10.0, 7.0]])
    box.fit(data)
    torch.testing.assert_close(box(data), torch.tensor([[-1.0, 1.0, 0.0], [1.0, -1.0, 0.0]]))
    values = torch.randn(5, 3)
    torch.testing.assert_close(box.inverse(box(values)), values)


def test_learns_a_choice() -> None:
    """Actions (±1, s) by chance: both are drawn, about as often, and the state is heeded."""
    torch.manual_seed(0)
    decoder = DiffusionDecoder(1, 0, 2, (64, 64))
    decoder.box.fit(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    optimizer = torch.optim.Adam(decoder.parameters(), 2e-3)
    for _ in range(2000):
        seen = torch.rand(256, 1) * 2 - 1
        sign = torch.randint(0, 2, (256, 1)) * 2.0 - 1
        loss = -decoder(seen, seen[:, :0]).log_prob(torch.cat([sign, seen], 1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen = torch.rand(1000, 1) * 2 - 1
    law = decoder(seen, seen[:, :0])
    drawn = law.sample_mode()
    assert float((drawn[:, 0].abs() - 1).abs().mean()) < 0.1
    assert 0.35 < float((drawn[:, 0] > 0).float().mean()) < 0.65
    assert float((drawn[:, 1] - seen[:, 0]).abs().mean()) < 0.1
    torch.testing.assert_close(law.mode, decoder(seen, seen[:, :0]).mode)


def test_shapes() -> None:
    for latent in (0, 2):
        decoder = DiffusionDecoder(O, latent, A, (8,))
        for observations, z, expected in (
            (torch.randn(7, O), torch.randn(7, latent), (7,)),
            (torch.randn(7, 4, O), torch.randn(7, latent), (7, 4)),
            (torch.randn(7, 4, O), torch.randn(5, 7, latent), (5, 7, 4) if latent else (7, 4)),
        ):
            law = decoder(observations, z)
            assert law.sample().shape == law.mode.shape == (*expected, A)
            assert law.log_prob(torch.randn(*observations.shape[:-1], A)).shape == expected


def test_refused() -> None:
    with pytest.raises(LatentRLError, match="has no density to train a latent with: set latent_dim=0"):
        LatentConfig(decoder="diffusion")
    with pytest.raises(LatentRLError, match="sampling_steps=101 exceed the 100 steps"):
        DiffusionDecoder(O, 0, A, (8,), sampling_steps=101)
    with pytest.raises(LatentRLError, match="one action for each state at a time"):
        DiffusionDecoder(O, 0, A, (8,))(torch.randn(2, O), torch.empty(2, 0)).sample((3,))


def test_in_half_precision() -> None:
    decoder = DiffusionDecoder(O, 0, A, (8,)).to(torch.bfloat16)
    law = decoder(torch.zeros(4, O, dtype=torch.bfloat16), torch.empty(4, 0, dtype=torch.bfloat16))
    assert law.sample().dtype == law.mode.dtype == law.log_prob(law.mode).dtype == torch.bfloat16


def test_draws_end_in_the_box_of_the_data() -> None:
    """Whatever the network says on the way."""
    signal, box = DiffusionDecoder(O, 0, 1, (8,)).signal, DataBox(1)
    box.fit(torch.tensor([[-2.0], [4.0]]))
    law = Denoised(lambda x, _: torch.full_like(x, 3.0), box, signal, 10, torch.Size([50]))
    torch.testing.assert_close(law.sample(), torch.full((50, 1), 4.0))
