"""Latent-variable policies: clone behaviour, evaluate it, and measure gradients.

`latentrl COMMAND --help` explains a command. Shell completion: `latentrl --tyro-print-completion bash` (or zsh, tcsh).
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from latentrl.checks import LatentRLError
from latentrl.commands import (
    EnvsConfig,
    EvaluateConfig,
    HubConfig,
    ReportConfig,
    SweepConfig,
    TrainConfig,
    evaluate,
    list_envs,
    report,
    run_sweep,
    train,
    use_hub,
)
from latentrl.demo import DemoConfig, run_demo
from latentrl.gradients import GradientsConfig, run_gradients
from latentrl.runs import OPTIONS, flags_of, options_of

COMMANDS: dict[str, tuple[type[Any], Callable[[Any], Any]]] = {
    "demo": (DemoConfig, run_demo),
    "train": (TrainConfig, train),
    "sweep": (SweepConfig, run_sweep),
    "evaluate": (EvaluateConfig, evaluate),
    "gradients": (GradientsConfig, run_gradients),
    "report": (ReportConfig, report),
    "envs": (EnvsConfig, list_envs),
    "hub": (HubConfig, use_hub),
}


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; bad input is one line on stderr and exit status 2, with ``--debug`` a traceback."""
    given = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in given
    try:
        config = _parsed([arg for arg in given if arg != "--debug"])
        done = next(run for kind, run in COMMANDS.values() if isinstance(config, kind))(config)
    except LatentRLError as error:
        if debug:
            raise
        print(f"latentrl: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        if debug:
            raise
        print(f"latentrl: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("latentrl: interrupted; the same command goes on where that is possible", file=sys.stderr)
        return 130
    return int(isinstance(config, SweepConfig) and any("error" in record for record in done))


def _parsed(args: list[str]) -> Any:
    """The arguments as one of the commands' dataclasses."""
    given, config = _with_files(args), (tyro.conf.OmitSubcommandPrefixes,)
    if given and given[0] in COMMANDS:
        return tyro.cli(COMMANDS[given[0]][0], prog=f"latentrl {given[0]}", args=given[1:], config=config)
    choices = tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, (kind, _) in COMMANDS.items())
    one_of_them: Any = Union[choices]  # noqa: UP007 - made of a tuple
    return tyro.cli(one_of_them, prog="latentrl", description=__doc__, args=given, config=config)


def _with_files(args: list[str]) -> list[str]:
    """Options of files in place of ``--config FILE`` and ``--resume RUN``, in front of those that are typed."""
    typed, from_files = [], list[str]()
    rest = iter(args)
    for arg in rest:
        name, sign, value = arg.partition("=")
        if name not in ("--config", "--resume"):
            typed.append(arg)
            continue
        if not (where := value if sign else next(rest, "")):
            raise LatentRLError(f"{name} has to be told {'which file' if name == '--config' else 'which run'}")
        path = Path(where).expanduser()
        from_files += flags_of(options_of(path if name == "--config" else path / OPTIONS))
        if name == "--resume":
            from_files += ["--out", str(path)]
    return [*typed[:1], *from_files, *typed[1:]]


if __name__ == "__main__":
    sys.exit(main())
