"""The report page: what it holds, and what it does in a browser."""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentrl import Demonstrations
from latentrl.cli import main
from latentrl.page import collect, render
from latentrl_envs import Trace

pytest.importorskip("plotly", reason="the extra 'report' is not installed")
SIZES = {"hidden": 8, "encoder-hidden": 8, "n-components": 3, "latent-dim": 2}
SMALL = [part for name, size in SIZES.items() for part in (f"--policy.{name}", size)]


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clones of strokes in two modes, one of them evaluated, and one comparison of gradients."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    shown, acts = rng.normal(size=(120, 5)).astype(np.float32), rng.uniform(-0.1, 0.1, (120, 2)).astype(np.float32)
    task = Trace()
    spaces = (task.observation_space, task.action_space)
    modes = np.arange(20) % 2
    Demonstrations.from_arrays(shown, acts, [6] * 20, *spaces, modes=modes).save(folder / "shown.npz")
    for name, prior in (("first", "vamp"), ("second", "normal")):
        command = [
            "train",
            "--data",
            folder / "shown.npz",
            "--env",
            "latentrl/Trace-v0",
            "--updates",
            200,
            "--every",
            100,
        ]
        assert run(*command, "--out", folder / name, "--policy.prior", prior, "--device", "cpu", *SMALL) == 0
    assert run("evaluate", folder / "first", "--episodes", 2, "--num-envs", 1, "--device", "cpu") == 0
    cells = [
        {
            "task": "Pendulum-v1", "stiffness": None, "sigma": 0.5, "horizon": horizon, "seed": seed,
            "estimators": [
                {
                    "estimator": name, "trace": value * horizon * (1 + seed), "trace_ci": [1.0, 900.0], "cosine": 0.9,
                    "snr": "inf", "trustworthy": name == "lr", "cost_normalized": 0.1 * value,
                    "seconds_per_gradient": 0.1,
                }
                for name, value in (("lr", 5.0), ("rp", 2.0))
            ] + [{"estimator": "alpha-order", "error": "it has no variance"}],
        }
        for horizon in (5, 10) for seed in (0, 1)
    ]  # fmt: skip
    (folder / "gradients").mkdir()
    content = {"settings": {"tasks": ["Pendulum-v1"], "seeds": [0, 1]}, "cells": cells}
    (folder / "gradients" / "gradients.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def page(runs: Path) -> Path:
    out = runs / "report.html"
    assert run("report", runs / "first", runs / "second", runs / "gradients", "-o", out, "--title", "A & B <i>") == 0
    return out


# -- what is collected ---------------------------------------------------------------------------------------------


def test_a_run_as_values(runs: Path) -> None:
    found = collect(runs / "first")
    assert (found["name"], found["kind"], found["missing"]) == ("first", "train", {})
    assert found["options"]["policy.prior"] == "vamp"
    updates, elbo = found["curves"]["eval/elbo"]
    assert updates == [100.0, 200.0]
    assert len(elbo) == 2
    told = {"task": "latentrl/Trace-v0", "episodes played": 2, "deterministic": False, "seed": 0}
    assert told.items() <= found["figures"].items()
    assert found["figures"]["steps"] == 100.0
    latents = found["latents"]
    assert np.array(latents["z"]).shape == (20, 2)
    assert latents["modes"] == [0, 1] * 10
    assert latents["names"][3] == "demonstration 3"
    plane = np.array(latents["plane"])
    np.testing.assert_allclose(plane.var(0) / plane.var(0).sum(), latents["shares"], atol=1e-3)
    rows = found["behaviour"]["rows"]
    assert [len(row["paths"]) for row in rows] == [11, 11]
    assert np.array(rows[0]["paths"][0]).shape == (101, 5)
    middle = [row["paths"][5] for row in rows]
    assert middle[0] == middle[1]  # both at the prior's mean
    assert rows[0]["paths"][0] != rows[0]["paths"][10]


def test_what_is_not_finite_is_left_out(runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(runs / "first", copy)
    (copy / "progress_9.csv").write_text("time/total_timesteps,train/prior_holes\n1,nan\n2,0.5\n")
    evaluated = json.loads((copy / "evaluation.json").read_text())
    evaluated["figures"] = {"return": {"value": 1.0, "ci": [-np.inf, np.nan]}, "steps": 3}
    (copy / "evaluation.json").write_text(json.dumps(evaluated))
    found = collect(copy)
    assert found["curves"]["train/prior_holes"][0][-1] != 1.0
    assert found["figures"]["return"] == {"value": 1.0, "ci": [None, None]}
    content = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', render([found]), re.DOTALL)
    assert content is not None
    assert "NaN" not in content[1]
    assert "Infinity" not in content[1]


def test_options_that_are_not_finite_are_shown_as_text(tmp_path: Path) -> None:
    """JSON, as browsers read it, has no infinity."""
    trained, measured = tmp_path / "trained", tmp_path / "measured"
    for folder in (trained, measured):
        folder.mkdir()
    (trained / "config.yaml").write_text("updates: 3\npolicy:\n  latent_clip: .inf\n  spread: [1.0, -.inf, .nan]\n")
    content = {"settings": {"gamma": np.inf, "seeds": [0]}, "cells": []}
    (measured / "gradients.json").write_text(json.dumps(content))
    found = [collect(trained), collect(measured)]
    assert found[0]["options"] == {"updates": 3, "policy.latent_clip": "inf", "policy.spread": [1.0, "-inf", "nan"]}
    assert found[1]["options"] == {"gamma": "inf", "seeds": [0]}
    assert '"policy.latent_clip": "inf"' in render(found)


def test_rows_of_a_log_that_are_torn_are_left_out(runs: Path, tmp_path: Path) -> None:
    """By a full disk or a kill: the last line, even where what is left of it is a number, and others."""
    copy = tmp_path / "run"
    shutil.copytree(runs / "first", copy)
    shutil.rmtree(copy / "policy")
    whole = collect(copy)["curves"]
    text = "time/total_timesteps,train/elbo,train/kl\n1000,1.5,2\n1\0\0,0.-,1,7\n1100,2.5,3\n"
    for last in ("1200,3.5,0.0", "1200,-", "\0\0\0"):
        (copy / "progress_9.csv").write_text(text + last)
        curves = collect(copy)["curves"]
        assert [column[-2:] for column in curves["train/elbo"]] == [[1000.0, 1100.0], [1.5, 2.5]]
        assert curves["train/kl"][1][-2:] == [2.0, 3.0]
    (copy / "progress_9.csv").write_text("time/total_ti")
    assert collect(copy)["curves"] == whole


def test_gradients_that_are_not_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("estimators: [lr]\n")
    assert run("report", tmp_path, "-o", tmp_path / "report.html") == 2
    assert f"is not finished: latentrl gradients --resume {tmp_path} goes on" in capsys.readouterr().err


def test_gradients_as_rows(runs: Path) -> None:
    rows = collect(runs / "gradients")["gradients"]
    assert len(rows) == 12
    assert rows[0]["trace"] == 25.0
    assert rows[2]["error"] == "it has no variance"
    assert rows[2]["trace"] is None


def test_what_cannot_be_drawn_has_its_reason(runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "moved"
    shutil.copytree(runs / "first", copy)
    shutil.rmtree(copy / "policy")
    assert "not finished" in collect(copy)["missing"]["latents"]
    shutil.copytree(runs / "first" / "policy", copy / "policy")
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(
        re.sub("data: .*", "data: /gone.npz", text).replace("env: latentrl/Trace-v0", "env: null")
    )
    missing = collect(copy)["missing"]
    assert "/gone.npz" in missing["latents"]
    assert "train with --env" in missing["behaviour"]


def test_folders_that_are_no_run(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(runs / "gradients", copy)
    (copy / "gradients.json").write_text("{")
    for folders, message in (
        ([], "there is nothing to report"),
        ([tmp_path], "is no run: give a folder of `latentrl train`"),
        ([copy], "is damaged or of another version"),
    ):
        assert run("report", *folders, "-o", tmp_path / "report.html") == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


# -- the file ------------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """What a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag} {value}" for name, value in attrs if name in ("src", "href") and value]


def test_the_page_needs_no_network(page: Path) -> None:
    links = Links()
    links.feed(page.read_text())
    assert links.found == ["link data:,", "a #runs"]


def test_names_do_not_end_scripts() -> None:
    hostile = {
        "name": "</script><script>alert(1)</script>",
        "kind": "train",
        "options": {},
        "curves": {},
        "missing": {},
    }
    text = render([hostile], title="<!--data-->")
    assert "<script>alert(1)" not in text
    assert "\\u003c/script>" in text
    assert text.count('id="data"') == 1


DEMO = {
    "name": "demo",
    "kind": "demo",
    "options": {"seed": 0},
    "missing": {},
    "scores": [{"policy": "latent, VampPrior", "modes": 26, "success": 0.99}, {"policy": "replay", "success": 0.5}],
    "ratios": [{"horizon": 5, "variance_ratio": 321.0, "ci": [300.0, 340.0], "cosine": 0.9, "trustworthy": True}],
}


# -- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no chromium")
    quiet = (
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-sync",
    )
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=[f"--{flag}" for flag in quiet])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser: Any, page: Path) -> Iterator[Any]:
    """The page on a phone, in a dark room, without a network; it must complain of nothing."""
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark", offline=True)
    opened, complaints = context.new_page(), list[str]()
    opened.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(page.as_uri())
    opened.wait_for_selector("#behaviour .main-svg")
    yield opened
    context.close()
    assert complaints == []


def drawn(tab: Any, section: str) -> list[dict[str, Any]]:
    """The traces of a section's plot."""
    kept = "{name, x, y, marker, error_y, text}"
    keep = f"({kept}) => ({kept})"
    return tab.evaluate(f"document.querySelector('#{section} .plot').data.map({keep})")


def test_all_sections_are_drawn(tab: Any) -> None:
    assert tab.inner_text("h1") == "A & B <i>"
    titles = tab.eval_on_selector_all("h2", "all => all.map(one => one.textContent)")
    assert titles == ["Runs", "Evaluations", "Learning", "Gradient variance", "Latent space", "What a latent does"]
    assert [trace["name"] for trace in drawn(tab, "curves")] == ["first", "second"]
    latents = drawn(tab, "latents")
    assert [trace["name"] for trace in latents] == ["mode 0", "mode 1"]
    for mode, trace in enumerate(latents):  # what a pointer is told
        assert len(trace["text"]) == len(trace["x"]) == 10
        assert all(re.fullmatch(rf".*\d, mode {mode}<br>z = [-.\de]+, [-.\de]+", text) for text in trace["text"]), trace
    gradient = {trace["name"]: trace for trace in drawn(tab, "gradients")}
    assert gradient["lr"]["x"] == [5, 10]
    assert gradient["lr"]["y"] == [37.5, 75]  # medians of two seeds
    assert gradient["lr"]["error_y"]["array"] == [862.5, 825]  # of the intervals' ends, 1 and 900
    assert gradient["lr"]["error_y"]["arrayminus"] == [36.5, 74]
    assert gradient["rp"]["marker"]["symbol"] == ["circle-open"] * 2
    wide = tab.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390


def test_the_slider_moves_the_latent_also_by_keys(tab: Any) -> None:
    said = tab.inner_text("#z-value")
    before = drawn(tab, "behaviour")[-2]["x"]
    tab.focus("#z")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#z-value") != said
    assert drawn(tab, "behaviour")[-2]["x"] != before
    tab.keyboard.press("ArrowLeft")
    assert drawn(tab, "behaviour")[-2]["x"] == before


def test_tables_sort_and_are_saved(tab: Any, tmp_path: Path) -> None:
    head = tab.locator("#gradients th", has_text="estimator")
    column = "all => all.map(row => row.children[3].textContent)"
    assert tab.eval_on_selector_all("#gradients tbody tr", column) == ["rp", "lr", "alpha-order"] * 2
    ranks = "all => all.map(row => row.children[2].textContent)"
    assert tab.eval_on_selector_all("#gradients tbody tr", ranks) == ["1", "2", ""] * 2
    for direction in ("ascending", "descending"):
        head.locator("button").press("Enter")
        assert head.get_attribute("aria-sort") == direction
        names = tab.eval_on_selector_all("#gradients tbody tr", column)
        assert names == sorted(names, reverse=direction == "descending")
    with tab.expect_download() as caught:
        tab.click("#gradients button:has-text('Download CSV')")
    caught.value.save_as(tmp_path / "ranking.csv")
    lines = (tmp_path / "ranking.csv").read_text().splitlines()
    assert lines[0].startswith('"task","horizon","rank","estimator"')
    assert len(lines) == 7
    assert '"rp"' in lines[1]


def test_numbers_are_shown_and_sorted_as_such(tab: Any) -> None:
    assert tab.evaluate("[12345, 20240815, 0.123456, null].map(shown)") == ["12345", "20240815", "0.1235", ""]
    cells = ["0.1 … 0.2", "0.05 … 0.07", "", "-3 … -2", "0.25 … 1"]
    ascending = ["-3 … -2", "0.05 … 0.07", "0.1 … 0.2", "0.25 … 1"]
    for sign, expected in ((1, [*ascending, ""]), (-1, [*reversed(ascending), ""])):
        assert tab.evaluate(f"{json.dumps(cells)}.sort((a, b) => compare(a, b, {sign}))") == expected


def test_the_demo_is_tabulated(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "demo.html").write_text(render([DEMO]))
    opened, complaints = browser.new_page(), list[str]()
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto((tmp_path / "demo.html").as_uri())
    assert opened.eval_on_selector_all("h2", "all => all.map(one => one.textContent)") == ["Runs", "Cloned strokes"]
    cells = opened.eval_on_selector_all("#demo td", "all => all.map(one => one.textContent)")
    assert cells[:4] == ["demo", "latent, VampPrior", "26", "0.99"]
    assert cells[-6:] == ["demo", "5", "321", "300 … 340", "0.9", "yes"]
    opened.close()
    assert complaints == []


def test_light_and_dark(tab: Any) -> None:
    assert tab.get_attribute("html", "data-theme") == "dark"
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.click("#theme")
    assert tab.get_attribute("html", "data-theme") == "light"
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    assert tab.evaluate("document.querySelector('#curves .plot').layout.font.color") == "#1b1f24"
