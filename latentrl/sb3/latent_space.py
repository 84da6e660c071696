"""Latents as an agent's actions: their spaces and units, and the frozen policy that plays them."""

import copy
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.distributions import Distribution

from latentrl.checks import LatentRLError, at_least
from latentrl.metrics.arrays import as_numbers
from latentrl.sb3.bc import LatentBC
from latentrl.sb3.latent_kinds import LatentBox, LatentDiscrete, LatentMultiDiscrete
from latentrl.sb3.policy import LatentPolicy, State
from latentrl.sb3.trunk import channels_first, is_vector

MOMENT_DRAWS = 4096
"""Draws behind the mean and spread of priors that have none in closed form: flows."""

Source = LatentBC | LatentPolicy | str | Path


class LatentActions:
    """What both wrappers of latent actions share: the space of latents, and a frozen policy that plays them.

    An action u of the agent stands for z = loc + scale · u.

    :param source: a :class:`LatentBC`, its policy, or the path of either as saved
    :param reach: u lies within ± this
    :param loc: (Z,) or one number; None for the mean of the prior
    :param scale: (Z,) or one number; None for the standard deviation of the prior
    :raises LatentRLError: no such file, something that is no latent policy, one without latent or with a history, that
        of an agent without its LatentBC, units that do not fit
    """

    def __init__(self, source: Source, reach: float, loc: ArrayLike | None, scale: ArrayLike | None) -> None:
        # A copy, so that nothing that happens to the original moves the environment under the agent.
        self.policy: LatentPolicy = copy.deepcopy(_policy(source))
        del self.policy.optimizer
        self.policy.requires_grad_(False)
        self.policy.set_training_mode(False)
        self.policy.model.temperature = 1.0  # units are the prior's own, however wide the policy drew
        # An agent that was cloned into may see what its VecNormalize makes of observations.
        agent = source._agent if isinstance(source, LatentBC) else None
        seen_by = None if agent is None else agent.get_vec_normalize_env()
        self._normalizer = copy.deepcopy(seen_by) if seen_by is not None and seen_by.norm_obs else None
        prior = self.policy.model.prior
        if prior is None:
            raise LatentRLError("the policy has latent_dim=0, so there is no latent to act in: clone one with a latent")
        if self.policy.config.history > 1:
            raise LatentRLError(
                f"the policy sees history={self.policy.config.history} observations, which nobody keeps here: "
                "clone with history=1 from stacked observations, and stack the environment's (VecFrameStack)"
            )
        at_least("reach", reach, 1e-6)
        self.latent_dim: int = prior.latent_dim
        self.sizes: tuple[int, ...] | None = getattr(prior, "sizes", None)
        self.action_space: spaces.Space[Any] = self._space(reach)
        self._loc, self._scale = self._units("loc", loc), self._units("scale", scale)
        if self._scale is not None and not (self._scale > 0).all():
            raise LatentRLError(f"scale must be positive, but {scale!r} was given")
        if self.sizes is None and not self.policy.config.prior_sees_state:
            self._loc, self._scale = self._affine(prior(torch.empty(1, 0, device=self.policy.device)))

    def _seen(self, observations: Any) -> Any:
        return observations if self._normalizer is None else self._normalizer.normalize_obs(observations)

    def _space(self, reach: float) -> spaces.Space[Any]:
        if self.sizes is None:
            return LatentBox(-reach, reach, (self.latent_dim,), np.float32)
        return LatentDiscrete(self.sizes[0]) if len(self.sizes) == 1 else LatentMultiDiscrete(list(self.sizes))

    def _units(self, name: str, given: ArrayLike | None) -> NDArray[np.float32] | None:
        if given is None:
            return None
        if self.sizes is not None:
            raise LatentRLError(f"{name} is for continuous latents, but this policy's are choices among {self.sizes}")
        values = as_numbers(name, given).astype(np.float32)
        if not np.isfinite(values).all():
            raise LatentRLError(f"{name} must be finite, but {given!r} was given")
        if values.shape not in ((), (self.latent_dim,)):
            raise LatentRLError(f"{name} has shape {values.shape}: give one number or {self.latent_dim}")
        return np.broadcast_to(values, (self.latent_dim,))

    def _affine(self, law: Distribution) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """loc and scale: the user's, or those of a prior."""
        mean, spread = _moments(law)
        return (
            mean.cpu().numpy() if self._loc is None else self._loc,
            spread.cpu().numpy() if self._scale is None else self._scale,
        )

    def latents(self, observations: Any, actions: NDArray[Any]) -> NDArray[np.float32]:
        """z (N, Z) for the agent's actions, (N, Z), or (N,) or (N, F) where latents are choices."""
        wanted = (len(actions), *(self.action_space.shape or ()))
        if np.shape(actions) != wanted:
            raise LatentRLError(f"latent actions have shape {np.shape(actions)}: give {wanted}")
        if self.sizes is not None:
            chosen = np.asarray(actions).reshape(len(actions), -1)
            rows = [np.eye(size, dtype=np.float32)[i] for size, i in zip(self.sizes, chosen.T, strict=True)]
            return np.concatenate(rows, -1)
        loc, scale = self._loc, self._scale
        if loc is None or scale is None:
            with torch.no_grad():
                flat = self.policy._flat(self.policy.obs_to_tensor(self._seen(observations))[0])
                loc, scale = self._affine(self.policy.model.latent_law(flat))
        z = loc + scale * np.asarray(actions, np.float32)
        clip = self.policy.model.latent_clip
        return z if clip is None else z.clip(-clip, clip)

    def decode(self, observations: Any, z: ArrayLike) -> NDArray[Any]:
        """The mode of p(a|s, z), what ``predict(latent=z)`` plays; of a plan, the first action."""
        return self.policy.predict(self._seen(observations), latent=z, deterministic=True)[0]

    def begin(self, z: NDArray[np.float32]) -> State:
        """The policy's state where latents (N, Z) were just given and nothing is planned."""
        age = np.zeros((len(z), 1), np.int64)
        chunk = self.policy.config.chunk
        if chunk == 1:
            return z, age
        return z, age, np.full((len(z), chunk * self.policy._action_dim), np.nan, np.float32)

    def play(self, observations: Any, state: State) -> tuple[NDArray[Any], State]:
        """The next actions under the same latents; no random number is drawn."""
        actions, after = self.policy.predict(self._seen(observations), state, deterministic=True)
        assert after is not None
        # The age stays 0: it is the agent that says when a latent ends, not the policy's own hold.
        return actions, (*state[:2], *after[2:])


