"""Pictures of what an agent does under one latent after another, drawn while it learns."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import Env, spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecNormalize,
    sync_envs_normalization,
    unwrap_vec_normalize,
    unwrap_vec_wrapper,
)
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, count, instance
from latentrl.distributions import OneHots
from latentrl.files import output_folder, whole
from latentrl.metrics.arrays import finite
from latentrl.sb3.actor_critic import LatentActorCriticPolicy
from latentrl.sb3.latent_noise import OBSERVATION, LatentNoiseWrapper
from latentrl.sb3.policy import LatentPolicy
from latentrl.sb3.seeding import frozen, undisturbed
from latentrl.sb3.traversal_rows import Moments, Row, overlay


class Player(Protocol):
    """An agent that can be told the latent."""

    def rows(self, observations: Any, values: NDArray[Any], dimensions: Sequence[int] | None) -> list[Row]:
        """What there is to try, at observations (n_envs, …) of the first step."""

    def begin(self, latent: NDArray[Any] | None) -> None:
        """Play this from the next reset on; None goes back to drawing."""

    def act(self, observations: Any, deterministic: bool) -> NDArray[Any]: ...


class LatentTraversal(BaseCallback):
    """Draws what the agent does under one latent after another: a PNG every so often, in TensorBoard too.

    For agents whose latent is held: LatentPPO, LatentA2C, :class:`LatentBC`, and stock agents behind
    :class:`LatentNoiseWrapper`, of which ``eval_env`` then needs one, too. A continuous latent is moved along one
    dimension after another, from the prior's mean; a categorical one takes each of its choices. Every latent plays one
    episode from the same start. Where observations are a place in the plane, or ``position`` says where they lie,
    paths are drawn, one colour for each latent; elsewhere a picture for each latent, of several moments laid over each
    other, later ones stronger. Those need ``render_mode="rgb_array"`` and a camera that stands still.

    Files are ``folder/traversal_STEPS.png``; TensorBoard has them as ``latent/traversal``. Random numbers of learning
    are as they would be without.

    :param eval_env: one environment or several; paths are drawn of all, pictures of the first
    :param folder: where pictures go; what is there stays
    :param eval_freq: calls of the callback between two pictures
    :param values: of a dimension, in standard deviations of the prior at the start
    :param dimensions: which of them are moved; None moves all, for Z · len(values) episodes
    :param position: observations of all environments, as the environment gives them, to places (n_envs, 2)
    :param moments: of an episode that are laid over each other
    :param deterministic: given z, play the mode of the policy
    :param seed: of the environments, at each start
    :raises LatentRLError: sizes < 1, no values, dimensions that are not there; a folder that cannot be written; where
        learning starts, an agent without a latent that is held, or an environment that shows neither place nor picture
    """

    def __init__(
        self,
        eval_env: Env[Any, Any] | VecEnv,
        folder: str | Path,
        eval_freq: int = 10_000,
        values: Sequence[float] = (-2.0, -1.0, 0.0, 1.0, 2.0),
        dimensions: Sequence[int] | None = None,
        position: Callable[[Any], Any] | None = None,
        moments: int = 6,
        deterministic: bool = True,
        seed: int = 0,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.eval_env: VecEnv = BaseAlgorithm._wrap_env(eval_env, monitor_wrapper=False)
        self.folder: Path = output_folder(folder, overwrite=True)
        self.eval_freq: int = count("eval_freq", eval_freq, 1)
        self.moments: int = count("moments", moments, 1)
        self.values: NDArray[np.float32] = finite("values", values, "N").astype(np.float32)
        self.dimensions: Sequence[int] | None = dimensions
        self.deterministic: bool = deterministic
        self.seed: int = count("seed", seed, 0)
        place = _place(self.eval_env.observation_space)
        self.position: Callable[[Any], Any] | None = (
            place if position is None else instance("position", position, Callable)
        )

    def _on_training_start(self) -> None:
        self._player = player_of(self.model, self.eval_env)
        if self.position is None and self.eval_env.render_mode != "rgb_array":
            raise LatentRLError(
                f"nothing to draw: observations of {self.eval_env.observation_space} are no place in the plane; say "
                "where they lie by position=…, or make the environment with render_mode='rgb_array'"
            )

        with self._undisturbed():  # what is asked for may not be there
            self._rows()

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq == 0:
            self._draw()
        return True

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Observations are normalised as the agent's are now, and all goes on as before."""
        if self.model.get_vec_normalize_env() is not None:
            try:
                sync_envs_normalization(self.training_env, self.eval_env)
            except AssertionError as error:
                raise LatentRLError(
                    "the agent's environment is wrapped in VecNormalize, and eval_env is not wrapped alike: do the same"
                ) from error
        with frozen(self.eval_env), undisturbed(self.model):
            yield

    def _rows(self) -> list[Row]:
        return self._player.rows(self._start(), self.values, self.dimensions)

    def _draw(self) -> None:
        from latentrl.sb3.traversal_figures import path_figure, picture_figure

        with self._undisturbed():
            rows = self._rows()
            try:
                shown = [[self._episode(latent) for latent in row.latents] for row in rows]
            finally:  # or what is evaluated there next would go on under this latent
                self._player.begin(None)
        figure = picture_figure(rows, shown) if self.position is None else path_figure(rows, shown)
        figure.suptitle(f"{type(self.model).__name__} after {self.num_timesteps:,} steps, one latent after another")
        with whole(self.folder / f"traversal_{self.num_timesteps}.png") as partial:
            figure.savefig(partial, dpi=120)
        unseen = ("stdout", "log", "json", "csv")
        self.logger.record("latent/traversal", Figure(figure, close=False), exclude=unseen)

    def _start(self) -> Any:
        self.eval_env.seed(self.seed)
        return self.eval_env.reset()

    def _episode(self, latent: NDArray[Any]) -> Any:
        """The path (T, 2) of each environment, or the picture of the first."""
        env, player, position = self.eval_env, self._player, self.position
        player.begin(latent)
        observations = self._start()
        running = np.arange(env.num_envs) < (1 if position is None else env.num_envs)
        paths: list[list[Any]] = [[] for _ in range(env.num_envs)]
        kept = Moments(self.moments)
        while running.any():
            if position is None:
                kept.offer(lambda: env.get_images()[0])
            else:
                places = np.asarray(position(_original(env, observations)))
                for i in np.flatnonzero(running):
                    paths[i].append(places[i])
            observations, _, dones, infos = env.step(player.act(observations, self.deterministic))
            for i in np.flatnonzero(running & dones):
                last = infos[i].get("terminal_observation")
                if position is not None and last is not None:
                    paths[i].append(np.asarray(position(_batch_of_one(_unnormalized(env, last))))[0])
            running = running & ~dones
        return overlay(kept.pictures()) if position is None else [np.array(path) for path in paths]


