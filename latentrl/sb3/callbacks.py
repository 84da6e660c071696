"""Modes of behaviour, counted in evaluations while an agent learns."""

from typing import Any

import numpy as np
from gymnasium import Env
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from latentrl.checks import count, dimension
from latentrl.metrics import behaviour_entropy, modes_covered
from latentrl.sb3.evaluation import Recorder
from latentrl.sb3.seeding import frozen, undisturbed


class ModeCoverage(EvalCallback):
    """stable-baselines3's EvalCallback with stochastic actions, which also counts what kinds of behaviour there are.

    Environments say in the last ``info`` of an episode which "mode" it showed, 0 … n_modes − 1, and, where there is
    such a thing, "success" (or "is_success"); without, every episode counts. Logs ``eval/modes``,
    ``eval/behaviour_entropy`` (0 one mode, 1 all alike; bias-corrected) and the ends of its 95 % interval, ``…_low``
    and ``…_high``; and where episodes say in which "context" they were, ``eval/conditional_entropy``, the mean of that
    in each. Random numbers of learning are as they would be without.

    :param eval_env: one environment or several
    :param n_modes: number of modes that there are
    :param n_eval_episodes: of each evaluation
    :param minimum: successes that cover a mode
    :param kwargs: of EvalCallback
    :raises LatentRLError: fewer than two modes; an evaluation whose successes name no mode, or one outside
    """

    def __init__(
        self,
        eval_env: Env[Any, Any] | VecEnv,
        n_modes: int,
        n_eval_episodes: int = 100,
        minimum: int = 5,
        deterministic: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(eval_env, n_eval_episodes=n_eval_episodes, deterministic=deterministic, **kwargs)
        self.n_modes: int = dimension("n_modes", n_modes, 2)
        self.minimum: int = count("minimum", minimum, 1)
        self.counts: NDArray[np.int64] = np.zeros(self.n_modes, dtype=np.int64)
        """(n_modes,) successful episodes of the last evaluation."""
        self._recorder = Recorder()

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq:
            return True
        self._recorder = Recorder()
        with frozen(self.eval_env), undisturbed(self.model):
            return super()._on_step()

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        super()._log_success_callback(locals_, globals_)
        # After each episode, as the parent writes the log before it comes back.
        if not self._recorder.note(locals_):
            return
        shown = self._recorder.evaluation()
        self.counts = shown.counts(self.n_modes)
        entropy = behaviour_entropy(self.counts)
        self.logger.record("eval/modes", modes_covered(self.counts, self.minimum))
        self.logger.record("eval/behaviour_entropy", entropy.value)
        self.logger.record("eval/behaviour_entropy_low", entropy.ci[0])
        self.logger.record("eval/behaviour_entropy_high", entropy.ci[1])
        if shown.contexts is not None:
            self.logger.record("eval/conditional_entropy", shown.conditional_entropy(self.n_modes).value)
