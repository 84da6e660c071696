"""``latentrl report``: runs as one interactive page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from latentrl.checks import LatentRLError
from latentrl.files import whole
from latentrl.page import collect, render
from latentrl.runs import runs_of


@dataclass(frozen=True)
class ReportConfig:
    """Compare runs on one interactive page that works offline.

    Folders of `latentrl train`, `latentrl gradients` and `latentrl demo`: options, learning curves, evaluations,
    gradient variances with their ranking, latents of the demonstrations, what each dimension of a latent does, and the
    demo's scores.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders; that of `latentrl sweep` stands for its runs."""
    out: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("report.html")
    """The page."""
    title: str = "latentrl report"
    """Its heading."""


def report(config: ReportConfig, console: Console | None = None) -> None:
    """Write the page.

    :raises LatentRLError: without plotly (``latentrl[report]``); a folder that is no run
    """
    console = console or Console()
    if not config.runs:
        raise LatentRLError("there is nothing to report: give folders of `latentrl train`, gradients or demo")
    folders = [run for folder in config.runs for run in (runs_of(folder) or [folder])]
    records = [collect(folder) for folder in folders]
    names = [record["name"] for record in records]
    for record, folder in zip(records, folders, strict=True):
        if names.count(record["name"]) > 1:  # such as seed_0/run and seed_1/run
            record["name"] = str(folder)
    with whole(config.out) as partial:
        partial.write_text(render(records, config.title), encoding="utf-8")
    for record in records:
        for what, reason in record["missing"].items():
            console.print(f"{record['name']} has no {what}: {reason}", soft_wrap=True, markup=False)
    console.print(f"{config.out}", soft_wrap=True, markup=False)
