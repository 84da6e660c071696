"""The loss as one compiled function."""

from typing import Any

import torch
from torch import Tensor

from latentrl.checks import LatentRLError
from latentrl.elbo import Elbo
from latentrl.estimators import Estimator
from latentrl.model import LatentModel
from latentrl.types import Batch


class CompiledElbo:
    """``model.elbo`` through ``torch.compile``: the same values from the same random numbers, up to rounding.

    It is compiled as a whole, at the first update, which takes a minute or so; what cannot be compiled is an error.

    :param model: the policy
    :param estimator: as :meth:`LatentModel.elbo` takes it
    :param num_samples: the same
    """

    def __init__(self, model: LatentModel, estimator: Estimator | None, num_samples: int | None) -> None:
        def terms(batch: Batch, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = model.elbo(batch, beta, estimator, num_samples)
            return found.loss, found.log_likelihoods, found.kls

        # The generators of eager mode: a seed means the same with and without.
        self._terms: Any = torch.compile(terms, fullgraph=True, dynamic=False, options={"fallback_random": True})
        self._device = next(model.parameters()).device

    def __call__(self, batch: Batch, beta: float | Tensor) -> Elbo:
        """:raises LatentRLError: something in the model, the estimator or the machine does not let it be compiled"""
        # As a tensor, or each new weight would be compiled anew.
        weight = torch.as_tensor(beta, dtype=torch.get_default_dtype(), device=self._device)
        try:
            loss, log_likelihoods, kls = self._terms(batch, weight)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise LatentRLError(
                f"compile=True cannot compile this loss ({reason.strip()}): use compile=False, or another posterior, "
                "prior, features extractor or estimator; on a CPU it needs a C++ compiler such as g++"
            ) from error
        return Elbo(loss, log_likelihoods, kls, beta)
