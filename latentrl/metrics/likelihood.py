"""Likelihood of demonstrations that a policy was not trained on, and the bound that training raises."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latentrl.checks import LatentRLError, count, dimension
from latentrl.data.played import Played
from latentrl.metrics.arrays import Array, Integers, Mean, around, mean
from latentrl.model import LatentModel, importance_weighted
from latentrl.randomness import same_randomness

STEPS = 2**16
"""Steps times draws that the decoder sees at once."""


@dataclass(frozen=True)
class Score:
    """Nats of each of E episodes."""

    values: Array
    """(E,) of whole episodes."""
    steps: Integers
    """(E,) actions scored."""

    @property
    def per_episode(self) -> Mean:
        """Mean over episodes."""
        return mean(self.values)

    @property
    def per_step(self) -> Mean:
        """Sum over all episodes divided by the number of all actions; its error is that of a ratio of two means over
        episodes, as actions of one episode are not independent of one another."""
        episodes, total = len(self.values), int(self.steps.sum())
        value = float(self.values.sum() / total)
        if episodes == 1:
            return Mean(value, math.inf, (-math.inf, math.inf))
        left = self.values - value * self.steps
        return around(value, float(np.sqrt((left**2).sum() * episodes / (episodes - 1)) / total), episodes - 1)


@dataclass(frozen=True)
class HeldOut:
    """How likely a policy finds each of E episodes, in nats."""

    bound: Score
    """Evidence lower bound of log π(actions | observations), from K draws."""
    likelihood: Score
    """log π(actions | observations) itself where that is a finite sum or there is no latent; otherwise the bound that
    K draws weighted by importance give, at least as tight (Burda et al. 2016, eq. 8)."""
    errors: Array
    """(E,) standard error of each likelihood by its draws; 0 where it is exact. Where it is not small against 1, the
    bound is not tight either."""


@torch.no_grad()
def held_out(model: LatentModel, played: Played, num_samples: int = 100, seed: int = 0) -> HeldOut:
    """Bound and importance-weighted likelihood of demonstrations, all episodes whole, each action once.

    A latent is integrated out over the steps for which it is held, as the policy would play them. Steps are done in
    batches of :data:`STEPS`, so that memory does not grow with the data or the draws. Random numbers elsewhere stay as
    they were.

    :param played: the demonstrations, cut as the policy plays them: :func:`latentrl.data.played`
    :param num_samples: K
    :param seed: of the draws; the same for two policies makes them the better to compare
    :raises LatentRLError: ``num_samples`` below 1; a decoder without density; likelihoods that are not numbers
    """
    num_samples, seed = dimension("num_samples", num_samples), count("seed", seed, 0)
    model.require_density()
    device, training = played.segments.device, model.training
    found = torch.empty(3, len(played.segments), dtype=torch.float64)
    try:
        model.eval()
        with same_randomness(device, seed):
            for index, weights, exact in _passes(model, played, num_samples):
                bound = importance_weighted(weights)
                value = bound.value if exact is None else exact.double()
                error = bound.error if exact is None else torch.zeros_like(value)
                found[:, index.cpu()] = torch.stack([weights.mean(0), value, error]).cpu()
    finally:
        model.train(training)
    rows = (found[0], found[1], found[2] ** 2)
    bounds, values, squares = (np.bincount(played.episodes, row).astype(np.float64) for row in rows)
    if np.isnan(values).any():
        raise LatentRLError(
            f"the likelihood of episode {int(np.isnan(values).argmax())} is not a number: look for extreme values in "
            "it, or for damaged weights"
        )
    steps = np.bincount(played.episodes, played.steps).astype(np.int64)
    return HeldOut(Score(bounds, steps), Score(values, steps), np.sqrt(squares))


def _passes(model: LatentModel, played: Played, num_samples: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Segments (B,), their log weights (K, B) and their exact likelihood (B,), if there is one."""
    segments = played.segments
    for length in segments.lengths.unique().tolist():  # as a batch needs segments of one length
        rows = (segments.lengths == length).nonzero().flatten()
        at_once = max(1, STEPS // (length * max(num_samples, model.summed_values(segments.batch(rows[:1])))))
        draws = max(1, STEPS // length)
        for index in rows.split(at_once):
            batch = segments.batch(index)
            exact = model.exact_log_likelihood(batch)
            if model.posterior is None:
                yield index, exact.double().unsqueeze(0), exact  # type: ignore[union-attr]
                continue
            parts = [model.log_weights(batch, min(draws, num_samples - done)) for done in range(0, num_samples, draws)]
            yield index, torch.cat(parts).double(), exact
