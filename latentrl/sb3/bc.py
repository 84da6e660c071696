"""Behaviour cloning of latent policies as a stable-baselines3 algorithm."""

import copy
import io
import pathlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common import utils
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.type_aliases import Schedule as LearningRate
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from latentrl.checks import LatentRLError, at_least, count, dimension, resolve_device
from latentrl.data import Cuts, Demonstrations, make_segments
from latentrl.estimators import Estimator
from latentrl.estimators.compatible import single_sample
from latentrl.files import locked, whole
from latentrl.sb3.bc_log import UpdateBar
from latentrl.sb3.bc_run import Run, hand_on, train_along
from latentrl.sb3.defaults import as_noise, check_noise, default_kl_weight, default_noise
from latentrl.sb3.gradient_noise import GradientVariance
from latentrl.sb3.in_place import (
    AroundActor,
    as_seen,
    begin_statistics,
    follow,
    in_space,
    refuse_noise,
    require_demonstrations,
    warn_of_wide_noise,
)
from latentrl.sb3.policy import LatentPolicy, State
from latentrl.sb3.trunk import channels_first
from latentrl.schedules import Cosine, FadeIn, KLRange, Schedule, as_schedule
from latentrl.training import CorrectiveNoise, ElboTrainer
from latentrl.training.average import check_decay
from latentrl.training.launched import Launched, devices_here, launched
from latentrl.training.parallel import Precision, check_processes

SelfBC = TypeVar("SelfBC", bound="LatentBC")


