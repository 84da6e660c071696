"""Reinforcement learning in the latent space of a cloned policy: environments whose actions are latents."""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from latentrl.checks import LatentRLError, count
from latentrl.sb3.latent_space import LatentActions, Source, check_spaces


class LatentActionWrapper(VecEnvWrapper):
    """Environments whose actions are the latents of a policy cloned by :class:`LatentBC`, which is frozen.

    At each step the agent chooses a latent for each environment, and the mode of p(a|s, z) is played. Any
    algorithm of stable-baselines3 that takes the action space learns in it::

        venv = LatentActionWrapper(make_vec_env("latentrl_envs:latentrl/MultiGoal-v0", 8), bc)
        PPO("MlpPolicy", venv).learn(100_000)

    The action space is a Box [−reach, reach]^Z in units of the prior: action 0 is its mean and 1 a standard deviation
    above. So a new PPO, whose actions are N(0, I), starts as the prior does up to second moments, and SAC's corners are
    where the decoder was still trained. ``loc=0, scale=1`` makes actions the latents themselves. A latent of one choice
    makes a Discrete space, of several choices a MultiDiscrete one. None equals a space of other actions: an agent that
    acts in latents is not loaded to the environment itself. What the policy sees must be what it was cloned on, so
    VecNormalize goes outside: ``VecNormalize(LatentActionWrapper(venv, bc))``.

    Environments in a VecEnv end at different steps and start anew at once, so a plan of several actions could run into
    the next episode. For those (``chunk`` > 1), and to hold a latent over several steps, see :class:`LatentActionEnv`.

    :param venv: where the policy was to act
    :param source: a LatentBC, its LatentPolicy, or the path of either as saved; a copy is taken. Of an agent that was
        cloned into, the LatentBC
    :param reach: half the width of the box, in standard deviations of the prior
    :param loc: (Z,), the latent of action 0; None for the prior's mean (at each state, where the prior sees it)
    :param scale: (Z,), what an action of 1 adds; None for the prior's standard deviation
    :raises LatentRLError: spaces that differ from the policy's, a policy without latent or one that plans several
        actions, VecNormalize inside, a file that is not there
    """

    def __init__(
        self,
        venv: VecEnv,
        source: Source,
        reach: float = 3.0,
        loc: ArrayLike | None = None,
        scale: ArrayLike | None = None,
    ) -> None:
        if not isinstance(venv, VecEnv):
            raise LatentRLError(
                f"LatentActionWrapper takes a VecEnv of stable-baselines3, but {venv!r} was given: make it with "
                "make_vec_env, or wrap a single environment in LatentActionEnv"
            )
        self.latent_actions: LatentActions = LatentActions(source, reach, loc, scale)
        policy = self.latent_actions.policy
        check_spaces(policy, venv.observation_space, venv.action_space)
        if policy.config.chunk > 1 and policy.config.hold != 1:
            raise LatentRLError(
                f"the policy plans chunk={policy.config.chunk} actions, which could run into the next episode of a "
                "VecEnv: wrap each environment by itself, make_vec_env(lambda: LatentActionEnv(env, policy), n_envs)"
            )
        normalizer = unwrap_vec_normalize(venv)
        if normalizer is not None and normalizer.norm_obs:
            raise LatentRLError(
                "VecNormalize inside changes the observations that the policy was cloned on: put it outside, "
                "VecNormalize(LatentActionWrapper(venv, policy))"
            )
        super().__init__(venv, action_space=self.latent_actions.action_space)
        self._observations: Any = None

    def decode(self, observations: Any, z: ArrayLike) -> NDArray[Any]:
        """The environment's actions for latents (Z,) or (N, Z), not in units of the prior, at observations."""
        return self.latent_actions.decode(observations, z)

    def reset(self) -> VecEnvObs:
        self._observations = self.venv.reset()
        return self._observations

    def step_async(self, actions: NDArray[Any]) -> None:
        if self._observations is None:
            raise LatentRLError("step was called before reset: the policy needs to see where it acts")
        z = self.latent_actions.latents(self._observations, actions)
        played, _ = self.latent_actions.play(self._observations, self.latent_actions.begin(z))
        self.venv.step_async(played)

    def step_wait(self) -> VecEnvStepReturn:
        self._observations, rewards, dones, infos = self.venv.step_wait()
        return self._observations, rewards, dones, infos


class LatentActionEnv(gym.Wrapper[Any, Any, Any, Any]):
    """:class:`LatentActionWrapper` of a single environment; here a latent may last several steps.

    A step of the agent is up to ``hold`` steps of the environment, less where the episode ends. Its reward is their
    sum, without discount, so the agent's γ is that of one latent; ``info["latent_steps"]`` says how many they were. In
    between, the policy looks at the state at each step, or plays its plan where it plans chunks of actions. A Monitor
    inside counts the environment's steps.

    :param env: where the policy was to act
    :param source: as in :class:`LatentActionWrapper`
    :param hold: steps over which a latent is held, 0 for the episode; None for 1, or the length of the policy's plans
    :param reach: as in :class:`LatentActionWrapper`
    :param loc: as in :class:`LatentActionWrapper`
    :param scale: as in :class:`LatentActionWrapper`
    :raises LatentRLError: spaces that differ from the policy's, a policy without latent, a file that is not there
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        source: Source,
        hold: int | None = None,
        reach: float = 3.0,
        loc: ArrayLike | None = None,
        scale: ArrayLike | None = None,
    ) -> None:
        if not isinstance(env, gym.Env):
            raise LatentRLError(
                f"LatentActionEnv takes a single Gymnasium environment, but {env!r} was given: for a VecEnv there is "
                "LatentActionWrapper"
            )
        super().__init__(env)
        self.latent_actions: LatentActions = LatentActions(source, reach, loc, scale)
        policy = self.latent_actions.policy
        check_spaces(policy, env.observation_space, env.action_space)
        if hold is None:
            hold = 1 if policy.config.hold == 1 else policy.config.chunk
        self.hold: int = count("hold", hold, 0)
        self.action_space = self.latent_actions.action_space
        self._observation: Any = None

    def decode(self, observation: Any, z: ArrayLike) -> Any:
        """The environment's action for a latent (Z,), not in units of the prior, at an observation."""
        return self.latent_actions.decode(observation, z)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        if self._observation is None:
            raise LatentRLError("step was called before reset: the policy needs to see where it acts")
        z = self.latent_actions.latents(self._observation, np.asarray(action)[None])
        state, total, steps = self.latent_actions.begin(z), 0.0, 0
        while True:
            played, state = self.latent_actions.play(self._observation, state)
            self._observation, reward, terminated, truncated, info = self.env.step(played)
            total, steps = total + float(reward), steps + 1
            if terminated or truncated or steps == self.hold:
                return self._observation, total, terminated, truncated, {**info, "latent_steps": steps}
