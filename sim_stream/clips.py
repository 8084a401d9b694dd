"""The clips that the package ships, by the light they show: what a drive starts from by itself.

Each lies beside a JSON with the action that led to each of its frames (``tools/cut_sample.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_ASSETS = Path(__file__).parent / "assets"
CLIPS: Mapping[str, Path] = MappingProxyType(
    {
        "day": _ASSETS / "day.mp4",
        "overcast": _ASSETS / "overcast.mp4",
        "dusk": _ASSETS / "dusk.mp4",
        "night": _ASSETS / "night.mp4",
    }
)
SAMPLE = CLIPS["day"]
