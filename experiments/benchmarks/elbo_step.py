"""How much slower is one ELBO step of a latent policy than the same mathematics written in raw torch?

    python -m experiments.benchmarks.elbo_step

The conditional VAE policy of 17 observations, 6 actions and 8 latents, 256-256 networks, N(0, I) prior, batch 256, one
thread; forward, backward and Adam. Ratios of medians in one process; the null control times raw torch against itself.
"""

import copy
import math
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.benchmarks.timing import Step, machine, paired_ratio, row
from latentrl import LatentModel
from latentrl.decoders import GaussianDecoder
from latentrl.encoders import TransitionEncoder
from latentrl.posteriors import GaussianPosterior
from latentrl.priors import StandardNormalPrior
from latentrl.types import Batch

O, A, Z, H, B = 17, 6, 8, 256, 256  # noqa: E741


@dataclass(frozen=True)
class Args:
    """Compare one training step with raw torch."""

    rounds: int = 200
    """Paired timings."""
    repeat: int = 10
    """Steps per timing."""


class RawPolicy(nn.Module):
    """The same mathematics as a user would write it by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(O + A, H), nn.SiLU(), nn.Linear(H, H), nn.SiLU(), nn.Linear(H, 2 * Z))
        self.decoder = nn.Sequential(nn.Linear(O + Z, H), nn.SiLU(), nn.Linear(H, H), nn.SiLU(), nn.Linear(H, A))
        self.raw_sigma = nn.Parameter(torch.full((A,), 0.5413))

    def loss(self, observations: Tensor, actions: Tensor) -> Tensor:
        mean, raw_scale = self.encoder(torch.cat([observations, actions], -1)).chunk(2, -1)
        scale = F.softplus(raw_scale)
        z = mean + scale * torch.randn_like(mean)
        predicted = self.decoder(torch.cat([observations, z], -1))
        sigma = F.softplus(self.raw_sigma)
        error = (actions - predicted) / sigma
        log_likelihood = -(0.5 * error.square() + sigma.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
        kl = 0.5 * (scale.square() + mean.square() - 1.0 - 2.0 * scale.log()).sum(-1)
        return (kl - log_likelihood).mean()


def ours() -> LatentModel:
    return LatentModel(
        GaussianPosterior(TransitionEncoder(O, A, (H, H)), Z), StandardNormalPrior(Z), GaussianDecoder(O, Z, A, (H, H))
    )


def raw_step(model: RawPolicy, batch: Batch, fused: bool = False) -> Step:
    """A training step of the hand-written policy."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=fused)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model.loss(batch.observations, batch.actions).backward()
        optimizer.step()

    return step


def our_step(model: LatentModel, batch: Batch, fused: bool = False) -> Step:
    """A training step of the library's policy."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=fused)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model.elbo(batch).loss.backward()
        optimizer.step()

    return step


def main(args: Args) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = Batch.full(torch.randn(B, O), torch.randn(B, A))
    raw, model = RawPolicy(), ours()

    def measure(first: Step, second: Step) -> tuple[float, float, float]:
        return paired_ratio(first, second, args.rounds, args.repeat)

    twin = raw_step(copy.deepcopy(raw), batch)
    print(machine())
    print(f"ELBO step, {O}-{A}-{Z}, {H}-{H}, batch {B}, torch {torch.__version__}, 1 thread: time over raw torch")
    print(f"{'':44} median   [quartiles]        target")
    print(row("raw torch (null control)", measure(twin, raw_step(raw, batch)), "1.00"))
    print(row("latentrl", measure(our_step(model, batch), raw_step(raw, batch)), "<= 1.05"))
    print(row("latentrl, fused Adam", measure(our_step(ours(), batch, fused=True), raw_step(raw, batch)), "<= 0.92"))


if __name__ == "__main__":
    main(tyro.cli(Args))
