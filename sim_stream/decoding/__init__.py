"""From logits to ids: keyed noise, the sampler, and the strategies that run the world model.

noise.py       Philox noise keyed by (seed, frame, position)
sampling.py    top-k, temperature, Gumbel-max
kind.py        what is known of a strategy before it runs
strategies.py  every strategy by its name
strategy.py    what every strategy takes, asks for and gives
slots.py       frames of several sessions in the making, side by side
passes.py      the draws that strategies ask for, made by the model as it is
step_graph.py  such a pass as an ONNX graph, sampler included
onnx_pass.py   that graph, run by ONNX Runtime for several sessions at once
raster.py      one code a pass, in raster order: the reference of every other strategy
jacobi.py      a window of guesses a pass: raster's codes in fewer passes
diagonal.py    rows decoded side by side: fewer passes, an approximation
"""
