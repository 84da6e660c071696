"""Demonstrations, validated once at the door, and their readers."""

from latentrl.data.demonstrations import Demonstrations
from latentrl.data.played import Played, played
from latentrl.data.segments import Segments

__all__ = ["Demonstrations", "Played", "Segments", "played"]
