"""Frames over ZeroMQ: the protocol, its server and its client.

    messages   every message as a typed, bounded structure; error codes; the protocol version
    codec      messages to msgpack bytes and back
    framing    a message and its arrays as ZeroMQ parts, checked before anything is allocated

    client     ``StreamClient``: what a user starts from   session  ``RemoteSession``
    async_client, async_connection   the same for asyncio
    stream     one session's state and rules, as operations that do not wait themselves
    start      what it starts from   link  what it asks of its connection
    comeback   its way back to a restarted server   step_log  what the recording may lack
    operations run blocking or awaited   frame  ``RemoteFrame``   checks  of arguments
    connection the socket and its timeouts   mailbox  request ids and replies underneath
    keys       CURVE keys as files   handshakes  why a client does not get through

    engine     what the server needs of a runtime   host, jobs  its sessions and their work
    faults     what a failed request tells its client
    observe    what recorders get to see of either side   journal  what is logged of sessions
    archive    resume tokens, recorded sessions   rebuild  taking their steps again
    worker     the engine thread and the decoder thread
    guard      encryption, and who may connect   allow_list  by public key
    admission  whose requests are taken   rates  and how many
    ledger     one session's steps, openings  the sessions: each taken exactly once
    sessions   how they begin and end   held  replies that wait for their recording
    dispatch   requests in, jobs and replies out    requests, replies  its checks and its packets
    io_loop    the thread that owns the sockets
    server     ``StreamServer``: lifecycle, signals addresses  which it may bind

Nothing is imported here, so that a client costs zmq, msgspec and numpy only.
"""
