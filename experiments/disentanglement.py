"""Does β disentangle, or does the KL that it leaves? Mutual information gaps of β and of a constraint at the same KL.

    python -m experiments.disentanglement

Images of a disc or a square, each place and size once, so that the factors are known and independent. Every β is
followed by a constraint whose target is the KL at which that β ended with the same seed: if the gap depended on β by
more than the KL that it leaves, the two would differ.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from experiments.records import StudyArgs, table
from experiments.vae import Training, autoencoder, batch_of, measure, save
from latentrl.encoders import TransitionEncoder
from latentrl.model import LatentModel
from latentrl.posteriors import GaussianPosterior
from latentrl.schedules import Constant, KLConstraint, Schedule

PIXELS = 16
COLUMNS = ("KL", "bound", "gap", "last β", "x", "y", "size", "shape")
KINDS = ("β", "constraint")


@dataclass(frozen=True)
class Args(StudyArgs):
    """Train under every weight, then measure."""

    betas: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each β and of its constraint with each."""
    updates: int = 1500
    """Gradient updates of each run."""
    latent_dim: int = 6
    hidden: tuple[int, ...] = (128, 128)
    rate: float = 3e-3
    """Learning rate, falling to 0."""
    smoke: bool = False
    """Seconds instead of minutes; the numbers mean nothing."""
    out: Path = Path("experiments/results/disentanglement")
    """Folder for the table, the records and the picture."""


def images() -> tuple[Float[Tensor, "N D"], dict[str, Tensor]]:
    """Every combination of 9 × 9 places, 3 sizes and 2 shapes: bits (N, 256), and each factor's values (N,)."""
    factors = torch.cartesian_prod(*(torch.arange(n) for n in (9, 9, 3, 2)))
    x, y, size, shape = (column[:, None, None] for column in factors.T)
    row, column = torch.meshgrid(torch.arange(PIXELS), torch.arange(PIXELS), indexing="ij")
    across, down, radius = column - (x + 3.5), row - (y + 3.5), size + 2.0
    disc = across.square() + down.square() < radius.square()
    square = torch.maximum(across.abs(), down.abs()) < radius
    bits = torch.where(shape == 0, disc, square).flatten(1).float()
    return bits, dict(zip(("x", "y", "size", "shape"), factors.T, strict=True))


@torch.no_grad()
def information(model: LatentModel, data: Tensor, factors: dict[str, Tensor]) -> dict[str, Float[Tensor, " Z"]]:
    """I(z_j; v) of each latent dimension with each factor, over the factor's entropy.

    All combinations of factors are there, so that q(z_j) and q(z_j|v) are finite mixtures of Gaussians; their entropies
    are integrated over a grid.
    """
    q = model.infer(batch_of(data))
    grid = torch.linspace(-6.0, 6.0, 601, device=data.device)
    density = torch.distributions.Normal(q.mean[..., None], q.stddev[..., None]).log_prob(grid).exp()

    def entropy(of: Float[Tensor, "Z G"]) -> Float[Tensor, " Z"]:
        return -torch.special.xlogy(of, of).sum(-1) * (grid[1] - grid[0])

    shares = {}
    for name, values in factors.items():
        given = [entropy(density[values == value].mean(0)) for value in values.unique()]
        shares[name] = (entropy(density.mean(0)) - torch.stack(given).mean(0)) / np.log(len(given))
    return shares


def gaps(shares: dict[str, Tensor]) -> dict[str, float]:
    """Of each factor, what the most informative latent dimension says of it beyond the second (Chen et al. 2018)."""
    highest = {name: share.topk(2).values for name, share in shares.items()}
    each = {name: float(first - second) for name, (first, second) in highest.items()}
    return {"gap": float(np.mean(list(each.values()))), **each}


