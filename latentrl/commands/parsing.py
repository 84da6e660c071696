"""Arguments as the dataclasses of commands; what is wrong with them in one line."""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any

import tyro

from latentrl.checks import LatentRLError


def parsed(kind: Any, args: Sequence[str], **options: Any) -> Any:
    """What tyro makes of the arguments.

    :param kind: a dataclass, or a union of them
    :param options: of ``tyro.cli``
    :raises LatentRLError: bad arguments
    :raises SystemExit: help or a completion was asked for, and is printed
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=list(args), **options)
    except SystemExit as error:
        if not error.code:
            raise
        raise LatentRLError(_in_a_line(said.getvalue())) from error


def _in_a_line(box: str) -> str:
    """The sections of tyro's box, but for its title and for help that is asked for by ``--help``."""
    _, *rows = re.sub(r"\x1b\[[\d;]*m", "", box).strip().splitlines()
    lines = [row.strip("│╰╯ ") for row in rows]
    sections = " ".join(line if line.strip("─-") else "\n" for line in lines).split("\n")
    told = [" ".join(section.split()) for section in sections if not section.lstrip().startswith("Argument helptext:")]
    return "; ".join(re.sub(r"^For full helptext, (run:?|see)", "see", section) for section in told if section)