def _policy(source: Source) -> LatentPolicy:
    if isinstance(source, LatentBC):
        return source.policy
    if isinstance(source, LatentPolicy):
        if source._in_place:
            raise LatentRLError(
                "the networks of this policy are an agent's, which may see observations that VecNormalize changed: "
                "give the LatentBC that trained them"
            )
        return source
    if not isinstance(source, (str, Path)):
        raise LatentRLError(f"give a LatentBC, its LatentPolicy or the path of a saved one, not {source!r}")
    path = Path(source)
    if not path.is_file():
        path = Path(f"{path}.zip")
    if not path.is_file():
        raise LatentRLError(f"there is no file {str(source)!r}: give what LatentBC.save or its policy's save wrote")
    # Both kinds of file are archives; an algorithm's has a list of its members' versions.
    if not zipfile.is_zipfile(path):
        raise LatentRLError(f"{str(source)!r} is no saved agent: give what LatentBC.save or its policy's save wrote")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    made: Any = LatentBC.load(path).policy if "policy.pth" in names else LatentPolicy.load(str(path))
    if not isinstance(made, LatentPolicy):
        raise LatentRLError(f"{str(source)!r} holds a {type(made).__name__}: give what LatentBC.save wrote")
    return made


def check_spaces(policy: LatentPolicy, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Refuse an environment whose values mean something else; from now on the policy plays within its bounds."""
    pairs = {
        "observations": (channels_first(observation_space), policy.observation_space),
        "actions": (action_space, policy.action_space),
    }
    for name, (here, cloned) in pairs.items():
        if not _alike(here, cloned):
            raise LatentRLError(
                f"the environment's {name} are {here}, but the policy was cloned on {cloned}: wrap the environment "
                "as it was when demonstrations were taken"
            )
    policy.action_space = action_space


def _alike(here: spaces.Space[Any], cloned: spaces.Space[Any]) -> bool:
    """Whether two spaces are the same, but for the bounds of numbers, which arrays of demonstrations do not tell."""
    if isinstance(here, spaces.Dict) and isinstance(cloned, spaces.Dict):
        names = here.spaces.keys()
        return names == cloned.spaces.keys() and all(_alike(here[name], cloned[name]) for name in names)
    if isinstance(here, spaces.Box) and isinstance(cloned, spaces.Box) and is_vector(here):
        return here.shape == cloned.shape and here.dtype == cloned.dtype
    return here == cloned


@torch.no_grad()
def _moments(law: Distribution) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, from draws where there is no closed form; the same at each call."""
    try:
        return law.mean, law.stddev
    except NotImplementedError:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            draws = law.sample((MOMENT_DRAWS,))
        return draws.mean(0), draws.std(0)
