"""What is exported plays what the policy plays, at any batch size: by torch's program, and in onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO

from latentrl import Demonstrations, LatentRLError
from latentrl.sb3 import LatentBC, LatentPolicy, export_onnx, export_program
from latentrl.sb3.export import ActingPolicy
from tests.sb3.agents_table import Toy
from tests.sb3.test_pretrained import BOX, LINE, POLICIES, SMALL, make


def shown(policy: LatentPolicy, number: int) -> tuple[Any, Any, np.ndarray]:
    """Observations as ``predict`` takes them, one after another, as the program takes them, and latents."""
    policy.observation_space.seed(0)
    seen: list[Any] = []
    for _ in range(policy.config.history):
        samples = [policy.observation_space.sample() for _ in range(number)]
        named = isinstance(samples[0], dict)
        seen.append({k: np.stack([s[k] for s in samples]) for k in samples[0]} if named else np.stack(samples))
    tensors: Any = [policy.obs_to_tensor(each)[0] for each in seen]
    torch.manual_seed(number)
    z = torch.randn(number, policy.model.latent_dim).numpy()
    return seen, tensors[0] if len(tensors) == 1 else torch.stack(tensors, 1), z


def played(policy: LatentPolicy, seen: list[Any], z: np.ndarray) -> np.ndarray:
    """Actions after one observation and another, given latents."""
    state = None
    for each in seen:
        actions, state = policy.predict(each, state, deterministic=True, latent=z if z.shape[1] else None)
    return actions


def first(actions: Any, policy: LatentPolicy) -> np.ndarray:
    return np.asarray(actions)[:, 0] if policy.config.chunk > 1 else np.asarray(actions)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("number", [1, 5])
def test_programs_play_as_the_policy(name: str, number: int) -> None:
    policy = make(name)
    seen, tensors, z = shown(policy, number)
    program = export_program(policy).module()
    actions = program(tensors, torch.as_tensor(z)).detach()
    np.testing.assert_allclose(first(actions, policy), played(policy, seen, z), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", POLICIES)
def test_onnx_plays_as_the_policy(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    policy = make(name)
    export_onnx(policy, tmp_path / "policy.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["policy.onnx"]
    session = runtime.InferenceSession(tmp_path / "policy.onnx")
    for number in (1, 5):
        seen, tensors, z = shown(policy, number)
        given = dict(tensors) if isinstance(tensors, dict) else {"observation": tensors}
        given = {key: part.numpy() for key, part in given.items()} | {"z": z}
        wanted = {part.name for part in session.get_inputs()}
        (actions,) = session.run(["action"], {key: part for key, part in given.items() if key in wanted})
        assert given.keys() - wanted <= {"z"}
        np.testing.assert_allclose(first(actions, policy), played(policy, seen, z), rtol=1e-4, atol=1e-4)


def test_actions_are_in_the_box() -> None:
    """Also where the network would leave it, and rounded where they are whole numbers."""
    options = SMALL | {"latent_dim": 2}
    whole = spaces.Box(np.int64([-1, 0]), np.int64([1, 3]), dtype=np.int64)
    for space in (BOX, whole):
        torch.manual_seed(0)
        policy = LatentPolicy(LINE, space, lambda _: 1e-3, **options)
        policy.model.decoder.head.weight.data.mul_(100.0)  # type: ignore[operator, union-attr]
        seen, tensors, z = shown(policy, 40)
        actions = export_program(policy).module()(tensors, torch.as_tensor(z)).detach().numpy()
        assert (actions == space.high).any(0).all()
        np.testing.assert_allclose(actions, played(policy, seen, z), rtol=1e-4, atol=1e-5)


def test_the_networks_of_an_agent_are_refused() -> None:
    given = Demonstrations.from_arrays(np.zeros((6, 3)), np.zeros((6, 2)), [3, 3])
    toy = Toy(observation_space=given.observation_space, action_space=given.action_space)
    clone = LatentBC(PPO("MlpPolicy", toy, device="cpu"), demonstrations=given)
    with pytest.raises(LatentRLError, match="an agent's: export that agent's policy"):
        export_program(clone.policy)


@pytest.mark.parametrize("actions", [BOX, spaces.Discrete(3, start=2), spaces.MultiDiscrete([2, 3])], ids=repr)
def test_all_of_a_policy_is_on_its_device(actions: spaces.Space) -> None:
    """A device without values stands for a GPU."""
    policy = LatentPolicy(LINE, actions, lambda _: 1e-3, **SMALL).to("meta")
    acting = ActingPolicy(policy)
    assert acting(torch.zeros(2, *LINE.shape, device="meta"), torch.zeros(2, 2, device="meta")).device.type == "meta"
