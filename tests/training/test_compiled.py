"""The compiled loss: the values and gradients of eager mode; what cannot be compiled is an error."""

import pytest
import torch
from torch import Tensor, nn

from latentrl import Demonstrations, LatentRLError
from latentrl.training.compiled import CompiledElbo
from tests.training.test_trainer import trainer

CONFIGS = {
    "default": {},
    "transitions": {"hold": 1, "prior": "normal"},
    "mixture": {"prior": "mixture", "hold": 4},
    "gaussian": {"prior": "gaussian", "prior_sees_state": True, "hold": 0},
    "without latent": {"latent_dim": 0, "hold": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_values_and_gradients_are_those_of_eager_mode(two_ways: Demonstrations, name: str) -> None:
    learner = trainer(two_ways, **CONFIGS[name])
    batch = learner.diagnostic_batch(8)
    compiled = CompiledElbo(learner.model, None, None)
    for beta in (1.0, 0.25):
        found = []
        for elbo in (learner.model.elbo, compiled):
            learner.model.zero_grad(set_to_none=True)
            torch.manual_seed(3)
            terms = elbo(batch, torch.tensor(beta) if elbo is not compiled else beta)  # type: ignore[operator]
            terms.loss.backward()
            found.append([terms.loss.detach(), terms.log_likelihoods, terms.kls])
            found[-1] += [p.grad for p in learner.model.parameters() if p.grad is not None]
        for mine, theirs in zip(*found, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_compiled_says_what_to_do(two_ways: Demonstrations) -> None:
    class Strange(nn.Module):
        features_dim = 2

        def forward(self, observations: Tensor) -> Tensor:
            print("a side effect", file=open("/dev/null", "w"))  # noqa: SIM115
            torch._dynamo.graph_break()
            return observations

    learner = trainer(two_ways, latent_dim=0, hold=1)
    learner.model.trunk = Strange()  # type: ignore[assignment]
    with pytest.raises(LatentRLError, match=r"compile=True cannot compile this loss .*: use compile=False"):
        CompiledElbo(learner.model, None, None)(learner.diagnostic_batch(8), 1.0)
