"""A cloned latent policy as a stable-baselines3 policy, with the latent carried as its recurrent state."""

from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from latentrl.checks import LatentRLError
from latentrl.config import LatentConfig
from latentrl.spaces import features, from_features

State = tuple[np.ndarray, ...]


class LatentPolicy(BasePolicy):
    """π(a|s) with a latent that is held over time.

    ``predict`` carries (z, age) as recurrent state: z (n_envs, Z) and the steps since it was drawn (n_envs, 1). A new
    z is drawn where an episode starts and, for ``hold = k``, every k steps.

    What ``predict`` plays:

    - ``deterministic=False``: z drawn from the prior; given z, the mean action (the mode of p(a|s, z)), because
      sampled action noise adds up and ruins cloned behaviour; ``action_noise=True`` turns it on;
    - ``deterministic=True``: z is the mean of the prior's heaviest component; the same behaviour every time.

    :param config: fields of :class:`LatentConfig`, such as ``latent_dim=8, prior="vamp", hold=0``
    :param action_noise: sample from p(a|s, z) instead of taking its mode
    :param optimizer_class: optimiser of the model's parameters, fused AdamW by default
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        action_noise: bool = False,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
        optimizer_kwargs: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        if optimizer_kwargs is None:
            # The fused form saves a tenth of a small step.
            optimizer_kwargs = {"fused": True} if optimizer_class is torch.optim.AdamW else {}
        super().__init__(
            observation_space, action_space, optimizer_class=optimizer_class, optimizer_kwargs=optimizer_kwargs
        )
        self.config = _config(config)
        self.action_noise = action_noise
        self.model = self.config.build(observation_space, action_space)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = optimizer_class(parameters, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        # BasePolicy knows these two, but this constructor does not take the first.
        data.pop("normalize_images")
        data.update(
            lr_schedule=self._dummy_schedule,
            action_noise=self.action_noise,
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
            **asdict(self.config),
        )
        return data

    def _features(self, observation: PyTorchObs) -> Float[Tensor, "B O"]:
        assert isinstance(observation, Tensor)  # Dict spaces are refused when the model is built
        return features(self.observation_space, observation)

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Actions (B, A) with a fresh latent each; :meth:`predict` is what holds it."""
        flat = self._features(observation)
        z = self.model.sample_latent(flat, deterministic)
        return self.model.act(flat, z, self.action_noise and not deterministic)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        latent: Any = None,
    ) -> tuple[np.ndarray, State | None]:
        """Actions for observations, and the state to pass to the next call.

        :param state: what the last call returned; None where every environment starts an episode
        :param episode_start: (n_envs,) which environments start one now; None where none does
        :param latent: (Z,) or (n_envs, Z) to steer: it replaces the latent from now on, until a new one is due
        :raises LatentRLError: on a state or latent of the wrong shape
        """
        self.set_training_mode(False)
        if isinstance(observation, tuple):
            raise LatentRLError(
                "predict was given a tuple: env.reset() of Gymnasium returns (observation, info); pass the first"
            )
        tensor, vectorized = self.obs_to_tensor(observation)
        with torch.no_grad():
            flat = self._features(tensor)
            z, age = self._carry(flat, state, episode_start, deterministic, latent)
            actions = self.model.act(flat, z, self.action_noise and not deterministic)
        played = from_features(self.action_space, actions)
        return played if vectorized else played[0], (z.cpu().numpy().copy(), (age + 1).cpu().numpy())

    def _carry(
        self,
        flat: Float[Tensor, "B O"],
        state: State | None,
        episode_start: NDArray[Any] | None,
        deterministic: bool,
        latent: Any,
    ) -> tuple[Float[Tensor, "B Z"], Tensor]:
        """The latents to play now and their ages (B, 1): kept, drawn anew where due, or the user's."""
        count, size = len(flat), self.model.latent_dim
        if state is None:
            z, age = self.model.sample_latent(flat, deterministic), flat.new_zeros(count, 1, dtype=torch.int64)
        else:
            z, age = (torch.as_tensor(part, device=flat.device) for part in self._checked(state, count))
            due = self._due(age, episode_start)
            if bool(due.any()):
                z = torch.where(due, self.model.sample_latent(flat, deterministic), z)
                age = torch.where(due, 0, age)
        if latent is not None:
            given = torch.as_tensor(np.asarray(latent, dtype=np.float32), device=flat.device)
            if given.shape not in ((size,), (count, size)):
                raise LatentRLError(f"latent has shape {tuple(given.shape)}: give ({size},) or ({count}, {size})")
            z = given.expand(count, size)
        return z, age

    def _due(self, age: Tensor, episode_start: NDArray[Any] | None) -> Bool[Tensor, "B 1"]:
        due = torch.zeros_like(age, dtype=torch.bool)
        if episode_start is not None:
            due = torch.as_tensor(np.asarray(episode_start, dtype=bool).reshape(-1, 1), device=age.device)
            if due.shape != age.shape:
                raise LatentRLError(f"episode_start has {len(due)} entries for {len(age)} environments")
        return due | (age >= self.config.hold) if self.config.hold else due

    def _checked(self, state: State, count: int) -> State:
        expected = ((count, self.model.latent_dim), (count, 1))
        if len(state) != 2 or tuple(np.shape(part) for part in state) != expected:
            raise LatentRLError(
                f"state must be (latent {expected[0]}, age {expected[1]}) as predict returned it, but its shapes are "
                f"{[np.shape(part) for part in state]}: pass None at the start"
            )
        return state


def _config(given: dict[str, Any]) -> LatentConfig:
    known = {field.name for field in fields(LatentConfig)}
    unknown = given.keys() - known
    if unknown:
        raise LatentRLError(
            f"unknown policy option {', '.join(map(repr, sorted(unknown)))}: choose among {', '.join(sorted(known))}"
        )
    return LatentConfig(**given)
