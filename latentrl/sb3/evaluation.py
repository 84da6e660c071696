"""What an agent does when it is left to play."""

import time
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_normalize

from latentrl import metrics
from latentrl.checks import LatentRLError, count, dimension, finite
from latentrl.metrics import Entropy, Mean
from latentrl.sb3.latent_noise import without_noise
from latentrl.sb3.seeding import frozen, seeded


@dataclass(frozen=True, eq=False)
class Evaluation:
    """N episodes in the order in which they ended."""

    returns: NDArray[np.float64]
    """(N,) the monitor's where there is one, else sums of the rewards as they were before VecNormalize."""
    lengths: NDArray[np.int64]
    """(N,) steps, the monitor's likewise."""
    max_rewards: NDArray[np.float64]
    """(N,) largest reward of one step, before VecNormalize: the score of tasks such as Push-T."""
    environments: NDArray[np.int64]
    """(N,) which of the environments played it."""
    successes: NDArray[np.bool_] | None = None
    """(N,) what the last info called "success" (or "is_success"); None where no episode said."""
    modes: NDArray[np.int64] | None = None
    """(N,) what the last info called "mode", −1 where it was silent; None where no episode said."""
    contexts: NDArray[np.int64] | None = None
    """(N,) what the last info called "context", which of several situations the episode was in, −1 where it was silent;
    None where no episode said."""
    trajectories: list[Any] | None = None
    """N arrays (T, *shape), or dicts of them, if asked for: what was seen before each action, as demonstrations hold
    it, before VecNormalize and without the noise of a LatentNoiseWrapper."""
    ms_per_action: float = 0.0
    """Mean over calls of the milliseconds that ``predict`` took, divided by the number of environments; where
    actions are planned ahead, over calls that plan and those that go on. The first call is left out."""

    @property
    def mean_return(self) -> Mean:
        """Over episodes, with its standard error and interval."""
        return metrics.mean(self.returns)

    @property
    def success_rate(self) -> Mean:
        """Share of episodes that succeeded, with Wilson's interval.

        :raises LatentRLError: the environment tells of no success
        """
        if self.successes is None:
            raise LatentRLError("no episode ended with info['success'] or info['is_success']: the environment must say")
        return metrics.share(int(self.successes.sum()), len(self.successes))

    def counts(self, n_modes: int) -> NDArray[np.int64]:
        """(n_modes,) successful episodes that showed each mode; all episodes where the environment tells of no success.

        :raises LatentRLError: one of them names no mode, or one outside 0 … n_modes − 1
        """
        return self._counts(n_modes, np.zeros(len(self.returns), np.int64))[0]

    def _counts(self, n_modes: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(R, n_modes), those of each row apart, given the row of each episode."""
        modes = np.full(len(self.returns), -1) if self.modes is None else self.modes
        counted = np.ones(len(modes), bool) if self.successes is None else self.successes
        wrong = modes[counted & ((modes < 0) | (modes >= n_modes))]
        if len(wrong):
            named = "no info['mode']" if wrong[0] == -1 else f"info['mode'] = {wrong[0]}"
            raise LatentRLError(
                f"an episode ended with {named}: the environment must name one of 0 … {n_modes - 1} where it succeeds"
            )
        found = np.zeros((rows.max() + 1, n_modes), np.int64)
        np.add.at(found, (rows[counted], modes[counted]), 1)
        return found

    def entropy(self, n_modes: int) -> Entropy:
        """:func:`latentrl.metrics.behaviour_entropy` of the counts."""
        return metrics.behaviour_entropy(self.counts(n_modes))

    def conditional_entropy(self, n_modes: int) -> Entropy:
        """:func:`latentrl.metrics.conditional_entropy` of the counts in each context: whether one situation sees
        several modes, or others see others.

        :raises LatentRLError: as :meth:`counts`; an episode that named no context
        """
        if self.contexts is None or (self.contexts < 0).any():
            raise LatentRLError(
                "an episode ended with no info['context']: the environment must say in which of several situations it "
                "was, by a whole number from 0"
            )
        return metrics.conditional_entropy(self._counts(n_modes, np.unique(self.contexts, return_inverse=True)[1]))

    def covered(self, n_modes: int, minimum: int = 5) -> int:
        """Modes shown by at least ``minimum`` successful episodes."""
        return metrics.modes_covered(self.counts(n_modes), minimum)


def evaluate_behaviour(
    policy: Any,
    env: gym.Env[Any, Any] | VecEnv,
    n_episodes: int = 100,
    deterministic: bool = False,
    seed: int | None = None,
    trajectories: bool = False,
) -> Evaluation:
    """Play whole episodes and note what they show.

    They are played by stable-baselines3's :func:`evaluate_policy`: recurrent states are carried and restarted where an
    episode starts, and every environment plays the same number of episodes, or one more, as to take those that end
    first would favour short ones. Statistics of a VecNormalize are not updated, and rewards
    for exploration neither learn nor count; where an agent has a VecNormalize and ``env`` has none, the agent is shown
    what it would see behind its own.

    :param policy: anything with stable-baselines3's ``predict``
    :param env: one environment or several
    :param deterministic: unlike in :func:`evaluate_policy` not by default, as a latent policy then shows one mode only
    :param seed: of environments and latents, for the same episodes each time; random numbers elsewhere then stay as
        they were. None draws on
    :param trajectories: keep what was seen
    :raises LatentRLError: ``n_episodes`` below 1; rewards or observations that are not finite
    """
    dimension("n_episodes", n_episodes)
    if not hasattr(policy, "predict"):
        raise LatentRLError(f"policy must have stable-baselines3's predict, but {policy!r} was given")
    seed = None if seed is None else count("seed", seed, 0) % 2**32
    venv = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    normalizer = unwrap_vec_normalize(venv)
    outside = getattr(policy, "get_vec_normalize_env", lambda: None)() if normalizer is None else None
    watched = _Watched(policy, venv.num_envs, normalizer, outside, trajectories)
    recorder = Recorder(watched)
    with frozen(venv), seeded(policy, venv, seed):
        evaluate_policy(watched, venv, n_episodes, deterministic, callback=recorder, warn=False)
    return recorder.evaluation()


class _Watched:
    """A policy whose calls are timed, and what it is shown kept: raw, as it was before VecNormalize.

    :param normalizer: around the environments
    :param outside: the policy's own, where these have none
    """

    def __init__(
        self,
        policy: Any,
        num_envs: int,
        normalizer: VecNormalize | None,
        outside: VecNormalize | None,
        keep: bool,
    ) -> None:
        self.policy: Any = policy
        self.num_envs: int = num_envs
        self.normalizer: VecNormalize | None = normalizer
        self.outside: VecNormalize | None = outside
        self.keep: bool = keep
        self.seconds: list[float] = []
        self.now: Any = None
        self.starts: Any = None
        """Where an episode starts, of all environments: evaluate_policy does not tell of those that have played all of
        theirs, which would be planned for at each step."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        if self.keep:
            self.now = without_noise(observation if self.normalizer is None else self.normalizer.get_original_obs())
        if self.outside is not None:
            observation = self.outside.normalize_obs(observation)
        for part in observation.values() if isinstance(observation, dict) else (observation,):
            finite("observations", part)
        start = time.perf_counter()
        starts = episode_start if self.starts is None else self.starts
        result = self.policy.predict(observation, state, starts, deterministic)
        self.seconds.append(time.perf_counter() - start)
        return result


@dataclass
class _Running:
    """An episode that goes on."""

    rewards: list[float] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)


