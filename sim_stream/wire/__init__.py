"""Frames over ZeroMQ: the protocol, its server and its clients.

What both sides know lies here; neither ``client`` nor ``server`` imports the other.

    messages   every message as a typed, bounded structure; error codes; the protocol version
    codec      messages to msgpack bytes and back
    framing    a message and its arrays as ZeroMQ parts, checked before anything is allocated
    keys       CURVE keys as files
    engine     what a server needs of a runtime
    observe    what recorders get to see of either side, and give back of a recorded session

Nothing is imported here, so that a client costs zmq, msgspec and numpy only.
"""
