"""The bound on held-out demonstrations while LatentBC learns: logged, the best kept, and a reason to stop."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import BaseCallback

from latentrl.checks import LatentRLError, count
from latentrl.data import Demonstrations
from latentrl.files import whole
from latentrl.sb3.in_place import require_demonstrations
from latentrl.training.fingerprint import digest
from latentrl.training.held_out import Bound, held_out_bound

if TYPE_CHECKING:
    from latentrl.data import Cuts
    from latentrl.sb3.bc import LatentBC


class HeldOut(BaseCallback):
    """Logs the ELBO of demonstrations that :class:`LatentBC` is not trained on, in nats of one segment at β = 1.

    ``eval/elbo``, ``eval/reconstruction``, ``eval/kl``, and ``eval/best_elbo`` so far. It looks at all steps of all
    segments with the same draws each time, under the weights that would predict now (their average, with
    ``ema_decay``), and leaves the random numbers of training as they were. Where ``learn`` has a checkpoint folder, the
    best policy is written there as ``best.zip``, for ``LatentBC.load``.

    :param demonstrations: of the same spaces, such as the second part of :meth:`Demonstrations.split`
    :param every: updates between two looks; one is at the last update that was asked for, too
    :param patience: looks without a better bound after which training stops; at its end, whatever the reason, the best
        weights are those that predict. None never stops, and leaves the last weights
    :param seed: of the draws of z
    :param verbose: as in stable-baselines3; 1 says when training stops
    :raises LatentRLError: ``every`` or ``patience`` < 1; when learning starts, another algorithm, demonstrations of
        other spaces, or a posterior that knows only its own data
    """

    best: Bound | None = None
    """The best so far."""
    last: Bound | None = None
    last_update: int = 0

    def __init__(
        self,
        demonstrations: Demonstrations,
        every: int = 500,
        patience: int | None = None,
        seed: int = 0,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.demonstrations: Demonstrations = require_demonstrations(demonstrations)
        self.every: int = count("every", every, 1)
        self.patience: int | None = None if patience is None else count("patience", patience, 1)
        self.seed: int = count("seed", seed, 0)
        self.best_update: int = 0
        self._since = 0
        self._watched: Any = None
        self.best_weights: dict[str, Any] | None = None
        """Of the model, with ``patience``; :class:`LatentBC` takes them when training ends."""
        self._segments: Cuts | None = None

    def _init_callback(self) -> None:
        self._since = 0  # of this call of learn; a run that goes on takes up its own
        if self.model.num_timesteps == 0 or self.model is not self._watched:  # another run
            self.best, self.last, self.best_weights = None, None, None
            self.best_update, self.last_update = 0, 0
        self._watched = self.model

    @property
    def _bc(self) -> "LatentBC":
        return self.model  # type: ignore[return-value]

    def _on_training_start(self) -> None:
        if "trainer" not in self.locals:
            raise LatentRLError(f"HeldOut is for LatentBC, not for {type(self.model).__name__}: use EvalCallback")
        self._segments = self._bc._segments_on(self._bc._seen(self.demonstrations))(self._bc.device)

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every and self.num_timesteps != self._bc._total_timesteps:
            return True
        assert self._segments is not None
        policy = self._bc.policy
        policy.set_training_mode(False)
        self.last = held_out_bound(policy.model, self._segments, self.seed)
        if not math.isfinite(self.last.elbo):
            raise FloatingPointError(
                f"the held-out bound is {self.last.elbo} at update {self.num_timesteps}: lower the learning rate, set "
                "max_grad_norm, or look for extreme values in the data"
            )
        self._since, self.last_update = self._since + 1, self.num_timesteps
        if self.best is None or self.last.elbo > self.best.elbo:
            self.best, self.best_update, self._since = self.last, self.num_timesteps, 0
            self._keep()
        for name in ("elbo", "reconstruction", "kl"):
            self.logger.record(f"eval/{name}", getattr(self.last, name))
        self.logger.record("eval/best_elbo", self.best.elbo)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)  # now, or it would be at the next update that is logged
        stop = self.patience is not None and self._since >= self.patience
        if stop and self.verbose:
            print(f"Stopping: the held-out bound is best at update {self.best_update}, {self.best.elbo:.3f} nats")
        return not stop

    def _keep(self) -> None:
        if self.patience is not None:
            weights = self._bc.policy.model.state_dict()
            self.best_weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
        if (folder := self.locals.get("checkpoint")) is not None:
            with whole(Path(folder) / "best.zip") as partial:
                self._bc.save(partial)

    # -- checkpoints -------------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """What the result of training depends on."""
        return {"every": self.every, "patience": self.patience, "seed": self.seed, "data": digest(self.demonstrations)}

    def state_dict(self) -> dict[str, Any]:
        """All that was found out, for a checkpoint."""
        bounds = [None if bound is None else list(bound) for bound in (self.best, self.last)]
        updates = [self.best_update, self.last_update]
        return {"bounds": bounds, "updates": updates, "since": self._since, "weights": self.best_weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.best, self.last = (None if bound is None else Bound(*bound) for bound in state["bounds"])
        self.best_update, self.last_update = state["updates"]
        self._since, self.best_weights = state["since"], state["weights"]
