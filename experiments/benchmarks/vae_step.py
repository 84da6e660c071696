"""How long is a training step of a variational autoencoder, beside raw torch, pythae and Pyro?

    .peers/pythae/bin/python -m experiments.benchmarks.vae_step      (make .peers/pythae/.installed)

One hidden layer of 512 on either side, 20 latents under N(0, I), 784 binary pixels, batches of 1024, one thread:
forward, backward and Adam. All have the same networks and the analytic KL; each has the optimiser that its
documentation shows, and is handed batches that are there already. Apart from that, an epoch of 20 480 images as each
library trains it by itself, with its own way of making batches. Ratios of medians in one process.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from experiments.benchmarks.elbo_step import training_step
from experiments.benchmarks.timing import Step, machine, paired_ratio, row
from experiments.reproductions.autoencoders import PlainEncoder, PlainTrunk
from experiments.vae import batch_of
from latentrl.decoders import BernoulliDecoder
from latentrl.model import LatentModel
from latentrl.posteriors import GaussianPosterior
from latentrl.priors import StandardNormalPrior
from latentrl.training.compiled import CompiledElbo

D, H, Z, B, EPOCH = 784, 512, 20, 1024, 20


@dataclass(frozen=True)
class Args:
    """Compare one training step, and one epoch, with raw torch, pythae and Pyro."""

    rounds: int = 30
    """Paired timings of steps; a third as many of epochs."""
    repeat: int = 5
    """Steps per timing."""
    compiled: bool = False
    """Also with torch.compile, a minute more."""


class Raw(nn.Module):
    """By hand."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(D, H), nn.ReLU(), nn.Linear(H, 2 * Z))
        self.decoder = nn.Sequential(nn.Linear(Z, H), nn.ReLU(), nn.Linear(H, D))

    def loss(self, x: Tensor) -> Tensor:
        mean, raw = self.encoder(x).chunk(2, -1)
        scale = F.softplus(raw)
        logits = self.decoder(mean + scale * torch.randn_like(mean))
        likelihood = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        kl = 0.5 * (mean.square() + scale.square() - 1.0).sum(-1) - scale.log().sum(-1)
        return (kl - likelihood).mean()


def ours() -> LatentModel:
    encoder = PlainEncoder(D, nn.Sequential(nn.Linear(D, H), nn.ReLU()), H)
    decoder = BernoulliDecoder(0, Z, D, lambda *_: PlainTrunk(nn.Sequential(nn.Linear(Z, H), nn.ReLU()), H))
    return LatentModel(GaussianPosterior(encoder, Z), StandardNormalPrior(Z), decoder)


def pythae_model() -> Any:
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(D, H), nn.ReLU())
            self.mean, self.log_variance = nn.Linear(H, Z), nn.Linear(H, Z)

        def forward(self, x: Tensor) -> Any:
            features = self.net(x)
            return ModelOutput(embedding=self.mean(features), log_covariance=self.log_variance(features))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(Z, H), nn.ReLU(), nn.Linear(H, D), nn.Sigmoid())

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.net(z))

    config = VAEConfig(input_dim=(D,), latent_dim=Z, reconstruction_loss="bce")
    return VAE(config, Encoder(), Decoder())


def pythae_trainer(images: Tensor, folder: str) -> Any:
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    config = BaseTrainerConfig(output_dir=folder, per_device_train_batch_size=B, num_epochs=1, no_cuda=True)
    trainer = BaseTrainer(pythae_model(), BaseDataset(images, torch.zeros(len(images))), training_config=config)
    trainer.prepare_training()
    return trainer


def pyro_svi() -> Any:
    import pyro
    import pyro.distributions as dist

    pyro.clear_param_store()  # or the parameters of one made before would be trained in place of these
    nets = Raw()

    def model(x: Tensor) -> None:
        pyro.module("nets", nets)
        with pyro.plate("batch", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), Z), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=nets.decoder(z), validate_args=False).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("nets", nets)
        with pyro.plate("batch", len(x)):
            mean, raw = nets.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, F.softplus(raw)).to_event(1))

    return pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.TraceMeanField_ELBO())


