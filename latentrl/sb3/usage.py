"""What the actions of an agent tell of its latent, logged while it learns."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor
from torch.distributions import kl_divergence

from latentrl.checks import LatentRLError, count
from latentrl.distributions import DiagonalNormal, Mixture
from latentrl.randomness import same_randomness
from latentrl.sb3.actor_critic import LatentActorCriticPolicy
from latentrl.sb3.actor_decoders import SPREAD
from latentrl.sb3.held import WithLatent
from latentrl.sb3.latent_actor import MixtureActor, SemiImplicitActor
from latentrl.sb3.latent_noise import NOISE
from latentrl.sb3.mixture_heads import MixtureOfCategoricals
from latentrl.sb3.mixture_policy import MixtureActorCriticPolicy
from latentrl.sb3.on_policy import to_read
from latentrl.sb3.td3_policy import LatentTD3Actor

ACTIVE = 0.01
"""Nats by which a dimension of the latent moves the law of actions, from which it counts as used."""
DRAWS = 32
"""Latents of a state, among which an action of SAC or TD3 is to tell its own; so information is at most log 32."""


class LatentUsage(BaseCallback):
    """Logs, while an agent with a latent policy learns, what actions tell of the latent.

    - ``latent/information``: a lower bound of I(a; z|s), in nats, up to the error of some hundred draws. LatentPPO and
      LatentA2C: the bounded entropy of π(a|s) less that of p(a|s, z). Mixtures, whose latent is the component: by one
      action of each. SAC and TQC: how well an action tells its own latent from other draws (van den Oord et al. 2018,
      with the density itself for a critic), at most log 32. TD3 and DDPG: the same of actions with noise of standard
      deviation .1
    - ``latent/active_units``: dimensions whose redrawing, alone, moves p(a|s, z) by more than .01 nats; of a
      categorical latent 1 or 0

    :class:`LatentBC` logs the like of its posterior by itself.

    :param states: on which that is measured: of the rollout, or of the replay buffer
    :param eval_freq: calls of the callback between two looks at a replay buffer; rollouts are all looked at
    :raises LatentRLError: less than 1; where learning starts, a policy without latent, or a mixture over one discrete
        choice, which is summed up to a plain categorical law
    """

    def __init__(self, states: int = 256, eval_freq: int = 1000, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.states: int = count("states", states, 1)
        self.eval_freq: int = count("eval_freq", eval_freq, 1)
        self._due = False

    def _on_training_start(self) -> None:
        policy: Any = self.model.policy
        summed = isinstance(getattr(policy, "action_dist", None), MixtureOfCategoricals)
        of_its_own = isinstance(policy, LatentActorCriticPolicy | MixtureActorCriticPolicy) or isinstance(
            getattr(policy, "actor", None), SemiImplicitActor | MixtureActor | LatentTD3Actor
        )
        space = self.model.observation_space
        if not of_its_own and isinstance(space, spaces.Dict) and NOISE in space.spaces:
            raise LatentRLError(
                "LatentUsage looks at latents that a policy draws; what LatentNoiseWrapper shows is a part of the "
                "observation: see what it does by LatentTraversal or ModeCoverage"
            )
        if summed or not of_its_own:
            raise LatentRLError(
                "LatentUsage is for LatentPPO, LatentA2C, the MixturePolicy of PPO and A2C (but for one discrete "
                f"choice), and the LatentPolicy of SAC, TQC, TD3 and DDPG: the {type(policy).__name__} of "
                f"{type(self.model).__name__} has no latent to look at"
            )

    def _on_step(self) -> bool:
        self._due |= self.n_calls % self.eval_freq == 0
        return True

    def _on_rollout_end(self) -> None:
        agent = self.model
        if isinstance(agent, OnPolicyAlgorithm):
            with same_randomness(agent.device), torch.no_grad():
                rollout = next(to_read(agent.rollout_buffer).get(self.states))
                self._log(usage(agent.policy, rollout.observations))
        # Here, as the step at which a look is due is not yet in the buffer. Learning, too, begins to sample here.
        elif isinstance(agent, OffPolicyAlgorithm) and self._due and self.num_timesteps > agent.learning_starts:
            self._due = False
            assert agent.replay_buffer is not None
            with same_randomness(agent.device), torch.no_grad():
                samples = agent.replay_buffer.sample(self.states, env=agent._vec_normalize_env)
                self._log(usage(agent.policy, samples.observations))

    def _log(self, found: dict[str, float]) -> None:
        for name, value in found.items():
            self.logger.record(f"latent/{name}", value)


def usage(policy: Any, observations: Any) -> dict[str, float]:
    """What :class:`LatentUsage` logs, at the given states, and of LatentPPO and LatentA2C at the given latents.

    Of SAC's actions before the tanh: an invertible map changes neither information nor divergence.
    """
    if isinstance(policy, LatentActorCriticPolicy):
        assert isinstance(observations, WithLatent)
        return _usage_with_latents(policy, observations)
    if isinstance(policy, MixtureActorCriticPolicy):
        law: Any = policy.get_distribution(observations).distribution
        return _component_usage(law)
    actor = policy.actor
    if isinstance(actor, MixtureActor):
        return _component_usage(actor.law(observations))
    if isinstance(actor, SemiImplicitActor):
        before = actor._before_activation(observations)
        prior = actor.prior(actor.latent_pi[-1:](before)).expand((len(before),))
        return _latent_usage(partial(actor.law_of, before), prior.sample((DRAWS,)))
    features = actor.extract_features(observations, actor.features_extractor)
    z = torch.randn(DRAWS, len(features), actor.latent_dim, device=features.device)
    return _latent_usage(lambda z: DiagonalNormal(actor.given(features, z), features.new_full((1,), SPREAD)), z)


def _usage_with_latents(policy: LatentActorCriticPolicy, seen: WithLatent) -> dict[str, float]:
    features = policy.features_of(seen.observations)
    acts, redrawn = policy.acts(features, seen.latent), policy.draw(features)
    # Not at the latents in force, which may be drawn of other states.
    alone = policy.acts(features, redrawn).entropy()
    assert alone is not None
    information, active = (policy.entropy_bound(features) - alone).mean(), 0
    for part in [slice(None)] if policy.prior_name == "categorical" else range(policy.latent_dim):
        moved = seen.latent.clone()
        moved[:, part] = redrawn[:, part]
        active += float(_divergence(acts, policy.acts(features, moved)).mean()) > ACTIVE
    return {"information": float(information), "active_units": float(active)}


def _latent_usage(law_of: Callable[[Tensor], DiagonalNormal], z: Float[Tensor, "S B Z"]) -> dict[str, float]:
    """Of p(a|s, z) at latents of which the first is an action's own."""
    law = law_of(z)
    own = DiagonalNormal(law.loc[0], law.scale.expand(law.loc.shape)[0])
    log_prob = law.log_prob(own.sample())
    information = (log_prob[0] - log_prob.logsumexp(0)).mean() + math.log(len(z))
    active = 0
    for part in range(z.shape[-1]):
        moved = z[0].clone()
        moved[:, part] = z[1, :, part]
        active += float(kl_divergence(own, law_of(moved)).mean()) > ACTIVE
    return {"information": float(information), "active_units": float(active)}


