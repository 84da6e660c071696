"""Latent-variable policies: clone behaviour, evaluate it, and measure gradients.

`latentrl COMMAND --help` lists the options of a command. Every command also takes:

  --config FILE   options from a YAML file; those that are typed come on top
  --resume RUN    of train and gradients: go on in a folder, with the options in its config.yaml
  --debug         errors as tracebacks, instead of one line

Exit status: 0 done; 1 a loss was not finite, a run of a sweep failed, or an error that nobody foresaw;
2 bad input; 130 interrupted.

Shell completion: `latentrl --tyro-write-completion bash FILE` (or zsh, fish).
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
from latentrl.commands.parsing import parsed
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


RESUMED = ("train", "gradients")
"""Commands whose folders hold their options."""


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; an error is one line on stderr and exit status 2 or 1, with ``--debug`` a traceback."""
    given = list(sys.argv[1:] if args is None else args)
    try:
        config = _config([arg for arg in given if arg != "--debug"])
        done = next(run for kind, run in COMMANDS.values() if isinstance(config, kind))(config)
    except KeyboardInterrupt:
        print("latentrl: interrupted; the same command goes on where that is possible", file=sys.stderr)
        return 130
    except Exception as error:
        if "--debug" in given:
            raise
        told = " ".join(str(error).split())
        if not isinstance(error, LatentRLError | FloatingPointError):
            told = f"{type(error).__name__}{': ' if told else ''}{told}; --debug shows where"
        print(f"latentrl: error: {told}", file=sys.stderr)
        return 2 if isinstance(error, LatentRLError) else 1
    return int(isinstance(config, SweepConfig) and any("error" in record for record in done))


def _config(args: list[str]) -> Any:
    """The arguments as one of the commands' dataclasses, options of files in front of those that are typed."""
    typed, files = _apart(args)
    try:
        return _parsed([*typed[:1], *(flag for flags in files.values() for flag in flags), *typed[1:]])
    except LatentRLError as error:
        if not files or _refusal(typed) == str(error):
            raise
        raise LatentRLError(f"with the options of {' and '.join(map(repr, files))}: {error}") from error


def _parsed(args: list[str]) -> Any:
    config = (tyro.conf.OmitSubcommandPrefixes,)
    if args and args[0] in COMMANDS:
        return parsed(COMMANDS[args[0]][0], args[1:], prog=f"latentrl {args[0]}", config=config)
    choices = tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, (kind, _) in COMMANDS.items())
    one_of_them: Any = Union[choices]  # noqa: UP007 - made of a tuple
    return parsed(one_of_them, args, prog="latentrl", description=__doc__, config=config)


def _refusal(args: list[str]) -> str | None:
    """What is wrong with the arguments."""
    try:
        _parsed(args)
    except LatentRLError as error:
        return str(error)
    return None


def _apart(args: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """What is typed, and of ``--config FILE`` and ``--resume RUN`` the options in each file."""
    typed, files = list[str](), dict[str, list[str]]()
    rest = iter(args)
    for arg in rest:
        name, sign, value = arg.partition("=")
        if name not in ("--config", "--resume"):
            typed.append(arg)
            continue
        if not (where := value if sign else next(rest, "")):
            raise LatentRLError(f"{name} has to be told {'which file' if name == '--config' else 'which run'}")
        path = Path(where).expanduser()
        if name == "--config":
            files[str(path)] = flags_of(options_of(path))
        elif args[0] not in RESUMED:
            raise LatentRLError(
                f"--resume is for latentrl {' and '.join(RESUMED)}, but {args[0]!r} was given: the same command goes "
                "on where that is possible"
            )
        else:
            files[str(path / OPTIONS)] = [*flags_of(options_of(path / OPTIONS)), "--out", str(path)]
    return typed, files


if __name__ == "__main__":
    sys.exit(main())
