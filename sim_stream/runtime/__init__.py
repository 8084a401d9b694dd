"""Running the models as a stream.

window.py    FrameWindow: the ring of three frames' ids
session.py   Session: reset, step, fork, flush, close
context.py   Context: the world model's sequence, its cache, re-anchoring
frame.py     Frame and Pending: what leaves a session
stack.py     Stack: models, engines, cache and passes, which all sessions share
runtime.py   Runtime: a preset loaded into a stack, and the sessions it opens
choices.py   device, precision and step engine, decided once
timing.py    per-stage clocks, streams
engine.py    Engine: pixels -> ids, ids of a window -> pixels; the forms there are
backend.py, backends.py    what runs built engines, by name; one file each: *_backend.py
engine_manifest.py, engine_loader.py      what a built engine is, and loading a folder of them
torch_engine.py, onnx_engine.py, tensorrt_engine.py, torch_tensorrt_engine.py    what runs them
"""
