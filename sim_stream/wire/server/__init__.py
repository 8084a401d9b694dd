"""Requests in, frames out: one thread owns the sockets, one the engine, one the video decoder.

server       ``StreamServer``: lifecycle, signals    addresses  which it may bind
io_loop      the thread that owns the sockets
guard        encryption, and who may connect         allow_list  by public key
admission    whose requests are taken                rates      and how many
dispatch     requests in, jobs and replies out       requests, replies  its checks and packets
sessions     how they begin and end                  held       replies that wait to be recorded
ledger       one session's steps                     openings   the sessions: each exactly once

worker       the engine thread and the decoder thread
inbox        steps that wait for the engine          jobs       the work as it is handed over
host         the engine's sessions                   faults     what a failed request tells
tokens       what recorded sessions are resumed by   rebuild    taking their steps again
journal      what is logged of sessions
"""
