"""The latent as recurrent state: when it is drawn, how long it is held, how it is steered, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from latentrl import LatentRLError
from latentrl.sb3 import LatentPolicy
from latentrl.sb3.held import given

BOX = spaces.Box(-1.0, 1.0, (3,))
OBSERVATION = np.random.default_rng(0).uniform(-1, 1, (4, 3)).astype(np.float32)


def policy(
    action_space: spaces.Space[Any] = BOX, observation_space: spaces.Space[Any] = BOX, **options: Any
) -> LatentPolicy:
    config = {"latent_dim": 2, "hidden": (8,), "n_components": 3, "context_length": 4, **options}
    return LatentPolicy(observation_space, action_space, lambda _: 1e-3, **config)


def latents(made: LatentPolicy, steps: int, starts: dict[int, list[bool]] | None = None) -> np.ndarray:
    """z (steps, 4, 2) of successive calls; ``starts`` gives episode_start at some of them."""
    state, drawn = None, []
    for step in range(steps):
        _, state = made.predict(OBSERVATION, state, None if starts is None else np.array(starts.get(step, [False] * 4)))
        assert state is not None
        drawn.append(state[0])
    return np.stack(drawn)


def changes(z: np.ndarray) -> list[list[bool]]:
    return (np.abs(np.diff(z, axis=0)).max(-1) > 0).tolist()


def test_a_latent_that_is_not_finite_is_refused() -> None:
    with pytest.raises(LatentRLError, match="latent holds NaN or infinite values"):
        given([np.nan, 0.0], (3, 2), torch.device("cpu"))


def test_held_for_the_episode() -> None:
    assert changes(latents(policy(), 4)) == [[False] * 4] * 3
    starts = {2: [False, True, False, True]}
    assert changes(latents(policy(), 4, starts)) == [[False] * 4, [False, True, False, True], [False] * 4]


def test_held_for_k_steps_counted_from_each_start() -> None:
    z = latents(policy(hold=2), 6, {3: [True, False, False, False]})
    # Row 0 starts anew at step 3, so it changes at 2, 3, 5; the others at 2, 4.
    expected = [[step in (2, 3, 5)] + [step in (2, 4)] * 3 for step in range(1, 6)]
    assert changes(z) == expected


def test_drawn_at_every_step() -> None:
    assert changes(latents(policy(hold=1), 3)) == [[True] * 4] * 2


def test_nothing_is_kept_on_the_policy() -> None:
    made = policy()
    _, first = made.predict(OBSERVATION)
    made.predict(OBSERVATION[:1])
    _, second = made.predict(OBSERVATION, first)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first[0], second[0])


def test_latent_steers_and_stays() -> None:
    made = policy()
    one = np.array([1.0, -2.0])
    action, state = made.predict(OBSERVATION, latent=one)
    assert state is not None
    np.testing.assert_array_equal(state[0], np.tile(one, (4, 1)))
    later, _ = made.predict(OBSERVATION, state, np.zeros(4, bool))
    np.testing.assert_array_equal(action, later)
    each = np.arange(8.0).reshape(4, 2)
    other, state = made.predict(OBSERVATION, state, latent=each)
    assert state is not None
    np.testing.assert_array_equal(state[0], each)
    assert np.abs(other - action).max() > 0


def test_deterministic_is_the_same_every_time() -> None:
    made = policy(action_noise=True)
    first, _ = made.predict(OBSERVATION, deterministic=True)
    second, _ = made.predict(OBSERVATION, deterministic=True)
    np.testing.assert_array_equal(first, second)
    assert np.abs(made.predict(OBSERVATION)[0] - made.predict(OBSERVATION)[0]).max() > 0


def test_action_noise_is_off_by_default() -> None:
    z = np.zeros(2)
    quiet, noisy = policy(), policy(action_noise=True)
    assert np.ptp([quiet.predict(OBSERVATION, latent=z)[0] for _ in range(3)], axis=0).max() == 0
    assert np.ptp([noisy.predict(OBSERVATION, latent=z)[0] for _ in range(3)], axis=0).max() > 0


@pytest.mark.parametrize(
    "action_space",
    [
        spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([0.5, 0.1], np.float32)),
        spaces.Box(-0.01, 0.01, (2, 3), np.float64),
        spaces.Discrete(3),
        spaces.Discrete(3, start=5),
        spaces.Box(-1.0, 1.0, ()),
        spaces.Box(0, 5, (2,), np.int32),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiDiscrete([[2, 3], [4, 1]], start=[[0, 9], [1, -1]]),
        spaces.MultiBinary(3),
        spaces.MultiBinary((2, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "observation_space",
    [
        BOX,
        spaces.Box(-1.0, 1.0, (2, 2)),
        spaces.Discrete(4, start=2),
        spaces.MultiDiscrete([2, 3], start=[1, 0]),
        spaces.MultiBinary(3),
        spaces.Dict(speed=BOX, goal=spaces.Discrete(3, start=2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [{}, {"action_noise": True, "chunk": 2}], ids=["plain", "noise, chunks"])
def test_actions_lie_in_the_space(
    action_space: spaces.Space[Any], observation_space: spaces.Space[Any], options: dict[str, Any]
) -> None:
    made = policy(action_space, observation_space, **options)
    ones = [observation_space.sample() for _ in range(6)]
    batch = {key: np.stack([one[key] for one in ones]) for key in ones[0]} if isinstance(ones[0], dict) else ones
    actions, state = made.predict(batch if isinstance(batch, dict) else np.stack(batch))
    again, _ = made.predict(batch if isinstance(batch, dict) else np.stack(batch), state, np.zeros(6, bool))
    assert actions.dtype == action_space.dtype
    for action in (*actions, *again):
        assert action_space.contains(np.asarray(action))
    single, state = made.predict(ones[0])
    assert np.shape(single) == action_space.shape
    assert action_space.contains(single)
    assert state is not None
    assert state[0].shape == (1, 2)


def test_save_and_load(tmp_path: Path) -> None:
    made = policy(prior="mixture", hold=3, chunk=2, action_noise=True)
    made.save(str(tmp_path / "policy.pt"))
    loaded = LatentPolicy.load(str(tmp_path / "policy.pt"))
    assert (loaded.config, loaded.action_noise) == (made.config, True)
    np.testing.assert_array_equal(
        made.predict(OBSERVATION, deterministic=True)[0], loaded.predict(OBSERVATION, deterministic=True)[0]
    )


def test_every_parameter_is_in_the_optimizer_once() -> None:
    made = policy()
    mine = [id(parameter) for parameter in made.parameters()]
    theirs = [id(parameter) for group in made.optimizer.param_groups for parameter in group["params"]]
    assert sorted(mine) == sorted(theirs)


def test_bad_input() -> None:
    made = policy()
    _, state = made.predict(OBSERVATION)
    assert state is not None
    with pytest.raises(LatentRLError, match=r"latent has shape \(3,\): give \(2,\) or \(4, 2\)"):
        made.predict(OBSERVATION, latent=np.zeros(3))
    with pytest.raises(LatentRLError, match="pass None at the start"):
        made.predict(OBSERVATION[:2], state)
    with pytest.raises(LatentRLError, match="pass None at the start"):
        made.predict(OBSERVATION, (state[0],))
    with pytest.raises(LatentRLError, match="episode_start has 3 entries for 4"):
        made.predict(OBSERVATION, state, np.zeros(3))
    with pytest.raises(LatentRLError, match=r"env\.reset\(\) of Gymnasium returns"):
        made.predict((OBSERVATION, {}))  # type: ignore[arg-type]
    with pytest.raises(LatentRLError, match="unknown policy option 'n_latents': choose among bins, chunk"):
        policy(n_latents=3)
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        made.predict(np.zeros((4, 7), np.float32))


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    made = policy()
    cpu = made.predict(OBSERVATION, latent=torch.zeros(2))[0]
    for z in (torch.zeros(2), torch.zeros(2, device="cuda")):
        np.testing.assert_allclose(made.cuda().predict(OBSERVATION, latent=z)[0], cpu, atol=1e-4)


def test_the_state_belongs_to_the_caller() -> None:
    made = policy(prior="normal")
    z = np.zeros(2, np.float32)
    for arguments in ({"deterministic": True}, {"latent": z}):
        _, state = made.predict(OBSERVATION, **arguments)  # type: ignore[arg-type]
        assert state is not None
        state[0][0] = 5.0
        assert state[0][1:].max() == 0.0
    assert z.max() == 0.0
    _, again = made.predict(OBSERVATION, deterministic=True)
    assert again is not None
    assert again[0].max() == 0.0
