"""Sphinx: the pages of this folder as a site, its code cells executed (``make docs``)."""

import re
from importlib.metadata import version as version_of
from typing import Any

project = "latentrl"
author = "the latentrl authors"
project_copyright = f"2026, {author}"
release = version = version_of("latentrl")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"latentrl {release}"
html_static_path: list[str] = []

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autoclass_content = "both"


def _as_text(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Shapes such as (B, *shape) and bars such as |z| are no markup; fields may start a docstring."""
    for i, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [re.sub(r"(?<![\w:])([*|])(?=\S)|(?<=\S)(\|)", r"\\\1\2", part) for part in parts[::2]]
        lines[i] = "``".join(parts)
    if lines and lines[0].startswith(":raises"):
        for i in range(1, len(lines)):
            if not lines[i] or lines[i].startswith(":"):
                break
            lines[i] = f"    {lines[i]}"


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _as_text)
