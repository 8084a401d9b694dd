"""Requests in, frames out: one thread owns the sockets, one the engine, one the video decoder.

server        ``StreamServer``: lifecycle, signals
io_loop       the thread that owns the sockets           viewers   its PUB side
auth          addresses, allowed keys, encryption        doorkeeper  who gets to a socket at all
connections, descriptors, ipc_path    what a peer, a process and a path may take
admission     whose requests are taken                   rates     and how many
dispatch      requests in, jobs and replies out          rescue    what becomes of a failure there
sessions      how they begin and end                     exactly_once  what may be sent again
replies       packets to clients and viewers             journal   what is logged of sessions

worker        the engine thread and the decoder thread   loading   the one that reads recordings
inbox         steps that wait for the engine
jobs          the work as it is handed over; what a failure tells its client
host          the model's sessions                       resume    taking recorded steps again
"""