def our_step(model: LatentModel, batches: list[Tensor], loss: Any = None, fused: bool = True) -> Step:
    """With the fused Adam that LatentBC would have, or torch's default one."""
    turn = cycle([batch_of(batch) for batch in batches])
    loss = loss or model.elbo
    return training_step(model, lambda: loss(next(turn), 1.0).loss, fused)


def epoch(images: Tensor) -> Step:
    """All images lie in memory, a batch is rows of them."""
    model, start = ours(), 0
    order = torch.randperm(len(images))

    def loss() -> Tensor:
        nonlocal start, order
        rows, start = order[start : start + B], start + B
        if start >= len(images):
            order, start = torch.randperm(len(images)), 0
        return model.elbo(batch_of(images, rows)).loss

    step = training_step(model, loss, fused=True)

    def all_of_it() -> None:
        for _ in range(EPOCH):
            step()

    return all_of_it


def pyro_epoch(images: Tensor) -> Step:
    """As in Pyro's tutorial on the VAE: torch's DataLoader."""
    svi = pyro_svi()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), B, shuffle=True)

    def all_of_it() -> None:
        for (batch,) in loader:
            svi.step(batch)

    return all_of_it


def steps(args: Args, images: Tensor) -> None:
    """Single updates on batches that are there."""

    def measure(first: Step, second: Step) -> tuple[float, float, float]:
        return paired_ratio(first, second, args.rounds, args.repeat)

    batches = list(images.split(B))

    def by_hand(make: Callable[[], Any] = Raw, fused: bool = False) -> Step:
        model, turn = make(), cycle(batches)
        return training_step(model, lambda: model.loss(next(turn)), fused)

    print(row("raw torch (null control)", measure(by_hand(), by_hand()), "1.00"), flush=True)
    fused = measure(our_step(ours(), batches), by_hand())
    print(row("latentrl, fused Adam, over raw torch", fused, "<= 1.05"), flush=True)
    same = measure(our_step(ours(), batches), by_hand(fused=True))
    print(row("latentrl over raw torch, both fused Adam", same, "<= 1.05"), flush=True)
    svi, peer, turn = pyro_svi(), pythae_model(), cycle(batches)
    peers: dict[str, Step] = {
        "pythae": training_step(peer, lambda: peer({"data": next(turn)}).loss),
        "Pyro": lambda: svi.step(next(turn)),
    }
    for name, step in peers.items():
        print(row(f"{name} over latentrl", measure(step, our_step(ours(), batches)), ">= 1.20"), flush=True)
        same = measure(step, our_step(ours(), batches, fused=False))
        print(row(f"{name} over latentrl, both torch's default Adam", same), flush=True)
    if args.compiled:
        model = ours()
        fast = our_step(model, batches, CompiledElbo(model, None, None))
        print(row("latentrl, compiled, over raw torch", measure(fast, by_hand()), "<= 1.05"), flush=True)
        for name, step in peers.items():
            print(row(f"{name} over latentrl, compiled", measure(step, fast), ">= 1.20"), flush=True)


def epochs(args: Args, images: Tensor) -> None:
    """As each library trains."""
    rounds = max(3, args.rounds // 3)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pythae_trainer(images, folder)
        found = paired_ratio(lambda: trainer.train_step(1), epoch(images), rounds, 1)
        print(row("an epoch: pythae over latentrl", found, ">= 1.20"), flush=True)
    found = paired_ratio(pyro_epoch(images), epoch(images), rounds, 1)
    print(row("an epoch: Pyro over latentrl", found, ">= 1.20"), flush=True)


def main(args: Args) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = (torch.rand(EPOCH * B, D) < 0.2).float()
    print(machine())
    print(f"VAE step, {D}-{H}-{Z}-{H}-{D}, batch {B}, torch {torch.__version__}, 1 thread")
    print(f"{'':44} median   [quartiles]        target")
    steps(args, images)
    epochs(args, images)


if __name__ == "__main__":
    main(tyro.cli(Args))
