"""What the actions of an agent tell of its latent, logged while it learns."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor
from torch.distributions import kl_divergence

from latentrl.checks import LatentRLError, count
from latentrl.distributions import DiagonalNormal
from latentrl.randomness import same_randomness
from latentrl.sb3.actor_critic import LatentActorCriticPolicy
from latentrl.sb3.held import WithLatent
from latentrl.sb3.latent_actor import MixtureActor, SemiImplicitActor
from latentrl.sb3.on_policy import to_read
from latentrl.sb3.td3_policy import LatentTD3Actor

ACTIVE = 0.01
"""Nats by which a dimension of the latent moves the law of actions, from which it counts as used."""
DRAWS = 32
"""Latents of a state, among which an action of SAC or TD3 is to tell its own; so information is at most log 32."""
BLUR = 0.1
"""Standard deviation, of actions in (−1, 1), that stands in for that of TD3's, which have none given z."""
LatentActor = SemiImplicitActor | MixtureActor | LatentTD3Actor


class LatentUsage(BaseCallback):
    """Logs, while an agent with a latent policy learns, what actions tell of the latent.

    - ``latent/information``: a lower bound of I(a; z|s), in nats. LatentPPO and LatentA2C: the bounded entropy of
      π(a|s) less that of p(a|s, z). SAC and TQC: how well an action tells its own latent from other draws (van den
      Oord et al. 2018, with the density itself for a critic), at most log 32; of a mixture that of its component, by
      one action of each. TD3 and DDPG: the same of actions with noise of standard deviation .1
    - ``latent/active_units``: dimensions whose redrawing, alone, moves p(a|s, z) by more than .01 nats; of a
      categorical latent 1 or 0

    :param states: on which that is measured: of the rollout, or of the replay buffer
    :param eval_freq: calls of the callback between two looks at a replay buffer; rollouts are all looked at
    :raises LatentRLError: less than 1; where learning starts, a policy without latent
    """

    def __init__(self, states: int = 256, eval_freq: int = 1000, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.states: int = count("states", states, 1)
        self.eval_freq: int = count("eval_freq", eval_freq, 1)

    def _on_training_start(self) -> None:
        policy: Any = self.model.policy
        if not isinstance(policy, LatentActorCriticPolicy) and not isinstance(
            getattr(policy, "actor", None), LatentActor
        ):
            raise LatentRLError(
                f"LatentUsage is for LatentPPO, LatentA2C, and the LatentPolicy of SAC, TQC, TD3 and DDPG: "
                f"{type(policy).__name__} has no latent of its own"
            )

    def _on_step(self) -> bool:
        agent = self.model
        if not isinstance(agent, OffPolicyAlgorithm) or self.n_calls % self.eval_freq:
            return True
        # Before learning starts, buffers of whole episodes may hold none.
        if self.num_timesteps > agent.learning_starts:
            assert agent.replay_buffer is not None
            with same_randomness(agent.device), torch.no_grad():
                samples = agent.replay_buffer.sample(self.states, env=agent._vec_normalize_env)
                self._log(actor_usage(agent.policy.actor, samples.observations))  # type: ignore[arg-type]
        return True

    def _on_rollout_end(self) -> None:
        agent = self.model
        if isinstance(agent, OnPolicyAlgorithm):
            assert isinstance(agent.policy, LatentActorCriticPolicy)
            with same_randomness(agent.device), torch.no_grad():
                samples = next(to_read(agent.rollout_buffer).get(self.states))
                assert isinstance(samples.observations, WithLatent)
                self._log(usage(agent.policy, samples.observations))

    def _log(self, found: dict[str, float]) -> None:
        for name, value in found.items():
            self.logger.record(f"latent/{name}", value)


def usage(policy: LatentActorCriticPolicy, seen: WithLatent) -> dict[str, float]:
    """What :class:`LatentUsage` logs of LatentPPO and LatentA2C, at the given states and latents."""
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


def actor_usage(actor: LatentActor, observations: PyTorchObs) -> dict[str, float]:
    """What :class:`LatentUsage` logs of SAC, TQC, TD3 and DDPG, at the given states.

    Of actions before the tanh where there is a density: an invertible map changes neither information nor divergence.
    """
    if isinstance(actor, MixtureActor):
        return _component_usage(actor, observations)
    if isinstance(actor, SemiImplicitActor):
        before = actor._before_activation(observations)
        prior = actor.prior(actor.latent_pi[-1:](before)).expand((len(before),))
        return _latent_usage(partial(actor.law_of, before), prior.sample((DRAWS,)))
    features = actor.extract_features(observations, actor.features_extractor)
    z = torch.randn(DRAWS, len(features), actor.latent_dim, device=features.device)
    return _latent_usage(lambda z: DiagonalNormal(actor.given(features, z), features.new_full((1,), BLUR)), z)


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


def _component_usage(actor: MixtureActor, observations: PyTorchObs) -> dict[str, float]:
    """Of the component: E_k[log p(u_k|s, k) − log π(u_k|s)], and E_k,k'[KL(p(u|s, k) ‖ p(u|s, k'))]."""
    law = actor.law(observations)
    components, weights = law.components, law.log_weights.exp()
    assert isinstance(components, DiagonalNormal)
    u = components.sample()  # (B, K, A)
    gain = components.log_prob(u) - law.log_prob(u.movedim(1, 0)).mT
    first, second = (DiagonalNormal(components.loc.unsqueeze(d), components.scale.unsqueeze(d)) for d in (2, 1))
    pairs = kl_divergence(first, second)  # (B, K, K)
    moved = torch.einsum("bj,bk,bjk->b", weights, weights, pairs).mean()
    return {"information": float((weights * gain).sum(-1).mean()), "active_units": float(moved > ACTIVE)}


def _divergence(first: Distribution, second: Distribution) -> Tensor:
    """KL of stable-baselines3's laws, (B,)."""
    if isinstance(first.distribution, list):
        pairs = zip(first.distribution, second.distribution, strict=True)  # type: ignore[arg-type]
        return torch.stack([kl_divergence(p, q) for p, q in pairs]).sum(0)
    kl = kl_divergence(first.distribution, second.distribution)  # type: ignore[arg-type]
    return kl.sum(-1) if kl.dim() > 1 else kl
