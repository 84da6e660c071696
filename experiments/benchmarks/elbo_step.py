"""How much slower is one ELBO step of a latent policy than the same mathematics written in raw torch, or in Pyro?

    python -m experiments.benchmarks.elbo_step

The conditional VAE policy of 17 observations, 6 actions and 8 latents, 256-256 networks, batch 256, one thread;
forward, backward and Adam, for each pair of posterior and prior. Ratios of medians in one process; the null control
times raw torch against itself. Mixture priors and VampPriors have 16 components, the mixture posterior 4.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from experiments.benchmarks import raw_policies as raw
from experiments.benchmarks.raw_policies import A, B, H, K, O, Z
from experiments.benchmarks.timing import Step, machine, paired_ratio, row
from latentrl import LatentModel
from latentrl.decoders import GaussianDecoder
from latentrl.encoders import TransitionEncoder
from latentrl.posteriors import (
    CategoricalPosterior,
    FlowPosterior,
    FullGaussianPosterior,
    GaussianPosterior,
    MixturePosterior,
    PerDatapointPosterior,
    Posterior,
    SemiAmortizedPosterior,
)
from latentrl.priors import (
    CategoricalPrior,
    FlowPrior,
    GaussianPrior,
    MixturePrior,
    Prior,
    StandardNormalPrior,
    VampPrior,
)
from latentrl.types import Batch

Q, P = Callable[[TransitionEncoder, int], Posterior], Callable[[Any], Prior]
PAIRS: dict[str, tuple[Q, P, type[raw.Raw]]] = {
    "gaussian, N(0, I)": (GaussianPosterior, lambda _q: StandardNormalPrior(Z), raw.GaussianNormal),
    "gaussian, conditional": (GaussianPosterior, lambda _q: GaussianPrior(Z, O, (H, H)), raw.GaussianConditional),
    "gaussian, mixture": (GaussianPosterior, lambda _q: MixturePrior(Z, K), raw.GaussianMixture),
    "gaussian, vamp": (GaussianPosterior, lambda q: VampPrior(q, K), raw.GaussianVamp),
    "gaussian, flow": (GaussianPosterior, lambda _q: FlowPrior(Z), raw.GaussianFlow),
    "full, N(0, I)": (FullGaussianPosterior, lambda _q: StandardNormalPrior(Z), raw.FullNormal),
    "full, mixture": (FullGaussianPosterior, lambda _q: MixturePrior(Z, K), raw.FullMixture),
    "flow, N(0, I)": (FlowPosterior, lambda _q: StandardNormalPrior(Z), raw.FlowNormal),
    "mixture, N(0, I)": (MixturePosterior, lambda _q: StandardNormalPrior(Z), raw.MixtureNormal),
    "semi-amortized, N(0, I)": (SemiAmortizedPosterior, lambda _q: StandardNormalPrior(Z), raw.SemiAmortizedNormal),
    "per datapoint, N(0, I)": (
        lambda _encoder, latent_dim: PerDatapointPosterior(B, latent_dim),
        lambda _q: StandardNormalPrior(Z),
        raw.OwnNormal,
    ),
    "categorical, categorical": (CategoricalPosterior, lambda _q: CategoricalPrior(Z), raw.Categorical),
}


@dataclass(frozen=True)
class Args:
    """Compare one training step with raw torch and with Pyro."""

    rounds: int = 100
    """Paired timings of each pair."""
    repeat: int = 10
    """Steps per timing."""


def ours(pair: str) -> LatentModel:
    make_posterior, make_prior, _ = PAIRS[pair]
    posterior = make_posterior(TransitionEncoder(O, A, (H, H)), Z)
    return LatentModel(posterior, make_prior(posterior), GaussianDecoder(O, Z, A, (H, H)))


def training_step(model: nn.Module, loss: Callable[[], Tensor], fused: bool = False) -> Step:
    """One update of a model with Adam."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=fused)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def raw_step(model: raw.Raw, batch: Batch) -> Step:
    return training_step(model, lambda: model.loss(batch.observations, batch.actions))


def our_step(model: LatentModel, batch: Batch, fused: bool = False) -> Step:
    return training_step(model, lambda: model.elbo(batch).loss, fused)


def pyro_step(policy: raw.Raw, batch: Batch) -> Step | None:
    """The Gaussian policy with N(0, I) in Pyro, with the analytic KL and its Adam; None where Pyro is missing."""
    try:
        import pyro
        import pyro.distributions as dist
    except ImportError:
        return None
    observations, actions = batch.observations, batch.actions

    def model() -> None:
        pyro.module("policy", policy)
        with pyro.plate("batch", B):
            z = pyro.sample("z", dist.Normal(torch.zeros(B, Z), 1.0).to_event(1))
            mean = policy.decoder(torch.cat([observations, z], -1))
            sigma = nn.functional.softplus(policy.raw_sigma)
            pyro.sample("action", dist.Normal(mean, sigma).to_event(1), obs=actions)

    def guide() -> None:
        pyro.module("policy", policy)
        with pyro.plate("batch", B):
            mean, raw_scale = policy.encoder(torch.cat([observations, actions], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, nn.functional.softplus(raw_scale)).to_event(1))

    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.TraceMeanField_ELBO())
    return svi.step


def main(args: Args) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = Batch.full(torch.randn(B, O), torch.randn(B, A), torch.randperm(B))

    def measure(first: Step, second: Step) -> tuple[float, float, float]:
        return paired_ratio(first, second, args.rounds, args.repeat)

    print(machine())
    print(f"ELBO step, {O}-{A}-{Z}, {H}-{H}, batch {B}, torch {torch.__version__}, 1 thread: time over raw torch")
    print(f"{'':44} median   [quartiles]        target")
    first = raw.GaussianNormal()
    control = measure(raw_step(copy.deepcopy(first), batch), raw_step(first, batch))
    print(row("raw torch (null control)", control, "1.00"), flush=True)
    for pair, (_, _, by_hand) in PAIRS.items():
        ratio = measure(our_step(ours(pair), batch), raw_step(by_hand(), batch))
        print(row(f"latentrl, {pair}", ratio, "<= 1.05"), flush=True)
    pair = "gaussian, N(0, I)"
    ratio = measure(our_step(ours(pair), batch, fused=True), raw_step(raw.GaussianNormal(), batch))
    print(row(f"latentrl, {pair}, fused Adam", ratio, "<= 0.92"))
    pyro = pyro_step(raw.GaussianNormal(), batch)
    if pyro is None:
        print("Pyro is not installed: pip install 'latentrl[nuts]'")
        return
    print(row(f"Pyro, {pair}", measure(pyro, raw_step(raw.GaussianNormal(), batch))))
    print(row(f"Pyro over latentrl, {pair}", measure(pyro, our_step(ours(pair), batch)), ">= 1.40"))


if __name__ == "__main__":
    main(tyro.cli(Args))
