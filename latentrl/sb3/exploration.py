"""Exploration by generative models: rewards for skills that can be told apart, and for states that are new."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor, nn

from latentrl.checks import LatentRLError, count, dimension
from latentrl.decoders import GaussianDecoder
from latentrl.elbo import Elbo
from latentrl.encoders import TransitionEncoder
from latentrl.model import LatentModel
from latentrl.posteriors import AmortizedPosterior, CategoricalPosterior, GaussianPosterior
from latentrl.priors import CategoricalPrior, Prior, StandardNormalPrior
from latentrl.sb3.exploration_bonus import CLIP, ExplorationBonus
from latentrl.sb3.latent_noise import NOISE, NormalNoise
from latentrl.spaces import features, size
from latentrl.types import Batch

FINEST = 0.1
"""Least spread of what the novelty model makes of a state, in standard deviations of each feature: a feature that never
changed would otherwise make all others vanish when it does."""
DRAWS = 4
"""Draws of z behind a state's novelty."""


class SkillReward(ExplorationBonus):
    """Rewards states that tell which skill was played: log q_φ(z|s') − log p(z) (Eysenbach et al. 2019, eq. 3).

    Its mean is a lower bound of the information I(z; s') between skill and state (Barber & Agakov 2003), at most log K
    nats for K skills; the discriminator q_φ, learned on the way, makes it tight. The skill z is a part of the
    observation that the agent sees and another wrapper holds, one of K choices with equal probability::

        env = LatentNoiseWrapper(make_vec_env("latentrl_envs:latentrl/MultiGoal-v0", 8), 4, kind="categorical")
        agent = PPO("MultiInputPolicy", SkillReward(env, extrinsic=0.0), ent_coef=0.02)
        agent.learn(100_000, callback=ExplorationCallback())

    Any Dict with a part of choices or of one-hot vectors does. Of normal noise, q_φ is a Gaussian and p is N(0, I); the
    reward is then cut at −5 nats for each of its dimensions, as there is no end to how unlikely a narrow Gaussian finds
    what the agent did not do before.
    An action counts for the skill that was shown when it was chosen. LatentPPO and LatentA2C draw z themselves, which
    no observation shows: take stock PPO or A2C.

    :param venv: the environments, with the skill in their observations
    :param skill_key: name of that part; q_φ does not look at it
    :param options: those of :class:`ExplorationBonus`
    :raises LatentRLError: observations without such a part, or that hold nothing else
    """

    name = "skill"
    model: nn.ModuleDict

    def __init__(self, venv: VecEnv, skill_key: str = NOISE, **options: Any) -> None:
        self.skill_key = skill_key
        super().__init__(venv, **options)

    def _make_model(self) -> nn.ModuleDict:
        space = self._skill_space()
        self._context_dim = size("skill", space)
        encoder = TransitionEncoder(self.feature_dim, 0, self.hidden)
        posterior: AmortizedPosterior
        prior: Prior
        if isinstance(space, NormalNoise):
            posterior, prior = GaussianPosterior(encoder, self._context_dim), StandardNormalPrior(self._context_dim)
        else:
            posterior = CategoricalPosterior(encoder, self._context_dim)
            prior = CategoricalPrior(self._context_dim, learn_weights=False)
        return nn.ModuleDict({"posterior": posterior, "prior": prior})

    def _skill_space(self) -> spaces.Space[Any]:
        space = self.observation_space
        parts = space.spaces if isinstance(space, spaces.Dict) else {}
        found = parts.get(self.skill_key)
        if isinstance(found, spaces.Discrete) or (
            isinstance(found, spaces.Box | spaces.MultiBinary) and len(found.shape) == 1
        ):
            return found
        raise LatentRLError(
            f"SkillReward reads a choice or one-hot vector {self.skill_key!r} from the observation, but has {space}: "
            "wrap the environment in LatentNoiseWrapper(env, n_skills, kind='categorical'), or give skill_key="
        )

    def _hidden_parts(self) -> tuple[str, ...]:
        self._skill_space()
        return (*super()._hidden_parts(), self.skill_key)

    def _context_of(self, observations: Any) -> Float[Tensor, "N Z"]:
        space = self._skill_space()
        z = features(space, torch.as_tensor(observations[self.skill_key])).to(self.device)
        one_hot = ((z == 1).sum(-1) == 1) & ((z != 0).sum(-1) == 1)
        if not isinstance(space, NormalNoise) and not bool(one_hot.all()):
            raise LatentRLError(f"{self.skill_key!r} must be one-hot vectors, but they are {z.tolist()}")
        return z

    def _nats(self, context: Float[Tensor, "B Z"], inputs: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        return self._log_posterior(context, inputs) - self.model["prior"](inputs).log_prob(context)

    def _bonus(self, nats: NDArray[np.float64]) -> NDArray[np.float64]:
        return nats.clip(-CLIP * self._context_dim) if isinstance(self._skill_space(), NormalNoise) else nats

    def _loss(self, context: Float[Tensor, "B Z"], inputs: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
        return -self._log_posterior(context, inputs).mean()

    def _log_posterior(self, context: Float[Tensor, "B Z"], inputs: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        return self.model["posterior"](inputs, inputs[:, :0]).log_prob(context)

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | {"skill_key": self.skill_key}


class NoveltyReward(ExplorationBonus):
    """Rewards states that a variational autoencoder of the latest ones finds unlikely.

    The novelty of s' is −ELBO(s') in nats, which lies above −log p(s') (Kingma & Welling 2014). The bonus is how many
    standard deviations it lies above its running mean over about ``buffer_size`` transitions, cut at 5; so its mean is
    near 0, and it neither rewards nor punishes a longer life as such. Features are standardised by running moments,
    too. Noise that :class:`LatentNoiseWrapper` shows is not novel. Beside the rewards of a task, a small ``scale`` lets
    these decide in the end::

        env = NoveltyReward(make_vec_env("MountainCarContinuous-v0", 4), scale=0.1)
        PPO("MlpPolicy", env).learn(100_000, callback=ExplorationCallback())

    :param venv: the environments
    :param latent_dim: Z of the autoencoder
    :param options: those of :class:`ExplorationBonus`
    """

    name = "novelty"
    model: LatentModel

    def __init__(self, venv: VecEnv, latent_dim: int = 8, **options: Any) -> None:
        self.latent_dim: int = dimension("latent_dim", latent_dim)
        super().__init__(venv, **options)

    def _make_model(self) -> LatentModel:
        encoder = TransitionEncoder(0, self.feature_dim, self.hidden)
        decoder = GaussianDecoder(0, self.latent_dim, self.feature_dim, self.hidden)
        decoder.raw_units.floor.fill_(FINEST)
        return LatentModel(GaussianPosterior(encoder, self.latent_dim), StandardNormalPrior(self.latent_dim), decoder)

    def _elbo(self, inputs: Float[Tensor, "B D"], draws: int) -> Elbo:
        return self.model.elbo(Batch.full(inputs[:, :0], inputs), num_samples=draws)

    def _nats(self, context: Tensor, inputs: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:  # noqa: ARG002
        terms = self._elbo(inputs, DRAWS)
        return terms.kls - terms.log_likelihoods

    def _loss(self, context: Tensor, inputs: Float[Tensor, "B D"]) -> Float[Tensor, ""]:  # noqa: ARG002
        return self._elbo(inputs, 1).loss

    def _bonus(self, nats: NDArray[np.float64]) -> NDArray[np.float64]:
        moments = self._statistics["nats"]
        if moments.count < 1:
            moments.update(self._said(*self._batch()))
        deviation = np.sqrt(moments.var + 1e-8)
        bonus = ((nats - moments.mean) / deviation).clip(-CLIP, CLIP)
        # Of what was cut, as one state far away would otherwise silence the bonus for long.
        moments.update(moments.mean + deviation * bonus)
        # Running moments that forget: the model learns, and what was said before would count for ever.
        moments.count = min(moments.count, self.buffer_size)
        return bonus

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | {"latent_dim": self.latent_dim}


class ExplorationCallback(CheckpointCallback):
    """Logs what exploration rewards do, under ``exploration/``, and saves them with the agent.

    At each end of a rollout: ``skill_bonus`` (or ``novelty_bonus``) as it was added, ``_reward`` as it came from
    inside, ``_nats`` and the model's ``_loss``, means over the last 1000 steps. With ``save_freq`` it saves what
    stable-baselines3's CheckpointCallback does, and beside the agent each wrapper, as PREFIX_skill_STEPS_steps.npz::

        agent = PPO.load("runs/rl_model_80000_steps", SkillReward.load("runs/rl_model_skill_80000_steps.npz", venv))

    :param save_freq: calls of ``env.step`` between two savings; 0 saves nothing
    :param save_path: folder of the files
    :param options: further ones of CheckpointCallback, such as ``name_prefix``
    :raises LatentRLError: options out of range; when learning starts, an environment without such a reward, or with two
        of a kind
    """

    def __init__(self, save_freq: int = 0, save_path: str | None = None, **options: Any) -> None:
        super().__init__(count("save_freq", save_freq, 0), save_path or "", **options)
        if save_freq and not save_path:
            raise LatentRLError("to save every save_freq steps needs a folder: give save_path")

    def _init_callback(self) -> None:
        if self.save_freq:
            super()._init_callback()
        names = [reward.name for reward in self._rewards()]
        if not names:
            raise LatentRLError(
                "the agent's environment has no SkillReward or NoveltyReward: wrap it, or leave this out"
            )
        if len(set(names)) < len(names):
            raise LatentRLError(
                f"rewards named {', '.join(names)} would write over each other's files and figures: derive a class "
                "with another name for the second"
            )

    def _rewards(self) -> list[ExplorationBonus]:
        """The wrappers around the agent's environment, the outermost first."""
        found, env = [], self.training_env
        while isinstance(env, VecEnvWrapper):
            if isinstance(env, ExplorationBonus):
                found.append(env)
            env = env.venv
        return found

    def _on_step(self) -> bool:
        if self.save_freq and self.n_calls % self.save_freq == 0:
            super()._on_step()
            for reward in self._rewards():
                reward.save(self._checkpoint_path(f"{reward.name}_", extension="npz"))
        return True

    def _on_rollout_end(self) -> None:
        for reward in self._rewards():
            for key, value in reward.figures().items():
                self.logger.record(f"exploration/{key}", value)