class Recorder:
    """Callback of :func:`evaluate_policy` that notes each episode.

    :param watched: through which the policy acts, for its time and what it saw; None does without
    """

    def __init__(self, watched: _Watched | None = None) -> None:
        self.watched = watched
        self._running: dict[int, _Running] = {}
        self._ended: list[tuple[float, int, float, int, dict[str, Any], list[Any]]] = []

    def __call__(self, step: dict[str, Any], _: dict[str, Any]) -> None:
        self.note(step)

    def note(self, step: dict[str, Any]) -> bool:
        """Note one step of one environment, given evaluate_policy's variables; True where its episode ended."""
        row, info = int(step["i"]), step["info"]
        if self.watched is not None:
            self.watched.starts = step["dones"]
        normalizer = unwrap_vec_normalize(step["env"])
        rewards = step["rewards"] if normalizer is None else normalizer.get_original_reward()
        running = self._running.setdefault(row, _Running())
        finite("rewards", rewards[row])
        running.rewards.append(float(rewards[row]))
        if self.watched is not None and self.watched.keep:
            now = self.watched.now
            running.seen.append(
                {k: v[row].copy() for k, v in now.items()} if isinstance(now, dict) else now[row].copy()
            )
        # With a monitor an episode ends where that says so: a lost life may look like an end, too.
        if not step["done"] or (step["is_monitor_wrapped"] and "episode" not in info):
            return False
        told = info["episode"] if step["is_monitor_wrapped"] else {"r": sum(running.rewards), "l": len(running.rewards)}
        kept = {key: info[key] for key in ("mode", "context", "success", "is_success") if info.get(key) is not None}
        self._ended.append((float(told["r"]), int(told["l"]), max(running.rewards), row, kept, running.seen))
        del self._running[row]
        return True

    def evaluation(self) -> Evaluation:
        """What has ended so far."""
        returns, lengths, most, rows, told, seen = zip(*self._ended, strict=True)
        successes = [info.get("success", info.get("is_success")) for info in told]
        modes, contexts = ([info.get(name) for info in told] for name in ("mode", "context"))
        seconds = [] if self.watched is None else self.watched.seconds
        seconds = seconds[1:] or seconds  # the first has things to set up
        return Evaluation(
            returns=np.array(returns, np.float64),
            lengths=np.array(lengths, np.int64),
            max_rewards=np.array(most, np.float64),
            environments=np.array(rows, np.int64),
            successes=None if _none(successes) else np.array([bool(success) for success in successes]),
            modes=_numbers(modes),
            contexts=_numbers(contexts),
            trajectories=[_stacked(path) for path in seen] if self.watched is not None and self.watched.keep else None,
            ms_per_action=1e3 * float(np.mean(seconds)) / self.watched.num_envs if self.watched and seconds else 0.0,
        )


def _none(values: list[Any]) -> bool:
    return all(value is None for value in values)


def _numbers(values: list[Any]) -> NDArray[np.int64] | None:
    """−1 where there is none; None where there are none at all."""
    return None if _none(values) else np.array([-1 if value is None else int(value) for value in values])


def _stacked(path: list[Any]) -> Any:
    if isinstance(path[0], dict):
        return {name: np.stack([seen[name] for seen in path]) for name in path[0]}
    return np.stack(path)