def run(weight: Schedule, seed: int, data: Tensor, factors: dict[str, Tensor], args: Args) -> dict[str, Any]:
    """Train one autoencoder; its KL, bound and gaps, and the model itself."""
    torch.manual_seed(seed)
    size = data.shape[1]
    model = autoencoder(GaussianPosterior(TransitionEncoder(0, size, args.hidden), args.latent_dim), size, args.hidden)
    optimizer = torch.optim.Adam(model.parameters(), args.rate, fused=True)
    training = Training(model, data, optimizer, weight, decay=args.updates)
    training.run(args.updates)
    bound, shares = measure(model, data, 10), information(model, data, factors)
    return {
        "seed": seed,
        "KL": float(bound.kl),
        "bound": float(bound.value),
        "last β": float(weight(args.updates, bound.kl)),
        **gaps(shares),
        "information": {name: share.tolist() for name, share in shares.items()},
        "model": model,
    }


@torch.no_grad()
def traversal(model: LatentModel, data: Tensor, steps: int = 9) -> Float[Tensor, "h w"]:
    """A row of images for each latent dimension, which goes from −2 to 2 from the latent of one image."""
    origin = model.infer(batch_of(data)).mean[len(data) // 2]
    z = origin.repeat(len(origin), steps, 1)
    z.diagonal(dim1=0, dim2=2).copy_(torch.linspace(-2.0, 2.0, steps)[:, None])
    pictures = model.decoder(z.new_empty(len(origin), 0), z.movedim(1, 0)).mean  # (steps, Z, pixels)
    framed = torch.nn.functional.pad(pictures.unflatten(-1, (PIXELS, PIXELS)), (1, 1, 1, 1), value=0.5)
    return framed.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)


def draw(runs: list[dict[str, Any]], data: Tensor) -> Figure:
    """Gaps over the KL; what each latent dimension of the model with the largest gap says, and what it draws."""
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    scatter, shares, pictures = figure.subplots(1, 3, width_ratios=(1.2, 0.8, 1.3))
    for index, kind in enumerate(KINDS):
        x, y = np.array([(r["KL"], r["gap"]) for r in runs if r["kind"] == kind]).T
        scatter.plot(x, y, "os"[index], color=f"C{index}", alpha=0.7, label=kind)
    for first, second in zip(*([r for r in runs if r["kind"] == kind] for kind in KINDS), strict=True):
        scatter.plot((first["KL"], second["KL"]), (first["gap"], second["gap"]), color="0.8", zorder=0)
    scatter.set(
        title="Pairs of equal seed and equal KL are joined", xlabel="KL (nats)", ylabel="mutual information gap"
    )
    scatter.legend()
    best = max(runs, key=lambda r: r["gap"])
    table_of = np.array(list(best["information"].values())).T
    shares.imshow(table_of, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for (row, column), value in np.ndenumerate(table_of):
        shares.text(column, row, f"{value:.2f}", ha="center", va="center", color="w" if value > 0.5 else "k")
    shares.set_xticks(range(table_of.shape[1]), labels=list(best["information"]))
    shares.set(title=f"I(z; factor) / H(factor): {best['method']}, gap {best['gap']:.2f}", ylabel="latent dimension")
    pictures.imshow(traversal(best["model"], data).numpy(), cmap="gray", vmin=0.0, vmax=1.0)
    pictures.set(title="The same model: each latent from −2 to 2", yticks=[], xticks=[], ylabel="latent dimension")
    return figure


def main(args: Args) -> None:
    """Train, measure, write."""
    torch.set_num_threads(1)
    if args.smoke:
        args = replace(args, betas=(1.0, 4.0), seeds=(0,), updates=20)
    data, factors = images()
    runs = []
    for beta in args.betas:
        for seed in args.seeds:
            plain = run(Constant(beta), seed, data, factors, args)
            bound = run(KLConstraint(plain["KL"]), seed, data, factors, args)
            runs += [
                {"kind": "β", "setting": beta, "method": f"β = {beta:g}", **plain},
                {"kind": "constraint", "setting": beta, "method": f"constraint to the KL of β = {beta:g}", **bound},
            ]
        print(f"β = {beta:g} is done", flush=True)
    figure = draw(runs, data)
    kept = [{key: value for key, value in r.items() if key != "model"} for r in runs]
    save(args, "disentanglement", table(kept, COLUMNS), {"runs": kept}, figure)


if __name__ == "__main__":
    main(tyro.cli(Args))
