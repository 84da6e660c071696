"""Off-policy learning beside demonstrations: replay buffers in which they stay."""

import warnings
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from latentrl.checks import LatentRLError, at_least
from latentrl.data import Demonstrations
from latentrl.sb3.in_place import in_space


def scaled(space: spaces.Space[Any], actions: NDArray[Any]) -> NDArray[Any]:
    """Actions (N, A) as off-policy algorithms keep them: numbers in [−1, 1], choices as they are."""
    if isinstance(space, spaces.Box):
        actions = (2.0 * (actions - space.low) / (space.high - space.low) - 1.0).astype(np.float32)
    return actions.reshape(len(actions), -1)


def observations_at(demonstrations: Demonstrations, rows: NDArray[np.int64]) -> Any:
    """Observations (len(rows), *shape), or a dict of them."""
    seen = demonstrations.observations
    return {name: part[rows] for name, part in seen.items()} if isinstance(seen, dict) else seen[rows]


def as_replay(
    demonstrations: Demonstrations,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    terminated: Any = False,
) -> ReplayBuffer:
    """A full replay buffer of the transitions (s, a, r, s') in demonstrations.

    :param terminated: as for :class:`DemonstrationReplayBuffer`
    :raises LatentRLError: demonstrations without rewards, of other spaces, or without a whole transition;
        ``terminated`` of another length
    """
    shown = in_space(demonstrations, observation_space, action_space)
    if shown.rewards is None:
        raise LatentRLError("reinforcement learning needs rewards, and these demonstrations have none: give rewards=")
    terminal = np.asarray(terminated, bool)
    if terminal.shape not in ((), (shown.num_episodes,)):
        raise LatentRLError(
            f"terminated has shape {terminal.shape} for {shown.num_episodes} episodes: give one truth value per "
            "episode, or one for all"
        )
    lasts = shown.episode_lengths.cumsum() - 1
    dones = np.zeros(len(shown), bool)
    dones[lasts] = terminal
    known = np.ones(len(shown), bool)
    known[lasts] = terminal
    rows = np.flatnonzero(known)
    if not len(rows):
        raise LatentRLError("no transition is left, as each episode has but one step: give longer ones, or terminated=")
    _warn_of_lost(shown.rewards[rows], shown.rewards[~known])
    made: Any = DictReplayBuffer if isinstance(observation_space, spaces.Dict) else ReplayBuffer
    buffer = made(len(rows), observation_space, action_space, "cpu")
    # What comes after a terminal state is multiplied by 0.
    for place, at in ((buffer.observations, rows), (buffer.next_observations, rows + ~dones[rows])):
        seen = observations_at(shown, at)
        for array, values in (
            [(place[name], seen[name]) for name in seen] if isinstance(seen, dict) else [(place, seen)]
        ):
            array[:] = values.reshape(array.shape)
    buffer.actions[:, 0] = scaled(action_space, shown.actions)[rows]
    buffer.rewards[:, 0], buffer.dones[:, 0] = shown.rewards[rows], dones[rows]
    buffer.full = True
    return buffer


def _warn_of_lost(kept: NDArray[np.floating[Any]], lost: NDArray[np.floating[Any]]) -> None:
    """Where episodes end with a reward that is nowhere else, such as that of a goal, and it is left out."""
    unlike = (lost < kept.min()) | (lost > kept.max())
    if unlike.sum() > 0.1 * len(lost):  # by chance it is about one episode in as many as an episode has steps
        warnings.warn(
            f"{unlike.sum()} of {len(lost)} episodes end with a reward that no other step has, such as "
            f"{lost[unlike][0]:.4g}, and their last steps are left out: say by terminated= which episodes ended by "
            "themselves, as at a goal, so that these are kept",
            stacklevel=4,
        )


class _WithDemonstrations(ReplayBuffer):
    """Before one of stable-baselines3's replay buffers."""

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *args: Any,
        demonstrations: Demonstrations,
        share: float = 0.5,
        terminated: Any = False,
        **kwargs: Any,
    ) -> None:
        named = isinstance(observation_space, spaces.Dict)
        if named != isinstance(self, DictReplayBuffer):
            fitting = DemonstrationDictReplayBuffer if named else DemonstrationReplayBuffer
            raise LatentRLError(f"observations are {observation_space}: take {fitting.__name__}")
        if "n_steps" in kwargs:
            raise LatentRLError(
                f"{type(self).__name__} has no returns of several steps: leave n_steps at 1, and out of "
                "replay_buffer_kwargs"
            )
        if not 0.0 <= at_least("share", share, 0.0) <= 1.0:
            raise LatentRLError(f"share is a share of each batch between 0 and 1, but {share!r} was given")
        super().__init__(buffer_size, observation_space, action_space, *args, **kwargs)
        self.share = share
        self.shown: ReplayBuffer = as_replay(demonstrations, observation_space, action_space, terminated)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """A batch, whose last ``round(share · batch_size)`` rows are from demonstrations."""
        of_shown = round(self.share * batch_size) if self.size() else batch_size
        if of_shown == 0:
            return super().sample(batch_size, env)
        self.shown.device = self.device  # which changes where a buffer is loaded
        shown = self.shown.sample(of_shown, env)
        if of_shown == batch_size:
            return shown
        return _joined(super().sample(batch_size - of_shown, env), shown)


def _joined(first: Any, second: Any) -> Any:
    """Two batches as one, of tensors or dicts of them, field by field; what a buffer does not tell is None."""
    if first is None:
        return None
    if isinstance(first, dict):
        return {name: _joined(first[name], second[name]) for name in first}
    if isinstance(first, tuple):
        return type(first)(*map(_joined, first, second))
    return torch.cat([first, second])


class DemonstrationReplayBuffer(_WithDemonstrations):
    """stable-baselines3's replay buffer, in whose batches a share of transitions is from demonstrations.

    ``SAC("MlpPolicy", env, replay_buffer_class=DemonstrationReplayBuffer,
    replay_buffer_kwargs=dict(demonstrations=…, share=0.5))``, or any other off-policy algorithm (Ball et al. 2023,
    whose share is one half). New experience does not replace demonstrations, ``reset`` does not delete them, they are
    saved with the buffer, and normalised when they are drawn, as all of it is. As long as there is no experience, all
    is from demonstrations. Like all ``replay_buffer_kwargs`` they are saved with the agent, too.

    Demonstrations do not tell what came after the last action of an episode. Where it ended by itself, as at a goal,
    that does not matter; where time was up it does, and the last transition is left out. A warning says where that
    loses rewards that no other transition has.

    :param demonstrations: with rewards, as the environment gives them
    :param share: of each batch, rounded to whole transitions
    :param terminated: whether episodes ended by themselves, one truth value for all or (E,)
    :raises LatentRLError: demonstrations without rewards or of other spaces; a share outside of [0, 1]
    """


class DemonstrationDictReplayBuffer(_WithDemonstrations, DictReplayBuffer):
    """:class:`DemonstrationReplayBuffer` for Dict observations."""
