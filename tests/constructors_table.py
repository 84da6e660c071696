"""One table of public constructors: a good call of each, and a tiny use of what it makes.

A new constructor adds one row; :mod:`tests.test_constructors` puts odd values in place of its arguments.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from latentrl import (
    CorrectiveNoise,
    Demonstrations,
    LatentConfig,
    LatentModel,
    LatentRLError,
    decoders,
    posteriors,
    priors,
)
from latentrl import encoders as e
from latentrl import estimators as est
from latentrl import schedules as s
from latentrl.commands import EvaluateConfig, SweepConfig, TrainConfig
from latentrl.demo import DemoConfig
from latentrl.diffusion import DiffusionDecoder
from latentrl.distributions import DiagonalNormal, OneHot, StandardNormal, monte_carlo_kl
from latentrl.gradients import GradientsConfig
from latentrl.trunks import GRUTrunk, TransformerTrunk
from latentrl.types import Batch

N, O, A, Z, T = 3, 3, 2, 2, 4  # noqa: E741  (the glossary's letters)
BOX, VECTOR = spaces.Box(-1, 1, (A,)), spaces.Box(-1, 1, (O,))
LOW, HIGH = -torch.ones(A), torch.ones(A)


@dataclass(frozen=True)
class Row:
    """How to make one, and what to do with it then."""

    make: Callable[..., Any]
    good: dict[str, Any] = field(default_factory=dict)
    """Arguments of a call that is right."""
    use: Callable[[Any, dict[str, Any]], Any] = lambda made, given: None  # noqa: ARG005
    """A tiny step with what was made and the arguments that made it; its numbers must be finite."""
    error: type[Exception] = LatentRLError
    """By which it refuses."""
    endless: frozenset[str] = frozenset()
    """Arguments by which it would work for ever, as was asked, if they were huge."""


def numbers(found: Any) -> Iterable[Any]:
    """All numbers in what a use found."""
    if isinstance(found, Tensor):
        yield found.detach().numpy()
    elif isinstance(found, dict):
        yield from numbers(tuple(found.values()))
    elif isinstance(found, tuple | list):
        for part in found:
            yield from numbers(part)
    elif found is not None:
        yield np.asarray(found, np.float64)


def log_prob(law: Any) -> Tensor:
    """Of a draw."""
    return law.log_prob(law.sample())


def _decoded(decoder: Any, given: dict[str, Any]) -> Tensor:
    return log_prob(decoder(torch.zeros(N, given["observation_dim"]), torch.zeros(N, given["latent_dim"])))


def _encoded(encoder: Any, given: dict[str, Any]) -> Tensor:
    steps = (given.get("length", T),) if "Transition" not in type(encoder).__name__ else ()
    return encoder(torch.zeros(N, *steps, given["observation_dim"]), torch.zeros(N, *steps, given["action_dim"]))


def _features(trunk: Any, given: dict[str, Any]) -> Tensor:
    return trunk(torch.zeros(N, given["observation_dim"]), torch.zeros(N, given["latent_dim"]))


def _inferred(posterior: Any, _: dict[str, Any]) -> Tensor:
    batch = Batch.full(torch.zeros(N, O), torch.zeros(N, A), torch.zeros(N, dtype=torch.long))
    return log_prob(posterior.infer(batch, lambda q: q.rsample().square().sum(-1)))


def _prior(prior: Any, given: dict[str, Any]) -> Tensor:
    return log_prob(prior(torch.zeros(N, given.get("observation_dim") or 0)))


def _weights(schedule: Any, _: dict[str, Any]) -> list[Any]:
    kl, found = torch.tensor(0.3), []
    for step in (0, 1, 100):
        found.append(schedule(step, kl))
        if getattr(schedule, "observes", hasattr(schedule, "observe")):
            schedule.observe(step, kl, torch.tensor(-1.0))
    return [*found, schedule(101, kl)]


def _estimated(q: Any, samples: int = 2) -> Callable[[Any, dict[str, Any]], Any]:
    return lambda made, _: tuple(made(q, lambda z: z.square().sum(-1), samples))


def _trajectories() -> est.Trajectories:
    ones = torch.ones(T, N)
    return est.Trajectories(ones, ones, ones > 0, [torch.zeros(N, O)] * (T + 1))


def _returned(made: Any, _: dict[str, Any]) -> Tensor:
    return made.surrogate(_trajectories())


def _acted(model: Any, _: dict[str, Any]) -> list[Any]:
    seen = torch.zeros(N, O)
    if model.history != 1 or model.remembered is not None:
        return None  # the other parts would have to be made for it
    return [model.act(seen, model.sample_latent(seen)), model.elbo(Batch.full(seen, torch.zeros(N, A))).loss]


def _built(config: LatentConfig, _: dict[str, Any]) -> Any:
    model = config.build(VECTOR, BOX)
    seen = torch.zeros(N, O * config.history)
    z = None if config.latents == "aggregate" else model.sample_latent(seen)
    return None if z is None else model.act(seen, z)


def _compares(config: GradientsConfig, _: dict[str, Any]) -> list[Any]:
    kept = [est.AlphaOrder(config.gamma).failure, est.ValueFunction(O, 1, config.hidden).horizon]
    return [*kept, *(np.random.default_rng(seed).random() for seed in config.seeds)]


def _law(*shape: int) -> DiagonalNormal:
    return DiagonalNormal(torch.zeros(*shape), torch.ones(*shape))


SMALL = (4,)
TRANSITION = e.TransitionEncoder(O, A, SMALL)
CHOICE = OneHot(torch.zeros(N, Z))
SIZES = {"observation_dim": O, "latent_dim": Z, "action_dim": A, "hidden": SMALL}
BOXED = {"observation_dim": O, "latent_dim": Z, "low": LOW, "high": HIGH, "hidden": SMALL}
READ = {"observation_dim": O, "action_dim": A}
ENCODED = {"encoder": TRANSITION, "latent_dim": Z}
STATE = {"latent_dim": Z, "observation_dim": O, "hidden": SMALL}
MULTIPLIER = {"rate": 0.05, "initial": 1.0, "limits": (1e-4, 1e4)}
ROWS_OF_DATA = {
    "observations": np.zeros((6, O)), "actions": np.zeros((6, A)), "episode_lengths": [3, 3],
    "observation_space": VECTOR, "action_space": BOX, "rewards": np.zeros(6), "modes": np.array([0, 1]),
}  # fmt: skip
DEMONSTRATIONS = Demonstrations.from_arrays(**ROWS_OF_DATA)
CONFIG = {
    "latent_dim": Z, "posterior": "gaussian", "prior": "mixture", "decoder": "auto", "n_components": 2,
    "learn_prior_weights": True, "learn_pseudo_inputs": True, "prior_sees_state": False, "posterior_components": 2,
    "factors": 1, "decoder_components": 2, "decoder_scale": "shared", "decoder_sees_state": True, "bins": 4,
    "denoising_steps": 2, "hidden": SMALL, "trunk": "mlp", "history": 1, "encoder": "patches", "encoder_hidden": SMALL,
    "hold": 0, "chunk": 1, "execute": None, "context_length": 4, "latent_clip": 2.0, "temperature": 1.0,
    "latents": "prior",
}  # fmt: skip
FLOWING = {"transforms": 1, "bins": 4}

MODELS = {
    "CorrectiveNoise": Row(CorrectiveNoise, {"std": np.ones(O), "gain": np.ones((A, O))}, lambda m, _: [m.std, m.gain]),
    "CorrectiveNoise.velocity_control": Row(
        CorrectiveNoise.velocity_control,
        {"observation_dim": 4, "position": slice(0, 2), "position_std": 0.1, "velocity_std": 0.1, "steps": 8.0},
        lambda m, _: [m.std, m.gain],
    ),
    "CorrectiveNoise.estimate": Row(CorrectiveNoise.estimate, {"demonstrations": DEMONSTRATIONS, "steps": 8.0}),
    "Demonstrations.from_arrays": Row(
        Demonstrations.from_arrays, ROWS_OF_DATA, lambda m, _: [m.actions, m.episode_starts, m.select([0]).actions]
    ),
    "Demonstrations": Row(
        Demonstrations,
        {name: getattr(DEMONSTRATIONS, name) for name in ROWS_OF_DATA},
        lambda m, _: [m.actions, m.episode_starts, m.select([0]).actions],
    ),
    "Demonstrations.split": Row(
        Demonstrations.from_arrays(**{**ROWS_OF_DATA, "modes": None}).split,
        {"fraction": 0.5, "seed": 0},
        lambda m, _: [part.actions for part in m],
    ),
    "LatentConfig": Row(LatentConfig, CONFIG, _built),
    "LatentModel": Row(
        LatentModel,
        {
            "posterior": posteriors.GaussianPosterior(TRANSITION, Z), "prior": priors.GaussianPrior(Z),
            "decoder": decoders.GaussianDecoder(O, Z, A, SMALL), "trunk": None, "latent_clip": 2.0, "history": 1,
            "temperature": 0.5, "aggregate": False,
        },
        _acted,
    ),
    "GaussianDecoder": Row(decoders.GaussianDecoder, {**SIZES, "scale": "shared"}, _decoded),
    "TanhGaussianDecoder": Row(decoders.TanhGaussianDecoder, {**BOXED, "scale": "shared"}, _decoded),
    "MixtureDecoder": Row(decoders.MixtureDecoder, {**SIZES, "n_components": 2}, _decoded),
    "BinsDecoder": Row(decoders.BinsDecoder, {**SIZES, "n_bins": 2}, _decoded),
    "DiscretizedLogisticDecoder": Row(decoders.DiscretizedLogisticDecoder, {**BOXED, "bins": 4}, _decoded),
    "BernoulliDecoder": Row(decoders.BernoulliDecoder, SIZES, _decoded),
    "CategoricalDecoder": Row(
        decoders.CategoricalDecoder,
        {"observation_dim": O, "latent_dim": Z, "sizes": (2, 3), "hidden": SMALL},
        _decoded,
    ),
    "DiffusionDecoder": Row(DiffusionDecoder, {**SIZES, "latent_dim": 0, "sampling_steps": 2}, _decoded),
    "TransitionEncoder": Row(e.TransitionEncoder, {**READ, "hidden": SMALL}, _encoded),
    "SequenceEncoder": Row(
        e.SequenceEncoder, {**READ, "length": T, "channels": SMALL, "stride": 2, "features_dim": 4}, _encoded
    ),
    "GRUEncoder": Row(e.GRUEncoder, {**READ, "features_dim": 4, "layers": 1}, _encoded),
    "TransformerEncoder": Row(e.TransformerEncoder, {**READ, "features_dim": 4, "layers": 1, "heads": 2}, _encoded),
    "GRUTrunk": Row(GRUTrunk, {"observation_dim": O, "latent_dim": Z, "hidden": SMALL, "history": 1}, _features),
    "TransformerTrunk": Row(
        TransformerTrunk,
        {"observation_dim": O, "latent_dim": Z, "hidden": SMALL, "history": 1, "chunk": 1, "heads": 2},
        _features,
    ),
    "GaussianPosterior": Row(posteriors.GaussianPosterior, ENCODED, _inferred),
    "FullGaussianPosterior": Row(posteriors.FullGaussianPosterior, ENCODED, _inferred),
    "MixturePosterior": Row(posteriors.MixturePosterior, {**ENCODED, "n_components": 2}, _inferred),
    "FlowPosterior": Row(posteriors.FlowPosterior, {**ENCODED, **FLOWING}, _inferred),
    "CategoricalPosterior": Row(posteriors.CategoricalPosterior, {**ENCODED, "factors": 1}, _inferred),
    "SemiAmortizedPosterior": Row(
        posteriors.SemiAmortizedPosterior, {**ENCODED, "steps": 1, "step_size": 0.1, "num_samples": 1}, _inferred
    ),
    "PerDatapointPosterior": Row(posteriors.PerDatapointPosterior, {"num_data": 2, "latent_dim": Z}, _inferred),
    "StandardNormalPrior": Row(priors.StandardNormalPrior, {"latent_dim": Z}, _prior),
    "GaussianPrior": Row(priors.GaussianPrior, STATE, _prior),
    "MixturePrior": Row(priors.MixturePrior, {**STATE, "n_components": 2, "learn_weights": True}, _prior),
    "VampPrior": Row(
        priors.VampPrior,
        {
            "posterior": posteriors.GaussianPosterior(TRANSITION, Z), "n_components": 2, "length": None,
            "learn_inputs": True, "learn_weights": True,
        },
        _prior,
    ),
    "FlowPrior": Row(priors.FlowPrior, {**STATE, **FLOWING}, _prior),
    "CategoricalPrior": Row(priors.CategoricalPrior, {**STATE, "factors": 1, "learn_weights": True}, _prior),
}  # fmt: skip

RULES = {
    "Constant": Row(s.Constant, {"beta": 1.0}, _weights),
    "LinearAnnealing": Row(s.LinearAnnealing, {"steps": 10, "start": 0.0, "end": 1.0}, _weights),
    "CyclicalAnnealing": Row(s.CyclicalAnnealing, {"steps": 10, "cycles": 2, "rise": 0.5, "beta": 1.0}, _weights),
    "FreeBits": Row(s.FreeBits, {"nats": 1.0, "beta": 1.0}, _weights),
    "Capacity": Row(s.Capacity, {"nats": 1.0, "steps": 10, "gamma": 10.0}, _weights),
    "Multiplier": Row(s.Multiplier, MULTIPLIER, lambda m, _: m.beta),
    "KLConstraint": Row(s.KLConstraint, {"target": 1.0, **MULTIPLIER}, _weights),
    "Geco": Row(s.Geco, {"target": -1.0, "scale": 1.0, **MULTIPLIER}, _weights),
    "KLRange": Row(s.KLRange, {"low": 0.5, "high": 2.0, "rate": 0.05}, _weights),
    "FadeIn": Row(s.FadeIn, {"schedule": s.Constant(), "steps": 10}, _weights),
    "Cosine": Row(s.Cosine, {"initial": 1e-3}, lambda m, _: m(0.5)),
    "as_schedule": Row(s.as_schedule, {"weight": 1.0}, _weights),
    "AlphaOrder": Row(
        est.AlphaOrder, {"gamma": 1.0, "failure": 0.05}, lambda m, _: m.weight(torch.ones(4, 2), torch.ones(4, 2))
    ),
    "GumbelSoftmax": Row(est.GumbelSoftmax, {"temperature": 1.0, "hard": False}, _estimated(CHOICE)),
    "Rebar": Row(est.Rebar, {"temperature": 0.5, "eta": 1.0}, _estimated(CHOICE)),
    "Relax": Row(est.Relax, {"control": nn.Linear(Z, 1), "temperature": 0.5, "eta": 1.0}, _estimated(CHOICE)),
    "Vimco": Row(est.Vimco, {"mean": "geometric"}, _estimated(CHOICE)),
    "MeasureValued": Row(est.MeasureValued, {"coupled": True}, _estimated(_law(N, Z))),
    "MuProp": Row(est.MuProp, {"baseline": est.RunningMean()}, _estimated(CHOICE)),
    "ScoreFunction": Row(est.ScoreFunction, {"baseline": est.LeaveOneOut()}, _estimated(CHOICE)),
    "RunningMean": Row(est.RunningMean, {"decay": 0.9}, lambda m, _: m(torch.ones(2, N))),
    "LearnedBaseline": Row(est.LearnedBaseline, {"network": nn.Linear(Z, 1)}, lambda m, _: m(CHOICE)),
    "LikelihoodRatio": Row(est.LikelihoodRatio, {"baseline": "leave_one_out", "reward_to_go": True}, _returned),
    "ShortHorizon": Row(est.ShortHorizon, {"window": 2, "critic": lambda o, _: o.sum(-1)}, _returned),
    "ValueFunction": Row(
        est.ValueFunction,
        {"observation_dim": O, "horizon": T, "hidden": SMALL},
        lambda m, g: m(torch.zeros(N, g["observation_dim"]), torch.ones(1)),
    ),
    "monte_carlo_kl": Row(
        monte_carlo_kl,
        {"q": _law(N, Z), "p": StandardNormal(torch.zeros(Z), torch.ones(Z)), "num_samples": 4},
        lambda m, _: list(m),
    ),
}

COMMANDS = {
    "DemoConfig": Row(
        DemoConfig,
        {"seed": 0, "updates": 1, "rollouts": 2, "replicates": 2, "horizons": (1,), "workers": 1},
        lambda m, _: np.random.default_rng(m.seed).random(),
    ),
    "GradientsConfig": Row(
        GradientsConfig,
        {
            "tasks": ("LQR-v0",), "estimators": ("lr",), "horizons": (1,), "sigmas": (0.5,),
            "num_envs": 4, "replicates": 2, "seeds": (0,), "hidden": (), "gamma": 10.0, "window": 1, "value_updates": 1,
            "chunk_size": 1, "workers": 1,
        },
        _compares,
    ),
    "TrainConfig": Row(TrainConfig, {"updates": 1, "held_out": 0.1, "patience": 1, "every": 1}),
    "SweepConfig": Row(SweepConfig, {"base": Path("x"), "grid": ("seed=0",), "workers": 1, "gpus": 0.0}),
    "EvaluateConfig": Row(EvaluateConfig, {"run": "x", "episodes": 1, "num_envs": 1}),
}  # fmt: skip

ROWS = MODELS | RULES | COMMANDS
