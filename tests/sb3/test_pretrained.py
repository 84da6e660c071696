"""Policies as safe files: what comes back is the same, and what is not ours is refused without being run."""

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open
from safetensors.torch import save_file
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from latentrl import Demonstrations, LatentRLError
from latentrl.sb3 import LatentBC, LatentPolicy
from tests.sb3.agents_table import Toy

BOX = spaces.Box(-2.0, 3.0, (2,))
LINE = spaces.Box(-1.0, 1.0, (3,))
PICTURES = spaces.Box(0, 255, (36, 36, 1), np.uint8)
NAMED = spaces.Dict(place=LINE, kind=spaces.Discrete(3))
SMALL: dict[str, Any] = {"hidden": (8,), "encoder_hidden": (8,), "latent_dim": 2, "n_components": 3}


class Wide(FlattenExtractor):
    """An extractor of one's own."""

    def __init__(self, observation_space: spaces.Box, width: int = 5, dtype: Any = None) -> None:
        super().__init__(observation_space)
        self.linear, self._features_dim = nn.Linear(self._features_dim, width, dtype=dtype), width

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.linear(super().forward(observations))


POLICIES: dict[str, tuple[spaces.Space[Any], spaces.Space[Any], dict[str, Any]]] = {
    "VampPrior": (LINE, BOX, {"prior": "vamp", "hold": 0}),
    "flow, of the state": (LINE, BOX, {"prior": "flow", "prior_sees_state": True, "posterior": "flow", "hold": 3}),
    "choices": (LINE, spaces.MultiDiscrete([3, 2]), {"prior": "categorical", "posterior": "categorical", "hold": 1}),
    "plans and history": (LINE, BOX, {"chunk": 4, "execute": 2, "history": 3, "trunk": "gru", "hold": 0}),
    "transformer": (LINE, BOX, {"chunk": 4, "history": 2, "trunk": "transformer", "hidden": (16,), "hold": 0}),
    "mixture density": (LINE, BOX, {"latent_dim": 0, "decoder": "mixture", "hold": 1, "action_noise": True}),
    "bins": (LINE, BOX, {"latent_dim": 0, "decoder": "bins", "hold": 1}),
    "diffusion": (LINE, BOX, {"latent_dim": 0, "decoder": "diffusion", "chunk": 4, "hold": 1}),
    "pictures": (PICTURES, BOX, {"prior": "mixture", "hold": 0}),
    "dict": (NAMED, spaces.Discrete(4), {"temperature": 0.5, "latent_clip": 2.0}),
    "an extractor": (LINE, BOX, {"features_extractor_class": Wide, "features_extractor_kwargs": {"width": 4}}),
}


def make(name: str) -> LatentPolicy:
    """With random weights, the statistics of data included."""
    seen, acts, options = POLICIES[name]
    torch.manual_seed(0)
    policy = LatentPolicy(seen, acts, lambda _: 1e-3, **(SMALL | options))
    for tensor in policy.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    return policy


def play(policy: LatentPolicy, deterministic: bool) -> list[np.ndarray]:
    """Actions and latents of some steps."""
    torch.manual_seed(1)
    policy.observation_space.seed(0)
    shown: list[Any] = [policy.observation_space.sample() for _ in range(4)]
    state, found = None, []
    for seen in shown:
        action, state = policy.predict(seen, state, deterministic=deterministic)
        assert state is not None
        found += [np.asarray(action), state[0]]
    return found


@pytest.mark.parametrize("name", POLICIES)
def test_what_was_saved_comes_back(name: str, tmp_path: Path) -> None:
    policy = make(name)
    policy.save_pretrained(tmp_path)
    own = {"features_extractor_class": Wide} if name == "an extractor" else {}
    loaded = LatentPolicy.from_pretrained(tmp_path, device="cpu", **own)
    assert loaded.config == policy.config
    assert (loaded.observation_space, loaded.action_space) == (policy.observation_space, policy.action_space)
    assert loaded.action_noise == policy.action_noise
    for deterministic in (False, True):
        for first, second in zip(play(policy, deterministic), play(loaded, deterministic), strict=True):
            np.testing.assert_array_equal(first, second)
    assert not loaded.training


