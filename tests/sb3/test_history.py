"""Policies that see the last observations: what predict carries, what cloning is shown; latents to act with."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from latentrl import Demonstrations, LatentRLError
from latentrl.data import Segments
from latentrl.noise import CorrectiveNoise
from latentrl.sb3 import LatentBC, LatentPolicy
from latentrl.sb3.latent_space import LatentActions

BOX = spaces.Box(-1.0, 1.0, (3,))
SMALL = {"latent_dim": 2, "hidden": (8,), "encoder_hidden": (8,), "prior": "normal", "context_length": 4}


def policy(**options: Any) -> LatentPolicy:
    return LatentPolicy(BOX, BOX, lambda _: 1e-3, **(SMALL | options))


def frames(steps: int, envs: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, envs, 3)).astype(np.float32)


@pytest.mark.parametrize("trunk", ["mlp", "gru", "transformer"])
def test_predict_shows_the_last_observations(trunk: str) -> None:
    """An episode's first one stands for those before it; the second environment starts anew at step 2."""
    made = policy(history=3, trunk=trunk)
    seen = frames(5, 2)
    starts = [np.array([step == 0, step in (0, 2)]) for step in range(5)]
    state = None
    for step in range(5):
        actions, state = made.predict(seen[step], state, starts[step])
        assert state is not None
        first = [0, 2 if step >= 2 else 0]
        rows = [[max(step - ago, first[env]) for ago in (2, 1, 0)] for env in range(2)]
        expected = np.stack([seen[rows[env], env].ravel() for env in range(2)])
        with torch.no_grad():
            law = made.model.decoder(torch.as_tensor(expected), torch.as_tensor(state[0]))
        np.testing.assert_allclose(actions, law.mode.numpy().clip(-1, 1), atol=1e-6)
        np.testing.assert_array_equal(state[2], expected[:, 3:])


def test_history_and_plans_are_carried_together() -> None:
    made = policy(history=2, chunk=4, execute=2)
    seen = frames(4, 2)
    state, planned = None, None
    for step in range(4):
        actions, state = made.predict(seen[step], state)
        assert state is not None
        assert [part.shape for part in state] == [(2, 2), (2, 1), (2, 12), (2, 3)]
        if step % 2 == 0:
            sight = np.concatenate([seen[max(step - 1, 0)], seen[step]], 1)
            with torch.no_grad():
                planned = made.model.act(torch.as_tensor(sight), torch.as_tensor(state[0])).numpy().reshape(2, 4, 3)
        assert planned is not None
        np.testing.assert_array_equal(actions, planned[:, step % 2].clip(-1, 1))
        assert np.isfinite(state[2]).sum(1).tolist() == [3 * (1 - step % 2)] * 2


def test_a_latent_of_each_plan() -> None:
    """hold = 1 with plans of which two actions are played: a new z at every other step; without, at every step."""
    for execute, changes in ((2, [False, True, False]), (None, [True, True, True])):
        made = policy(hold=1, chunk=3, execute=execute)
        state, drawn = None, []
        for seen in frames(4, 1):
            _, state = made.predict(seen, state)
            assert state is not None
            drawn.append(state[0].copy())
        assert [not np.array_equal(a, b) for a, b in pairwise(drawn)] == changes


@pytest.mark.parametrize("hold", [0, 1, 3])
@pytest.mark.parametrize("chunk", [1, 2])
def test_cloning_sees_what_predict_shows(hold: int, chunk: int) -> None:
    lengths = [4, 6, 5]
    numbers = np.concatenate([100 * e + np.arange(n) for e, n in enumerate(lengths)]).astype(np.float32)
    data = Demonstrations.from_arrays(numbers[:, None], numbers[:, None], lengths)
    segments = Segments(data, hold, 3, chunk=chunk, history=3)
    batch = segments.batch(torch.arange(len(segments)), None if hold == 1 else 4)
    seen, did = batch.observations.flatten(0, -2), batch.actions.flatten(0, -2)
    now = seen[:, -1]
    start = now - now % 100
    for ago in (1, 2):
        torch.testing.assert_close(seen[:, 2 - ago], torch.maximum(now - ago, start))
    for ahead in range(chunk):
        torch.testing.assert_close(did[:, ahead], now + ahead)
    before, last = batch.context_observations[..., 1], batch.context_observations[..., 2]
    torch.testing.assert_close(before, torch.maximum(last - 1, last - last % 100))