# -- agents that can be told the latent ------------------------------------------------------------------------------


def player_of(model: BaseAlgorithm, env: VecEnv) -> Player:
    """The agent as one that can be told its latent.

    :raises LatentRLError: it has none that is held
    """
    policy = model.policy
    if isinstance(policy, (LatentActorCriticPolicy, LatentPolicy)):
        return Steered(policy)
    wrapper = unwrap_vec_wrapper(env, LatentNoiseWrapper)
    if wrapper is None:
        raise LatentRLError(
            f"{type(model).__name__} with {type(policy).__name__} has no latent that is held, so there is none to try: "
            "LatentTraversal is for LatentPPO, LatentA2C, LatentBC, and agents whose eval_env is behind a "
            "LatentNoiseWrapper"
        )
    assert isinstance(wrapper, LatentNoiseWrapper)
    return _Noisy(model, wrapper)


class Steered:
    """A policy whose ``predict`` takes a latent."""

    def __init__(self, policy: LatentActorCriticPolicy | LatentPolicy) -> None:
        if isinstance(policy, LatentPolicy) and policy.config.latent_dim == 0:
            raise LatentRLError("the cloned policy has latent_dim=0, so there is no latent to try")
        self.policy: Any = policy
        self.hold: int = policy.config.hold if isinstance(policy, LatentPolicy) else policy.hold
        self.state: Any = None
        _refuse_unheld(self.hold)

    def rows(self, observations: Any, values: NDArray[Any], dimensions: Sequence[int] | None) -> list[Row]:
        policy = self.policy
        policy.set_training_mode(False)
        with torch.no_grad():
            seen, _ = policy.obs_to_tensor(observations)
            if isinstance(policy, LatentPolicy):
                law = policy.model.latent_law(policy._remembered(policy._flat(seen), None, None)[0])
            else:
                law = policy._law(policy.features_of(seen))
            if isinstance(law, OneHots):
                return _choice_rows(law)
            center, spread = (part[0].cpu().numpy() for part in _mean_and_sd(law))
        return _value_rows(center, spread, values, dimensions, "z")

    def begin(self, latent: NDArray[Any] | None) -> None:
        self.latent: NDArray[Any] | None = latent
        self.steps: int = 0
        self.state = None

    def act(self, observations: Any, deterministic: bool) -> NDArray[Any]:
        # Once is enough, until the policy would draw another: each time would spoil its plans of several actions.
        due = self.steps == 0 or (self.hold > 0 and self.steps % self.hold == 0)
        latent = self.latent if due else None
        actions, self.state = self.policy.predict(observations, self.state, None, deterministic, latent)
        self.steps += 1
        return actions


