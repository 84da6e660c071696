"""Latents for every algorithm of stable-baselines3: the reparameterization trick moved into the environment.

The noise ε is a part of the observation that is held for an episode or k steps, and the policy's features extractor
makes z = μ(s) + σ(s) ε of it. Then π(a|s, ε) is an ordinary policy with an ordinary log-probability, which does one
thing for one ε and another for another: nothing is forked, and buffers store each ε with the observation it came with.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, is_vecenv_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor, nn
from torch.nn import functional as F

from latentrl.checks import LatentRLError, count, dimension, one_of
from latentrl.nets import UNIT_SCALE, positive
from latentrl.sb3.trunk import default_extractor

NOISE = "latent_noise"
"""Name of the noise among the parts of the observation."""
OBSERVATION = "observation"
"""Name of the observation beside it, where it had no parts of its own."""
KINDS = ("normal", "categorical")


class NormalNoise(spaces.MultiBinary):
    """Noise N(0, I) in Z dimensions, float32.

    It says that it is a MultiBinary and not a Box, as noise must reach the policy unchanged: stable-baselines3 hands
    both to networks as they are, but its VecNormalize and VecFrameStack change what is a Box and refuse the other.

    :param n: Z
    """

    def __init__(self, n: int, seed: int | np.random.Generator | None = None) -> None:
        self.n: int = n
        spaces.Space.__init__(self, (n,), np.float32, seed)

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[Any]:  # noqa: ARG002 - the parent's
        return self.np_random.standard_normal(self.n, np.float32)

    def contains(self, x: Any) -> bool:
        values = np.asarray(x)
        return values.shape == self.shape and values.dtype.kind in "fiu" and bool(np.isfinite(values).all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NormalNoise) and self.n == other.n

    def __repr__(self) -> str:
        return f"NormalNoise({self.n})"


class LatentNoiseWrapper(VecEnvWrapper):
    """Shows a policy noise beside the observation, drawn anew where an episode starts, or every k steps too.

    With it any stock algorithm has a latent policy::

        env = LatentNoiseWrapper(make_vec_env("Pendulum-v1", 4), latent_dim=4)
        SAC("MultiInputPolicy", env, policy_kwargs=dict(features_extractor_class=LatentNoiseExtractor)).learn(20_000)

    Observations become a Dict: the parts of the old one, or the old one as ``"observation"``, and ``"latent_noise"``.
    A terminal observation carries the noise with which the episode would have gone on: that of its last step, unless a
    new one was due. Evaluation needs the wrapper, too; without it, ``predict`` ends in an IndexError.

    VecFrameStack goes inside, VecNormalize outside and told what to normalise:
    ``VecNormalize(LatentNoiseWrapper(VecFrameStack(env, 4)), norm_obs_keys=["observation"])``.

    :param venv: the environments
    :param latent_dim: Z, or the number of choices of categorical noise
    :param hold: 0 holds the noise for the episode, k for k steps
    :param kind: "normal", N(0, I), or "categorical", one of ``latent_dim`` choices with equal probability
    :raises LatentRLError: no VecEnv; a VecNormalize inside; a part of that name; sizes < 1, a negative hold, an unknown
        kind
    """

    def __init__(self, venv: VecEnv, latent_dim: int = 8, hold: int = 0, kind: str = "normal") -> None:
        if not isinstance(venv, VecEnv):
            raise LatentRLError(f"LatentNoiseWrapper takes a VecEnv, got {venv!r}: make it with make_vec_env")
        if is_vecenv_wrapped(venv, VecNormalize):
            raise LatentRLError(
                "VecNormalize keeps the observations that off-policy algorithms store, so it must see the noise and go "
                f"outside: VecNormalize(LatentNoiseWrapper(env), norm_obs_keys=[{OBSERVATION!r}])"
            )
        self.latent_dim: int = dimension("latent_dim", latent_dim)
        self.hold: int = count("hold", hold, 0)
        self.kind: str = one_of("kind", kind, KINDS)
        space = venv.observation_space
        parts = space.spaces if isinstance(space, spaces.Dict) else {OBSERVATION: space}
        if NOISE in parts:
            raise LatentRLError(f"the observation already has a part {NOISE!r}: wrap once, or rename that part")
        self.noise_space: NormalNoise | spaces.Discrete = (
            NormalNoise(self.latent_dim) if kind == "normal" else spaces.Discrete(self.latent_dim)
        )
        super().__init__(venv, spaces.Dict({**parts, NOISE: self.noise_space}))
        self._noise = np.zeros((self.num_envs, *(self.noise_space.shape or ())), self.noise_space.dtype)
        self._age = np.zeros(self.num_envs, np.int64)
        self._held = False
        self._generator = np.random.default_rng()

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the environments, and the noise from now on."""
        # A stream of its own: the first environment gets this seed, too, and its starts must not follow the noise.
        self._generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(NOISE.encode())))
        return super().seed(seed)

    def hold_noise(self, values: Any) -> None:
        """Show this noise from the next observation on, such as to look at one mode; None goes back to drawing.

        :param values: (Z,), or (n_envs, Z) for each environment its own; whole numbers () or (n_envs,) if categorical
        :raises LatentRLError: values that are no such noise
        """
        if values is None:
            self._held = False
            return
        given, shape = np.asarray(values), self._noise.shape
        fits = given.shape in (shape, shape[1:])
        if not fits or not all(self.noise_space.contains(row) for row in np.broadcast_to(given, shape)):
            raise LatentRLError(
                f"noise to hold must be in {self.noise_space}, one for all environments or one for each of "
                f"{self.num_envs}, but {values!r} was given"
            )
        self._held, self._noise[...] = True, given

    def reset(self) -> VecEnvObs:
        observations = self.venv.reset()
        self._draw(np.ones(self.num_envs, bool))
        return _join(observations, self._noise)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        self._age += 1
        if self.hold:
            self._draw(self._age >= self.hold)
        for i in np.flatnonzero(dones):
            if "terminal_observation" in infos[i]:
                infos[i]["terminal_observation"] = _join(infos[i]["terminal_observation"], self._noise[i])
        self._draw(dones)
        return _join(observations, self._noise), rewards, dones, infos

    def _draw(self, rows: NDArray[np.bool_]) -> None:
        self._age[rows] = 0
        if self._held:
            return
        if self.kind == "normal":
            self._noise[rows] = self._generator.standard_normal((rows.sum(), self.latent_dim), np.float32)
        else:
            self._noise[rows] = self._generator.integers(self.latent_dim, size=rows.sum())