def test_a_trained_policy_and_its_average(two_ways: Demonstrations, tmp_path: Path) -> None:
    """What predicts is what is saved; and what was saved first is overwritten."""
    agent = LatentBC(demonstrations=two_ways, policy_kwargs=SMALL, ema_decay=0.5, seed=0, device="cpu")
    agent.policy.save_pretrained(tmp_path)
    agent.learn(5)
    agent.policy.save_pretrained(tmp_path)
    loaded = LatentPolicy.from_pretrained(tmp_path, device="cpu")
    for first, second in zip(play(agent.policy, True), play(loaded, True), strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_card_and_the_description_say_what_it_is(tmp_path: Path) -> None:
    make("VampPrior").save_pretrained(tmp_path, about="Cloned from nothing.")
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: latentrl\n")
    assert "Cloned from nothing." in card
    assert "| `latent_dim` | 2 |" in card
    assert "history" not in card  # as the defaults are
    assert json.loads((tmp_path / "config.json").read_text())["policy"]["prior"] == "vamp"
    (tmp_path / "README.md").write_text("mine")
    make("VampPrior").save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


# -- files of strangers --------------------------------------------------------------------------------------------


class Hostile:
    """Runs code where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    mark, file = tmp_path / "it ran", tmp_path / "model.safetensors"
    file.write_bytes(pickle.dumps(Hostile(mark)))
    pickle.loads(file.read_bytes())
    assert mark.exists()  # the file is hostile, indeed
    mark.unlink()
    with pytest.raises(LatentRLError, match="no safetensors file"):
        LatentPolicy.from_pretrained(tmp_path)
    torch.save({"model": Hostile(mark)}, file)
    with pytest.raises(LatentRLError, match="no safetensors file"):
        LatentPolicy.from_pretrained(tmp_path)
    assert not mark.exists()


def rewrite(folder: Path, **changes: Any) -> None:
    """Change what the file says of its policy."""
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        record = json.loads(file.metadata()["latentrl"])
    save_file(tensors, path, {"latentrl": json.dumps(record | changes)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "of format 2, and this version reads 1: update"),
        ({"features_extractor": "os.system"}, "features extractor is os.system: give the class"),
        ({"observation_space": {"type": "eval"}}, "there is no space 'eval'"),
        ({"action_space": 3}, "describes no space"),
        ({"policy": {"latent_dim": -1}}, "latent_dim must be"),
        ({"policy": {"breaks": True}}, "unknown policy option 'breaks'"),
        ({"policy": {**SMALL, "hidden": [9]}}, "does not describe the weights"),
        ({"policy": None}, "does not describe the weights"),
    ],
    ids=str,
)
def test_descriptions_that_lie_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    make("VampPrior").save_pretrained(tmp_path)
    rewrite(tmp_path)
    LatentPolicy.from_pretrained(tmp_path, device="cpu")
    rewrite(tmp_path, **changes)
    with pytest.raises(LatentRLError, match=message):
        LatentPolicy.from_pretrained(tmp_path, device="cpu")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    make("VampPrior").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(LatentRLError, match=r"model\.safetensors' is no safetensors file, or damaged"):
            LatentPolicy.from_pretrained(tmp_path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(LatentRLError, match="not of a policy that save_pretrained wrote"):
        LatentPolicy.from_pretrained(tmp_path)


def test_a_description_that_is_no_json_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors", {"latentrl": "{"})
    with pytest.raises(LatentRLError, match="does not describe the weights"):
        LatentPolicy.from_pretrained(tmp_path)


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    shown = Demonstrations.from_arrays(np.zeros((6, 3)), np.zeros((6, 2)), [3, 3])
    toy = Toy(observation_space=shown.observation_space, action_space=shown.action_space)
    clone = LatentBC(PPO("MlpPolicy", toy, device="cpu"), demonstrations=shown)
    with pytest.raises(LatentRLError, match="an agent's: save that agent"):
        clone.policy.save_pretrained(tmp_path)
    options = SMALL | {"features_extractor_class": Wide}
    policy = LatentPolicy(LINE, BOX, lambda _: 1e-3, features_extractor_kwargs={"dtype": torch.float32}, **options)
    with pytest.raises(LatentRLError, match="cannot be written as JSON"):
        policy.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("VampPrior").save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(path: Path, _: bytes) -> None:
        path.open("wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(LatentRLError, match=r"model.safetensors' cannot be written \(No space left on device\)"):
        make("VampPrior").save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


# -- the Hub -------------------------------------------------------------------------------------------------------


def test_to_the_hub_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions are replaced by a folder: what is sent is what comes back."""
    hub = pytest.importorskip("huggingface_hub")
    remote = tmp_path / "remote"
    asked: list[Any] = []

    class Api:
        def __init__(self, token: str | None) -> None:
            asked.append(token)

        def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> Any:
            asked.extend([repo_id, private, exist_ok])
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id: str, folder_path: Any, commit_message: str) -> str:
            assert commit_message
            shutil.copytree(folder_path, remote)
            return f"https://huggingface.co/{repo_id}/commit/1"

    def download(name: str, file: str, revision: str | None, token: str | None) -> str:
        assert (name, revision, token) == ("me/policy", "v1", "secret")
        return str(remote / file)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    policy = make("VampPrior")
    assert policy.push_to_hub("me/policy", about="Good.", private=True, token="secret").endswith("me/policy/commit/1")
    assert asked == ["secret", "me/policy", True, True]
    assert "Good." in (remote / "README.md").read_text()
    loaded = LatentPolicy.from_pretrained("me/policy", device="cpu", revision="v1", token="secret")
    np.testing.assert_array_equal(play(policy, True)[0], play(loaded, True)[0])