class LatentBC(BaseAlgorithm):
    """Clones demonstrations into a latent policy by maximising the ELBO.

    A *timestep* of ``learn`` is one gradient update: callbacks, logs and the progress bar count updates.

    :param policy: "LatentPolicy"; or a PPO, A2C, LatentPPO, LatentA2C, SAC, TQC, TD3 or DDPG, whose own policy is then
        trained in place, with spaces, device and VecNormalize of the agent; what is saved is the agent
    :param env: where the policy will act: gives the spaces, and callbacks such as EvalCallback ask for it; without a
        VecNormalize that is not the agent's. None takes an agent's, or else the spaces of the demonstrations
    :param demonstrations: what to clone; may be left out to load and predict
    :param learning_rate: a number or a function of the share of training that remains; 2e-3 along a cosine
    :param batch_size: segments per update (transitions where ``hold = 1``)
    :param steps_per_segment: random steps of each segment on which the decoder is scored
    :param kl_weight: β, or a schedule ``(step, kl) -> β``; 1 is the evidence lower bound. "auto" is that, too, as long
        as the KL lies between half a nat (0 where ``hold = 1``) and the log of the number of segments, and
        :class:`KLRange` where it would not: below, the latent collapses; above, it would be cheaper to name the segment
    :param kl_warmup: share of training over which the KL weight is faded in from 0
    :param noise: corrective noise on observations; "auto" is :meth:`CorrectiveNoise.estimate` where observations and
        actions are numbers, None is none
    :param max_grad_norm: gradients are clipped to this norm
    :param estimator: of the ELBO's gradient, such as ``Rebar()`` or ``ScoreFunction(LeaveOneOut())``; None is pathwise
        where the posterior is reparameterizable, else the score function. What it learns itself is left as it is
    :param num_samples: draws of z per segment; None for 1, or 4 where the estimator does not reparameterize
    :param gradient_variance_every: updates between two measurements of the gradient's variance and signal-to-noise
        ratio (:class:`GradientVariance`), each of which takes 16 gradients; None never
    :param ema_decay: d of an exponential moving average of the weights (:class:`WeightAverage`), such as .999, which
        then predicts and is saved in place of the last weights; None is off
    :param precision: "32-true", or "bf16-mixed" with matrix products in bfloat16
    :param devices: GPUs, or processes on a CPU, that share each batch and average their gradients; more than one in a
        script need ``learn`` below ``if __name__ == "__main__":``. Callbacks and logs are in this process alone. Under
        ``torchrun``: all processes that it started, on one machine or several; callbacks and logs are in the first
    :param compile: compile the loss with ``torch.compile``
    :param policy_kwargs: fields of :class:`latentrl.LatentConfig`, ``action_noise``, ``optimizer_class``, …
    :param tensorboard_log: folder for TensorBoard, or None
    :param verbose: 0 silent, 1 prints a table of logs
    :param seed: of weights, batches and latents
    :param device: "auto", "cpu", "cuda", …
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"LatentPolicy": LatentPolicy}
    policy: LatentPolicy
    num_timesteps: int
    _agent: BaseAlgorithm | None = None
    _group: Launched | None = None
    _updating = False

    def __init__(
        self,
        policy: str | type[BasePolicy] | BaseAlgorithm = "LatentPolicy",
        env: GymEnv | str | None = None,
        demonstrations: Demonstrations | None = None,
        learning_rate: float | LearningRate = Cosine(2e-3),  # noqa: B008  (frozen)
        batch_size: int = 64,
        steps_per_segment: int = 16,
        kl_weight: float | Schedule | Literal["auto"] = "auto",
        kl_warmup: float = 0.3,
        noise: CorrectiveNoise | Literal["auto"] | None = "auto",
        max_grad_norm: float | None = None,
        estimator: Estimator | None = None,
        num_samples: int | None = None,
        gradient_variance_every: int | None = None,
        ema_decay: float | None = None,
        precision: Precision = "32-true",
        devices: int = 1,
        compile: bool = False,
        policy_kwargs: dict[str, Any] | None = None,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if isinstance(policy, BaseAlgorithm):
            refuse_noise(policy)
            self._agent, device = policy, policy.device
            env = policy.get_env() if env is None else env
            policy_kwargs, policy = {**(policy_kwargs or {}), "actor": policy.policy}, "LatentPolicy"
        elif isinstance(policy, type) and not issubclass(policy, LatentPolicy):
            raise LatentRLError(
                f"{policy.__name__} is no LatentPolicy: load other agents with the class that saved them, and to clone "
                "into one give the agent itself"
            )
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=resolve_device(device),
            support_multi_env=True,
            seed=seed,
        )
        if self._agent is not None:
            self.observation_space, self.action_space = self._agent.observation_space, self._agent.action_space
            if self.env is not None:
                utils.check_for_correct_spaces(self.env, self.observation_space, self.action_space)
        self.batch_size: int = dimension("batch_size", batch_size)
        self.steps_per_segment: int = dimension("steps_per_segment", steps_per_segment)
        self._auto_weight = isinstance(kl_weight, str) and kl_weight == "auto"
        self.kl_weight: Schedule | None = None if self._auto_weight else as_schedule(kl_weight)  # type: ignore[arg-type]
        self.kl_warmup = kl_warmup
        self.noise: CorrectiveNoise | Literal["auto"] | None = as_noise(noise)
        self.max_grad_norm = max_grad_norm
        self.estimator: Estimator | None = None if estimator is None else single_sample(estimator).to(self.device)
        self.num_samples: int | None = None if num_samples is None else dimension("num_samples", num_samples)
        self.gradient_variance_every = gradient_variance_every
        self.precision: Precision = precision
        self.devices: int = devices
        self.compile: bool = compile
        self.ema_decay: float | None = None if ema_decay is None else check_decay(ema_decay)
        self._check_options()
        self.demonstrations = demonstrations
        self._range: list[float] | None = None
        self._fade_steps = 0
        self._warned = False
        if _init_setup_model:
            self._setup_model()

    # -- setup -------------------------------------------------------------------------------------------------

    def _check_options(self) -> None:
        """:raises LatentRLError: numbers out of range, or processes, precision and batch that do not go together"""
        if not 0.0 <= at_least("kl_warmup", self.kl_warmup, 0.0) <= 1.0:
            raise LatentRLError(f"kl_warmup is a share of training between 0 and 1, but {self.kl_warmup!r} was given")
        if self.max_grad_norm is not None:
            at_least("max_grad_norm", self.max_grad_norm, 0.0, infinite=True)
        if self.gradient_variance_every is not None:
            count("gradient_variance_every", self.gradient_variance_every, 1)
        here = devices_here(self.devices)
        check_processes(self.devices, self.precision, self.batch_size, self.device, here)

    def _setup_model(self) -> None:
        if self.demonstrations is not None:
            self._adopt(self.demonstrations)
        if not hasattr(self, "observation_space"):
            raise LatentRLError("LatentBC needs demonstrations or an env, to know the spaces: give at least one")
        self._check_normalizer(self.env)
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        if self.estimator is not None:
            self.estimator.to(self.device)  # a loaded one is where it was saved
        self.policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)  # type: ignore[assignment]

    def set_random_seed(self, seed: int | None = None) -> None:
        """As in the parent, but environment and action space of an agent that is cloned into keep their own."""
        if self._agent is None:
            super().set_random_seed(seed)
        elif seed is not None:
            utils.set_random_seed(seed, using_cuda=self.device.type == "cuda")

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As in the parent, but for any number of environments, as cloning does not step them.

        :raises LatentRLError: observations that VecNormalize changes
        """
        wrapped = self._wrap_env(env, self.verbose)
        self._check_normalizer(wrapped)
        self.n_envs: int = wrapped.num_envs
        super().set_env(wrapped, force_reset)

    def get_vec_normalize_env(self) -> VecNormalize | None:
        """That of the agent that is cloned into, through which it sees."""
        return super().get_vec_normalize_env() if self._agent is None else self._agent.get_vec_normalize_env()

    def _check_normalizer(self, env: VecEnv | None) -> None:
        """:raises LatentRLError: observations of the environment are not those that the policy sees"""
        if env is None:
            return
        given, own = unwrap_vec_normalize(env), None if self._agent is None else self._agent.get_vec_normalize_env()
        shown, seen = (None if found is None or not found.norm_obs else found for found in (given, own))
        if self._agent is not None and shown is not seen:
            raise LatentRLError(
                "env shows other observations than the agent sees, as one of the two is wrapped in a VecNormalize and "
                "the other is not in the same one: leave env out, then the agent's own is taken (agent.set_env)"
            )
        if shown is not seen:
            raise LatentRLError(
                "demonstrations are cloned as they are, and VecNormalize would show the policy something else: give "
                "the env without it, or with norm_obs=False (the policy standardises what it sees by itself)"
            )

    def _adopt(self, demonstrations: Demonstrations) -> None:
        """Take the demonstrations' spaces, or see the demonstrations as taken in the environment's."""
        require_demonstrations(demonstrations)
        if not hasattr(self, "observation_space"):
            self.observation_space: spaces.Space[Any] = channels_first(demonstrations.observation_space)
            self.action_space: spaces.Space[Any] = demonstrations.action_space
        self.demonstrations = in_space(demonstrations, self.observation_space, self.action_space)
        if self._agent is not None:
            begin_statistics(self._agent, self.demonstrations)
        sees_state = self.policy_kwargs.get("decoder_sees_state", True)
        check_noise(self.noise, self.demonstrations.observation_space, self.action_space, sees_state)

    def _seen(self, demonstrations: Demonstrations) -> Demonstrations:
        """Demonstrations as of the policy's spaces, and as the agent sees them that is trained."""
        fitting = in_space(demonstrations, self.observation_space, self.action_space)
        return fitting if self._agent is None else as_seen(self._agent, fitting)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "LatentBC",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """As in the parent, but the environment is not reset: cloning never steps it, and may have none."""
        self.start_time: float = time.time_ns()
        self.ep_info_buffer: deque[Any] | None = deque(maxlen=self._stats_window_size)
        self.ep_success_buffer: deque[Any] | None = deque(maxlen=self._stats_window_size)
        if reset_num_timesteps:
            self.num_timesteps = 0
            # A continued run keeps the fade of the first, or its KL weight would fall back.
            self._fade_steps = int(self.kl_warmup * total_timesteps)
        else:
            total_timesteps += self.num_timesteps
        self._total_timesteps = total_timesteps
        self._warned = False
        self._num_timesteps_at_start = self.num_timesteps
        if not self._custom_logger:
            self._logger = utils.configure_logger(self.verbose, self.tensorboard_log, tb_log_name, reset_num_timesteps)
        return total_timesteps, self._init_callback(callback, progress_bar)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        callbacks = list(callback) if isinstance(callback, list) else [_as_callback(callback)]
        if self.gradient_variance_every is not None:
            callbacks.append(GradientVariance(self.gradient_variance_every))
        if progress_bar:
            callbacks.append(UpdateBar())
        return super()._init_callback(callbacks)

    # -- learning ----------------------------------------------------------------------------------------------

    def learn(
        self: SelfBC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 100,
        tb_log_name: str = "LatentBC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        checkpoint: str | pathlib.Path | None = None,
        checkpoint_every: int = 1000,
    ) -> SelfBC:
        """Train for ``total_timesteps`` gradient updates.

        :param log_interval: updates between two lines of the log; None writes the last one alone
        :param checkpoint: folder of this run. The same command goes on where it was killed, to the same weights to the
            last bit on the same machine; a run that is finished returns at once
        :param checkpoint_every: updates between two checkpoints
        :raises LatentRLError: without demonstrations; the folder cannot be written, is of a run with other settings or
            data, or another process writes to it
        :raises FloatingPointError: where the loss stops being finite; a checkpoint is never written from such weights
        """
        total_timesteps = count("total_timesteps", total_timesteps, 1)
        log_interval = None if log_interval is None else count("log_interval", log_interval, 1)
        if self.demonstrations is None:
            raise LatentRLError("there is nothing to learn from: give demonstrations= to LatentBC or to load")
        self._group = launched(self.devices, self.precision, self.device)
        if self._group is not None and self._group.rank > 0:
            train_along(self, total_timesteps + (0 if reset_num_timesteps else self.num_timesteps), self._group)
            return self
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        if self._agent is not None:
            warn_of_wide_noise(self._agent.policy, self.demonstrations.actions)
        with nullcontext() if checkpoint is None else locked(checkpoint):
            run = Run(self, callback, total_timesteps, log_interval, checkpoint, checkpoint_every)
            if not run.finished:
                self._update(run, callback, total_timesteps, checkpoint)
            elif self._group is not None:
                self._group.tell(None)
        made = run.conclude()
        if self._group is not None:
            hand_on(self, self._group)
        return made

    def _update(self, run: Run, callback: BaseCallback, total_timesteps: int, checkpoint: Any) -> None:
        """All updates of one call of :meth:`learn`; callbacks see its arguments."""
        trainer = run.trainer
        with run.updating():
            callback.on_training_start(locals(), globals())
            run.restore_randomness()
            while self.num_timesteps < total_timesteps:
                run.before_update()
                terms = trainer.update(self.num_timesteps)
                self.num_timesteps += 1
                self._n_updates += 1
                callback.update_locals(locals())
                if not callback.on_step():
                    break
                run.after_update(terms)
            run.save(finished=True)
        callback.on_training_end()

    def _segments_on(self, demonstrations: Demonstrations, resident: bool | None = None) -> Callable[..., Cuts]:
        """Makes the segments on a device, as the policy reads them."""
        config = self.policy.config
        return partial(
            make_segments,
            demonstrations,
            config.hold,
            config.context_length,
            resident=resident,
            chunk=config.chunk,
            pads=config.pads,
            raw_observations=self.policy.model.trunk is not None,
            history=config.history,
        )

    def _fit_range(self, segments: Cuts) -> None:
        """The automatic KL weight for these data: anew where learning begins, else with its β."""
        own = isinstance(self.kl_weight, KLRange) and [self.kl_weight.low, self.kl_weight.high] == self._range
        if not self._auto_weight or not (self.kl_weight is None or own):  # one that was given since
            return
        fitting = default_kl_weight(segments)
        self._range = [fitting.low, fitting.high]
        if isinstance(self.kl_weight, KLRange) and self.num_timesteps:
            self.kl_weight.low, self.kl_weight.high = self._range
        else:
            self.kl_weight = fitting

    def _trainer(
        self, demonstrations: Demonstrations, total_timesteps: int, resident: bool | None = None
    ) -> ElboTrainer:
        model = self.policy.model
        segments = self._segments_on(demonstrations, resident)(self.device)
        self._fit_range(segments)
        assert self.kl_weight is not None
        if isinstance(model, AroundActor) and self._agent is not None:
            model.keep_learned(self._agent.policy)  # the agent may have learned since this was made
        if not bool(model.standardized):
            model.standardize(*segments.sample_rows())
        return ElboTrainer(
            model,
            segments,
            self.policy.optimizer,
            FadeIn(self.kl_weight, self._fade_steps),
            self.batch_size,
            self.steps_per_segment,
            default_noise(demonstrations, model, self.policy.config) if self.noise == "auto" else self.noise,
            self.max_grad_norm,
            total_steps=total_timesteps,
            estimator=self.estimator,
            num_samples=self.num_samples,
            compiled=self.compile,
            average=self.policy.begin_average(self.ema_decay, anew=self.num_timesteps == 0),
        )

    # -- acting and saving -------------------------------------------------------------------------------------

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        latent: Any = None,
    ) -> tuple[np.ndarray, State | None]:
        """See :meth:`LatentPolicy.predict`."""
        return self.policy.predict(observation, state, episode_start, deterministic, latent)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "demonstrations", "_agent", "_group", "_updating"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """As in stable-baselines3, but a file is written whole or not at all. Demonstrations are not saved.

        What was cloned into an agent is saved as that agent, whose class loads it.
        """
        estimator = self.estimator
        # A file written on a GPU must open without one.
        self.estimator = None if estimator is None else copy.deepcopy(estimator).cpu()
        try:
            save = super().save
            if self._agent is not None:
                if self.policy.average is not None:
                    self.policy.set_training_mode(False)  # which lets it be seen
                if self._updating:
                    follow(self._agent.policy)
                save = self._agent.save
            if not isinstance(path, (str, pathlib.Path)):
                return save(path, exclude, include)
            target = pathlib.Path(path)
            with whole(target if target.suffix else target.with_suffix(".zip")) as partial, partial.open("wb") as file:
                save(file, exclude, include)
            return None
        finally:
            self.estimator = estimator


def _as_callback(given: Any) -> BaseCallback:
    """Of a callback, a function or None."""
    return given if isinstance(given, BaseCallback) else ConvertCallback(given)
