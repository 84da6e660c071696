"""Policies as safe files: weights in safetensors, all else in JSON, and no pickle, so that no code runs on loading.

The description lies in the weights' own file, so that the two cannot come apart; ``config.json`` and the model card are
copies for people and for the Hugging Face Hub.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import safetensors.torch
import torch
from gymnasium import spaces
from safetensors import SafetensorError, safe_open
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN

from latentrl.checks import LatentRLError, require, resolve_device
from latentrl.config import LatentConfig
from latentrl.data.space_json import from_json, to_json
from latentrl.files import whole
from latentrl.model import LatentModel

WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "config.json", "README.md"
KEY = "latentrl"
"""Under which the weights' file holds the description."""
FORMAT = 1
EXTRACTORS = {made.__name__: made for made in (NatureCNN, CombinedExtractor, FlattenExtractor)}
"""What may be made by name; other classes are the reader's to give."""


class Pretrained:
    """Saving and loading of a policy without pickles."""

    model: LatentModel
    config: LatentConfig
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    action_noise: bool
    state_dict: Callable[[], dict[str, torch.Tensor]]
    load_state_dict: Callable[[dict[str, torch.Tensor]], Any]
    _in_place: bool
    _trunk_options: dict[str, Any]

    def save_pretrained(self, folder: str | Path, about: str = "", card: str = "") -> None:
        """Write model.safetensors, config.json and a model card; each is written whole or not at all.

        :param folder: made where it is not there; a card that is there is left as it is
        :param about: what the card says of data and results
        :param card: the text of a whole card, in place of one that is made
        :raises LatentRLError: the networks are an agent's; arguments of a features extractor that JSON cannot hold;
            a folder that cannot be written
        """
        folder, text = Path(folder).expanduser(), json.dumps(self._description(), indent=1)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with whole(folder / WEIGHTS) as partial:
            partial.write_bytes(safetensors.torch.save(tensors, {KEY: text}))  # a full disk is an OSError here
        with whole(folder / DESCRIPTION) as partial:
            partial.write_text(text + "\n")
        if not (folder / CARD).exists():
            with whole(folder / CARD) as partial:
                partial.write_text(card or self._card(about), encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: torch.device | str = "auto",
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> Self:
        """A policy that :meth:`save_pretrained` wrote; no code of the file is run.

        :param name: its folder, or the name of a repository on the Hugging Face Hub (``latentrl[hub]``)
        :param features_extractor_class: where the policy has one that is not stable-baselines3's
        :param revision: branch, tag or commit of the repository
        :param token: for private repositories; None takes that of ``hf auth login``
        :raises LatentRLError: no such folder or repository; a file that is damaged, or of another kind or version
        """
        path = Path(name).expanduser() / WEIGHTS
        if path.parent.is_dir() and not path.exists():
            raise LatentRLError(f"{str(name)!r} is a folder without {WEIGHTS}: give one that save_pretrained wrote")
        if not path.exists():
            path = _downloaded(str(name), WEIGHTS, revision, token)
        try:
            with safe_open(path, "pt", device="cpu") as file:
                text = (file.metadata() or {}).get(KEY)
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as error:
            raise LatentRLError(f"{str(path)!r} is no safetensors file, or damaged ({error})") from error
        if text is None:
            raise LatentRLError(f"{str(path)!r} holds weights, but not of a policy that save_pretrained wrote")
        try:
            policy = cls(lr_schedule=_constant, **_arguments(json.loads(text), features_extractor_class))  # type: ignore[call-arg]
            policy.load_state_dict(tensors)
        except LatentRLError as error:
            raise LatentRLError(f"{str(path)!r} cannot be loaded: {error}") from error
        except Exception as error:  # what a stranger wrote can be wrong in any way
            raise LatentRLError(f"{str(path)!r} does not describe the weights that it holds ({error})") from error
        policy = policy.to(resolve_device(device))  # type: ignore[attr-defined]
        policy.set_training_mode(False)
        return policy

    def push_to_hub(
        self, repo_id: str, about: str = "", private: bool | None = None, token: str | None = None, card: str = ""
    ) -> str:
        """Save to a repository of the Hugging Face Hub, which is made where it is not there; the address of the commit.

        :param repo_id: "user/name"
        :param about: what the card says of data and results; without it, or a card, one that is there is left as it is
        :param private: of a new repository
        :param token: None takes that of ``hf auth login``
        :param card: the text of a whole card, in place of one that is made
        :raises LatentRLError: without ``latentrl[hub]``, as :meth:`save_pretrained`, or the Hub does not take it
        """
        hub = require("huggingface_hub", "hub")
        api = hub.HfApi(token=token)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, about, card)
            try:
                repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
                if not about and not card and api.file_exists(repo, CARD):
                    (Path(folder) / CARD).unlink()
                return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="A policy of latentrl"))
            except Exception as error:  # a network, and the packages in between, fail in ways of their own
                raise LatentRLError(
                    f"the policy cannot be sent to {repo_id!r} ({error}): log in with `hf auth login`, and look at the "
                    "name and the network"
                ) from error

    def _description(self) -> dict[str, Any]:
        if self._in_place:
            raise LatentRLError("the networks of this policy are an agent's: save that agent")
        extractor, kwargs = (self._trunk_options[f"features_extractor_{name}"] for name in ("class", "kwargs"))
        record = {
            "format": FORMAT,
            "library": {name: version(name) for name in ("latentrl", "torch", "stable-baselines3")},
            "observation_space": json.loads(to_json(self.observation_space)),
            "action_space": json.loads(to_json(self.action_space)),
            "action_noise": self.action_noise,
            "features_extractor": None if extractor is None else extractor.__name__,
            "features_extractor_kwargs": kwargs,
            "policy": asdict(self.config),
        }
        try:
            json.dumps(kwargs)
        except TypeError as error:
            raise LatentRLError(f"features_extractor_kwargs={kwargs!r} cannot be written as JSON ({error})") from error
        return record

    def _card(self, about: str) -> str:
        shown = asdict(self.config)
        rows = [
            f"| `{name}` | {value!r} |" for name, value in shown.items() if value != getattr(LatentConfig, name, None)
        ]
        return CARD_TEXT.format(
            about=about or "What it was cloned from, and how well it does, is not said.",
            observation_space=self.observation_space,
            action_space=self.action_space,
            rows="\n".join(rows) or "| as the library's defaults | |",
        )


