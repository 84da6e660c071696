"""``latentrl evaluate``: what a cloned policy does in its task."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from gymnasium import spaces
from rich.console import Console
from rich.table import Table

from latentrl.checks import LatentRLError, count
from latentrl.files import whole
from latentrl.page.collect import finite_or_none
from latentrl.report import environment
from latentrl.runs import OPTIONS, POLICY, make_env, options_of


@dataclass(frozen=True)
class EvaluateConfig:
    """Play a cloned policy and tabulate returns, successes and modes.

    Without --deterministic each episode draws its latents, as cloned behaviour should be judged.
    """

    run: Annotated[str, tyro.conf.Positional]
    """Folder of `latentrl train`, one of save_pretrained, or hub:OWNER/NAME, a repository of the Hugging Face Hub."""
    env: str | None = None
    """Gymnasium id of the task; by default that of the run's config.yaml."""
    episodes: int = 100
    """How many."""
    num_envs: int = 8
    """Environments side by side."""
    deterministic: bool = False
    """The likeliest latent and the mean action, the same every time."""
    modes: int | None = None
    """Number of modes that info["mode"] tells: how many are shown by five successes or more, and their entropy."""
    seed: int = 0
    """Of environments and latents."""
    device: str = "auto"
    """auto, cpu, cuda, …"""
    out: Path | None = None
    """File for the figures as JSON; by default evaluation.json in the run's folder, if it is one."""

    def __post_init__(self) -> None:
        for name in ("episodes", "num_envs"):
            count(name, getattr(self, name), 1)
        count("seed", self.seed, 0)
        if self.modes is not None:
            count("modes", self.modes, 2)


def evaluate(config: EvaluateConfig, console: Console | None = None) -> dict[str, Any]:
    """Play, print and write; the figures.

    :raises LatentRLError: no policy there, no task, or one with other spaces
    """
    from latentrl.sb3 import LatentPolicy, evaluate_behaviour
    from latentrl.sb3.trunk import channels_first

    console = console or Console()
    folder, remote = Path(config.run), config.run.startswith("hub:")
    if not remote and not folder.is_dir():
        raise LatentRLError(f"there is no folder {config.run!r}: give a run, or hub:OWNER/NAME for one of the Hub")
    place = config.run.removeprefix("hub:") if remote else folder / POLICY if (folder / POLICY).is_dir() else folder
    policy = LatentPolicy.from_pretrained(place, config.device)
    name = config.env or _env_of(folder)
    venv = make_env(name, config.num_envs, config.seed)
    for kind in ("observation space", "action space"):
        its, wanted = (getattr(owner, kind.replace(" ", "_")) for owner in (venv, policy))
        if not _alike(channels_first(its), wanted):
            raise LatentRLError(
                f"{name} has the {kind} {its}, but the policy was made for {wanted}: give the task that it was "
                "cloned for"
            )
    found = evaluate_behaviour(policy, venv, config.episodes, config.deterministic, seed=config.seed)
    figures: dict[str, Any] = {"return": asdict(found.mean_return)}
    if found.successes is not None:
        figures["success"] = asdict(found.success_rate)
    if config.modes is not None:
        counts, entropy = found.counts(config.modes), found.entropy(config.modes)
        figures |= {"modes": found.covered(config.modes), "counts": counts.tolist(), "entropy": asdict(entropy)}
        if found.contexts is not None:
            figures["conditional entropy"] = asdict(found.conditional_entropy(config.modes))
    figures["steps"] = float(found.lengths.mean())
    figures["milliseconds per action"] = found.ms_per_action
    _print(figures, f"{config.episodes} episodes of {name}", console)
    given = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}
    target = config.out or (folder / "evaluation.json" if folder.is_dir() else None)
    if target is not None:
        record = {"command": "latentrl evaluate", "config": given, "environment": environment(str(policy.device))}
        with whole(target) as partial:
            told = finite_or_none({**record, "figures": figures})
            partial.write_text(json.dumps(told, indent=1, default=float, allow_nan=False) + "\n")
        console.print(f"figures in {target}", soft_wrap=True, markup=False)
    return figures


def _alike(first: spaces.Space[Any], second: spaces.Space[Any]) -> bool:
    """Of one kind and size; data do not tell the bounds of a Box."""
    if isinstance(first, spaces.Dict) and isinstance(second, spaces.Dict):
        same = first.spaces.keys() == second.spaces.keys()
        return same and all(_alike(part, second.spaces[name]) for name, part in first.spaces.items())
    if isinstance(first, spaces.Box) and isinstance(second, spaces.Box):
        return first.shape == second.shape
    return first == second


def _env_of(folder: Path) -> str:
    path = folder / OPTIONS
    options = options_of(path) if path.exists() else {}
    if not options.get("env"):
        raise LatentRLError("the task is not known: give --env with a Gymnasium id")
    return str(options["env"])


def _print(figures: dict[str, Any], title: str, console: Console) -> None:
    table = Table("figure", "value", "95 % interval", title=title)
    for name, figure in figures.items():
        if isinstance(figure, dict):
            low, high = figure["ci"]
            table.add_row(name, f"{figure['value']:.4g}", f"{low:.4g} … {high:.4g}")
        elif not isinstance(figure, list):
            table.add_row(name, f"{figure:.4g}", "")
    console.print(table)
