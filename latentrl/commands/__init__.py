"""The command line's work, one file for each command; the arguments are the fields of a dataclass."""

from latentrl.commands.envs import EnvsConfig, list_envs
from latentrl.commands.evaluate import EvaluateConfig, evaluate
from latentrl.commands.hub import HubConfig, use_hub
from latentrl.commands.report import ReportConfig, report
from latentrl.commands.sweep import SweepConfig, run_sweep
from latentrl.commands.train import TrainConfig, train

__all__ = [
    "EnvsConfig",
    "EvaluateConfig",
    "HubConfig",
    "ReportConfig",
    "SweepConfig",
    "TrainConfig",
    "evaluate",
    "list_envs",
    "report",
    "run_sweep",
    "train",
    "use_hub",
]
