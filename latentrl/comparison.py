"""Gradient estimators side by side: one table, ranked by what their noise costs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from latentrl.checks import LatentRLError, require
from latentrl.files import whole
from latentrl.gradient_report import GradientReport
from latentrl.variance import Objective, Parameters, check_plan, gradient_variance

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "trace": "trace",
    "snr": "SNR",
    "kurtosis": "κ",
    "seconds_per_gradient": "s/gradient",
    "env_steps_per_gradient": "env steps",
    "cost_normalized": "trace × s",
    "cost_normalized_env_steps": "trace × env steps",
    "peak_memory": "bytes",
    "cosine": "cosine",
    "bias_p": "bias p",
    "bias_norm_p": "bias p, norm",
    "trustworthy": "trust",
}
"""What the printed table shows, and its headings."""
COUNTED = ("env_steps_per_gradient", "cost_normalized_env_steps", "peak_memory")
"""Those that are 0 where nothing was counted."""


@dataclass(frozen=True)
class Comparison:
    """Reports by name, the cheapest first."""

    reports: dict[str, GradientReport]
    """By rising ``cost_normalized``: the variance that is left after averaging for one second."""
    failures: dict[str, str]
    """What could not be measured, and why."""

    def to_records(self) -> list[dict[str, Any]]:
        """One plain dict per estimator, those that failed last, with an ``error``."""
        measured = [{"estimator": name, **report.to_dict()} for name, report in self.reports.items()]
        return measured + [{"estimator": name, "error": error} for name, error in self.failures.items()]

    def to_pandas(self) -> "pd.DataFrame":
        """One row per estimator, one column per number.

        :raises LatentRLError: pandas is not installed
        """
        return require("pandas", "pandas").DataFrame(self.to_records()).set_index("estimator")

    def to_json(self, path: str | Path | None = None) -> str:
        """The records; also written to ``path``, whole or not at all."""
        text = json.dumps(self.to_records(), indent=1, allow_nan=False)
        if path is not None:
            with whole(path) as partial:
                partial.write_text(text + "\n")
        return text

    def to_markdown(self, columns: Sequence[str] | None = None) -> str:
        """A table of the named columns; by default of those in which anything was measured.

        :raises LatentRLError: an unknown column
        """
        records = self.to_records()
        if columns is None:
            shown = [name for name in COLUMNS if any(_measured(name, record.get(name)) for record in records)]
            shown = shown or ["trace"]  # where everything failed
        else:
            shown = list(columns)
            known = {*COLUMNS, *(name for report in self.reports.values() for name in report.to_dict())}
            if unknown := [name for name in shown if name not in known]:
                raise LatentRLError(f"unknown columns {', '.join(unknown)}: choose among {', '.join(COLUMNS)}")
        rows = [["estimator", *(COLUMNS.get(name, name) for name in shown)], ["---", *["---:"] * len(shown)]]
        for record in records:
            cells = [record["error"]] if "error" in record else [_cell(record.get(name)) for name in shown]
            rows.append([record["estimator"], *cells, *[""] * (len(shown) - len(cells))])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def __str__(self) -> str:
        return self.to_markdown()


def compare(
    estimators: Mapping[str, Objective],
    parameters: Parameters,
    replicates: int,
    reference: Tensor | GradientReport | str | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[str], None] = lambda _name: None,
) -> Comparison:
    """Measure several estimators of one gradient at the same frozen parameters.

    Each gets noise of its own: seeds ``seed``, ``seed + 1``, … in the given order. What an objective says of itself is
    used: ``env_steps`` of one call, ``num_envs`` as its batch size. One that cannot be measured, such as a pathwise
    gradient through a step, is a row that says why::

        lr = ExpectedReturn(task, policy, LikelihoodRatio(), horizon=50, num_envs=64)
        rp = dataclasses.replace(lr, estimator=Pathwise())
        print(compare({"LR": lr, "RP": rp}, parameters, replicates=500, reference="LR"))

    :param estimators: an objective for each, by name
    :param replicates: gradients of each
    :param reference: as in :func:`gradient_variance`, or the name of one of them, to which the others are compared
    :param batch_size: samples that one replicate averages
    :param progress: receives each name when it is done
    :raises LatentRLError: no estimator, numbers out of range, an unknown reference, or one that cannot be measured
    """
    if not estimators:
        raise LatentRLError("there is no estimator to measure: give at least one")
    named = isinstance(reference, str)
    check_plan(replicates, None if named else reference, chunk_size, seed, 1 if batch_size is None else batch_size)
    if named and reference not in estimators:
        raise LatentRLError(f"unknown reference {reference!r}: choose one of {', '.join(map(repr, estimators))}")
    parameters, seeds = dict(parameters), {name: int(seed) + place for place, name in enumerate(estimators)}
    reports: dict[str, GradientReport] = {}
    failures: dict[str, str] = {}
    for name in sorted(estimators, key=lambda name: name != reference):  # the reference first
        objective = estimators[name]
        try:
            reports[name] = gradient_variance(
                objective,
                parameters,
                replicates,
                reports.get(str(reference)) if named else reference,  # type: ignore[arg-type]
                chunk_size,
                seeds[name],
                getattr(objective, "num_envs", 1) if batch_size is None else batch_size,
                getattr(objective, "env_steps", 0),
            )
        except (LatentRLError, RuntimeError) as error:  # the latter of torch, as where vmap cannot follow an ``if``
            if name == reference:
                raise
            failures[name] = str(error).partition("\n")[0]
        progress(name)
    return Comparison(dict(sorted(reports.items(), key=lambda item: item[1].cost_normalized)), failures)


def _measured(name: str, value: Any) -> bool:
    return value is not None and (value != 0 or name not in COUNTED)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3g}"
