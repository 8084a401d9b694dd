"""Simulators on one side of the wire: what drives, what is recorded, what is shown.

    python -m bridge --help

worlds.py      World, the one interface every simulator stands behind, and its values
scenarios.py   which scene a seed stands for; which seeds and maps are held out
policy.py      the exploring driver that recordings are made with
motion.py      one decision for both worlds: a motion, and the control that leads to it
camera.py      the front camera that the worlds share
choice.py      which worlds there are, and how the command line opens each
own_world.py   a user's own simulator as a World
metadrive/     MetaDrive 0.3.0.1 in an environment and a process of its own (`make metadrive`)
carla/         a CARLA server in synchronous mode
video_world.py a video file as a World
painted.py     a straight road painted with numpy: a World that needs nothing installed
driving/       the closed loop: two worlds, one policy (`python -m bridge drive`)
policies/      what decides in it: a user's callable, and lane-keep
gym_env.py     the neural simulator as a Gymnasium environment, SimStream-v0
recording/     any World into BDD100K's folder layout (`python -m bridge record`)
PROTOCOL.md    how any program talks to a server; cpp/  the client for C++ (`make cpp`)

It imports `sim_stream`'s errors, configuration and client side, and neither `train` nor `engines`.
Nothing here runs a model.
"""
