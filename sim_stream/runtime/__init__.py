"""Running the models as a stream.

window.py    FrameWindow: the ring of three frames' ids
session.py   Session: reset, step, fork, flush, close
runtime.py   Runtime: a preset's models on one device, and the sessions it opens
timing.py    per-stage clocks
"""
