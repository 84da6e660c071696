"""The report page in a browser: pictures of it for the documentation.

    python -m experiments.report_page      (needs a chromium; some four minutes)

Two priors' policies are cloned from scripted demonstrations of 24 routes and judged, by the commands that anyone would
type; the comparison of gradient estimators is `gradient_study`'s. The page is left beside the runs.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from latentrl import Demonstrations
from latentrl.checks import LatentRLError, require
from latentrl.cli import main as latentrl
from latentrl.files import whole
from latentrl_envs import Avoiding
from latentrl_envs.experts import demonstrate

ENV = "latentrl/Avoiding-v0"
GRADIENTS = Path("experiments/results/gradient_study/horizons")
PARTS = {"curves": "curves", "gradients": "gradients", "latents": "behaviour"}
"""First and last section of a picture."""
WIDTH, HEIGHT = 900, 640
"""Pixels of the window; of a section that is longer, the part that fits."""


@dataclass(frozen=True)
class Args:
    """Make runs, their page, and pictures of it."""

    updates: int = 3000
    """Of each clone."""
    runs: Path = Path("runs/report_page")
    """Where the runs and the page go."""
    out: Path = Path("experiments/results/report_page")
    """Folder of the pictures."""


def make(args: Args) -> Path:
    """Runs and their page.

    :raises LatentRLError: a command failed
    """
    data, page = args.runs / "routes.npz", args.runs / "report.html"
    args.runs.mkdir(parents=True, exist_ok=True)
    shown = demonstrate(Avoiding(), episodes=192)
    Demonstrations.from_arrays(**shown._asdict()).save(data)
    train = f"train --data {data} --env {ENV} --updates {args.updates} --out {args.runs}"
    wanted = {
        "clone": f"{train}/vamp",
        "other clone": f"{train}/normal --policy.prior normal",
        "evaluation": f"evaluate {args.runs}/vamp --episodes 100 --modes 24 --overwrite",
        "other evaluation": f"evaluate {args.runs}/normal --episodes 100 --modes 24 --overwrite",
        "page": f"report {args.runs}/vamp {args.runs}/normal {GRADIENTS} -o {page}",
    }
    for what, command in wanted.items():
        if latentrl(command.split()):
            raise LatentRLError(f"there is no {what}: `latentrl {command}` failed, as said above")
    return page


def photograph(page: Path, folder: Path) -> None:
    """One PNG of each of :data:`PARTS`.

    :raises LatentRLError: there is no browser
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise LatentRLError("there is no browser to take pictures with: install chromium")
    sync_api: Any = require("playwright.sync_api", "dev")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        tab = opened.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("#behaviour .main-svg")
        for first, last in PARTS.items():
            top, bottom = tab.locator(f"#{first}").bounding_box(), tab.locator(f"#{last}").bounding_box()
            height = bottom["y"] + bottom["height"] - top["y"]
            clip = {"x": 0, "y": top["y"], "width": WIDTH, "height": min(height, 2 * HEIGHT)}
            with whole(folder / f"{first}.png") as partial:
                partial.write_bytes(tab.screenshot(clip=clip, full_page=True))
        opened.close()


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    photograph(make(args), args.out)
