"""Public checkpoints in their own formats, read as our keys and layouts. One file a format.

source.py             what every reader gives: shapes first, tensors one by one, facts, transforms
safetensors_files.py  safetensors: a file, a folder, shards with an index
diffusers_vq.py       diffusers' VQModel folder (aMUSEd)
hf_llama.py           Hugging Face Llama folder or shards, with or without the vision tensors
own.py                bare safetensors files with our keys
flax_stream.py        tux's stream of msgpack pairs: an index with offsets, nothing loaded
lwm_params.py         LWM's `params` over that stream
array_pickle.py       pickles of nested dicts of arrays, nothing else
lwm_vqgan.py          LWM's `vqgan` over that
peft_adapter.py       peft's LoRA adapters
identify.py           which of these a path is

A reader checks structure and never trusts a length; it knows nothing of presets but what its caller
hands it, and nothing of where the tensors go.
"""
