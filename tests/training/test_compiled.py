"""The compiled loss: the values and gradients of eager mode; what cannot be compiled is an error."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latentrl import Demonstrations, LatentModel, LatentRLError
from latentrl.sb3 import LatentBC
from latentrl.schedules import FreeBits
from latentrl.training import ElboTrainer
from latentrl.training.compiled import CompiledElbo
from tests.training.test_trainer import trainer


@pytest.mark.slow
def test_values_and_gradients_are_those_of_eager_mode() -> None:
    """Of every configuration in :mod:`compile_all`, under two KL weights and the same random numbers."""
    program = Path(__file__).with_name("compile_all.py")
    run = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = dict(line.split(": ", 1) for line in run.stdout.splitlines())
    refused = {name for name, result in found.items() if result.startswith("refused: compile=True cannot compile")}
    assert refused == {"gru", "flow"}, found  # of torch 2.13
    assert {result for name, result in found.items() if name not in refused} == {"same"}, found


def test_what_cannot_be_compiled_says_what_to_do(two_ways: Demonstrations) -> None:
    class Strange(nn.Module):
        def forward(self, observations: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return observations

    learner = trainer(two_ways, latent_dim=0, hold=1)
    learner.model.trunk = Strange()  # type: ignore[assignment]
    with pytest.raises(LatentRLError, match=r"compile=True cannot compile this loss .*: use compile=False"):
        CompiledElbo(learner.model, None, None)(learner.diagnostic_batch(8), 1.0)


def test_a_weight_that_reads_the_kl_is_refused(two_ways: Demonstrations) -> None:
    eager = trainer(two_ways, prior="normal")
    with pytest.raises(LatentRLError, match="needs a KL weight that does not read the KL of the batch"):
        ElboTrainer(eager.model, eager.segments, eager.optimizer, FreeBits(1.0), 8, 4, None, compiled=True)


def test_the_option_compiles_the_loss(two_ways: Demonstrations, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def counted(model: LatentModel, *_: object) -> Any:
        return lambda batch, beta: seen.append(float(beta)) or model.elbo(batch, beta)

    monkeypatch.setattr("latentrl.training.trainer.CompiledElbo", counted)
    options = {"latent_dim": 2, "hidden": (8,), "n_components": 2}
    agent = LatentBC(demonstrations=two_ways, policy_kwargs=options, compile=True, kl_weight=1.0, kl_warmup=0.0)
    agent.learn(2)
    assert seen == [1.0, 1.0]
