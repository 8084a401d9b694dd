"""From logits to ids: keyed noise, the sampler, and the strategies that run the world model.

noise.py       Philox noise keyed by (seed, frame, position)
sampling.py    top-k, temperature, Gumbel-max
passes.py      ids -> the ids that follow, through the cache: the model itself, a lean one-id pass
step_graph.py  such a pass as an ONNX graph, sampler included
onnx_pass.py   that graph, run by ONNX Runtime
strategy.py    what every strategy takes and gives
raster.py      one code a pass, in raster order: the slow twin of every other strategy
jacobi.py      a window of guesses a pass: raster's codes in fewer passes
diagonal.py    rows decoded side by side: fewer passes, an approximation
"""