@pytest.mark.filterwarnings("ignore:the latent has collapsed")
@pytest.mark.parametrize("hold", [0, 1, 3])
def test_histories_and_plans_are_cloned_together(hold: int) -> None:
    """Standardised by what the policy is shown: 3 of 4 steps have two actions ahead of them."""
    numbers = np.tile(np.arange(4, dtype=np.float32), 5)[:, None]
    data = Demonstrations.from_arrays(numbers, numbers, [4] * 5)
    agent = LatentBC(demonstrations=data, policy_kwargs=SMALL | {"history": 2, "chunk": 2, "hold": hold}, device="cpu")
    agent.learn(2)
    scale = agent.policy.model.decoder.trunk.observation_scale
    torch.testing.assert_close(scale(torch.ones(2)), torch.zeros(2))


@pytest.mark.filterwarnings("ignore:the latent has collapsed")
@pytest.mark.parametrize("trunk", ["mlp", "gru"])
def test_a_clone_tells_by_the_past_what_to_do(tmp_path: Path, trunk: str) -> None:
    """A cue of ±1 is shown at the first of three steps, then zeros; at the last the action is the cue."""
    cue = np.random.default_rng(0).choice([-1.0, 1.0], 200)
    observations, actions = np.zeros((200, 3, 1), np.float32), np.zeros((200, 3, 1), np.float32)
    observations[:, 0, 0], actions[:, 2, 0] = cue, cue
    data = Demonstrations.from_arrays(observations.reshape(-1, 1), actions.reshape(-1, 1), [3] * 200)
    config = {"latent_dim": 0, "hidden": (32, 32), "history": 3, "trunk": trunk, "hold": 1}
    agent = LatentBC(demonstrations=data, policy_kwargs=config, noise=None, seed=0, device="cpu").learn(400)
    agent.save(tmp_path / "bc")
    for one in (agent, LatentBC.load(tmp_path / "bc", device="cpu")):
        state, played = None, np.empty(0)
        for seen in ([[-1.0], [1.0]], [[0.0], [0.0]], [[0.0], [0.0]]):
            played, state = one.predict(np.array(seen, np.float32), state)
        np.testing.assert_allclose(played[:, 0], [-1.0, 1.0], atol=0.15)


def test_corrective_noise_moves_a_history_as_a_whole() -> None:
    data = Demonstrations.from_arrays(np.zeros((40, 2)), np.zeros((40, 1)), [20, 20])
    noise = CorrectiveNoise(np.array([1.0, 0.0]), np.array([[-0.5, 0.0]]))
    agent = LatentBC(demonstrations=data, policy_kwargs=SMALL | {"history": 3}, noise=noise, seed=0, device="cpu")
    trainer = agent._trainer(data, 1)
    batch = trainer._perturbed(trainer.segments.batch(torch.arange(2), 6))
    delta = batch.observations.unflatten(-1, (3, 2))
    assert bool((delta[..., 0] != 0).all())
    torch.testing.assert_close(delta[:, :, 0], delta[:, :, 2])
    assert bool((delta[..., 1] == 0).all())
    torch.testing.assert_close(batch.actions[..., 0], -0.5 * delta[:, :, 0, 0])


