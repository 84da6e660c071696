"""A decoder that denoises: diffusion policies, as a baseline for latent ones."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latentrl.checks import LatentRLError, count, dimension
from latentrl.decoders import Hidden, NetworkDecoder
from latentrl.distributions import Law
from latentrl.nets import Fitted

TIME_FEATURES = 16
Denoise = Callable[[Float[Tensor, "*b A"], Tensor], Tensor]
"""(x_t (..., A), t (...)) -> the x_0 expected there, (..., A)."""
SNR = 5.0
"""Largest weight of an error, with γ = 5 of Hang et al. (2023)."""


class DataBox(Fitted):
    """Actions to [−1, 1] in every dimension, and back; the identity until it is fitted to data."""

    center: Tensor
    reach: Tensor

    def __init__(self, size: int) -> None:
        super().__init__("action")
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("reach", torch.ones(size))

    def fit(self, *data: Float[Tensor, "N _"]) -> None:
        low, high = (torch.cat([extreme(part, 0) for part in data]) for extreme in (torch.amin, torch.amax))
        self.center.copy_((high + low) / 2)
        self.reach.copy_(torch.where(high > low, (high - low) / 2, 1.0))

    def forward(self, actions: Float[Tensor, "*b A"]) -> Float[Tensor, "*b A"]:
        return (actions - self.center) / self.reach

    def inverse(self, scaled: Float[Tensor, "*b A"]) -> Float[Tensor, "*b A"]:
        return self.center + self.reach * scaled


class Denoised(Law):
    """What is left of noise x_T ~ N(0, I) when it has been denoised: draws of a diffusion model.

    Draws and the mode are those of DDIM without noise of its own (Song et al. 2021, eq. 12), the mode from x_T = 0.

    :param denoise: predicts x_0 from x_t
    :param box: between actions and x_0
    :param signal: ᾱ_0 = 1 > ᾱ_1 > … > ᾱ_T, (T + 1,)
    :param steps: of the T at which draws are denoised
    :param batch_shape: (..., B)
    """

    has_rsample = False

    def __init__(self, denoise: Denoise, box: DataBox, signal: Tensor, steps: int, batch_shape: torch.Size) -> None:
        self.denoise: Denoise = denoise
        self.box: DataBox = box
        self.signal: Tensor = signal
        self.times: list[int] = torch.linspace(len(signal) - 1, 0, steps + 1).round().long().tolist()
        super().__init__(batch_shape, box.center.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """−½ min(SNR, 5) ‖x_0 − x̂_0(x_t, t)‖² at one random t and ε, SNR = ᾱ_t / (1 − ᾱ_t): what to maximise, but no
        density (Hang et al. 2023; the ε-prediction of Ho et al. 2020, eq. 14, has the weight SNR).

        x_0 can be told from the state alone, and has a linear part in x_t. Velocities (Salimans & Ho 2022) have none
        where data have unit variance: networks that predict them can stay at zero for good.
        """
        clean = self.box(value).expand(self.batch_shape + self.event_shape)
        t = torch.randint(1, len(self.signal), clean.shape[:-1], device=clean.device)
        noise, signal = torch.randn_like(clean), self.signal[t].unsqueeze(-1)
        noisy = signal.sqrt() * clean + (1.0 - signal).sqrt() * noise
        weight = (signal / (1.0 - signal)).clamp_max(SNR)
        return -0.5 * (weight * (clean - self.denoise(noisy, t)).square()).sum(-1)

    @property
    def mode(self) -> Tensor:
        return self._denoised(self.signal.new_zeros(self.batch_shape + self.event_shape))

    def sample_mode(self) -> Tensor:
        return self.sample()

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        if sample_shape:
            raise LatentRLError("a diffusion policy draws one action for each state at a time: repeat the states")
        return self._denoised(
            torch.randn(self.batch_shape + self.event_shape, dtype=self.signal.dtype, device=self.signal.device)
        )

    @torch.no_grad()
    def _denoised(self, x: Tensor) -> Tensor:
        for now, after in zip(self.times[:-1], self.times[1:], strict=True):
            here, there = self.signal[now], self.signal[after]
            clean = self.denoise(x, torch.full(self.batch_shape, now, device=x.device)).clamp(-1.0, 1.0)
            noise = (x - here.sqrt() * clean) / (1.0 - here).sqrt()
            x = there.sqrt() * clean + (1.0 - there).sqrt() * noise
        return self.box.inverse(x)


class DiffusionDecoder(NetworkDecoder):
    """A diffusion policy p(a|s, z) by DDPM and DDIM (Chi et al. 2023; Ho et al. 2020; Song et al. 2021); its network
    predicts x_0.

    Actions, or plans of them, are scaled to [−1, 1]. The trunk reads the noisy action and the time beside z.

    :param steps: T, of the forward process, with the cosine schedule (Nichol & Dhariwal 2021, eq. 17)
    :param sampling_steps: at which actions are denoised; each is one pass through the network
    """

    has_density: ClassVar[bool] = False
    signal: Tensor

    def __init__(
        self,
        observation_dim: int,
        latent_dim: int,
        action_dim: int,
        hidden: Hidden = (128, 128, 128),
        steps: int = 100,
        sampling_steps: int = 10,
    ) -> None:
        if not 1 <= count("sampling_steps", sampling_steps, 1) <= count("steps", steps, 1):
            raise LatentRLError(f"sampling_steps={sampling_steps} exceed the {steps} steps of the process: take fewer")
        inputs = dimension("latent_dim", latent_dim, 0) + dimension("action_dim", action_dim) + TIME_FEATURES
        super().__init__(observation_dim, inputs, hidden, action_dim)
        self.box: DataBox = DataBox(action_dim)
        self.sampling_steps = sampling_steps
        angles = (torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * (math.pi / 2)
        kept = (angles[1:].cos() / angles[:-1].cos()).square().clamp_min(1e-3)
        self.register_buffer("signal", torch.cat([torch.ones(1), kept.cumprod(0).float()]), persistent=False)

    def forward(self, observations: Float[Tensor, "*b O"], z: Tensor) -> Denoised:
        if z.shape[-1] == 0:
            z = observations[..., :0]
        elif observations.dim() == 3:
            z = z.unsqueeze(-2).expand(*z.shape[:-1], observations.shape[1], -1)
        batch_shape = z.shape[:-1]
        seen = observations.expand(*batch_shape, -1)

        def denoise(noisy: Tensor, t: Tensor) -> Tensor:
            inputs = torch.cat([z, noisy, self._time(t)], -1)
            rows = self.trunk(seen.flatten(0, -2), inputs.flatten(0, -2))
            return self.head(rows).unflatten(0, batch_shape)

        return Denoised(denoise, self.box, self.signal, self.sampling_steps, batch_shape)

    def _time(self, t: Tensor) -> Float[Tensor, "*b F"]:
        """Sines and cosines of t/T, of wavelengths from 2 down."""
        octaves = 2.0 ** torch.arange(TIME_FEATURES // 2, device=t.device)
        angle = t.unsqueeze(-1) / (len(self.signal) - 1) * octaves * math.pi
        return torch.cat([angle.sin(), angle.cos()], -1).to(self.signal.dtype)
