"""The three networks of OpenViCA, at any size: nothing here knows of presets, sessions or sockets.

layers.py         convolutional blocks, 2D and inflated
vq_model.py       VQGAN: tokenizer and image decoder
video_decoder.py  three-frame decoder by central inflation
world_model.py    LLaMA with vision embedding and head
kv_cache.py       its static key/value cache
checkpoints.py    a weights folder: manifest, hashes, strict loading
"""