CARD_TEXT = """---
library_name: latentrl
tags:
- reinforcement-learning
- imitation-learning
- latent-variable-policy
---

# A latent-variable policy

{about}

```python
from latentrl.sb3 import LatentPolicy

policy = LatentPolicy.from_pretrained("this repository, or its folder")
action, state = policy.predict(observation)         # z is drawn where an episode starts
action, state = policy.predict(observation, state)  # and held as long as it says below
```

- observations: `{observation_space}`
- actions: `{action_space}`

| option | value |
|---|---|
{rows}

Weights are in safetensors, the rest is JSON: loading runs no code of this repository.
"""


def _arguments(record: dict[str, Any], extractor: type[BaseFeaturesExtractor] | None) -> dict[str, Any]:
    """Of the policy's constructor, from its description."""
    if record["format"] != FORMAT:
        raise LatentRLError(f"it is of format {record['format']!r}, and this version reads {FORMAT}: update latentrl")
    named = record["features_extractor"]
    if named is not None and extractor is None:
        if named not in EXTRACTORS:
            raise LatentRLError(f"its features extractor is {named}: give the class as features_extractor_class=")
        extractor = EXTRACTORS[named]
    policy = {name: tuple(value) if isinstance(value, list) else value for name, value in record["policy"].items()}
    observed, action = (from_json(json.dumps(record[f"{name}_space"])) for name in ("observation", "action"))
    return {
        "observation_space": observed,
        "action_space": action,
        "action_noise": bool(record["action_noise"]),
        "features_extractor_class": extractor,
        "features_extractor_kwargs": record["features_extractor_kwargs"],
        **policy,
    }


def card_of(name: str | Path, revision: str | None = None, token: str | None = None) -> str:
    """The text of the model card in a folder or a repository; empty where there is none."""
    path = Path(name).expanduser() / CARD
    if not path.parent.is_dir():
        try:
            path = _downloaded(str(name), CARD, revision, token)
        except LatentRLError:
            return ""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _downloaded(name: str, file: str, revision: str | None, token: str | None) -> Path:
    hub = require("huggingface_hub", "hub")
    try:
        return Path(hub.hf_hub_download(name, file, revision=revision, token=token))
    except (
        hub.errors.HFValidationError,
        hub.errors.HfHubHTTPError,
        hub.errors.LocalEntryNotFoundError,
        OSError,
    ) as error:
        raise LatentRLError(
            f"{name!r} is neither a folder with {file} nor a repository on the Hub that can be read ({error})"
        ) from error


def _constant(_: float) -> float:
    """Learning rate of an optimiser that is not used."""
    return 0.0
