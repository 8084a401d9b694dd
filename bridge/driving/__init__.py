"""The closed loop: a simulator and the neural simulator driven side by side by one policy.

    python -m bridge drive --help

loop.py      one drive: seed frames from the simulator, then the same actions to both worlds
measures.py  how far the two are apart: pictures, trajectories, and whether there is road ahead
log.py       what a drive leaves: a JSON line per frame and a summary
page.py      the video's picture: both worlds, their labels, the divergence so far
plots.py     the divergence as plots
kept.py      the files of one drive, finished whatever ends it
subcommand.py      the command: opens world, server and policy, drives once or several times
"""
