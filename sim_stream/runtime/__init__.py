"""What pipelines run on: devices, clocks, and the engines of encoders and decoders.

choices.py   device, precision and step engine, decided once
timing.py    per-stage clocks, streams
engine.py    Engine: pixels -> ids, ids of a window -> pixels; the forms there are
backend.py, backends.py    what runs built engines, by name; one file each: *_backend.py
engine_manifest.py, engine_loader.py      what a built engine is, and loading a folder of them
torch_engine.py, onnx_engine.py, tensorrt_engine.py, torch_tensorrt_engine.py    what runs them
"""
