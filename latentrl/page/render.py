"""The page itself: one file with its script, its style, plotly and the runs in it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from latentrl.checks import require


def render(runs: Sequence[dict[str, Any]], title: str = "latentrl report") -> str:
    """HTML of what :func:`latentrl.page.collect` found; it works without a network.

    :raises LatentRLError: without plotly (``latentrl[report]``)
    """
    library = require("plotly.offline", "report").get_plotlyjs()
    folder = files("latentrl.page")
    text, style, script = ((folder / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    # A "</script>" in a name would end the script that holds the data.
    data = json.dumps(list(runs), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "title": title.replace("&", "&amp;").replace("<", "&lt;"),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "style": style,
        "data": data,
        "plotly": library,
        "script": script,
    }
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part, 1)
    return text