def _component_usage(law: Mixture) -> dict[str, float]:
    """Of the component: E_k[log p(a_k|s, k) − log π(a_k|s)], and E_k,j[log p(a_k|s, k) − log p(a_k|s, j)]."""
    weights = law.log_weights.exp()
    actions = law.components.sample().movedim(1, 0).unsqueeze(2)  # (K, B, 1, A)
    log_prob = law.components.log_prob(actions).movedim(0, 1)  # (B, K, K), of the first component's under the second
    gain = log_prob.diagonal(dim1=1, dim2=2).unsqueeze(-1) - log_prob
    moved = torch.einsum("bk,bj,bkj->b", weights, weights, gain).mean()
    information = -(weights * (law.log_weights.unsqueeze(1) - gain).logsumexp(-1)).sum(-1).mean()
    return {"information": float(information), "active_units": float(moved > ACTIVE)}


def _divergence(first: Distribution, second: Distribution) -> Tensor:
    """KL of stable-baselines3's laws, (B,)."""
    if isinstance(first.distribution, list):
        pairs = zip(first.distribution, second.distribution, strict=True)  # type: ignore[arg-type]
        return torch.stack([kl_divergence(p, q) for p, q in pairs]).sum(0)
    kl = kl_divergence(first.distribution, second.distribution)  # type: ignore[arg-type]
    return kl.sum(-1) if kl.dim() > 1 else kl
