"""What rewards for exploration share: a model that is learned on the way, from the states that were reached."""

import json
import pickle
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, is_vecenv_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor, nn

from latentrl.checks import LatentRLError, at_least, count, dimension, layer_sizes, resolve_device
from latentrl.files import whole
from latentrl.randomness import same_randomness
from latentrl.sb3.latent_noise import NOISE
from latentrl.sb3.reached_states import Features, StateFeatures, length, reached_states

CLIP = 5.0
"""Standard deviations at which features and bonuses are cut, as by Burda et al. (2019, section 2.4)."""

SelfBonus = TypeVar("SelfBonus", bound="ExplorationBonus")


class ExplorationBonus(VecEnvWrapper):
    """Base of rewards for exploration: ``extrinsic`` · reward + ``scale`` · bonus.

    The bonus is for the state that an action leads to; where an episode ends that is its last one, not the first of the
    next. It is what the model says before it learns from that state, and 0 until the model has learned from a batch.
    Spaces are as they were. With ``training=False``, as for evaluation, nothing is learned and rewards pass unchanged.
    VecNormalize goes outside. Random numbers come from a stream of its own. A replay buffer keeps bonuses as they were
    when they were given, though the model has learned since: for SAC and TD3 take a small ``buffer_size``.

    :param venv: the environments
    :param scale: weight of the bonus
    :param extrinsic: weight of the environment's own reward; 0 to explore without it
    :param training: whether to learn and to add the bonus
    :param features: a function of a batch of observations that returns what the model looks at (N, D), such as
        positions or codes of pictures; None is all of the observation but a part named "latent_noise"
    :param train_every: transitions between two gradient steps
    :param batch_size: of the gradient steps
    :param buffer_size: latest transitions that are kept
    :param learning_rate: of Adam
    :param hidden: layer sizes of the networks
    :param seed: of weights, batches and draws; None draws it from torch's generator
    :param device: of the networks
    :raises LatentRLError: no VecEnv, a VecNormalize inside, options out of range, observations that cannot be read
    """

    name: ClassVar[str]
    model: nn.Module

    def __init__(
        self,
        venv: VecEnv,
        scale: float = 1.0,
        extrinsic: float = 1.0,
        training: bool = True,
        features: Features | None = None,
        train_every: int = 8,
        batch_size: int = 256,
        buffer_size: int = 10_000,
        learning_rate: float = 1e-3,
        hidden: Sequence[int] = (128, 128),
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        if not isinstance(venv, VecEnv):
            raise LatentRLError(f"{type(self).__name__} takes a VecEnv, got {venv!r}: make it with make_vec_env")
        if is_vecenv_wrapped(venv, VecNormalize):
            raise LatentRLError(
                "VecNormalize keeps the rewards that off-policy algorithms store, so it must see the bonus and go "
                f"outside: VecNormalize({type(self).__name__}(env))"
            )
        super().__init__(venv)
        self.scale: float = float(at_least("scale", scale, 0.0))
        self.extrinsic: float = float(at_least("extrinsic", extrinsic, 0.0))
        self.training = training
        self.train_every: int = count("train_every", train_every, 1)
        self.batch_size: int = dimension("batch_size", batch_size)
        self.buffer_size: int = dimension("buffer_size", buffer_size, self.batch_size)
        self.learning_rate: float = float(at_least("learning_rate", learning_rate, 0.0))
        self.hidden: tuple[int, ...] = layer_sizes("hidden", hidden)
        self.random_seed: int = int(torch.randint(2**31, ())) if seed is None else count("seed", seed, 0)
        self.device: torch.device = resolve_device(device)
        self._features = StateFeatures(self.observation_space, features, self._hidden_parts())
        self.feature_dim: int = self._features.size
        self.seen: int = 0
        self.updates: int = 0
        self._steps = 0
        self._statistics = {"features": RunningMeanStd(shape=(self.feature_dim,)), "nats": RunningMeanStd()}
        with self._own_randomness():
            self.model = self._make_model().to(self.device)
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=self.learning_rate)
        self._rows = torch.zeros(self.buffer_size, self._context_dim + self.feature_dim, device=self.device)
        self._context = torch.zeros(self.num_envs, self._context_dim, device=self.device)
        self._recent: dict[str, deque[float]] = {}

    # -- what members add --------------------------------------------------------------------------------------

    _context_dim = 0
    """Numbers that go with a transition beside the state it leads to."""

    def _hidden_parts(self) -> tuple[str, ...]:
        """Names of parts of the observation that the model does not look at."""
        return (NOISE,)

    def _make_model(self) -> nn.Module:
        raise NotImplementedError

    def _context_of(self, observations: Any) -> Float[Tensor, "N C"]:
        """What goes with a transition, of the observation that it starts from."""
        return torch.zeros(length(observations), 0, device=self.device)

    def _nats(self, context: Float[Tensor, "B C"], inputs: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """What the model says of standardised states; its mean is what training raises or lowers."""
        raise NotImplementedError

    def _loss(self, context: Float[Tensor, "B C"], inputs: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
        raise NotImplementedError

    def _bonus(self, nats: NDArray[np.float64]) -> NDArray[np.float64]:
        """The bonus of one step of all environments, from its nats."""
        return nats

    def _arguments(self) -> dict[str, Any]:
        """Arguments of the constructor that a file keeps."""
        names = "scale", "extrinsic", "train_every", "batch_size", "buffer_size", "learning_rate", "hidden"
        return {name: getattr(self, name) for name in names} | {"seed": self.random_seed}

    # -- stepping ----------------------------------------------------------------------------------------------

    def reset(self) -> VecEnvObs:
        observations = self.venv.reset()
        if self.training:
            self._context = self._context_of(observations)
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        if self.training:
            bonus = self.scale * self._learned(reached_states(observations, dones, infos))
            self._context = self._context_of(observations)
            self._note(bonus=bonus.mean(), reward=rewards.mean())
            rewards = (self.extrinsic * rewards + bonus).astype(np.float32)
        return observations, rewards, dones, infos

    def env_method(self, method_name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """As in the parent.

        :raises LatentRLError: HerReplayBuffer asks for rewards, which would be without the bonus
        """
        if self.training and method_name == "compute_reward":
            raise LatentRLError(
                f"HerReplayBuffer makes rewards anew, and {type(self).__name__} cannot add its bonus to them: take "
                "another replay buffer, or no reward for exploration"
            )
        return super().env_method(method_name, *args, **kwargs)

    def nats(self, observations: Any) -> NDArray[np.float64]:
        """What the model says of observations, as the environments give them, (N,); the same at each call."""
        with self._own_randomness():
            return self._said(self._context_of(observations), self._tensor(self._features(observations)))

    def _learned(self, reached: Any) -> NDArray[np.float64]:
        """The bonus of the states that were reached, from which the model then learns."""
        numbers = self._features(reached)
        self._statistics["features"].update(numbers)
        values, bonus = self._tensor(numbers), np.zeros(len(numbers))
        self._steps += 1
        with self._own_randomness(self._steps):
            if self.updates:
                nats = self._said(self._context, values)
                bonus = self._bonus(nats)
                self._note(nats=nats.mean())
            places = torch.arange(self.seen, self.seen + len(values), device=self.device) % self.buffer_size
            self._rows[places] = torch.cat([self._context, values], -1)
            due = self.seen // self.train_every
            self.seen += len(values)
            if self.seen >= self.batch_size:
                for _ in range(self.seen // self.train_every - due):
                    self._update()
        return bonus

    @torch.no_grad()
    def _said(self, context: Float[Tensor, "B C"], values: Float[Tensor, "B D"]) -> NDArray[np.float64]:
        return self._nats(context, self._standardized(values)).cpu().numpy().astype(np.float64)

    def _update(self) -> None:
        self._optimizer.zero_grad()
        context, values = self._batch()
        loss = self._loss(context, self._standardized(values))
        loss.backward()
        self._optimizer.step()
        self.updates += 1
        self._note(loss=float(loss.detach()))

    def _batch(self) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B D"]]:
        """Random transitions among those kept."""
        index = torch.randint(min(self.seen, self.buffer_size), (self.batch_size,), device=self.device)
        context, values = self._rows[index].split([self._context_dim, self.feature_dim], -1)
        return context, values

    def _standardized(self, values: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        moments = self._statistics["features"]
        mean, deviation = self._tensor(moments.mean), self._tensor(np.sqrt(moments.var + 1e-8))
        return ((values - mean) / deviation).clamp(-CLIP, CLIP)

    @contextmanager
    def _own_randomness(self, number: int = 0) -> Iterator[None]:
        """One of this wrapper's own streams of random numbers; torch's goes on after the block as before it."""
        seed = np.random.SeedSequence([self.random_seed, number]).generate_state(1)[0]
        with same_randomness(self.device, int(seed)):
            yield

    def _tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=self.device)

    # -- figures and files -------------------------------------------------------------------------------------

    def _note(self, **values: float) -> None:
        for key, value in values.items():
            self._recent.setdefault(key, deque(maxlen=1000)).append(float(value))

    def figures(self) -> dict[str, float]:
        """Means over the last 1000 steps: the bonus as it was added, the reward that came from inside, nats, loss."""
        return {f"{self.name}_{key}": float(np.mean(values)) for key, values in self._recent.items()}

    def save(self, path: str | Path) -> None:
        """Write all that bonuses follow from, with the transitions kept, to one .npz file, whole or not at all.

        The file holds numbers and text, no code; a function given as ``features`` is not in it.
        """
        counts = {"seen": self.seen, "updates": self.updates, "steps": self._steps, "context_dim": self._context_dim}
        about = {"kind": type(self).__name__, "options": self._arguments(), "counts": counts}
        arrays = {"about": np.array(json.dumps(about)), "rows": self._rows[: self.seen].cpu().numpy()}
        for name, moments in self._statistics.items():
            parts = {"mean": moments.mean, "var": moments.var, "count": moments.count}
            arrays |= {f"{name}.{key}": np.asarray(value) for key, value in parts.items()}
        arrays |= {f"model.{key}": value.cpu().numpy() for key, value in self.model.state_dict().items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{index}.{key}": value.cpu().numpy() for key, value in state.items()}
        with whole(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(
        cls: type[SelfBonus],
        path: str | Path,
        venv: VecEnv,
        training: bool = True,
        features: Features | None = None,
        device: torch.device | str = "auto",
    ) -> SelfBonus:
        """Wrap environments as they were wrapped when the file was saved; training goes on where it was.

        :raises LatentRLError: no file of this class, or one for other observations or latents
        """
        about, arrays = _read(path, cls.__name__)
        made = cls(venv, training=training, features=features, device=device, **about["options"])
        shape = about["counts"]["context_dim"], arrays["rows"].shape[1] - about["counts"]["context_dim"]
        if shape != (made._context_dim, made.feature_dim):
            raise LatentRLError(
                f"{str(path)!r} was saved for latents and features of sizes {shape}, but here they have "
                f"{(made._context_dim, made.feature_dim)}: wrap the environments as before, with the same features="
            )
        made._restore(about["counts"], arrays)
        return made

    def _restore(self, counts: dict[str, int], arrays: dict[str, NDArray[Any]]) -> None:
        self.seen, self.updates, self._steps = counts["seen"], counts["updates"], counts["steps"]
        self._rows[: len(arrays["rows"])] = self._tensor(arrays["rows"])
        for name, moments in self._statistics.items():
            moments.mean, moments.var = arrays[f"{name}.mean"], arrays[f"{name}.var"]
            moments.count = float(arrays[f"{name}.count"])
        weights = {key: torch.as_tensor(value) for key, value in _under("model", arrays).items()}
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise LatentRLError(
                "the file's network does not fit the one that these environments ask for, as where latents are of "
                f"another kind, choices or numbers: wrap them as before ({str(error).splitlines()[-1].strip()})"
            ) from error
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under("optimizer", arrays).items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = torch.as_tensor(value)
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


def _under(name: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}


def _read(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    try:
        # Opened here, as numpy leaves a broken archive open.
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = dict(file)
        about = json.loads(str(arrays.pop("about")))
    except FileNotFoundError as error:
        raise LatentRLError(f"there is no file {str(path)!r}: give what {kind}.save wrote") from error
    except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise LatentRLError(f"{str(path)!r} cannot be read: give what {kind}.save wrote") from error
    if about["kind"] != kind:
        raise LatentRLError(f"{str(path)!r} was saved by {about['kind']}: load it with {about['kind']}.load")
    return about, arrays
