"""What is different on a GPU: batches that are copied ahead, losses that are looked at later, exact checkpoints."""

from pathlib import Path

import pytest
import torch

from latentrl import Demonstrations
from latentrl.data import HostSegments, Segments, host_segments
from latentrl.sb3 import LatentBC
from latentrl.training.ahead import Ahead
from latentrl.training.finite import NonFiniteLossError

pytestmark = pytest.mark.gpu
SMALL = {"latent_dim": 2, "hidden": (16,), "n_components": 4, "context_length": 6}


def small(data: Demonstrations, **options: object) -> LatentBC:
    return LatentBC(demonstrations=data, batch_size=8, seed=0, device="cuda", policy_kwargs=SMALL, **options)  # type: ignore[arg-type]


def test_batches_of_the_host_arrive(two_ways: Demonstrations) -> None:
    here, there = Segments(two_ways, 0, 6), HostSegments(two_ways, 0, 6, "cuda")
    index = torch.arange(5)
    for mine, theirs in zip(there.batch(index), here.batch(index), strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine.cpu(), theirs)
    ahead = Ahead(there, 4, 5, (1, 0))
    sums = [float(ahead(step).observations.sum()) for step in range(20)]
    assert sums == [float(ahead(step).observations.sum()) for step in range(20)]
    ahead.close()


@pytest.mark.parametrize("host", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_goes_on_to_the_same_weights(
    two_ways: Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: bool, precision: str
) -> None:
    if host:
        monkeypatch.setattr(host_segments, "fits", lambda *_: False)

    def stop(found: dict[str, object], _: object) -> bool:
        if found["self"].num_timesteps == stop_at:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return True

    def learn(folder: str) -> torch.Tensor:
        agent = small(two_ways, precision=precision, ema_decay=0.9)
        agent.learn(20, stop, log_interval=4, checkpoint=tmp_path / folder, checkpoint_every=5)
        return torch.cat([value.flatten().double() for value in agent.policy.state_dict().values()])

    stop_at = 10**9
    whole = learn("whole")
    stop_at = 13
    with pytest.raises(KeyboardInterrupt):
        learn("killed")
    stop_at = 10**9
    assert torch.equal(learn("killed"), whole)


def test_the_first_bad_batch_is_found_later(two_ways: Demonstrations) -> None:
    agent = small(two_ways)
    trainer = agent._trainer(agent.demonstrations, 200)  # type: ignore[arg-type]
    trainer.update(0)
    trainer.segments.observations[7, 0] = torch.inf  # type: ignore[attr-defined]

    def until_it_breaks() -> None:
        for step in range(1, 200):
            trainer.update(step)

    with pytest.raises(NonFiniteLossError) as caught:
        until_it_breaks()
    batch = caught.value.batch
    assert bool((batch.observations.isinf().any()) | batch.context_observations.isinf().any())