class _Noisy:
    """An agent behind a wrapper that shows it noise."""

    def __init__(self, model: BaseAlgorithm, wrapper: LatentNoiseWrapper) -> None:
        self.model, self.wrapper = model, wrapper
        self.state: Any = None
        _refuse_unheld(wrapper.hold)

    def rows(self, observations: Any, values: NDArray[Any], dimensions: Sequence[int] | None) -> list[Row]:  # noqa: ARG002
        size = self.wrapper.latent_dim
        if self.wrapper.kind == "categorical":
            return [Row("", [f"choice {i}" for i in range(size)], np.arange(size))]
        return _value_rows(np.zeros(size, np.float32), np.ones(size, np.float32), values, dimensions, "ε")

    def begin(self, latent: NDArray[Any] | None) -> None:
        self.wrapper.hold_noise(latent)
        self.state = None

    def act(self, observations: Any, deterministic: bool) -> NDArray[Any]:
        actions, self.state = self.model.predict(observations, state=self.state, deterministic=deterministic)
        return actions


def _refuse_unheld(hold: int) -> None:
    if hold == 1:
        raise LatentRLError(
            "hold=1 draws the latent anew at each step: one that is not held has no behaviour of its own to draw; take "
            "hold=0 (the episode) or hold=k"
        )


def _mean_and_sd(law: Distribution) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        return law.mean, law.stddev
    except NotImplementedError:  # of flows, which have no closed form
        draws = law.sample((1000,))
        return draws.mean(0), draws.std(0)


def _value_rows(
    center: NDArray[Any], spread: NDArray[Any], values: NDArray[Any], dimensions: Sequence[int] | None, symbol: str
) -> list[Row]:
    chosen = range(len(center)) if dimensions is None else dimensions
    if not all(0 <= d < len(center) for d in chosen):
        raise LatentRLError(f"dimensions {tuple(chosen)} of a latent that has 0 … {len(center) - 1}: choose of these")
    names = [f"{value:+g} sd".replace("-", "−") if value else "mean" for value in values]
    axes = np.eye(len(center), dtype=np.float32)
    return [Row(f"${symbol}_{{{d}}}$", names, center + np.outer(values, spread * axes[d])) for d in chosen]


def _choice_rows(law: OneHots) -> list[Row]:
    """Each option of each choice, with the others at their likeliest."""
    mode, rows, start = law.mode[0].cpu().numpy(), [], 0
    for index, size in enumerate(law.sizes):
        latents = np.tile(mode, (size, 1))
        latents[:, start : start + size] = np.eye(size)
        title = f"$z_{{{index}}}$" if len(law.sizes) > 1 else ""
        rows.append(Row(title, [f"choice {option}" for option in range(size)], latents))
        start += size
    return rows


# -- what is seen ----------------------------------------------------------------------------------------------------


def _place(space: spaces.Space[Any]) -> Callable[[Any], Any] | None:
    """How to read a place off observations that are nothing else."""
    if isinstance(space, spaces.Dict):
        inner = _place(space.spaces[OBSERVATION]) if OBSERVATION in space.spaces else None
        return None if inner is None else lambda observations: observations[OBSERVATION]
    return (lambda observations: observations) if isinstance(space, spaces.Box) and space.shape == (2,) else None


def _original(env: VecEnv, observations: Any) -> Any:
    normalizer = unwrap_vec_normalize(env)
    return observations if normalizer is None else normalizer.get_original_obs()


def _unnormalized(env: VecEnv, observation: Any) -> Any:
    normalizer: VecNormalize | None = unwrap_vec_normalize(env)
    return observation if normalizer is None else normalizer.unnormalize_obs(observation)


def _batch_of_one(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {name: part[None] for name, part in observation.items()}
    return observation[None]
