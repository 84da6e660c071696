"""Honest timing of small things: both candidates in one process, in turn, many times, medians of paired ratios."""

import statistics
import time
from collections.abc import Callable

Step = Callable[[], object]


def paired_ratio(ours: Step, theirs: Step, rounds: int, repeat: int) -> tuple[float, float, float]:
    """Median, first and third quartile of time(ours) / time(theirs).

    Each round times ``repeat`` calls of both, one right after the other and in alternating order, so that a machine
    whose speed drifts slows both alike.
    """
    for step in (ours, theirs):
        for _ in range(repeat):
            step()
    ratios = []
    for index in range(rounds):
        seconds = {}
        for name, step in (("ours", ours), ("theirs", theirs))[:: 1 if index % 2 else -1]:
            started = time.perf_counter()
            for _ in range(repeat):
                step()
            seconds[name] = time.perf_counter() - started
        ratios.append(seconds["ours"] / seconds["theirs"])
    low, median, high = statistics.quantiles(ratios, n=4)
    return median, low, high


def machine() -> str:
    """One line on what ran the benchmark."""
    from latentrl.report import environment  # peers, whose environments lack it, are timed with this file too

    record = environment("cpu")
    return f"python {record['python']}, {record['processor']}, {record['cores']} cores"


def row(name: str, ratio: tuple[float, float, float], target: str = "") -> str:
    """One line of a result table."""
    median, low, high = ratio
    return f"{name:44} {median:6.3f}   [{low:.3f}, {high:.3f}]   {target}"
