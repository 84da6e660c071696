"""All that a training run is made of between two updates, as numbers and tensors."""

from typing import Any

from torch import Tensor

from latentrl.checks import LatentRLError, as_python
from latentrl.data.host_segments import HostSegments
from latentrl.schedules import FadeIn
from latentrl.training.trainer import ElboTrainer

State = dict[str, Any]


def trainer_state(trainer: ElboTrainer) -> State:
    """Weights, their average, optimiser, KL weight, estimator, and what the data's random numbers follow from."""
    average = trainer.average
    shown = average is not None and average.shown
    if average is not None:
        average.hide()
    state = {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "average": None if average is None else average.state(),
        "kl_weight": schedule_state(trainer.kl_weight),
        "estimator": None if trainer.estimator is None else trainer.estimator.state_dict(),
        "data_seed": trainer.data_seed,
    }
    if average is not None and shown:
        average.show()  # nothing is copied, so that what is in the state stays what it is
    return state


def load_trainer_state(trainer: ElboTrainer, state: State) -> None:
    """Go on from :func:`trainer_state`."""
    if trainer.average is not None:
        trainer.average.hide()
        trainer.average.load(state["average"])
    trainer.model.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    load_schedule_state(trainer.kl_weight, state["kl_weight"])
    if trainer.estimator is not None:
        trainer.estimator.load_state_dict(state["estimator"])
    trainer.data_seed = state["data_seed"]
    trainer.settle(trainer.segments, trainer.processes)


def is_resident(trainer: ElboTrainer) -> bool:
    """Whether its data lie on the device: a run that goes on keeps that, as random numbers follow from it."""
    return not isinstance(trainer.segments, HostSegments)


def schedule_state(schedule: Any) -> State:
    """The numbers that a KL weight keeps, such as a multiplier's β.

    :raises LatentRLError: it learns, and keeps something else
    """
    schedule = _inner(schedule)
    kept = {name: as_python(value) for name, value in getattr(schedule, "__dict__", {}).items()}
    if not hasattr(schedule, "observe"):
        return {}  # what does not observe does not change
    for name, value in kept.items():
        if not _plain(value):
            raise LatentRLError(
                f"a checkpoint cannot hold {type(schedule).__name__}.{name}, a {type(value).__name__}: keep numbers, "
                "tensors, and lists or dicts of them in a KL weight that learns"
            )
    return kept


def load_schedule_state(schedule: Any, state: State) -> None:
    """Go on from :func:`schedule_state`."""
    schedule = _inner(schedule)
    schedule.__dict__.update(state) if state else None


def _inner(schedule: Any) -> Any:
    """What is faded in, perhaps by several."""
    while isinstance(schedule, FadeIn):
        schedule = schedule.schedule
    return schedule


def _plain(value: Any) -> bool:
    """Whether ``torch.load(weights_only=True)`` reads it."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(part) for key, part in value.items())
    return value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor)
