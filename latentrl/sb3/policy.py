"""A cloned latent policy as a stable-baselines3 policy, with the latent carried as its recurrent state."""

from collections.abc import Callable
from dataclasses import asdict, fields
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from latentrl.checks import LatentRLError
from latentrl.config import LatentConfig
from latentrl.model import LatentModel
from latentrl.sb3.held import State, carry, check_observation, checked, due, given
from latentrl.sb3.in_place import config_of, model_of
from latentrl.sb3.pretrained import Pretrained
from latentrl.sb3.trunk import channels_first, make_trunk
from latentrl.spaces import features, from_features, raw, size
from latentrl.training.average import WeightAverage


class LatentPolicy(Pretrained, BasePolicy):
    """π(a|s) with a latent that is held over time.

    ``predict`` carries (z, age) as recurrent state: z (n_envs, Z) and the steps since it was drawn (n_envs, 1). A new
    z is drawn where an episode starts and, for ``hold = k``, every k steps. With chunks of T actions the state is
    (z, age, plan): what is left of the actions planned (n_envs, T·A), NaN behind the last. They are played one after
    another; a new plan is made where none is left, where z is new, and where a latent is given. With a history of H
    observations the last part of the state are the H − 1 before, oldest first (n_envs, (H−1)·O).

    What ``predict`` plays:

    - ``deterministic=False``: z drawn from the prior; given z, the mean action, because sampled action noise adds up
      and ruins cloned behaviour; ``action_noise=True`` turns it on. Of a mixture, a component is drawn and its mean
      played;
    - ``deterministic=True``: z is the mean of the prior's heaviest component; the same behaviour every time.

    Pictures may be channel-last or channel-first, in ``predict`` too.

    :param action_noise: sample from p(a|s, z) instead of taking its mode, or one of its modes
    :param features_extractor_class: one of stable-baselines3's, or your own, between observations and the latent
        model, trained with it. None takes NatureCNN for pictures and CombinedExtractor for a Dict; other observations
        need none
    :param features_extractor_kwargs: further arguments of its constructor
    :param optimizer_class: optimiser of the model's parameters, fused AdamW by default
    :param actor: a policy of PPO, A2C, LatentPPO, LatentA2C, SAC, TQC, TD3 or DDPG whose networks are decoder and
        prior, instead of new ones; ``config`` is then left to the posterior
    :param config: fields of :class:`LatentConfig`, such as ``latent_dim=8, prior="vamp", hold=0``
    :raises LatentRLError: options that are unknown or do not fit the spaces
    """

    average: WeightAverage | None = None
    """Of the weights, where training keeps one: it predicts and is saved, while training mode has the weights."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        action_noise: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
        optimizer_kwargs: dict[str, Any] | None = None,
        actor: BasePolicy | None = None,
        **config: Any,
    ) -> None:
        if optimizer_kwargs is None:
            # The fused form saves a tenth of a small step.
            optimizer_kwargs = {"fused": True} if optimizer_class is torch.optim.AdamW else {}
        super().__init__(
            channels_first(observation_space),
            action_space,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        _check_readable(self.observation_space)
        self.action_noise = action_noise
        self._in_place = actor is not None
        self.remember: Callable[[], None] | None = None
        """While it is trained to act with latents of the data: draws them anew."""
        if actor is not None:
            self.config = config_of(actor, config)
            self.model = model_of(actor, self.config)
        else:
            self.config: LatentConfig = _config(config)
            trunk = make_trunk(self.observation_space, features_extractor_class, features_extractor_kwargs)
            self.model: LatentModel = self.config.build(self.observation_space, action_space, trunk)
        # None stays None, unlike in the parent: what it stands for follows from the space.
        self._trunk_options = {
            "features_extractor_class": features_extractor_class,
            "features_extractor_kwargs": features_extractor_kwargs,
        }
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer: torch.optim.Optimizer = optimizer_class(parameters, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    @cached_property
    def _some_weight(self) -> Tensor:
        return next(self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are. The parent searches for one each time, which is a tenth of what ``predict`` takes."""
        return self._some_weight.device

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        # BasePolicy knows these two, but this constructor does not take the first.
        data.pop("normalize_images")
        data.update(
            lr_schedule=self._dummy_schedule,
            action_noise=self.action_noise,
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
            **self._trunk_options,
            **asdict(self.config),
        )
        return data

    def save(self, path: str) -> None:
        """As in the parent.

        :raises LatentRLError: the networks are those of an agent
        """
        if self._in_place:
            raise LatentRLError("the networks of this policy are an agent's: save that agent, or its policy")
        super().save(path)

    # -- the average of the weights --------------------------------------------------------------------------------

    def begin_average(self, decay: float | None, anew: bool) -> WeightAverage | None:
        """The average that training counts weights into; None where it keeps none.

        :param anew: forget the weights of earlier training
        """
        self.train()
        if decay is None:
            self.average = None
        elif anew or self.average is None or self.average.decay != decay:
            self.average = WeightAverage((p for p in self.model.parameters() if p.requires_grad), decay)
        return self.average

    def choose(self, weights: dict[str, Any]) -> None:
        """Take these weights of the model, instead of the last ones and of their average."""
        self.train()
        self.average = None
        self.model.load_state_dict(weights)

    def train(self, mode: bool = True) -> Self:
        """Training mode has the weights, evaluation their average, and the latents that it finds in the data."""
        if self.average is not None:
            self.average.hide() if mode else self.average.show()
        began = self.training and not mode
        super().train(mode)
        if began and self.remember is not None:
            self.remember()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Of what predicts."""
        if self.average is not None or self.remember is not None:
            self.train(False)
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in the parent; an average of other weights is forgotten."""
        self.average = None
        return super().load_state_dict(*args, **kwargs)

    # -- acting ----------------------------------------------------------------------------------------------------

    def _flat(self, observation: PyTorchObs) -> Float[Tensor, "B O"]:
        """What the model reads: features, or raw observations where a trunk makes them."""
        if self.model.trunk is not None:
            return raw(self.observation_space, observation)
        assert isinstance(observation, Tensor)  # a Dict always has a trunk
        return features(self.observation_space, observation)

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Actions (B, A) with a fresh latent each, the first of a plan each; :meth:`predict` is what holds them."""
        flat = self._flat(observation)
        flat = flat.repeat(1, self.config.history)
        z = self.model.sample_latent(flat, deterministic)
        return self.model.act(flat, z, self.action_noise, deterministic)[:, : self._action_dim]

    @cached_property
    def _action_dim(self) -> int:
        """Features of one action; a plan has ``config.chunk`` times as many."""
        return size("action", self.action_space)

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
        :param latent: (Z,) or (n_envs, Z) to steer: it replaces the latent from now on, until a new one is due, and
            what was planned under the old one
        :raises LatentRLError: on a state or latent of the wrong shape, an observation that does not fit the space or is
            not finite
        """
        # Telling every module takes about as long as a network; an agent's own may have learned since.
        if self.training or self.model.training or self._in_place:
            self.set_training_mode(False)
        check_observation(self.observation_space, observation)
        tensor, vectorized = self.obs_to_tensor(observation)
        with torch.no_grad():
            flat = self._flat(tensor)
            if state is not None:
                state = self._checked(state, flat.shape)
            seen, further = self._remembered(flat, state, episode_start)
            z, age, new = self._carry(seen, state, episode_start, deterministic, latent)
            act = partial(self.model.act, seen, z, self.action_noise, deterministic)
            if self.config.chunk == 1:
                actions = act()
            else:
                actions, plan = self._play(act, new, None if state is None else state[2])
                further = plan, *further
        played = from_features(self.action_space, actions)
        after = (z.cpu().numpy().copy(), (age + 1).cpu().numpy(), *(part.cpu().numpy() for part in further))
        return played if vectorized else played[0, ...], after

    def _remembered(
        self, flat: Float[Tensor, "B O"], state: State | None, episode_start: NDArray[Any] | None
    ) -> tuple[Float[Tensor, "B HO"], tuple[Tensor, ...]]:
        """The observation behind those before it, and what of them the next call needs: nothing without history."""
        earlier = self.config.history - 1
        if earlier == 0:
            return flat, ()
        first = torch.cat([flat] * earlier, -1)  # several times faster than repeat
        if state is None:
            past = first
        else:
            past = torch.as_tensor(state[-1], device=flat.device)
            past = torch.where(due(torch.as_tensor(state[1], device=flat.device), episode_start, 0), first, past)
        seen = torch.cat([past, flat], -1)
        return seen, (seen[:, flat.shape[1] :],)

    def _play(
        self, act: Callable[[], Float[Tensor, "B TA"]], new: Bool[Tensor, "B 1"], left: NDArray[Any] | None
    ) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B TA"]]:
        """The next action of every plan, and what is then left; plans are made anew where the latent is or none is."""
        if left is None:
            plan = self._planned(act)
        else:
            plan = torch.as_tensor(left, device=new.device)
            empty = new | plan[:, :1].isnan()
            if bool(empty.any()):
                plan = torch.where(empty, self._planned(act), plan)
        now, later = plan.tensor_split((self._action_dim,), -1)
        return now, torch.cat([later, torch.full_like(now, torch.nan)], -1)

    def _planned(self, act: Callable[[], Float[Tensor, "B TA"]]) -> Float[Tensor, "B TA"]:
        """New plans, with nothing behind what is played of them."""
        plan = act()
        plan[:, self.config.plays * self._action_dim :] = torch.nan
        return plan

    def _carry(
        self,
        flat: Float[Tensor, "B O"],
        state: State | None,
        episode_start: NDArray[Any] | None,
        deterministic: bool,
        latent: Any,
    ) -> tuple[Float[Tensor, "B Z"], Tensor, Bool[Tensor, "B 1"]]:
        """The latents to play now, their ages (B, 1) and which are new: kept, drawn where due, or the user's."""
        shape = len(flat), self.model.latent_dim
        draw = partial(self.model.sample_latent, flat, deterministic)
        z, age, new = carry(draw, self.config.held_steps, state, episode_start, shape, flat.device)
        if latent is not None:
            z, new = given(latent, shape, flat.device), torch.ones_like(new)
        return z, age, new

    def _checked(self, state: State, observed: tuple[int, ...]) -> State:
        count, features_dim = observed
        expected = {"latent": (count, self.model.latent_dim), "age": (count, 1)}
        if self.config.chunk > 1:
            expected["plan"] = (count, self.config.chunk * self._action_dim)
        if self.config.history > 1:
            expected["observations"] = (count, (self.config.history - 1) * features_dim)
        return checked(state, expected)


def _check_readable(space: spaces.Space[Any]) -> None:
    """:raises LatentRLError: observations that stable-baselines3 cannot tell one from many of"""
    for leaf in space.spaces.values() if isinstance(space, spaces.Dict) else (space,):
        if isinstance(leaf, spaces.MultiDiscrete) and leaf.nvec.ndim > 1:
            raise LatentRLError(
                f"stable-baselines3 does not read observations of {leaf}: flatten them to MultiDiscrete of one row"
            )


def _config(given: dict[str, Any]) -> LatentConfig:
    known = {field.name for field in fields(LatentConfig)}
    unknown = given.keys() - known
    if "net_arch" in unknown:
        raise LatentRLError("net_arch is for policies of agents: give hidden=(64, 64), and encoder_hidden")
    if unknown:
        raise LatentRLError(
            f"unknown policy option {', '.join(map(repr, sorted(unknown)))}: choose among {', '.join(sorted(known))}"
        )
    return LatentConfig(**given)
