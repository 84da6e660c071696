"""What a cloned policy finds in what others did: how likely it is, and which latents belong to it."""

import numpy as np
import torch
from numpy.typing import NDArray

from latentrl import metrics
from latentrl.checks import LatentRLError
from latentrl.data import Demonstrations, Played, played
from latentrl.metrics import HeldOut
from latentrl.model import LatentModel
from latentrl.randomness import same_randomness
from latentrl.sb3.bc import LatentBC
from latentrl.sb3.in_place import as_seen, in_space
from latentrl.sb3.policy import LatentPolicy
from latentrl.training.held_out import groups


def held_out(
    agent: LatentBC | LatentPolicy, demonstrations: Demonstrations, num_samples: int = 100, seed: int = 0
) -> HeldOut:
    """How likely a cloned policy finds demonstrations: :func:`latentrl.metrics.held_out`, cut as the policy plays.

    They are taken as in training: in the policy's spaces, normalised as those of the agent whose policy is trained.

    :raises LatentRLError: another kind of agent; demonstrations of other spaces, shorter than a chunk; ``num_samples``
        below 1
    """
    cut, model = _as_played("held_out", agent, demonstrations)
    return metrics.held_out(model, cut, num_samples, seed)


@torch.no_grad()
def encode(agent: LatentBC | LatentPolicy, demonstrations: Demonstrations) -> NDArray[np.float32]:
    """The latents of demonstrations: what to give to ``predict(…, latent=z)`` for more of the same.

    (S, Z), the posterior's mode of each segment over which the policy holds a latent, in their order: one for each
    episode where ``hold = 0``. Demonstrations are taken as in training, whether they were seen there or not.

    :raises LatentRLError: another kind of agent, or one without a latent; demonstrations of other spaces, shorter than
        a chunk
    """
    cut, model = _as_played("encode", agent, demonstrations)
    if model.posterior is None:
        raise LatentRLError("the policy has no latent to encode demonstrations in: set latent_dim to 1 or more")
    segments = cut.segments
    found = torch.empty(len(segments), model.latent_dim)
    with same_randomness(segments.device):
        for index in groups(segments):
            found[index.cpu()] = model.infer(segments.batch(index)).mode.cpu()
    return found.numpy()


def _as_played(
    caller: str, agent: LatentBC | LatentPolicy, demonstrations: Demonstrations
) -> tuple[Played, LatentModel]:
    """Demonstrations as in training, cut as the policy plays, and its model, which evaluates."""
    policy = agent.policy if isinstance(agent, LatentBC) else agent
    if not isinstance(policy, LatentPolicy):
        raise LatentRLError(
            f"{caller} is for a LatentBC or its LatentPolicy, not for {type(agent).__name__}: of an agent that was "
            "cloned into, give the LatentBC"
        )
    if policy is agent and policy._in_place:
        raise LatentRLError(f"{caller} needs to know what the agent that was cloned into sees: give the LatentBC")
    shown = in_space(demonstrations, policy.observation_space, policy.action_space)
    if isinstance(agent, LatentBC) and agent._agent is not None:
        shown = as_seen(agent._agent, shown)
    policy.set_training_mode(False)
    model, config = policy.model, policy.config
    cut = played(
        shown,
        config.hold,
        config.context_length,
        policy.device,
        chunk=config.chunk,
        pads=config.pads,
        raw_observations=model.trunk is not None,
        history=config.history,
    )
    return cut, model
