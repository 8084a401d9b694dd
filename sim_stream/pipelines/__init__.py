"""Kinds of world, each behind the one contract of ``sim_stream.stream_model``.

tokens/   OpenViGA: images as tokens, a LLaMA that predicts them, a video decoder with a window
"""
