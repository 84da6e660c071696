"""Estimators side by side: order, references, failures, and the forms of the table."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latentrl.checks import LatentRLError
from latentrl.comparison import Comparison, compare
from latentrl.distributions import DiagonalNormal
from latentrl.estimators import LikelihoodRatio, Pathwise
from latentrl.rollouts import ExpectedReturn
from latentrl.variance import gradient_variance
from latentrl_envs import Pendulum

THETA = {"theta": torch.zeros(3)}


def linear(p: dict[str, Tensor], observation: Tensor) -> DiagonalNormal:
    loc = observation @ p["theta"].unsqueeze(-1)
    return DiagonalNormal(loc, torch.ones_like(loc))


LR = ExpectedReturn(Pendulum(), linear, LikelihoodRatio(), 5, 16)
RP = dataclasses.replace(LR, estimator=Pathwise())


@pytest.fixture(scope="module")
def table() -> Comparison:
    still = lambda p: p["theta"].detach().sum()  # noqa: E731
    return compare({"still": still, "LR": LR, "RP": RP}, THETA, 200, reference="RP", seed=5)


def test_reports_are_the_meters_own_by_rising_cost(table: Comparison) -> None:
    """RP has some 700 times less variance at this horizon, and is not 700 times as slow."""
    assert list(table.reports) == ["RP", "LR"]
    alone = gradient_variance(LR, THETA, 200, seed=6)  # the second one given
    assert table.reports["LR"].trace == alone.trace
    assert table.reports["LR"].env_steps_per_gradient == 80
    assert table.reports["LR"].batch_size == 16
    assert table.reports["LR"].bias_p is not None  # beside RP, whose own report has no reference
    assert table.reports["LR"].bias_p > 1e-4  # the rate of false alarms
    assert table.reports["RP"].bias_p is None


def test_what_cannot_be_measured_says_why(table: Comparison) -> None:
    assert "exactly 0" in table.failures["still"]
    assert table.to_records()[-1] == {"estimator": "still", "error": table.failures["still"]}


def test_as_a_data_frame(table: Comparison) -> None:
    pytest.importorskip("pandas")
    assert table.to_pandas().loc["LR", "trace"] == table.reports["LR"].trace


def test_without_pandas(table: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LatentRLError, match=r"latentrl\[pandas\]"):
        table.to_pandas()


def test_forms_of_the_table(table: Comparison, tmp_path: Path) -> None:
    written = table.to_json(tmp_path / "table.json")
    assert json.loads((tmp_path / "table.json").read_text()) == json.loads(written) == table.to_records()
    lines = table.to_markdown().splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| estimator", "| ---", "| RP", "| LR", "| still"]
    assert len({line.count(" | ") for line in lines}) == 1
    assert "cosine" in lines[0]
    assert str(table) == table.to_markdown()
    assert table.to_markdown(["snr"]).splitlines()[0] == "| estimator | SNR |"


def test_bad_input() -> None:
    with pytest.raises(LatentRLError, match="at least one"):
        compare({}, THETA, 10)
    with pytest.raises(LatentRLError, match="unknown reference 'RP': choose one of 'LR'"):
        compare({"LR": LR}, THETA, 10, reference="RP")
    with pytest.raises(LatentRLError, match="unknown columns speed"):
        compare({"LR": LR}, THETA, 10).to_markdown(["speed"])
    with pytest.raises(LatentRLError, match="exactly 0"):
        compare({"still": lambda p: p["theta"].detach().sum()}, THETA, 10, reference="still")


def test_where_everything_failed() -> None:
    table = compare({"still": lambda p: p["theta"].detach().sum()}, THETA, 20)
    heads, _, row = table.to_markdown().splitlines()
    assert heads.count("|") == row.count("|") == 3


def test_an_error_is_no_column(table: Comparison) -> None:
    with pytest.raises(LatentRLError, match="unknown columns error"):
        table.to_markdown(["error"])


def test_trust_is_shown_where_there_is_none() -> None:
    """Of eight replicates nothing is trusted, and what is False is not as good as unmeasured."""
    found = compare({"LR": LR}, THETA, 8)
    assert not found.reports["LR"].trustworthy
    heads, _, row = str(found).splitlines()
    assert "trust" in heads
    assert "cosine" not in heads
    assert row.count("|") == heads.count("|")


def test_what_torch_refuses_is_a_row_too() -> None:
    """A branch on a value that is drawn, which vmap cannot follow."""

    def branching(p: dict[str, Tensor]) -> Tensor:
        drawn = (p["theta"] * torch.randn_like(p["theta"])).sum()
        return drawn if drawn > 0 else -drawn

    found = compare({"LR": LR, "branching": branching}, THETA, 10)
    assert list(found.reports) == ["LR"]
    assert "vmap" in found.failures["branching"]
    assert "\n" not in found.failures["branching"]
