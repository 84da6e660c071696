"""The two tables that the demo prints; both fit in 80 columns."""

from typing import Any

from rich.console import Console
from rich.table import Table

from latentrl.demo.handwriting import TITLES


def print_tables(summary: dict[str, Any], console: Console) -> None:
    """Print what was cloned and how noisy the gradients were."""
    console.print(_cloning(summary))
    console.print(_gradients(summary["gradients"]))


def _cloning(summary: dict[str, Any]) -> Table:
    table = Table(title="26 human shapes from one start, cloned", title_justify="left", caption_justify="left")
    table.add_column("policy")
    for column in ("modes", "success", "entropy", "jittered", "energy", "variety"):
        table.add_column(column, justify="right")
    rows = {**summary["demonstrations"], **summary["controls"]}
    for name, row in rows.items():
        table.add_row(
            TITLES[name],
            f"{row['modes']}" if "modes" in row else "",
            f"{row['success']:.3f}",
            f"{row['entropy']:.3f}" if "entropy" in row else "",
            f"{row['success_jittered']:.3f}" if "success_jittered" in row else "",
            f"{row['energy_distance']:.2f}",
            f"{row['variety']:.2f}",
        )
    threshold = summary["controls"]["human"]["threshold_mm"]
    table.caption = (
        f"success: within {threshold:.2f} mm of a human stroke; modes: with 5 successes or more;\n"
        "jittered: success from starts up to 5 mm off; energy: distance to held-out\n"
        "strokes; variety: spread within a shape, both in mm. The last two rows are controls."
    )
    return table


def _gradients(records: dict[str, Any]) -> Table:
    table = Table(
        title="Gradient variance on Pendulum-v1: likelihood ratio / pathwise",
        title_justify="left",
        caption_justify="left",
    )
    for column in ("horizon", "ratio", "95 % interval", "κ LR", "κ RP", "cosine", "trust"):
        table.add_column(column, justify="right")
    for horizon, row in records.items():
        low, high = row["ci"]
        table.add_row(
            horizon,
            f"{row['variance_ratio']:.3g}",
            f"{low:.3g} … {high:.3g}",
            f"{row['likelihood_ratio']['kurtosis']:.1f}",
            f"{row['pathwise']['kurtosis']:.1f}",
            f"{row['cosine']:.2f}",
            "yes" if row["trustworthy"] else "NO",
        )
    table.caption = (
        "κ: kurtosis of the gradient; cosine: between the two mean gradients;\n"
        "trust NO: the tail is too heavy for so few samples"
    )
    return table
