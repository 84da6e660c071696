"""What the pages of the documentation show is executed: their Python blocks, one after another, with short training."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

import latentrl
import latentrl.sb3
import latentrl.types
from latentrl import Demonstrations, metrics
from latentrl_envs import MultiGoal
from latentrl_envs.experts import demonstrate

DOCS = Path(__file__).parent.parent / "docs"
UPDATES, STEPS = 20, 600
SOONER = {"save_freq=10_000": "save_freq=100", "_80000_": "_800_"}
"""What is saved after long training is saved early."""


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text()
    for late, soon in SOONER.items():
        text = text.replace(late, soon)
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def pendulum() -> Demonstrations:
    """With rewards."""
    rng = np.random.default_rng(0)
    env = gym.make("Pendulum-v1")
    seen = rng.uniform(-1, 1, (40, 3)).astype(np.float32)
    acts, gains = rng.uniform(-1, 1, (40, 1)).astype(np.float32), rng.normal(size=40).astype(np.float32)
    return Demonstrations.from_arrays(seen, acts, [10] * 4, env.observation_space, env.action_space, rewards=gains)


def multi_goal() -> Demonstrations:
    return Demonstrations.from_arrays(**demonstrate(MultiGoal(), episodes=80)._asdict())


def of_agents() -> dict[str, Any]:
    """What the page takes for granted: names of the libraries, demonstrations, and a clone."""
    from stable_baselines3 import PPO

    names = {name: getattr(latentrl.sb3, name) for name in latentrl.sb3.__all__}
    shown = multi_goal()
    agent = latentrl.sb3.LatentBC(demonstrations=shown, policy_kwargs={"hidden": (8,)}, device="cpu").learn(5)
    return names | {
        "PPO": PPO, "VecNormalize": VecNormalize, "make_vec_env": make_vec_env, "gym": gym, "np": np,
        "metrics": metrics, "bc": agent, "demonstrations": pendulum(), "others": shown,
        "demonstrated": np.split(shown.observations, shown.episode_starts[1:]),
    }  # fmt: skip


PAGES: dict[str, Callable[[], dict[str, Any]]] = {
    "agents.md": of_agents,
    "training.md": lambda: {"demonstrations": multi_goal()},
    "machines.md": lambda: {"demonstrations": multi_goal()},
}


@pytest.fixture
def shortly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is trained for longer than it takes to see that it works, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    for kind, most in ((latentrl.sb3.LatentBC, UPDATES), (OnPolicyAlgorithm, STEPS), (OffPolicyAlgorithm, STEPS)):
        learn: Any = kind.learn

        def short(
            self: Any, total_timesteps: int, *args: Any, _learn: Any = learn, _most: int = most, **kwargs: Any
        ) -> Any:
            return _learn(self, min(total_timesteps, _most), *args, **kwargs)

        monkeypatch.setattr(kind, "learn", short)


def test_all_pages_with_examples_are_executed() -> None:
    """That about data in tests/data/test_docs.py."""
    assert {path.name for path in DOCS.glob("*.md") if blocks(path.name)} == PAGES.keys() | {"data.md"}


RESULTS = DOCS.parent / "experiments" / "results"


def test_the_gallery_shows_every_picture_of_a_study() -> None:
    """Each with the command that makes it."""
    _, *parts = re.split(r"!\[[^\]]+\]\(\.\./experiments/results/(\S+)\)", (DOCS / "gallery.md").read_text())
    shown = dict(zip(parts[::2], parts[1::2], strict=True))
    assert sorted(shown) == sorted(path.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("*.png"))
    for name, about in shown.items():
        ((program, what),) = re.findall(r"`(python -m|make) ([\w.]+)", about)
        if program == "make":
            assert f"\n{what}:" in (DOCS.parent / "Makefile").read_text(), name
        else:
            assert (DOCS.parent / f"{what.replace('.', '/')}.py").exists(), name


PUBLIC = (
    *("latentrl", "latentrl.data", "latentrl.distributions", "latentrl.estimators", "latentrl.metrics"),
    *("latentrl.sb3", "latentrl.training", "latentrl.variance", "latentrl_envs"),
)
COMMANDS = {"latentrl.commands", "latentrl.demo", "latentrl.gradients", "latentrl.page"}
"""Whose names are the command line's, not to be imported."""


def of_api() -> set[int]:
    """Identities of all that the page about the API documents."""
    found = set[int]()
    directives = re.findall(r"\.\. auto(\w+):: (\S+)\n((?:   .*\n)*)", (DOCS / "api.md").read_text())
    for kind, name, options in directives:
        owner, _, last = name.rpartition(".")
        if kind != "module":
            found.add(id(getattr(importlib.import_module(owner), last)))
            continue
        module = importlib.import_module(name)
        listed = re.search(r":members: (.+)", options)
        names = listed[1].split(", ") if listed else getattr(module, "__all__", dir(module))
        found |= {id(getattr(module, one)) for one in names}
    return found


def test_all_that_is_public_is_on_the_page_about_the_api() -> None:
    """Nor does a package have an ``__all__`` of which nobody knows whether it is public."""
    declared = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for root, package in ((DOCS.parent, "latentrl"), (DOCS.parent / "envs", "latentrl_envs"))
        for path in (root / package).rglob("*.py")
        if "__all__ = " in path.read_text()
    }
    assert declared == {*PUBLIC, *COMMANDS}
    documented = of_api()
    for package in PUBLIC:
        module = importlib.import_module(package)
        assert [name for name in module.__all__ if id(getattr(module, name)) not in documented] == []
    for name in ("Batch", "Estimate"):
        assert id(getattr(latentrl.types, name)) in documented


@pytest.mark.slow
@pytest.mark.usefixtures("shortly")
@pytest.mark.filterwarnings("ignore:the latent has collapsed")
@pytest.mark.parametrize("page", PAGES)
def test_examples_of_a_page(page: str) -> None:
    namespace = PAGES[page]()
    for block in blocks(page):
        exec(compile(block, page, "exec"), namespace)
