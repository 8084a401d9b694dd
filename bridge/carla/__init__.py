"""CARLA behind the World interface, over its own client package (extra `carla`) to a server.

world.py    CarlaWorld: one synchronous session with a server, and its orderly end
ego.py      the car we drive, with its camera and its collision sensor
sensors.py  a sensor's callbacks matched on the frame id: late, lost, doubled, out of order
road.py     the road around the car from CARLA's map
versions.py whether server and package fit
convert.py  from CARLA's left-handed frame to ISO 8855 and back

No CARLA server runs where this was written. The calls are held to the names and signatures of the
client package 0.9.16, and everything around them is tested with a stand-in of the same signatures.
"""