@pytest.mark.parametrize(
    ("there", "given", "sent"),
    [
        (False, {}, "is not said"),
        (True, {}, None),
        (True, {"about": "Good."}, "Good."),
        (True, {"card": "By hand."}, "By hand."),
    ],
)
def test_a_card_that_says_nothing_takes_no_place(
    monkeypatch: pytest.MonkeyPatch, there: bool, given: dict[str, str], sent: str | None
) -> None:
    """Of the one in the repository; another does."""
    hub = pytest.importorskip("huggingface_hub")
    cards: list[str | None] = []

    class Api:
        def __init__(self, token: str | None) -> None:
            pass

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return SimpleNamespace(repo_id=repo_id)

        def file_exists(self, repo_id: str, filename: str) -> bool:
            assert (repo_id, filename) == ("me/policy", "README.md")
            return there

        def upload_folder(self, folder_path: str, **_: Any) -> str:
            card = Path(folder_path) / "README.md"
            cards.append(card.read_text() if card.exists() else None)
            return "https://huggingface.co/me/policy/commit/1"

    monkeypatch.setattr(hub, "HfApi", Api)
    make("VampPrior").push_to_hub("me/policy", **given)
    (card,) = cards
    assert card is None if sent is None else card is not None and sent in card


def test_a_hub_that_does_not_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    class Api:
        def __init__(self, token: str | None) -> None:
            pass

        def create_repo(self, *_: Any, **__: Any) -> None:
            raise ValueError("Unauthorized")  # of a package beneath

    monkeypatch.setattr(hub, "HfApi", Api)
    with pytest.raises(LatentRLError, match=r"cannot be sent to 'me/policy' \(Unauthorized\): log in with"):
        make("VampPrior").push_to_hub("me/policy")


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    with pytest.raises(LatentRLError, match=r"neither a folder with model\.safetensors nor a repository"):
        LatentPolicy.from_pretrained(tmp_path / "nowhere" / "at" / "all")

    def unreachable(*_: Any, **__: Any) -> None:
        raise hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    with pytest.raises(LatentRLError, match="nor a repository on the Hub that can be read"):
        LatentPolicy.from_pretrained("some/where")


def test_a_folder_without_a_policy_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(LatentRLError, match=r"is a folder without model\.safetensors"):
        LatentPolicy.from_pretrained(tmp_path)
