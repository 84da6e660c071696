"""Demonstrations, validated once at the door, and their readers."""

from latentrl.data.cuts import Cuts
from latentrl.data.demonstrations import Demonstrations
from latentrl.data.host_segments import HostSegments, make_segments
from latentrl.data.played import Played, played
from latentrl.data.segments import Segments

__all__ = ["Cuts", "Demonstrations", "HostSegments", "Played", "Segments", "make_segments", "played"]
