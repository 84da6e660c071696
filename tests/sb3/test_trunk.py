"""Features extractors before the latent model: what they see, that gradients reach them, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from torch import Tensor, nn

from latentrl import Demonstrations, LatentRLError
from latentrl.data import mapped
from latentrl.sb3 import LatentBC, LatentPolicy
from latentrl.sb3 import trunk as trunks
from latentrl.sb3.trunk import FeaturesTrunk, channels_first, values_channels_first
from latentrl.spaces import raw
from latentrl.types import Batch

SIDE = 36
LAST = spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8)
FIRST = spaces.Box(0, 255, (1, SIDE, SIDE), np.uint8)
MIXED = spaces.Dict(
    camera=LAST,
    gates=spaces.MultiDiscrete([2, 3]),
    goal=spaces.Discrete(4),
    height=spaces.Box(-1, 1, (2, 2)),
    switches=spaces.MultiBinary(3),
)
SMALL = {"latent_dim": 2, "hidden": (16,), "n_components": 3, "context_length": 3}


def drawn(space: spaces.Space[Any], count: int) -> Any:
    """``count`` values of a space, stacked; by name for a Dict."""
    space.seed(0)
    values = [space.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        return {name: np.stack([value[name] for value in values]) for name in space.spaces}
    return np.stack(values)


def flat(space: spaces.Space[Any], values: Any) -> Tensor:
    tensors = (
        {k: torch.as_tensor(v) for k, v in values.items()} if isinstance(values, dict) else torch.as_tensor(values)
    )
    return raw(space, tensors)


def test_features_are_those_of_stable_baselines() -> None:
    """Its own policy preprocesses the same observations, and gives them to the same extractor."""
    trunk = FeaturesTrunk(MIXED)
    assert isinstance(trunk.extractor, CombinedExtractor)
    values = drawn(MIXED, 5)
    theirs = MultiInputActorCriticPolicy(channels_first(MIXED), spaces.Discrete(2), lambda _: 1e-3)
    tensor, _ = theirs.obs_to_tensor(values)
    torch.testing.assert_close(trunk(flat(MIXED, values)), theirs.extract_features(tensor, trunk.extractor))


def test_any_leading_dimensions_and_any_number_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = FeaturesTrunk(LAST, features_extractor_kwargs={"features_dim": 7})
    pictures = flat(LAST, drawn(LAST, 6))
    whole = trunk(pictures)
    assert (trunk.features_dim, whole.shape) == (7, (6, 7))
    torch.testing.assert_close(trunk(pictures.unflatten(0, (2, 3))), whole.unflatten(0, (2, 3)))
    torch.testing.assert_close(trunk(pictures[4]), whole[4])
    monkeypatch.setattr(trunks, "PASS", 4)
    sizes: list[int] = []
    trunk.extractor.register_forward_hook(lambda _m, _i, made: sizes.append(len(made)))
    with torch.no_grad():
        torch.testing.assert_close(trunk(pictures), whole)
    assert sizes == [4, 2]


def test_channel_order_makes_no_difference() -> None:
    last, first = FeaturesTrunk(LAST), FeaturesTrunk(FIRST)
    first.load_state_dict(last.state_dict())
    wide = spaces.Box(0, 255, (SIDE, SIDE + 4, 3), np.uint8)
    assert channels_first(wide) == spaces.Box(0, 255, (3, SIDE, SIDE + 4), np.uint8)
    pictures = drawn(LAST, 3)
    torch.testing.assert_close(last(flat(LAST, pictures)), first(flat(FIRST, np.moveaxis(pictures, -1, 1))))
    colours = drawn(wide, 2)
    np.testing.assert_array_equal(values_channels_first(channels_first(wide), colours), np.moveaxis(colours, -1, 1))
    coloured = FeaturesTrunk(wide)
    seen: list[Tensor] = []
    coloured.extractor.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    coloured(flat(wide, colours))
    np.testing.assert_allclose(seen[0], np.moveaxis(colours, -1, 1) / 255.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (spaces.Discrete(3, start=-1), [1], [0, 0, 1]),
        (spaces.MultiDiscrete([[2], [3]], start=[[5], [0]]), [[[6], [1]]], [0, 1, 0, 1, 0]),
        (spaces.MultiDiscrete([2, 2], dtype=np.uint8), [[0, 1]], [1, 0, 0, 1]),
        (spaces.Box(-1, 1, ()), [0.5], [0.5]),
        (spaces.Box(-1, 1, (1, 2)), [[[0.5, 1.0]]], [0.5, 1.0]),
        (spaces.MultiBinary((1, 2)), [[[0, 1]]], [0, 1]),
    ],
    ids=str,
)
def test_all_spaces(space: spaces.Space[Any], value: Any, expected: list[float]) -> None:
    trunk = FeaturesTrunk(space, FlattenExtractor)
    made = trunk(flat(space, np.array(value, space.dtype)))
    assert made.tolist() == [expected]
    assert trunk.features_dim == len(expected)
    beside = FeaturesTrunk(spaces.Dict(a=space, b=spaces.Discrete(2)))
    both = {"a": np.array(value, space.dtype), "b": np.array([1])}
    assert beside(flat(spaces.Dict(a=space, b=spaces.Discrete(2)), both)).tolist() == [[*expected, 0, 1]]


def test_gradients_reach_the_trunk_and_the_optimizer_has_it() -> None:
    made = LatentPolicy(LAST, spaces.Discrete(2), lambda _: 1e-3, **SMALL)
    assert isinstance(made.model.trunk, FeaturesTrunk)
    assert isinstance(made.model.trunk.extractor, NatureCNN)
    pictures = flat(LAST, drawn(LAST, 6)).unflatten(0, (2, 3))
    made.model.elbo(Batch.full(pictures, torch.eye(2)[torch.tensor([[0, 1, 0], [1, 1, 0]])])).loss.backward()
    parameters = list(made.model.trunk.parameters())
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in parameters if parameter.grad is not None)
    assert all(parameter.grad is not None for parameter in parameters)
    theirs = {id(parameter) for group in made.optimizer.param_groups for parameter in group["params"]}
    assert theirs == {id(parameter) for parameter in made.parameters()}


def test_a_policy_reads_both_channel_orders() -> None:
    """Whatever the order of the space that it was made for, one picture or many."""
    wide = spaces.Box(0, 255, (SIDE, SIDE + 4, 3), np.uint8)
    pictures = drawn(wide, 3)
    turned = np.moveaxis(pictures, -1, 1)
    for space in (wide, channels_first(wide)):
        made = LatentPolicy(space, spaces.Box(-1, 1, (2,)), lambda _: 1e-3, **{**SMALL, "prior": "normal"})
        assert made.observation_space == channels_first(wide)
        played, _ = made.predict(pictures, deterministic=True)
        np.testing.assert_array_equal(made.predict(turned, deterministic=True)[0], played)
        for one in (pictures[1], turned[1]):
            single, _ = made.predict(one, deterministic=True)
            np.testing.assert_allclose(single, played[1], atol=1e-6)


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), {}, r"pictures of \(8, 8\) pixels are too small .* which needs 36"),
        (spaces.Dict(a=spaces.Box(0, 255, (3, 40, 8), np.uint8)), {}, r"pictures of \(40, 8\) pixels are too small"),
        (LAST, {"features_extractor_class": nn.Linear}, "must be a subclass of .*BaseFeaturesExtractor, but .*Linear"),
        (LAST, {"features_extractor_class": "NatureCNN"}, "must be a subclass"),
        (spaces.Discrete(2), {"features_extractor_kwargs": {"features_dim": 3}}, "needs no extractor: give features_"),
        (spaces.Dict(a=spaces.Dict(b=LAST)), {}, "a trunk does not read Dict.*: use Box, Discrete"),
        (spaces.Tuple([LAST]), {}, "observation space Tuple.* is not supported"),
        (spaces.MultiDiscrete([[2], [3]]), {}, r"(?s)does not read observations of MultiDiscrete.*flatten them"),
    ],
    ids=str,
)
def test_bad_options(space: spaces.Space[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(LatentRLError, match=message):
        LatentPolicy(space, spaces.Discrete(2), lambda _: 1e-3, **options, **SMALL)


def test_bad_observations() -> None:
    made = LatentPolicy(spaces.Dict(camera=LAST, goal=spaces.Discrete(3)), spaces.Discrete(2), lambda _: 1e-3, **SMALL)
    picture = np.zeros(LAST.shape, np.uint8)
    with pytest.raises(LatentRLError, match="observations are named camera, but the space is a Dict of camera, goal"):
        made.predict({"camera": picture})
    with pytest.raises(LatentRLError, match="observations are no dict"):
        made.predict(picture)
    with pytest.raises(LatentRLError, match=r"have dtype torch\.float64, but the space is Box.*: give uint8"):
        made.predict({"camera": picture / 255.0, "goal": np.array(1)})
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        made.predict({"camera": picture[:30], "goal": np.array(1)})


@pytest.mark.parametrize("named", [False, True])
def test_pictures_in_a_file_are_turned_after_a_split(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "MAPPED_SHARE", 0.0)
    pictures = np.random.default_rng(0).integers(0, 256, (8, 40, 38, 3), np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    stored = np.load(tmp_path / "pictures.npy", mmap_mode="r")
    seen = {"camera": stored} if named else stored
    data = Demonstrations.from_arrays(seen, np.zeros((8, 1), np.float32), [2] * 4)
    first, second = data.split(0.5)
    agent = LatentBC(demonstrations=first, policy_kwargs={"latent_dim": 2, "hidden": (8,), **SMALL}, device="cpu")
    assert agent.demonstrations is not None
    kept = agent.demonstrations.observations["camera"] if named else agent.demonstrations.observations
    assert kept.shape == (4, 3, 40, 38)
    whole = np.concatenate(
        [np.asarray(part.observations["camera"] if named else part.observations) for part in (first, second)]
    )
    assert sorted(whole.reshape(8, -1).sum(1)) == sorted(pictures.reshape(8, -1).sum(1))
    np.testing.assert_array_equal(np.asarray(kept), whole[:4].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["a.b", "type", "keys"])
def test_names_that_torch_cannot_give_to_modules(name: str) -> None:
    with pytest.raises(LatentRLError, match="torch cannot name a module"):
        FeaturesTrunk(spaces.Dict({name: spaces.Box(-1, 1, (2,))}))
