"""One environment in numpy, for ``gym.make``: a view of the same pure functions that the vector environment batches."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from latentrl_envs.task import Task, build_task


class TorchEnv(gym.Env[np.ndarray, Any]):
    """A task as an ordinary ``gymnasium.Env``.

    The state is float64; observations have the dtype of the observation space. ``reset`` draws its uniforms from
    Gymnasium's ``np_random``, so ``reset(seed=0)`` starts ``latentrl/Pendulum-v1`` where it starts ``Pendulum-v1`` (the
    vector environment has generators of its own: there the same seed starts elsewhere). The time limit is a wrapper
    that ``gym.make`` adds. One torch step costs more than a numpy step: for many environments use ``gym.make_vec``.

    Args:
        func_env: a task, or "module:Class" naming one.
        render_mode: one of the task's ``metadata["render_modes"]``, or None.
        task_kwargs: arguments of the task, where ``func_env`` is a name.

    Raises:
        TypeError: an argument that the task does not know, or a render mode that it lacks.
        ValueError: a bad value of an argument of the task.
    """

    # All that any task can offer, where gym.make looks before there is an instance; an instance has its task's own.
    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 30}  # noqa: RUF012 - gym.Env's type

    def __init__(self, func_env: Task | str, render_mode: str | None = None, **task_kwargs: Any) -> None:
        self.func_env = build_task(func_env, **task_kwargs)
        self.metadata = dict(self.func_env.metadata)
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            # SB3's make_vec_env tries "rgb_array" and understands from a TypeError that there are no pictures.
            raise TypeError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
        self.render_mode = render_mode
        # Copies, as several environments of one task are seeded apart.
        self.observation_space = copy.deepcopy(self.func_env.observation_space)
        self.action_space = copy.deepcopy(self.func_env.action_space)
        self._state: Tensor | None = None
        self._action: Tensor | None = None
        self._render_state: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; a seed restarts the random numbers.

        Raises:
            ValueError: ``options`` is not empty; there are none.
        """
        if options:
            raise ValueError(f"reset takes no options, got {sorted(options)}")
        super().reset(seed=seed)
        noise = torch.from_numpy(self.np_random.random(self.func_env.initial_noise_dim))
        self._state, self._action = self.func_env.initial(noise), None
        if self._render_state is not None:
            self.func_env.render_begin(self._render_state)
        return self._seen(self._state), self._told(self._state)

    @torch.no_grad()
    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one step.

        Raises:
            gymnasium.error.ResetNeeded: ``reset`` was never called.
            ValueError: the action has another shape than the action space, is not finite, or is none of the choices;
                the state is unharmed.
        """
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        push = self._checked(action)
        task, state = self.func_env, self._state
        next_state = task.transition(state, push, None)
        reward = float(task.reward(state, push, next_state, None))
        terminated = bool(task.terminal(next_state))
        self._state, self._action = next_state, push
        return self._seen(next_state), reward, terminated, False, self._told(next_state)

    def _checked(self, action: Any) -> Tensor:
        """Return the action as a tensor that is fit for a step."""
        space = self.action_space
        if isinstance(space, Discrete):
            if not space.contains(action):
                raise ValueError(f"an action must be an integer from 0 to {space.n - 1}, got {action!r}")
            return torch.tensor(int(action), device="cpu")  # whatever the default device: so is the state
        push = torch.tensor(np.asarray(action, dtype=np.float64), device="cpu")
        if push.shape != space.shape or not push.isfinite().all():
            raise ValueError(f"an action must be finite numbers of shape {space.shape}, got {action!r}")
        return push

    def _seen(self, state: Tensor) -> np.ndarray:
        if self.render_mode == "human":
            self.render()
        return self.func_env.observation(state, None).numpy().astype(self.observation_space.dtype)

    def _told(self, state: Tensor) -> dict[str, Any]:
        return {key: value.item() for key, value in self.func_env.state_info(state).items()}

    def render(self) -> Any:
        """Return the picture (H, W, 3) of the present state, or None in mode "human", which shows it at every step.

        Raises:
            gymnasium.error.ResetNeeded: ``reset`` was never called.
            gymnasium.error.DependencyNotInstalled: the task draws with a package that is missing.
        """
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without a render_mode: give one to gym.make")
            return None
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before render()")
        if self._render_state is None:
            self._render_state = self.func_env.render_init(render_mode=self.render_mode)
        self._render_state, image = self.func_env.render_image(self._state, self._render_state, action=self._action)
        return image

    def close(self) -> None:
        """Close the window, if there is one. Closing twice does nothing more."""
        if self._render_state is not None:
            self.func_env.render_close(self._render_state)
            self._render_state = None
