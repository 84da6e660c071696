"""A loss that is not finite: which update it was, and on what."""

import pickle

import pytest
import torch

from latentrl import Demonstrations
from latentrl.training.finite import EVERY, NonFiniteLossError
from tests.training.test_trainer import trainer


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "later, from the random numbers of then"])
def test_the_first_bad_batch_is_found(two_ways: Demonstrations, waits: bool) -> None:
    """One observation is infinite: the batch that is kept has it, those of earlier updates had not. No batch with the
    bad row in 999 of them: 1e-24.
    """
    learner = trainer(two_ways, prior="normal", hold=1)
    learner.batch_size = 16
    learner.update(0)
    learner.segments.observations[7, 0] = torch.inf  # type: ignore[attr-defined]
    learner._watch.waits = waits
    seen = []
    made = learner._new_batch
    learner._new_batch = lambda: seen.append(made()) or seen[-1]  # type: ignore[method-assign, func-returns-value]

    def until_it_breaks() -> None:
        for step in range(1, 1000):
            learner.update(step)

    with pytest.raises(NonFiniteLossError, match="lower the learning rate") as caught:
        until_it_breaks()
    found = caught.value
    bad = [bool(batch.observations.isinf().any()) for batch in seen]
    assert found.update == bad.index(True) + 2
    assert torch.equal(found.batch.observations, seen[bad.index(True)].observations)
    names = {"observations", "actions", "context_observations", "context_actions", "rows"}
    assert set(found.arrays()) == names | {f"before_{name}" for name in names}
    again = pickle.loads(pickle.dumps(found))
    assert str(again) == str(found)
    assert torch.equal(again.batch.observations, found.batch.observations)


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "later, from the random numbers of then"])
@pytest.mark.parametrize("guilty", [3, EVERY], ids=["in the middle", "where losses were just looked at"])
def test_the_batch_of_a_bad_gradient_is_kept(two_ways: Demonstrations, guilty: int, waits: bool) -> None:
    """The loss of its update is finite; that of the next one is not, whose batch has done nothing."""
    learner = trainer(two_ways, prior="normal", hold=1)
    learner._watch.waits = waits
    seen = []
    made = learner._new_batch
    learner._new_batch = lambda: seen.append(made()) or seen[-1]  # type: ignore[method-assign, func-returns-value]
    learner._parameters[0].register_hook(lambda gradient: gradient * (torch.nan if len(seen) == guilty + 1 else 1.0))

    def until_it_breaks() -> None:
        for step in range(1000):
            learner.update(step)

    with pytest.raises(
        NonFiniteLossError, match="extreme values in the data, of this update or of the one before"
    ) as e:
        until_it_breaks()
    assert e.value.update == guilty + 2
    assert e.value.before is not None
    assert torch.equal(e.value.before.actions, seen[guilty].actions)
    assert torch.equal(e.value.batch.actions, seen[guilty + 1].actions)


def test_random_numbers_are_as_without_the_search(two_ways: Demonstrations) -> None:
    learner = trainer(two_ways, prior="normal")
    learner._watch.waits = True
    learner.update(0)
    before = torch.get_rng_state()
    learner.check_losses()
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_that_are_not_finite_are_found(two_ways: Demonstrations) -> None:
    learner = trainer(two_ways, prior="normal")
    learner.check_finite()
    with torch.no_grad():
        learner._parameters[0].view(-1)[0] = torch.nan
    with pytest.raises(FloatingPointError, match="the weights are not finite"):
        learner.check_finite()
