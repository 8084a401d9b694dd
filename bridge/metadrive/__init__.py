"""MetaDrive 0.3.0.1 behind the World interface, in a process and an environment of its own.

world.py      the parent's side: MetaDriveWorld
worker.py     the child's loop; runs in `.venv-metadrive` only
simulator.py  the engine; imported by the worker only
framing.py    the messages between the two
setup.sh      builds `.venv-metadrive` from requirements.txt (`make metadrive`)
"""
