"""One call of :meth:`LatentBC.learn`: its processes, its checkpoints, and going on where a killed one stopped."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from latentrl.checks import LatentRLError, count
from latentrl.data import Cuts, Demonstrations
from latentrl.elbo import Elbo
from latentrl.memory import enough_memory
from latentrl.randomness import random_state, set_random_state
from latentrl.sb3.bc_callbacks import all_callbacks, restore, state_of
from latentrl.sb3.bc_log import UpdateBar, log
from latentrl.sb3.in_place import as_seen
from latentrl.sb3.in_place import follow as follow_actor
from latentrl.training import ElboTrainer
from latentrl.training.checkpoints import RunFolder
from latentrl.training.fingerprint import describe, digest
from latentrl.training.finite import NonFiniteLossError
from latentrl.training.help import follow
from latentrl.training.launched import Launched
from latentrl.training.parallel import together
from latentrl.training.state import State, is_resident, load_trainer_state, trainer_state

if TYPE_CHECKING:
    from latentrl.sb3.bc import LatentBC

SETTINGS = (
    "batch_size", "steps_per_segment", "kl_warmup", "noise", "max_grad_norm", "estimator", "num_samples",
    "gradient_variance_every", "learning_rate", "seed", "precision", "devices", "compile", "ema_decay",
)  # fmt: skip
"""Arguments of :class:`LatentBC` that the result depends on, beside the policy, the KL weight and the data."""
COUNTERS = ("num_timesteps", "_n_updates", "_fade_steps", "_warned")


class Run:
    """What stands around the updates of one call of ``learn``.

    :param agent: which has its counters set, but no trainer yet
    :param callback: all callbacks
    :param total: updates to be reached
    :param log_interval: updates between logs, whose diagnostics draw random numbers
    :param checkpoint: folder, or None
    :param every: updates between two checkpoints
    :raises LatentRLError: the folder cannot be written, or is of another run
    """

    def __init__(
        self,
        agent: "LatentBC",
        callback: BaseCallback,
        total: int,
        log_interval: int | None,
        checkpoint: str | Path | None,
        every: int,
    ) -> None:
        self._agent, self._total, self._log_interval = agent, total, log_interval
        # A run may go on with a progress bar, or without; and with its callbacks in a list, or not.
        self._callbacks = [part for part in all_callbacks(callback) if not isinstance(part, UpdateBar | CallbackList)]
        shown = agent.demonstrations
        assert shown is not None
        self._shown = shown if agent._agent is None else as_seen(agent._agent, shown)
        self.every: int = count("checkpoint_every", every, 1)
        self._folder: RunFolder | None = None
        state: State | None = None
        if checkpoint is not None:
            self._folder = RunFolder(checkpoint, self._settings(log_interval))
            state = self._folder.read(agent.device)
        self.finished = state is not None and state["finished"]
        self._warn_of_short(state)
        self._random = None if state is None else state["random"]
        resident = None if state is None else state["resident"]
        self.trainer: ElboTrainer = agent._trainer(self._shown, total, resident)
        if state is not None:
            self._restore(state)

    def _warn_of_short(self, state: State | None) -> None:
        """Where a callback ended a run, and it may have meant to go on some other time."""
        if state is None or not self.finished or any(getattr(part, "patience", None) for part in self._callbacks):
            return
        if (done := state["agent"]["num_timesteps"]) < self._total:
            warnings.warn(
                f"a callback ended this run at update {done} of {self._total}, which is taken for its end: to stop for "
                "a while, let the callback raise KeyboardInterrupt; to train on, give another checkpoint folder",
                stacklevel=4,
            )

    def _settings(self, log_interval: int | None) -> dict[str, Any]:
        agent = self._agent
        policy = agent.policy
        return {
            **{name: describe(getattr(agent, name)) for name in SETTINGS},
            "kl_weight": "auto" if agent._auto_weight else describe(agent.kl_weight),
            "policy": describe(asdict(policy.config)),
            "weights": [[name, list(value.shape)] for name, value in policy.model.state_dict().items()],
            "optimizer": describe([policy.optimizer_class, policy.optimizer_kwargs]),
            "updates": [agent._num_timesteps_at_start, self._total],
            "log_interval": log_interval,
            "callbacks": [
                [type(part).__name__, describe(part.settings()) if hasattr(part, "settings") else None]
                for part in self._callbacks
            ],
            "trunk": describe(policy._trunk_options),
            "data": digest(self._shown),
        }

    # -- checkpoints -------------------------------------------------------------------------------------------

    def _restore(self, state: State) -> None:
        load_trainer_state(self.trainer, state["trainer"])
        for name in COUNTERS:
            setattr(self._agent, name, state["agent"][name])
        self._agent._num_timesteps_at_start = self._agent.num_timesteps
        for part, kept in zip(self._callbacks, state["callbacks"], strict=True):
            restore(part, kept)

    def restore_randomness(self) -> None:
        """The last thing before updates go on: random numbers as they stood."""
        if self._random is not None:
            set_random_state(self._random, self._agent.device)

    def save(self, finished: bool = False) -> None:
        """Look whether training is still finite, and write a checkpoint if there is a folder for it.

        :raises FloatingPointError: losses or weights are not finite; the last checkpoint stays
        """
        self.trainer.check_finite()
        if self._folder is None:
            return
        self._folder.write(
            {
                "trainer": trainer_state(self.trainer),
                "random": random_state(self._agent.device),
                "resident": is_resident(self.trainer),
                "agent": {name: getattr(self._agent, name) for name in COUNTERS},
                "callbacks": [state_of(part) for part in self._callbacks],
                "finished": finished,
            }
        )

    def conclude(self) -> Any:
        """The agent as it is after training: with the best weights where a callback chooses them, or the average."""
        policy = self._agent.policy
        for part in self._callbacks:
            if (weights := getattr(part, "best_weights", None)) is not None:
                policy.choose(weights)
        if policy.average is not None or policy.config.latents == "aggregate":
            policy.set_training_mode(False)
        if policy.config.latents == "aggregate":
            self.trainer.remember()
        self._leave()
        return self._agent

    def _leave(self) -> None:
        """An agent that was cloned into goes on from the average of weights, which would undo what it learns later."""
        policy = self._agent.policy
        if self._agent._agent is not None:
            if policy.average is not None:
                policy.set_training_mode(False)
                policy.average = None
            follow_actor(self._agent._agent.policy)

    # -- updates -----------------------------------------------------------------------------------------------

    def before_update(self) -> None:
        """Training mode, which an evaluation in a callback leaves, and this update's learning rate."""
        agent = self._agent
        # An agent whose networks these are may have changed their mode by itself.
        if not agent.policy.training or agent._agent is not None:
            agent.policy.set_training_mode(True)
        if agent._group is not None:
            agent._group.goes_on()
        agent._update_current_progress_remaining(agent.num_timesteps, self._total)
        for group in agent.policy.optimizer.param_groups:
            group["lr"] = agent.lr_schedule(agent._current_progress_remaining)

    def after_update(self, terms: Elbo) -> None:
        """Log and write a checkpoint, where it is time."""
        done = self._agent.num_timesteps
        if done == self._total or (self._log_interval is not None and done % self._log_interval == 0):
            self.trainer.check_losses()
            log(self._agent, self.trainer, terms)
        if self._folder is not None and done % self.every == 0:
            self.save()

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Around all updates: helper processes, and what is kept of an update that fails."""
        agent = self._agent
        advice = f"give a batch_size below {agent.batch_size}, fewer steps_per_segment, or precision='bf16-mixed'"
        if agent.policy.config.latents == "aggregate":
            agent.policy.remember = self.trainer.remember
        agent._updating = True
        try:
            with enough_memory(advice), ExitStack() as stack:
                if (group := agent._group) is not None:
                    group.tell(self._task())
                    self.trainer.settle(self.trainer.segments, group)
                elif agent.devices > 1 or agent.precision != "32-true":
                    processes = together(agent.devices, agent.precision, agent.device, self._job())
                    self.trainer.settle(self.trainer.segments, stack.enter_context(processes))
                yield
                if group is not None and agent.num_timesteps < self._total:
                    group.goes_on(False)
        except NonFiniteLossError as error:
            if self._folder is not None:
                self._folder.keep_batch(error)
            raise
        except KeyboardInterrupt:
            if agent.policy.remember is not None:  # or it could not act, or with latents of other weights
                agent.policy.set_training_mode(False)
            raise
        finally:
            agent.policy.remember = None
            agent._updating = False
            self.trainer.close()
            self._leave()  # also where training was interrupted

    def _job(self) -> Any:
        agent = self._agent
        if agent.devices > 1:
            self.trainer.draw_data_seed()
        shown, resident = self._shown, is_resident(self.trainer)
        segments_on = agent._segments_on(shown, resident)
        segments_on = partial(_segments_of_same, "a helper process", shown, digest(shown), segments_on)
        return partial(follow, self.trainer, segments_on, agent.lr_schedule, agent.num_timesteps, self._total)

    def _task(self) -> dict[str, Any]:
        """What processes that torchrun started need to know; data they have read themselves."""
        self.trainer.draw_data_seed()
        resident, start = is_resident(self.trainer), self._agent.num_timesteps
        return {"trainer": self.trainer, "resident": resident, "start": start, "data": digest(self._shown)}


def train_along(agent: "LatentBC", total: int, group: Launched) -> None:
    """What ``learn`` is in all processes of torchrun but the first: the same updates, and the policy that it made.

    :raises LatentRLError: this process has read other demonstrations
    """
    assert agent.demonstrations is not None
    shown = agent.demonstrations if agent._agent is None else as_seen(agent._agent, agent.demonstrations)
    if (task := group.tell()) is not None:  # nothing is left to do in a run that is finished
        name, segments_on = f"process {group.rank} of torchrun", agent._segments_on(shown, task["resident"])
        segments_on = partial(_segments_of_same, name, shown, task["data"], segments_on)
        follow(task["trainer"], segments_on, agent.lr_schedule, task["start"], total, group)
    made = group.tell()
    agent.policy.set_training_mode(False)
    agent.policy.load_state_dict(made["policy"])
    if agent._agent is not None:
        follow_actor(agent._agent.policy)
    for name in COUNTERS:
        setattr(agent, name, made["counters"][name])


def _segments_of_same(
    name: str, shown: Demonstrations, known: dict[str, Any], segments_on: Callable[..., Cuts], device: torch.device
) -> Cuts:
    """In a process beside the first, which looks before whether it has the same demonstrations."""
    if digest(shown) != known:
        raise LatentRLError(
            f"{name} has other demonstrations than the first one: let every process of torchrun read the same ones, in "
            "the same order, and leave a file that is mapped as it is while they train"
        )
    return segments_on(device)


def hand_on(agent: "LatentBC", group: Launched) -> None:
    """Let the other processes of torchrun have the policy."""
    agent.policy.set_training_mode(False)
    counters = {name: getattr(agent, name) for name in COUNTERS}
    group.tell({"policy": agent.policy.state_dict(), "counters": counters})
