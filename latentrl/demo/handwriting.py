"""Clone 26 human shapes that share one starting state, and score what each policy draws.

A rollout's mode is the shape of the human stroke nearest to it (time-aligned mean distance over 101 points). It
succeeds where that distance is within the 95th percentile of the distances between a human stroke and the nearest
other one of the same shape. Dynamic time warping, scored alike, is a second check that forgives another pace.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from latentrl import metrics
from latentrl.data import Demonstrations
from latentrl.data.lasa import Align
from latentrl.training import CorrectiveNoise

if TYPE_CHECKING:
    from latentrl.sb3 import LatentBC

TASK = "latentrl_envs:latentrl/Trace-v0"
STEPS = 100
JITTER = 5.0
"""mm: half-width of the square of starts in the second, harder evaluation."""
NOISE = CorrectiveNoise.velocity_control(5, slice(0, 2), position_std=1.0, velocity_std=0.2)
"""Position 1 mm, velocity 0.2 mm per step, back on track within about 8 steps."""

PER_STEP = {"latent_dim": 0, "hold": 1}
POLICIES: dict[str, dict[str, Any]] = {
    "mlp": PER_STEP,
    "mdn": {**PER_STEP, "decoder": "mixture", "action_noise": True},
    "normal": {"prior": "normal"},
    "mixture": {"prior": "mixture"},
    "vamp": {"prior": "vamp"},
}
"""policy_kwargs of each; what is not said is the library's default."""
TITLES = {
    "mlp": "deterministic MLP",
    "mdn": "MDN, 20 per step",
    "normal": "latent, N(0, I)",
    "mixture": "latent, mixture",
    "vamp": "latent, VampPrior",
    "replay": "open-loop replay",
    "human": "held-out humans",
}


@dataclass(frozen=True)
class Strokes:
    """The human strokes, split, and what success means."""

    train: Demonstrations
    references: NDArray[Any]
    """(M, 101, 2) all human strokes, mm; 182, or 210 aligned at the goal."""
    modes: NDArray[np.int64]
    """(M,) shape of each."""
    held_out: NDArray[np.bool_]
    """(M,) kept from training: 2 of 7 per shape."""
    threshold: float
    """mm: a rollout nearer than this to a human stroke succeeds."""
    dtw_threshold: float
    """mm: the same by dynamic time warping."""

    @classmethod
    def load(cls, path: str | Path | None = None, align: Align = "start") -> "Strokes":
        """Read LASA (from the installed package where ``path`` is None); 5 of 7 strokes per shape train, seed 0."""
        everything = Demonstrations.from_lasa(path, STEPS, align)
        assert everything.modes is not None
        train, _ = everything.split(5 / 7, seed=0)
        references = positions(everything)
        trained = {stroke.tobytes() for stroke in positions(train)}
        held_out = np.array([stroke.tobytes() not in trained for stroke in references])
        modes = everything.modes
        human = metrics.leave_one_out(references, modes)
        warped = _nearest_dtw(references, modes, references, modes, skip_self=True)
        return cls(
            train, references, modes, held_out, float(np.quantile(human, 0.95)), float(np.quantile(warped, 0.95))
        )


def positions(demonstrations: Demonstrations) -> NDArray[Any]:
    """Positions (E, STEPS + 1, 2) of Trace demonstrations, the end point included."""
    before = demonstrations.observations.reshape(-1, STEPS, 5)[..., :2]
    return np.concatenate([before, before[:, -1:] + demonstrations.actions.reshape(-1, STEPS, 2)[:, -1:]], axis=1)


def train(
    name: str, strokes: Strokes, updates: int, seed: int, device: str, progress: Callable[[int], None]
) -> "LatentBC":
    """Train one of :data:`POLICIES`; all share trunk, data, noise, optimiser and number of updates."""
    from latentrl.sb3 import LatentBC  # here, as `latentrl --help` needs no agents

    def report(local: dict[str, Any], _: dict[str, Any]) -> bool:
        progress(local["self"].num_timesteps)
        return True

    agent = LatentBC(
        demonstrations=strokes.train,
        policy_kwargs=POLICIES[name],
        noise=NOISE,
        # Per-step policies see as many transitions per update as the others do.
        batch_size=64 * 16 if POLICIES[name].get("hold") == 1 else 64,
        seed=seed,
        device=device,
    )
    return agent.learn(updates, callback=report)


