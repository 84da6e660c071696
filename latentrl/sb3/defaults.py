"""What :class:`LatentBC` does where nothing is said, and which noise may be given."""

import math
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from latentrl.checks import LatentRLError
from latentrl.config import LatentConfig
from latentrl.data import Cuts, Demonstrations
from latentrl.data.host_segments import MOMENTS
from latentrl.model import LatentModel
from latentrl.noise import CorrectiveNoise
from latentrl.sb3.trunk import is_vector
from latentrl.schedules import KLRange

LEAST_NATS = 0.5
"""KL below which the default weight lowers β."""


def default_kl_weight(segments: Cuts) -> KLRange:
    """β = 1, and a target KL where the latent would collapse, or cost more than to name the segment (log N)."""
    # A latent of one step that must tell something tells the action itself, which p(z) cannot know.
    low = LEAST_NATS if segments.hold != 1 else 0.0
    return KLRange(low, max(LEAST_NATS, math.log(len(segments))))


def default_noise(demonstrations: Demonstrations, model: LatentModel, config: LatentConfig) -> CorrectiveNoise | None:
    """What the demonstrations tell, where observations and actions are numbers and actions are not planned ahead.

    Not for a decoder that could not answer it, as it sees no state, nor for one of actions between bounds, beyond which
    corrections lead.
    """
    numbers = all(isinstance(s, spaces.Box) for s in (demonstrations.observation_space, demonstrations.action_space))
    planned = model.trunk is not None or config.chunk > 1
    if not numbers or planned or not config.decoder_sees_state or config.decoder == "tanh_gaussian":
        return None
    if len(demonstrations) > MOMENTS:  # some do, the same ones wherever the data lie
        number = demonstrations.num_episodes
        chosen = np.linspace(0, number - 1, max(1, number * MOMENTS // len(demonstrations)))
        demonstrations = demonstrations.select(np.unique(chosen.astype(np.int64)))
    return CorrectiveNoise.estimate(demonstrations)


def as_noise(noise: Any) -> CorrectiveNoise | Literal["auto"] | None:
    """What was given, if it is one of these.

    :raises LatentRLError: it is not
    """
    if noise is None or isinstance(noise, CorrectiveNoise):
        return noise
    if isinstance(noise, str) and noise == "auto":
        return "auto"
    raise LatentRLError(f"noise must be a CorrectiveNoise, 'auto' or None, but {noise!r} was given")


def check_noise(
    noise: CorrectiveNoise | Literal["auto"] | None,
    observations: spaces.Space[Any],
    actions: spaces.Space[Any],
    sees_state: bool = True,
) -> None:
    """Whether noise that was given can be added to such observations, and corrected by such actions.

    :raises LatentRLError: it cannot
    """
    if not isinstance(noise, CorrectiveNoise):
        return
    if not is_vector(observations):
        raise LatentRLError(
            f"corrective noise is added to numbers, but the observations are {observations}: set noise=None"
        )
    if noise.gain is not None and not isinstance(actions, spaces.Box):
        raise LatentRLError("corrective noise with a gain needs continuous actions: give it without gain")
    if noise.gain is not None and not sees_state:
        raise LatentRLError(
            "corrective noise with a gain is answered by a policy that sees it, but decoder_sees_state=False: give it "
            "without gain, or noise=None"
        )
