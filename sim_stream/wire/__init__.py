"""Frames over ZeroMQ: the protocol, its server and its clients.

What both sides know lies here; neither ``client`` nor ``server`` imports the other.

    messages   every message as a typed, bounded structure; error codes; the protocol version
    codec      messages to msgpack bytes and back
    framing    a message and its arrays as ZeroMQ parts, checked before anything is allocated
    keys       CURVE keys as files
    inputs     values and arrays of a model's spec, into messages and back
    observe    what recorders get to see of either side, and what they give back of it
    endpoints  addresses of ZeroMQ

Nothing is imported here, so that a client costs zmq, msgspec and numpy only.
"""
