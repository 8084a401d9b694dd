"""OpenViGA: images as tokens, a LLaMA that predicts them, a video decoder with a window of three.

spec.py      what a preset is and takes
world.py     TokenModel, TokenSession: the pipeline as a ``StreamModel``, by the names of the spec
session.py   Session: reset, step, fork, flush, close
context.py   Context: the world model's sequence, its cache, re-anchoring
window.py    FrameWindow: the ring of three frames' ids
frame.py     Frame and Pending: what leaves a session
stack.py     Stack: models, engines, cache and passes, which all sessions share
runtime.py   Runtime: a preset loaded into a stack, and the sessions it opens
random_weights.py   a preset with random weights, for measuring
"""
