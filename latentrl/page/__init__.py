"""Runs as one interactive page of HTML that needs no network."""

from latentrl.page.collect import collect
from latentrl.page.render import render

__all__ = ["collect", "render"]
