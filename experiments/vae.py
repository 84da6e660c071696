"""What the studies of variational autoencoders share: binary images, the autoencoder, the loop.

A variational autoencoder is a :class:`latentrl.LatentModel` whose observations have no features: the data are its
"actions", p(x|z) is a decoder of the latent alone.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments import records
from latentrl.checks import require
from latentrl.decoders import BernoulliDecoder
from latentrl.model import Elbo, LatentModel
from latentrl.posteriors import Posterior
from latentrl.priors import StandardNormalPrior
from latentrl.schedules import Constant, Multiplier, Schedule
from latentrl.types import Batch

HELD_OUT_DIGITS = 297
MEASURING = 7_919
"""Seed of the noise with which bounds are measured: nobody else's, as data drawn from the same noise would fit it."""


def binary_images(path: Path | None) -> tuple[Float[Tensor, "N D"], Float[Tensor, "M D"]]:
    """Training and held-out images of zeros and ones.

    :param path: an .npz with packed bits under "train" and "test"; None takes scikit-learn's 1797 handwritten digits of
        8 × 8 pixels, white from half of the full intensity on
    :raises LatentRLError: scikit-learn is asked for, but not installed
    """
    if path is not None:
        with np.load(path) as file:
            train, test = (np.unpackbits(file[name], axis=1) for name in ("train", "test"))
        return torch.from_numpy(train).float(), torch.from_numpy(test).float()
    digits = require("sklearn.datasets", "judge").load_digits()
    images = torch.from_numpy(digits.data >= 8).float()
    # They come writer by writer.
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    return images[:-HELD_OUT_DIGITS], images[-HELD_OUT_DIGITS:]


def autoencoder(posterior: Posterior, data_dim: int, hidden: Sequence[int]) -> LatentModel:
    """N(0, I), and independent bits given z."""
    decoder = BernoulliDecoder(0, posterior.latent_dim, data_dim, hidden)
    return LatentModel(posterior, StandardNormalPrior(posterior.latent_dim), decoder)


def batch_of(data: Float[Tensor, "N D"], rows: Tensor | None = None) -> Batch:
    """The given rows of the data, or all."""
    rows = torch.arange(len(data)) if rows is None else rows
    return Batch.full(data.new_empty(len(rows), 0), data[rows], rows=rows)


@dataclass
class Training:
    """Gradient steps, with the CPU seconds that they took: waiting for other programs does not count."""

    model: LatentModel
    data: Float[Tensor, "N D"]
    optimizer: torch.optim.Optimizer
    schedule: Schedule = field(default_factory=Constant)
    batch_size: int | None = 100
    """Random data of each update; None takes all."""
    decay: int | None = None
    """Updates over which the learning rate falls to 0 along half a cosine; None keeps it."""
    step: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR
        self.rates = None if self.decay is None else scheduler(self.optimizer, self.decay)
        self.observe = getattr(self.schedule, "observe", None)

    def run(self, updates: int) -> None:
        """So many more updates."""
        start = time.process_time()
        for _ in range(updates):
            rows = None if self.batch_size is None else torch.randint(len(self.data), (self.batch_size,))
            terms = self.model.elbo(batch_of(self.data, rows), lambda kl: self.schedule(self.step, kl))
            self.optimizer.zero_grad()
            terms.loss.backward()
            self.optimizer.step()
            if self.observe is not None:
                self.observe(self.step, terms.kl, terms.reconstruction)
            if self.rates is not None:
                self.rates.step()
            self.step += 1
        self.seconds += time.process_time() - start


class _Step(nn.Module):
    """What :func:`torch.func.functional_call` needs: the bound as a forward pass."""

    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: Tensor, rows: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        terms = self.model.elbo(batch_of(data, rows), beta)
        return terms.loss, terms.kl, terms.reconstruction


def train_together(
    models: Sequence[LatentModel], weights: Sequence[Schedule], data: Tensor, updates: int, learning_rate: float
) -> None:
    """As many :class:`Training` at once, with minibatches of their own and a learning rate that falls to 0.

    Small models spend their time between operations; in one ``vmap`` they share it.

    :param weights: one for each model; not those that read the present KL
    """
    steps = [_Step(model) for model in models]
    parameters, buffers = torch.func.stack_module_state(steps)
    optimizer = torch.optim.Adam(parameters.values(), learning_rate, fused=True)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    shell = copy.deepcopy(steps[0])

    def bound(state: Any, constants: Any, rows: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.func.functional_call(shell, (state, constants), (data, rows, beta))

    together = torch.func.vmap(bound, randomness="different")
    for step in range(updates):
        rows = torch.randint(len(data), (len(models), 100))
        beta = torch.stack([torch.as_tensor(weight(step, 0.0)) for weight in weights])
        losses, kls, reconstructions = together(parameters, buffers, rows, beta)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        rates.step()
        for weight, kl, reconstruction in zip(weights, kls, reconstructions, strict=True):
            if isinstance(weight, Multiplier):
                weight.observe(step, kl, reconstruction)
    for index, step_of in enumerate(steps):
        step_of.load_state_dict({name: value[index] for name, value in parameters.items()}, strict=False)


@torch.no_grad()
def measure(model: LatentModel, data: Float[Tensor, "N D"], draws: int = 50) -> Elbo:
    """The bound on all data with β = 1, from ``draws`` of each latent; always with the same noise."""
    with torch.random.fork_rng():
        torch.manual_seed(MEASURING)
        return model.elbo(batch_of(data), num_samples=draws)


def save(args: Any, study: str, text: str, record: dict[str, Any], figure: Figure) -> None:
    """The files of :func:`experiments.records.write`, with the arguments but without the folders of this machine.

    :param args: with ``out``, and ``data`` where the study reads a file of images
    """
    arguments, command = asdict(args), f"python -m experiments.{study}"
    file = arguments.pop("data", None)
    if file is not None:
        command += f" --data {file.name}"
    del arguments["out"]
    packages = ("scikit-learn",) if file is None and hasattr(args, "data") else ()
    records.write(args.out, study, packages, text, {"command": command, "arguments": arguments, **record}, figure)