def test_pictures_go_through_the_extractor_one_by_one() -> None:
    pictures = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    made = LatentPolicy(pictures, BOX, lambda _: 1e-3, **(SMALL | {"history": 2}))
    shown = np.random.default_rng(0).integers(0, 255, (3, 4, 1, 36, 36), np.uint8)
    state = None
    for seen in shown:
        actions, state = made.predict(seen, state)
    assert state is not None
    assert state[2].dtype == np.uint8
    assert made.model.trunk is not None
    with torch.no_grad():
        features = [made.model.trunk(torch.as_tensor(shown[i].reshape(4, -1))) for i in (1, 2)]
        law = made.model.decoder(torch.cat(features, -1), torch.as_tensor(state[0]))
    np.testing.assert_allclose(actions, law.mode.numpy().clip(-1, 1), atol=1e-5)


# -- latents to act with ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the latent has collapsed")
def test_latents_of_the_aggregate_posterior(tmp_path: Path) -> None:
    """Drawn from posteriors of the data, kept with the policy; before there were data, refused."""
    generator = np.random.default_rng(0)
    data = Demonstrations.from_arrays(generator.normal(size=(80, 3)), generator.uniform(-1, 1, (80, 3)), [20] * 4)
    agent = LatentBC(demonstrations=data, policy_kwargs=SMALL | {"latents": "aggregate"}, seed=0, device="cpu")
    with pytest.raises(LatentRLError, match="draws from posteriors of the data: learn from demonstrations first"):
        agent.predict(np.zeros((1, 3), np.float32))
    agent.learn(5)
    kept = agent.policy.model.remembered
    assert kept is not None
    segments = agent._trainer(data, 1).segments
    q = agent.policy.model.infer(segments.batch(torch.arange(4)))
    # Means over four posteriors; four standard errors: a false alarm in 15 000 per dimension.
    wanted = q.mean.mean(0)
    error = (q.variance.mean(0) + q.mean.var(0)).sqrt() / 32
    assert bool(((kept.mean(0) - wanted).abs() < 4 * error).all())
    agent.save(tmp_path / "bc")
    for one in (agent, LatentBC.load(tmp_path / "bc", device="cpu")):
        _, state = one.predict(np.zeros((50, 3), np.float32))
        assert state is not None
        assert bool((torch.as_tensor(state[0])[:, None] == kept).all(-1).any(1).all())
        assert len(np.unique(state[0], axis=0)) > 30
        _, state = one.predict(np.zeros((2, 3), np.float32), deterministic=True)
        np.testing.assert_array_equal(state[0], np.zeros((2, 2)))  # the prior's mode


@pytest.mark.parametrize(("prior", "posterior"), [("normal", "gaussian"), ("flow", "flow"), ("vamp", "gaussian")])
def test_temperature_narrows_latents(prior: str, posterior: str) -> None:
    """Of a mixture, each component; the components stay where they are, so that modes stay."""
    torch.manual_seed(0)
    cold = policy(prior=prior, posterior=posterior, n_components=3, temperature=1e-3)
    z = cold.model.sample_latent(torch.zeros(200, 3))
    around = torch.cdist(z, z).flatten().sort().values
    assert float(around[len(around) // 4]) < 0.01  # to a quarter of the others at least, its own component's
    torch.manual_seed(0)
    warm = policy(prior=prior, posterior=posterior, n_components=3).model.sample_latent(torch.zeros(200, 3))
    assert float(torch.pdist(warm).median()) > 0.3


def test_refused() -> None:
    for options, message in (
        ({"execute": 3, "chunk": 2}, "execute=3 actions of plans of chunk=2: plan more, or play fewer"),
        ({"temperature": 0.0}, "temperature"),
        ({"history": 0}, "history"),
        ({"trunk": "lstm"}, "trunk.*'gru'"),
        ({"latents": "posterior"}, "latents.*'aggregate'"),
    ):
        with pytest.raises(LatentRLError, match=message):
            policy(**options)


def test_no_latent_actions_through_a_history() -> None:
    with pytest.raises(LatentRLError, match=r"sees history=2 observations.*VecFrameStack"):
        LatentActions(policy(history=2), 3.0, None, None)
