"""The command line: ``latentrl demo`` and ``latentrl gradients``."""

import sys
from collections.abc import Callable, Sequence

import tyro

from latentrl.checks import LatentRLError
from latentrl.demo import DemoConfig, run_demo
from latentrl.gradients import GradientsConfig, run_gradients

COMMANDS: dict[str, Callable[..., DemoConfig | GradientsConfig]] = {"demo": DemoConfig, "gradients": GradientsConfig}


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; bad input is one line on stderr and exit status 2."""
    try:
        config = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="latentrl", description=__doc__, args=args)
        if isinstance(config, GradientsConfig):
            run_gradients(config)
        else:
            run_demo(config)
    except LatentRLError as error:
        print(f"latentrl: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
