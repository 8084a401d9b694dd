"""The three networks of OpenViCA, at any size, and their weights. No sessions, no sockets.

layers.py         convolutional blocks, 2D and inflated
vq_model.py       VQGAN: tokenizer and image decoder
video_decoder.py  three-frame decoder by central inflation
world_model.py    LLaMA with vision embedding and head
kv_cache.py       its static key/value cache
checkpoints.py    a weights folder: manifest, hashes, strict loading
assembly.py       the three models from parts in several places
lora.py           adapters of the world model
formats/          public checkpoints in their own formats
conversion.py     those -> a weights folder; inspection.py, verification.py look at either
pixel_range.py    which range a VQGAN was trained in
tokenizer.py      a prompt's ids
"""
