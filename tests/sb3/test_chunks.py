"""Plans of several actions: played in order, made anew when due, cloned; episodes of any length for the encoders."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from latentrl import Demonstrations, LatentRLError
from latentrl.sb3 import LatentBC, LatentPolicy

BOX = spaces.Box(-1.0, 1.0, (3,))
OBSERVATION = np.random.default_rng(0).uniform(-1, 1, (4, 3)).astype(np.float32)


def chunked(chunk: int = 3, **options: Any) -> LatentPolicy:
    config = {"latent_dim": 2, "hidden": (8,), "prior": "normal", "context_length": 4, "chunk": chunk, **options}
    return LatentPolicy(BOX, BOX, lambda _: 1e-3, **config)


def plan(made: LatentPolicy, observation: np.ndarray, z: np.ndarray) -> np.ndarray:
    """What the model plans (B, T, A), clipped as it is when played."""
    with torch.no_grad():
        planned = made.model.act(torch.as_tensor(observation), torch.as_tensor(z)).numpy()
    return planned.reshape(len(observation), 3, 3).clip(-1, 1)


def test_plans_are_played_in_order_and_made_anew_when_used_up() -> None:
    made = chunked()
    observations = np.random.default_rng(1).uniform(-1, 1, (7, 4, 3)).astype(np.float32)
    state = None
    for step, observation in enumerate(observations):
        actions, state = made.predict(observation, state, np.zeros(4, bool))
        assert state is not None
        assert [part.shape for part in state] == [(4, 2), (4, 1), (4, 9)]
        # What was seen in between makes no difference.
        planned = plan(made, observations[step - step % 3], state[0])
        np.testing.assert_array_equal(actions, planned[:, step % 3])
        left = np.isfinite(state[2]).sum(1).tolist()
        assert left == [6 - 3 * (step % 3)] * 4


def test_plans_are_made_anew_where_an_episode_starts() -> None:
    made = chunked()
    first, second = OBSERVATION, -OBSERVATION
    _, old = made.predict(first)
    assert old is not None
    actions, state = made.predict(second, old, np.array([False, True, False, False]))
    assert state is not None
    expected = plan(made, first, old[0])[:, 1]
    expected[1] = plan(made, second, state[0])[1, 0]
    np.testing.assert_array_equal(actions, expected)
    # The row that started is a step behind the others from then on.
    actions, state = made.predict(second, state)
    assert state is not None
    expected = plan(made, first, state[0])[:, 2]
    expected[1] = plan(made, second, state[0])[1, 1]
    np.testing.assert_array_equal(actions, expected)
    assert np.isnan(state[2][:, 0]).tolist() == [True, False, True, True]


def test_a_new_latent_ends_the_plan() -> None:
    """With hold = 4 and plans of 3: at steps 0, 3, and 4, where z is drawn."""
    made = chunked(hold=4)
    state, starts = None, []
    for step in range(9):
        observation = np.full((1, 3), 0.1 * step, np.float32)
        actions, state = made.predict(observation, state)
        assert state is not None
        if (actions == plan(made, observation, state[0])[:, 0]).all():
            starts.append(step)
    assert starts == [0, 3, 4, 7, 8]


def test_steering_ends_the_plan() -> None:
    made = chunked()
    _, state = made.predict(OBSERVATION)
    z = np.ones((4, 2), np.float32)
    actions, state = made.predict(-OBSERVATION, state, latent=z)
    np.testing.assert_array_equal(actions, plan(made, -OBSERVATION, z)[:, 0])
    actions, _ = made.predict(OBSERVATION, state)
    np.testing.assert_array_equal(actions, plan(made, -OBSERVATION, z)[:, 1])


def test_without_state_the_first_action_of_a_plan_is_played() -> None:
    made = chunked()
    played, _ = made.predict(OBSERVATION, deterministic=True)
    stateless = made._predict(torch.as_tensor(OBSERVATION), deterministic=True).detach().numpy()
    assert stateless.shape == (4, 3)
    np.testing.assert_array_equal(stateless.clip(-1, 1), played)


def test_noise_is_drawn_once_for_a_plan() -> None:
    made = chunked(action_noise=True)
    _, state = made.predict(OBSERVATION)
    first, second = (made.predict(OBSERVATION, state)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.filterwarnings("ignore:the latent has collapsed")  # one behaviour, or no training to speak of
def test_chunks_are_cloned_saved_and_loaded(tmp_path: Path) -> None:
    """Actions 0, 1, 2, 3 in turn; a plan goes on in that order whatever is seen meanwhile."""
    phase = np.arange(160) % 4
    data = Demonstrations.from_arrays(phase, phase, [16] * 10, spaces.Discrete(4), spaces.Discrete(4))
    config = {"latent_dim": 2, "hidden": (32,), "n_components": 3, "context_length": 4, "chunk": 4, "prior": "normal"}
    agent = LatentBC(demonstrations=data, policy_kwargs=config, learning_rate=1e-2, kl_warmup=0.0, seed=0, device="cpu")
    agent.learn(60, log_interval=59)
    agent.save(tmp_path / "bc")
    for one in (agent, LatentBC.load(tmp_path / "bc", device="cpu")):
        state, played = None, []
        for seen in (0, 3, 3, 0, 2, 0, 0, 0):
            action, state = one.predict(np.array([seen]), state)
            played.append(int(action[0]))
        assert played == [0, 1, 2, 3, 2, 3, 0, 1]


@pytest.mark.filterwarnings("ignore:the latent has collapsed")  # one behaviour, or no training to speak of
@pytest.mark.parametrize("encoder", ["patches", "gru", "transformer"])
@pytest.mark.parametrize(("hold", "chunk"), [(0, 3), (4, 1), (4, 2), (1, 3)])
def test_episodes_of_any_length_are_cloned(encoder: str, hold: int, chunk: int) -> None:
    generator = np.random.default_rng(0)
    lengths = [4, 9, 5, 12, 30]
    data = Demonstrations.from_arrays(generator.normal(size=(60, 3)), generator.uniform(-1, 1, (60, 2)), lengths)
    config = {"hidden": (8,), "encoder_hidden": (16,), "n_components": 3, "context_length": 6}
    agent = LatentBC(
        demonstrations=data,
        policy_kwargs={**config, "encoder": encoder, "hold": hold, "chunk": chunk},
        kl_weight=0.01,
        seed=0,
        device="cpu",
    ).learn(3, log_interval=2)
    assert agent.predict(np.zeros((2, 3)))[0].shape == (2, 2)
    padded = agent._trainer(data, 1).segments.batch(torch.arange(5), steps=1).context_lengths is not None
    assert padded == (encoder != "patches" and (hold, chunk) in ((0, 3), (4, 2)))


def test_a_state_of_another_kind_is_refused() -> None:
    plain, plans = chunked(1), chunked()
    with pytest.raises(
        LatentRLError, match=r"state must be \(latent \(4, 2\), age \(4, 1\), plan \(4, 9\)\) as predict"
    ):
        plans.predict(OBSERVATION, plain.predict(OBSERVATION)[1])
    with pytest.raises(LatentRLError, match=r"state must be \(latent \(4, 2\), age \(4, 1\)\) as predict"):
        plain.predict(OBSERVATION, plans.predict(OBSERVATION)[1])
