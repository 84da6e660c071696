"""What ``test_compiled`` runs in a process of its own: the tests' shape checks do not let themselves be compiled."""

import sys

import numpy as np
import torch

from latentrl import Demonstrations, LatentConfig, LatentRLError
from latentrl.data import Segments
from latentrl.sb3 import LatentBC
from latentrl.training.compiled import CompiledElbo

CONFIGS = {
    "vamp": {"prior": "vamp"},
    "transitions": {"hold": 1, "prior": "normal"},
    "mixture": {"prior": "mixture", "hold": 4},
    "gaussian": {"prior": "gaussian", "prior_sees_state": True},
    "without latent": {"latent_dim": 0, "hold": 1},
    "full": {"posterior": "full", "prior": "mixture"},
    "categorical": {"posterior": "categorical", "prior": "categorical"},
    "gru": {"encoder": "gru", "prior": "normal"},
    "flow": {"prior": "flow"},
}


def check(name: str) -> str:
    """Loss, its parts and gradients of the compiled function against those of eager mode, under two weights."""
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(96, 2)).astype(np.float32)
    data = Demonstrations.from_arrays(observations, 0.5 * observations, [12] * 8)
    given = {"latent_dim": 2, "hidden": (16,), "n_components": 4, "context_length": 6, **CONFIGS[name]}
    config = LatentConfig(**given)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = config.build(data.observation_space, data.action_space)
    segments = Segments(data, config.hold, config.context_length, pads=config.pads)
    model.standardize(segments.observations, segments.actions)
    compiled = CompiledElbo(model, None, None)
    for beta in (1.0, 0.25):
        batch = segments.batch(torch.randperm(len(segments))[:8], steps=5)
        found = []
        for elbo, weight in ((model.elbo, torch.tensor(beta)), (compiled, beta)):
            model.zero_grad(set_to_none=True)
            torch.manual_seed(3)
            try:
                terms = elbo(batch, weight)  # type: ignore[operator]
            except LatentRLError as error:
                return f"refused: {error}"
            terms.loss.backward()
            found.append([terms.loss.detach(), terms.log_likelihoods, terms.kls])
            found[-1] += [p.grad for p in model.parameters() if p.grad is not None]
        for mine, theirs in zip(*found, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    return "same"


def learn() -> str:
    """A few updates of LatentBC end at the same weights, and at the same average of them."""
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(96, 2)).astype(np.float32)
    data = Demonstrations.from_arrays(observations, 0.5 * observations, [12] * 8)
    found = []
    for compiled in (False, True):
        config = {"latent_dim": 2, "hidden": (16,), "n_components": 4, "context_length": 6}
        agent = LatentBC(
            demonstrations=data,
            batch_size=8,
            seed=0,
            device="cpu",
            ema_decay=0.5,
            compile=compiled,
            policy_kwargs=config,
        )
        found.append(list(agent.learn(4, log_interval=2).policy.model.parameters()))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-3)
    return "same"


if __name__ == "__main__":
    for name in sys.argv[1:] or CONFIGS:
        print(f"{name}: {check(name)}", flush=True)
    print(f"learn: {learn()}", flush=True)
