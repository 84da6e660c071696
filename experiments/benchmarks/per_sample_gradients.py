"""What does it cost to know the variance of single draws' gradients, beside their mean?

    python -m experiments.benchmarks.per_sample_gradients

The encoder 23-256-256-16 of a Gaussian latent with 8 dimensions, one input, 4096 draws, a cost that is cheap; one
thread. Times are over that of the mean gradient in raw torch: one pass back from the mean over all draws. One draw at a
time is timed on 64 draws, in raw torch and, where it is installed, in Pyro, whose times then count 64-fold.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from experiments.benchmarks.timing import Step, machine, paired_ratio, row
from latentrl.distributions import DiagonalNormal
from latentrl.estimators.pathwise import Pathwise
from latentrl.per_sample import sample_moments
from latentrl.variance import SharedOutputs

Z, IN, H, DRAWS, FEW = 8, 23, 256, 4096, 64
PATHWISE = Pathwise()


@dataclass(frozen=True)
class Args:
    """Compare moments with the mean alone."""

    rounds: int = 100
    """Paired timings of each; a tenth of them where one takes long."""


def cost(z: Tensor) -> Tensor:
    """f, on (..., Z)."""
    return 0.3 * z.square().sum(-1) + z.sin().sum(-1)


def surrogate(outputs: Tensor) -> Tensor:
    """Pathwise, for outputs (..., 2Z): a mean and a log scale."""
    loc, log_scale = outputs.chunk(2, -1)
    return PATHWISE(DiagonalNormal(loc, log_scale.exp()), cost, None).surrogate


def mean_gradient(net: nn.Module, x: Tensor) -> Step:
    """Raw torch: the gradient of the mean over all draws."""
    parameters = list(net.parameters())

    def step() -> tuple[Tensor, ...]:
        loc, log_scale = net(x).chunk(2, -1)
        z = loc + log_scale.exp() * torch.randn(DRAWS, Z)
        return torch.autograd.grad(cost(z).mean(), parameters)

    return step


def all_at_once(net: nn.Module, objective: Callable[[dict[str, Tensor]], Tensor]) -> Step:
    """Raw torch: every gradient by vmap, then their variance."""
    parameters = {name: tensor.detach() for name, tensor in net.named_parameters()}
    every = vmap(lambda _: grad(objective)(parameters), randomness="different")
    return lambda: sum(part.var(0).sum() for part in every(torch.empty(DRAWS)).values())


def one_by_one(net: nn.Module, x: Tensor) -> Step:
    """Raw torch: a loop with a pass back for each of a few draws."""
    parameters = list(net.parameters())

    def step() -> Tensor:
        rows = []
        for _ in range(FEW):
            loc, log_scale = net(x).chunk(2, -1)
            parts = torch.autograd.grad(cost(loc + log_scale.exp() * torch.randn(1, Z)).sum(), parameters)
            rows.append(torch.cat([part.flatten() for part in parts]))
        return torch.stack(rows).var(0).sum()

    return step


def pyro_loop(net: nn.Module, x: Tensor) -> Step | None:
    """Pyro: the same loop with its ELBO; None where Pyro is missing."""
    try:
        import pyro
        import pyro.distributions as dist
    except ImportError:
        return None

    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(1, Z), 1.0).to_event(2))
        pyro.factor("cost", cost(z).sum())

    def guide() -> None:
        pyro.module("net", net)
        loc, log_scale = net(x).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(2))

    elbo, parameters = pyro.infer.Trace_ELBO(), list(net.parameters())

    def step() -> Tensor:
        rows = []
        for _ in range(FEW):
            loss = elbo.differentiable_loss(model, guide)
            parts = torch.autograd.grad(loss, parameters)
            rows.append(torch.cat([part.flatten() for part in parts]))
        return torch.stack(rows).var(0).sum()

    return step


def main(args: Args) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, x = (
        nn.Sequential(nn.Linear(IN, H), nn.Tanh(), nn.Linear(H, H), nn.Tanh(), nn.Linear(H, 2 * Z)),
        torch.randn(1, IN),
    )
    shared = SharedOutputs(lambda p: functional_call(net, p, (x,))[0], surrogate)
    parameters = dict(net.named_parameters())
    few = max(3, args.rounds // 10)
    print(machine())
    print(
        f"Moments of {DRAWS} gradients, torch {torch.__version__}, 1 thread: time over the mean gradient in raw torch"
    )
    print(f"{'':44} median   [quartiles]        target")

    def measure(step: Step, rounds: int, repeat: int, target: str, name: str, times: float = 1.0) -> float:
        ratios = paired_ratio(step, mean_gradient(net, x), rounds, repeat)
        print(row(name, tuple(times * ratio for ratio in ratios), target), flush=True)  # type: ignore[arg-type]
        return times * ratios[0]

    measure(mean_gradient(net, x), args.rounds, 10, "1.00", "mean gradient (null control)")
    through = lambda: sample_moments(shared, parameters, DRAWS)  # noqa: E731
    ours = measure(through, args.rounds, 10, "<= 2.00", "latentrl, outputs shared")
    plain = lambda: sample_moments(lambda p: shared(p), parameters, DRAWS)  # noqa: E731
    measure(plain, few, 1, "", "latentrl, not shared: streamed")
    measure(all_at_once(net, shared), few, 1, "", "raw torch, vmap of all, then variance")
    loop = measure(one_by_one(net, x), few, 1, "", "raw torch, one draw at a time", DRAWS / FEW)
    pyro = pyro_loop(net, x)
    if pyro is None:
        print("Pyro is not installed: pip install 'latentrl[nuts]'")
    else:
        loop = measure(pyro, few, 1, "", "Pyro, one draw at a time", DRAWS / FEW)
    print(f"{'that loop over latentrl, outputs shared':44} {loop / ours:6.0f}{'':23}>= 40")


if __name__ == "__main__":
    main(tyro.cli(Args))
