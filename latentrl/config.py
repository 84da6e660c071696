"""One flat description of a latent policy, for strings, the command line and saved files."""

from dataclasses import dataclass
from typing import Any

from gymnasium import spaces

from latentrl.checks import LatentRLError, at_least, count, dimension, layer_sizes, one_of
from latentrl.decoders import Hidden
from latentrl.encoders import Encoder, TransitionEncoder
from latentrl.model import LatentModel
from latentrl.nets import SCALE_KINDS, ObservationTrunk, ScaleKind
from latentrl.parts import DECODERS, ENCODERS, POSTERIORS, PRIORS, TRUNKS, fitting_decoders
from latentrl.posteriors import AmortizedPosterior
from latentrl.spaces import size


@dataclass(frozen=True)
class LatentConfig:
    """Describes a :class:`LatentModel`; :meth:`build` makes it for given spaces.

    Unknown names are errors that list the choices.
    """

    latent_dim: int = 8
    """Z; 0 is a policy without latent: an MLP, or with ``decoder="mixture"`` a mixture density network."""
    posterior: str = "gaussian"
    """"gaussian" (mean field), "full" (any covariance), "mixture", "flow", "semi_amortized"; "categorical"."""
    prior: str = "vamp"
    """"normal" N(0, I), "gaussian" (learned), "mixture" of Gaussians, "vamp", "flow"; "categorical"."""
    decoder: str = "auto"
    """"gaussian", "tanh_gaussian", "mixture", "discretized_logistic"; "categorical", "bernoulli"; "auto" for what suits
    the action space. Without latent also "bins" and "diffusion", which others clone with."""
    n_components: int = 64
    """Components of a mixture or VampPrior; fewer than demonstrations, or the prior can only memorise."""
    learn_prior_weights: bool = True
    """Learn the weights of a mixture, VampPrior or categorical prior, or keep them equal."""
    learn_pseudo_inputs: bool = True
    """Learn a VampPrior's pseudo-inputs, or keep the data that they start from."""
    prior_sees_state: bool = False
    """p(z|s) instead of p(z); for gaussian, mixture, flow and categorical priors."""
    posterior_components: int = 4
    """Components of a mixture posterior."""
    factors: int = 1
    """Choices of a categorical latent, with latent_dim / factors options each."""
    decoder_components: int = 20
    """Components of a mixture decoder, or bins of actions."""
    decoder_scale: ScaleKind = "per_dimension"
    """Spread of actions given (s, z): "shared" by all dimensions, "per_dimension", or read off the "state"."""
    decoder_sees_state: bool = True
    """p(a|s, z), or p(a|z), where the latent must carry what the state says."""
    bins: int = 256
    """Intervals of a discretized logistic decoder."""
    denoising_steps: int = 10
    """Passes through the network of a diffusion decoder for one draw, of the 100 steps of its process."""
    hidden: tuple[int, ...] = (128, 128, 128)
    """Layer sizes of the decoder."""
    trunk: str = "mlp"
    """The decoder's network: "mlp"; "gru" over the history; "transformer" over history, latent and planned actions."""
    history: int = 1
    """Observations that the policy sees, the latest and those before it; an episode's first one stands for those before
    the start."""
    encoder: str = "patches"
    """What reads a segment: "patches" (convolutions without overlap), "gru", "transformer"."""
    encoder_hidden: tuple[int, ...] = (128, 128)
    """Layer sizes of transition encoders and conditional priors; a sequence encoder takes the last one."""
    hold: int = 0
    """Steps over which one latent is held: 0 the episode, k steps, 1 every step or every plan."""
    chunk: int = 1
    """Actions that the decoder plans from one observation; they are played one after another. With hold = k at most k;
    with hold = 1 a latent belongs to one plan, whatever its length."""
    execute: int | None = None
    """Actions of a plan that are played before the next one is made; None for all of them, or 1 with hold = 1."""
    context_length: int = 32
    """Most steps of a segment that the posterior sees, evenly spaced over it. "gru" and "transformer" see shorter
    segments step by step; "patches" always see this many."""
    latent_clip: float | None = None
    """Latents drawn from the prior to act are clipped to ±this; None does not clip."""
    temperature: float = 1.0
    """Spread of the latents drawn from the prior to act: of its Gaussians, or of its logits; 1 is the prior itself."""
    latents: str = "prior"
    """Where latents to act come from: "prior", or "aggregate", 1024 draws from posteriors of the data."""

    def __post_init__(self) -> None:
        one_of("posterior", self.posterior, POSTERIORS)
        one_of("prior", self.prior, PRIORS)
        one_of("decoder", self.decoder, {"auto", *DECODERS})
        one_of("encoder", self.encoder, ENCODERS)
        one_of("trunk", self.trunk, TRUNKS)
        one_of("latents", self.latents, ("prior", "aggregate"))
        one_of("decoder_scale", self.decoder_scale, SCALE_KINDS)
        for name, minimum in {
            "latent_dim": 0, "n_components": 1, "posterior_components": 1, "factors": 1, "decoder_components": 1,
            "bins": 2, "denoising_steps": 1, "history": 1, "hold": 0, "chunk": 1, "context_length": 2,
        }.items():  # fmt: skip
            self._keep(name, dimension(name, getattr(self, name), minimum))
        for name in ("hidden", "encoder_hidden"):
            self._keep(name, layer_sizes(name, getattr(self, name)))
            if not getattr(self, name):
                raise LatentRLError(f"{name} must be positive layer sizes such as (128, 128), but there are none")
        if self.latent_clip is not None:
            self._keep("latent_clip", at_least("latent_clip", self.latent_clip, 0.0, infinite=True))
        self._keep("temperature", at_least("temperature", self.temperature, 1e-6))
        if self.execute is not None:
            self._keep("execute", count("execute", self.execute, 1))
        self._check_combinations()

    def _keep(self, name: str, checked: Any) -> None:
        """As Python's own numbers, which files hold."""
        object.__setattr__(self, name, checked)

    def _check_combinations(self) -> None:
        """:raises LatentRLError: options that are each allowed, but not together"""
        if self.execute is not None and self.execute > self.chunk:
            raise LatentRLError(
                f"execute={self.execute} actions of plans of chunk={self.chunk}: plan more, or play fewer"
            )
        if self.latents == "aggregate" and (self.latent_dim == 0 or self.temperature != 1.0):
            raise LatentRLError(
                "latents='aggregate' draws latents of the data: it needs latent_dim ≥ 1, and temperature is for those "
                "of the prior"
            )
        if self.latent_dim and self.decoder == "diffusion":
            raise LatentRLError("decoder='diffusion' has no density to train a latent with: set latent_dim=0")
        if self.latent_dim and (self.posterior == "categorical") != (self.prior == "categorical"):
            raise LatentRLError(
                f"posterior={self.posterior!r} and prior={self.prior!r} live on different latents: "
                "a categorical posterior goes with the categorical prior"
            )
        if 1 < self.hold < self.chunk:
            raise LatentRLError(
                f"chunk={self.chunk} actions do not fit into hold={self.hold} steps: use a shorter one, or hold 0 or 1"
            )
        if self.prior_sees_state and self.prior in ("normal", "vamp"):
            raise LatentRLError(
                f"prior={self.prior!r} does not look at the state: take 'gaussian', 'mixture', 'flow' or "
                "'categorical', or leave prior_sees_state off"
            )

    @property
    def context_steps(self) -> int | None:
        """T' of the posterior's input, at most; None where it sees one transition."""
        if self.hold == 1:
            return None
        return self.context_length if self.hold == 0 else min(self.hold, self.context_length)

    @property
    def pads(self) -> bool:
        """Whether the posterior sees short segments step by step, padded, instead of evenly spaced steps."""
        return self.hold != 1 and self.encoder != "patches"

    @property
    def plays(self) -> int:
        """Actions of a plan that are played."""
        return self.execute or (1 if self.hold == 1 else self.chunk)

    @property
    def held_steps(self) -> int:
        """Steps after which a new latent is drawn; 0 for never."""
        return self.plays if self.hold == 1 else self.hold

    @property
    def network(self) -> Hidden:
        """What decoders take as ``hidden``."""
        return TRUNKS[self.trunk](self)

    def build(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        trunk: ObservationTrunk | None = None,
    ) -> LatentModel:
        """Make the model with fresh weights.

        :param trunk: features of raw observations; None takes them as they are
        :raises LatentRLError: where the decoder does not suit the action space, or the observations need a trunk
        """
        frame_dim = size("observation", observation_space) if trunk is None else trunk.features_dim
        observation_dim = self.history * frame_dim
        action_dim = self.chunk * size("action", action_space)
        name = self._decoder_for(action_space)
        decoder = DECODERS[name](self, observation_dim if self.decoder_sees_state else 0, action_dim, action_space)
        if self.latent_dim == 0:
            return LatentModel(None, None, decoder, trunk, history=self.history)
        posterior = self.make_posterior(observation_dim, action_dim)
        prior = PRIORS[self.prior](self, observation_dim if self.prior_sees_state else None, posterior)
        return LatentModel(
            posterior,
            prior,
            decoder,
            trunk,
            self.latent_clip,
            self.history,
            self.temperature,
            self.latents == "aggregate",
        )

    def make_posterior(self, observation_dim: int, action_dim: int) -> AmortizedPosterior:
        """The posterior alone, for features of observations and actions of these sizes."""
        return POSTERIORS[self.posterior](self, self._encoder(observation_dim, action_dim))

    def _encoder(self, observation_dim: int, action_dim: int) -> Encoder:
        if self.context_steps is None:
            return TransitionEncoder(observation_dim, action_dim, self.encoder_hidden)
        return ENCODERS[self.encoder](observation_dim, action_dim, self.context_steps, self.encoder_hidden[-1])

    def _decoder_for(self, action_space: spaces.Space[Any]) -> str:
        fitting = fitting_decoders(action_space)
        name = fitting[0] if self.decoder == "auto" else self.decoder
        if name not in fitting:
            choices = " or ".join(repr(fit) for fit in fitting)
            raise LatentRLError(f"decoder={name!r} does not fit the action space {action_space}: use {choices}")
        return name
