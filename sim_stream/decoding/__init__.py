"""From logits to ids: keyed noise, the sampler, and the strategies that run the world model.

noise.py      Philox noise keyed by (seed, frame, position)
sampling.py   top-k, temperature, Gumbel-max
passes.py     ids -> logits through the cache: the model itself, and a lean one-id pass
raster.py     one code a pass, in raster order: the slow twin of every other strategy
"""
