"""The profiler, ``sim-stream bench``: what a system does against what its machine allows.

options.py       what the subcommand takes, checked before anything runs
profile.py       the subcommand: calibrate, serve, drive, count, report
setup.py         device, types and memory of what is profiled; refuses what cannot fit
machine.py       what a figure was measured on
course.py        what a run drives: the demo's script, or what is made of a model's spec
paced.py         one run over the wire, by the clock
stats.py         percentiles that the samples support, jitter, misses, histograms
calibration.py   copy and read bandwidth, GEMM rate
counting.py      operations and bytes of each stage
roofline.py      the time that those take at the calibrated rates
paper.py         the same on paper, for a GPU that is not here (``--roofline``)
sweep.py         time of a pass by window length, in process
report.py        everything measured, as one JSON-ready report
table.py         the report for a terminal
plots.py         its figures (matplotlib)
page.py          the report as a self-contained HTML page
"""