def rollout(agent: "LatentBC", count: int, seed: int, start_jitter: float = 0.0) -> NDArray[Any]:
    """Positions (count, STEPS + 1, 2) of rollouts in ``latentrl/Trace-v0``."""
    env = gym.make_vec(TASK, num_envs=count, device=str(agent.device), start_jitter=start_jitter)
    torch.manual_seed(seed)
    observation, _ = env.reset(seed=seed)
    path, state = [observation[:, :2]], None
    for _ in range(STEPS):
        action, state = agent.predict(observation.cpu().numpy(), state)
        observation, *_ = env.step(torch.as_tensor(action, device=observation.device))
        path.append(observation[:, :2])
    env.close()
    return torch.stack(path, 1).cpu().numpy()


def score(drawn: NDArray[Any], strokes: Strokes) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Modes, success, entropy and distances of rollouts (N, 101, 2), and the mode of each, −1 where it failed."""
    table = metrics.distances(drawn, strokes.references)
    nearest = table.argmin(1)
    modes = strokes.modes[nearest]
    success = table.min(1) <= strokes.threshold
    n_modes = int(strokes.modes.max()) + 1
    counts = np.bincount(modes[success], minlength=n_modes)
    entropy = metrics.behaviour_entropy(counts)
    warped = _nearest_dtw(drawn, modes, strokes.references, strokes.modes)
    record = {
        "modes": metrics.modes_covered(counts),
        "success": float(success.mean()),
        "entropy": entropy.value,
        "entropy_ci": list(entropy.ci),
        "success_dtw": float((warped <= strokes.dtw_threshold).mean()),
        "energy_distance": metrics.energy_distance(drawn, strokes.references[strokes.held_out]),
        "variety": metrics.variety(drawn[success], modes[success]),
        "median_distance": float(np.median(table.min(1))),
        "counts": counts.tolist(),
    }
    return record, np.where(success, modes, -1)


def controls(strokes: Strokes, count: int, seed: int) -> dict[str, Any]:
    """What the numbers are to be held against: replaying a random training stroke, and people themselves.

    People are scored leave-one-out: a held-out stroke against all others. Their energy distance, training strokes to
    held-out ones, is the floor for a policy that has seen the training strokes only.
    """
    generator = np.random.default_rng(seed)
    training = strokes.references[~strokes.held_out]
    replayed = training[generator.integers(len(training), size=count)]
    shifted = replayed + generator.uniform(-JITTER, JITTER, (count, 1, 2))
    replay, _ = score(replayed, strokes)
    replay["success_jittered"] = score(shifted, strokes)[0]["success"]
    human = metrics.leave_one_out(strokes.references, strokes.modes)
    people = {
        "success": float((human <= strokes.threshold)[strokes.held_out].mean()),
        "energy_distance": metrics.energy_distance(training, strokes.references[strokes.held_out]),
        "variety": metrics.variety(strokes.references, strokes.modes),
        "threshold_mm": strokes.threshold,
        "threshold_dtw_mm": strokes.dtw_threshold,
    }
    return {"replay": replay, "human": people}


def _nearest_dtw(
    drawn: NDArray[Any], modes: NDArray[Any], references: NDArray[Any], shapes: NDArray[Any], skip_self: bool = False
) -> NDArray[Any]:
    """Dynamic-time-warping distance of each rollout to the nearest human stroke of its mode."""
    nearest = np.full(len(drawn), np.inf)
    for mode in np.unique(modes):
        mine = np.flatnonzero(modes == mode)
        for reference in np.flatnonzero(shapes == mode):
            rows = mine[mine != reference] if skip_self else mine
            target = np.broadcast_to(references[reference], drawn[rows].shape)
            nearest[rows] = np.minimum(nearest[rows], metrics.dtw(drawn[rows], target))
    return nearest
