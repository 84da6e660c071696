"""What :class:`LatentBC` says of its training: a line of the log, a warning, a progress bar."""

import time
import warnings
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import ProgressBarCallback

from latentrl.diagnostics import Diagnostics
from latentrl.elbo import Elbo
from latentrl.training import ElboTrainer

if TYPE_CHECKING:
    from latentrl.sb3.bc import LatentBC

SETTLING = 200
"""Updates after the fade of the KL weight before which nothing is said of a collapse."""


def log(agent: "LatentBC", trainer: ElboTrainer, terms: Elbo) -> None:
    """One line of the log; synchronises with the device, which the updates in between do not."""
    seconds = max((time.time_ns() - agent.start_time) / 1e9, 1e-9)
    values = {
        "train/elbo": float(terms.reconstruction - terms.kl),
        "train/reconstruction": float(terms.reconstruction),
        "train/kl": float(terms.kl),
        "train/kl_weight": float(terms.beta),
        "train/learning_rate": agent.policy.optimizer.param_groups[0]["lr"],
        "time/updates_per_second": int((agent.num_timesteps - agent._num_timesteps_at_start) / seconds),
    }
    if agent.policy.model.posterior is not None:
        agent.policy.set_training_mode(True)  # of the weights, also where a callback has just looked at their average
        diagnostics = agent.policy.model.diagnostics(trainer.diagnostic_batch())
        for name in ("active_units", "mutual_information", "aggregate_kl", "prior_holes"):
            values[f"train/{name}"] = getattr(diagnostics, name)
        _warn_of_collapse(agent, diagnostics)
    for key, value in values.items():
        agent.logger.record(key, value)
    agent.logger.record("time/total_timesteps", agent.num_timesteps, exclude="tensorboard")  # its axis already
    agent.logger.dump(step=agent.num_timesteps)


def _warn_of_collapse(agent: "LatentBC", diagnostics: Diagnostics) -> None:
    """Say once per run, when the KL weight has had its time to act, that the latent is not used, and what to do."""
    settled = agent.num_timesteps >= agent._fade_steps + SETTLING
    if agent._warned or not settled or not diagnostics.collapsed:
        return
    agent._warned = True
    warnings.warn(
        f"the latent has collapsed at update {agent.num_timesteps}: it tells {diagnostics.mutual_information:.2f} "
        "nats of what was done, so the policy has one behaviour. If the demonstrations show several, lower "
        "kl_weight, fade it in over a longer share (kl_warmup), or ask for information in nats: "
        "kl_weight=KLRange(low, high)",
        stacklevel=5,
    )


class UpdateBar(ProgressBarCallback):
    """stable-baselines3's progress bar, counting updates (its own counts environments and needs one).

    It shows the ELBO of a batch, in nats, once a second: to ask for it waits for the device. Where the decoder has no
    density it is what is maximised in its place, without a unit.
    """

    _shown = 0.0

    def _on_training_start(self) -> None:
        super()._on_training_start()
        policy: Any = self.model.policy
        self._unit = " nats" if getattr(policy.model.decoder, "has_density", True) else ""
        if self.model.num_timesteps:
            print(f"going on from update {self.model.num_timesteps} of {self.locals['total_timesteps']}")

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self._shown > 1.0:
            self._shown = now
            terms = self.locals["terms"]
            value = float((terms.reconstruction - terms.kl).detach())
            self.pbar.set_description(f"{value:.2f}{self._unit}", refresh=False)
        self.pbar.update(1)
        return True
