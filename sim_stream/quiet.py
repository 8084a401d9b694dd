"""Nothing phones home: what the dependencies would send about their users is switched off.

The package does this on its first import, so that it holds in every process of ours, for whichever
package imports such a dependency there. docs/privacy.md says what was looked at.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

# What each reads, once, when it is first imported. Children inherit them.
SWITCHES: Mapping[str, str] = MappingProxyType(
    {
        # Its wheels keep a device id and a queue of events in ~/.cache and upload them.
        "ORT_DISABLE_TELEMETRY": "1",
        # huggingface_hub, below transformers, diffusers and peft: user agent, usage, who runs it.
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
)


def switch_off() -> None:
    """Whatever they were set to: there is no way to switch them on through this package."""
    os.environ.update(SWITCHES)