class LatentNoiseExtractor(BaseFeaturesExtractor):
    """[f(s), z] with z = μ(f(s)) + σ(f(s)) ε, for observations from :class:`LatentNoiseWrapper`.

    μ and σ are linear in the features and start at 0 and 1, so that z starts as ε; of categorical noise, ε is the
    one-hot choice. Actors and critics have one such extractor each, wherever stable-baselines3 gives each its own.

    :param observation_space: a Dict with the noise
    :param features_extractor_class: f; None takes NatureCNN for pictures, CombinedExtractor for observations with
        parts, and FlattenExtractor for the rest
    :param features_extractor_kwargs: further arguments of its constructor
    :raises LatentRLError: observations without the noise
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(observation_space, spaces.Dict) or NOISE not in observation_space.spaces:
            raise _unwrapped(observation_space)
        super().__init__(observation_space, features_dim=1)
        seen = without_noise(observation_space)
        self.extractor: BaseFeaturesExtractor = (features_extractor_class or default_extractor(seen))(
            seen, **(features_extractor_kwargs or {})
        )
        features_dim, latent_dim = self.extractor.features_dim, get_flattened_obs_dim(observation_space[NOISE])
        # No nn.Linear, as on-policy policies would initialise that again.
        self.weight: nn.Parameter = nn.Parameter(torch.zeros(2 * latent_dim, features_dim))
        self.bias: nn.Parameter = nn.Parameter(
            torch.cat([torch.zeros(latent_dim), torch.full((latent_dim,), UNIT_SCALE)])
        )
        self._features_dim = features_dim + latent_dim

    def forward(self, observations: TensorDict) -> Float[Tensor, "B H"]:
        if NOISE not in observations:
            raise _unwrapped(", ".join(observations))
        features = self.extractor(without_noise(observations))
        mean, scale = F.linear(features, self.weight, self.bias).chunk(2, -1)
        z = mean + positive(scale) * observations[NOISE].flatten(1)
        return torch.cat([features, z], -1)


def without_noise(observations: Any) -> Any:
    """Observations, or their space, as they are inside of a :class:`LatentNoiseWrapper`; others as they are."""
    is_space = isinstance(observations, spaces.Dict)
    parts = observations.spaces if is_space else observations
    if not isinstance(parts, dict) or NOISE not in parts:
        return observations
    rest = {name: part for name, part in parts.items() if name != NOISE}
    if rest.keys() == {OBSERVATION}:
        return rest[OBSERVATION]
    return spaces.Dict(rest) if is_space else rest


def _join(observations: Any, noise: NDArray[Any]) -> dict[str, Any]:
    parts = observations if isinstance(observations, dict) else {OBSERVATION: observations}
    return {**parts, NOISE: noise.copy()}


def _unwrapped(given: object) -> LatentRLError:
    return LatentRLError(
        f"LatentNoiseExtractor reads observations with a part {NOISE!r}, but has {given}: wrap the environment in "
        "LatentNoiseWrapper, the one for evaluation, too"
    )
