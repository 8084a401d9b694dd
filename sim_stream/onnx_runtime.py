"""ONNX Runtime without its telemetry. Nothing else here imports it (tests/test_privacy.py)."""

from __future__ import annotations

from sim_stream import quiet

quiet.switch_off()

import onnxruntime  # noqa: E402  (it looks at the switch when it is loaded)

# For a process whose own code had imported it before any of ours.
onnxruntime.disable_telemetry_events()

__all__ = ["onnxruntime"]
