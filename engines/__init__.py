"""Engines of encoder and video decoder, run from a clone: ``python -m engines VERB --help``.

    graphs.py                the two parts as modules of plain 2D operations, uint8 pixels and ids
    export.py                those modules -> ONNX files with manifests
    build.py                 ONNX files -> engines of a backend, with manifests
    build_options.py         what `build` is asked for
    builder.py, builders.py  what makes a backend's engines, by its name; one file each: by_*.py
    tensorrt_builder.py      the part of `by_tensorrt` that calls TensorRT
    torch_tensorrt_builder.py  the same by torch-tensorrt
    verify.py                an engine against its PyTorch fp32 twin; figures into its manifest
    profile.py               time, TFLOP/s and share of the frame, per engine and per layer
    files.py                 files that appear under their names only when they are whole
    cli.py                   arguments and output of the subcommands

What runs engines is `sim_stream.runtime`, which needs nothing from here.
"""
