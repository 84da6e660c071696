"""Laws over every posterior, prior and decoder of the table."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.examples_table import DECODERS, POSTERIORS, PRIORS, A, O, T, Z

MEMBERS: dict[str, Callable[[], nn.Module]] = {
    **POSTERIORS,
    **{f"prior {name}": make for name, make in PRIORS.items()},
    **{f"decoder {name}": (lambda make=make: make(Z)) for name, make in DECODERS.items()},
}


def posterior_inputs(name: str, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    steps = (T,) if "segment" in name else ()
    return torch.randn(batch, *steps, O), torch.randn(batch, *steps, A)


@pytest.mark.parametrize("name", POSTERIORS)
def test_posterior_shapes(name: str) -> None:
    q = POSTERIORS[name]()(*posterior_inputs(name, 7))
    assert (q.batch_shape, q.event_shape) == ((7,), (Z,))
    assert q.log_prob(q.sample((4,))).shape == (4, 7)


@pytest.mark.parametrize("name", POSTERIORS)
def test_posterior_rows_are_independent(name: str) -> None:
    posterior = POSTERIORS[name]()
    observations, actions = posterior_inputs(name, 6)
    together = posterior(observations, actions).mean
    alone = torch.cat([posterior(observations[i : i + 1], actions[i : i + 1]).mean for i in range(6)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", [name for name in POSTERIORS if "by" in name])
@pytest.mark.parametrize("learning", [True, False])
def test_what_stands_behind_the_end_has_no_influence(name: str, learning: bool) -> None:
    """Also by the other kernels that torch has for a transformer that does not learn."""
    posterior = POSTERIORS[name]().train(learning).requires_grad_(learning)
    observations, actions = posterior_inputs(name, 6)
    lengths = torch.tensor([1, 3, 5, T - 1, T, T])
    padded = posterior(observations, actions, lengths).mean
    alone = [posterior(observations[i : i + 1, :n], actions[i : i + 1, :n]).mean for i, n in enumerate(lengths)]
    torch.testing.assert_close(padded, torch.cat(alone))
    torch.testing.assert_close(padded[4:], posterior(observations, actions).mean[4:])
    assert not torch.allclose(padded[:4], posterior(observations, actions).mean[:4])


@pytest.mark.parametrize("name", PRIORS)
def test_prior_shapes_and_expansion(name: str) -> None:
    law = PRIORS[name]()(torch.randn(7, O))
    assert law.event_shape == (Z,)
    assert law.batch_shape in ((), (7,))
    wide = law.expand((7,))
    z = wide.sample()
    assert z.shape == (7, Z)
    torch.testing.assert_close(law.log_prob(z), wide.log_prob(z))
    assert wide.mode.shape == (7, Z)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("latent", [0, Z])
def test_decoder_shapes(name: str, latent: int) -> None:
    decoder = DECODERS[name](latent)
    for observations, z, expected in (
        (torch.randn(7, O), torch.randn(7, latent), (7,)),
        (torch.randn(7, O), torch.randn(4, 7, latent), (4, 7)),
        (torch.randn(7, T, O), torch.randn(7, latent), (7, T)),
        (torch.randn(7, T, O), torch.randn(4, 7, latent), (4, 7, T)),
    ):
        law = decoder(observations, z)
        if latent == 0:  # nothing to broadcast against
            expected = observations.shape[:-1]
        assert (law.batch_shape, law.event_shape) == (expected, (A,))
        assert law.log_prob(law.sample()).shape == expected
        assert law.mode.shape == (*expected, A)


@pytest.mark.parametrize("name", DECODERS)
def test_held_latent_equals_repeated_latent(name: str) -> None:
    decoder = DECODERS[name](Z)
    observations, z = torch.randn(6, T, O), torch.randn(6, Z)
    held = decoder(observations, z)
    action = held.sample()
    repeated = decoder(observations.flatten(0, 1), z.repeat_interleave(T, 0))
    torch.testing.assert_close(held.log_prob(action).flatten(), repeated.log_prob(action.flatten(0, 1)))


@pytest.mark.parametrize("name", MEMBERS)
def test_saves_and_loads(name: str) -> None:
    first, second = MEMBERS[name](), MEMBERS[name]()
    second.load_state_dict(first.state_dict())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", [*PRIORS])
def test_deepcopy_is_a_world_of_its_own(name: str) -> None:
    prior = PRIORS[name]()
    twin = copy.deepcopy(prior)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter))
    z, observations = torch.eye(Z)[:1], torch.zeros(1, O)
    if [*prior.parameters()]:
        assert not torch.allclose(prior(observations).log_prob(z), twin(observations).log_prob(z))


@pytest.mark.parametrize("name", MEMBERS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    module = MEMBERS[name]()
    if name in POSTERIORS:
        law = module(*posterior_inputs(name, 7))
    else:
        law = module(torch.randn(7, O), torch.randn(7, Z)) if name.startswith("decoder") else module(torch.randn(7, O))
    if not [*module.parameters()]:
        return
    law.log_prob(law.sample((5,))).sum().backward()
    assert [n for n, p in module.named_parameters() if p.grad is None] == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", MEMBERS)
def test_cpu_equals_gpu(name: str) -> None:
    module = MEMBERS[name]()
    twin = copy.deepcopy(module).cuda()
    if name in POSTERIORS:
        inputs = posterior_inputs(name, 7)
    else:
        inputs = (torch.randn(7, O), torch.randn(7, Z)) if name.startswith("decoder") else (torch.randn(7, O),)
    law, other = module(*inputs), twin(*(x.cuda() for x in inputs))
    value = law.sample()
    torch.testing.assert_close(law.log_prob(value), other.log_prob(value.cuda()).cpu(), rtol=1e-4, atol=1e-4)
