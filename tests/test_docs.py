"""What the pages of the documentation show is executed: their Python blocks, one after another, with short training."""

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


@pytest.mark.slow
@pytest.mark.usefixtures("shortly")
@pytest.mark.filterwarnings("ignore:the latent has collapsed")
@pytest.mark.parametrize("page", PAGES)
def test_examples_of_a_page(page: str) -> None:
    namespace = PAGES[page]()
    for block in blocks(page):
        exec(compile(block, page, "exec"), namespace)
