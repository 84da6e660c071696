"""``latentrl hub``: policies on the Hugging Face Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from latentrl.checks import LatentRLError
from latentrl.runs import POLICY


@dataclass(frozen=True)
class Push:
    """Send a policy to a repository, which is made where it is not there."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of `latentrl train` or of save_pretrained."""
    repo: Annotated[str, tyro.conf.Positional]
    """"user/name"."""
    about: str = ""
    """What the model card says of data and results; by default the card of the folder is sent."""
    private: bool = False
    """Of a new repository."""


@dataclass(frozen=True)
class Pull:
    """Fetch a policy and its model card into a folder, where a card that is there stays."""

    repo: Annotated[str, tyro.conf.Positional]
    """"user/name"."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Where to."""
    revision: str | None = None
    """Branch, tag or commit."""


@dataclass(frozen=True)
class HubConfig:
    """Push a policy to the Hugging Face Hub, or pull one from it. Nothing that is pulled is run."""

    action: Annotated[Push, tyro.conf.subcommand("push")] | Annotated[Pull, tyro.conf.subcommand("pull")]


def use_hub(config: HubConfig, console: Console | None = None) -> None:
    """:raises LatentRLError: without ``latentrl[hub]``; no such folder or repository"""
    from latentrl.sb3 import LatentPolicy
    from latentrl.sb3.pretrained import card_of

    console = console or Console()
    action = config.action
    if isinstance(action, Pull):
        policy = LatentPolicy.from_pretrained(action.repo, "cpu", revision=action.revision)
        policy.save_pretrained(action.folder, card=card_of(action.repo, action.revision))
        console.print(f"{action.repo} is in {action.folder}", soft_wrap=True, markup=False)
        return
    run = action.run.expanduser()
    if not run.is_dir():  # or another's policy of that name would be fetched from the Hub, and sent as one's own
        raise LatentRLError(f"there is no folder {str(action.run)!r}: give a run, or what save_pretrained wrote")
    folder = run / POLICY if (run / POLICY).is_dir() else run
    card = "" if action.about else card_of(folder)
    policy = LatentPolicy.from_pretrained(folder, "cpu")
    address = policy.push_to_hub(action.repo, action.about, action.private, card=card)
    console.print(address, soft_wrap=True)
