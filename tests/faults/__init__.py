"""Faults, tested for real: real server and client processes, real sockets, real signals.

    python -m tests.faults [--only NAME] [--seed N] [--json FILE]      (make faults)

prints a line a fault with its figures, what could not be run on this machine and why, and last
``N survived, M failed``; the exit status is 0 only when none failed. Needs Linux.

In every fault a bystander, a client process of its own, steps in lockstep all along. Its frames
must be those of a run that nothing disturbed, each once and in order; its worst latency is
reported, and beyond 2 s (or five times its median) the fault has failed. What each fault demands
beside that says its ``holds`` (``--list``). Memory is the server's resident set and its peak, from
/proc. Only where the server itself dies there is no bystander: there every client is a victim.

    processes   servers and clients as child processes; nothing outlives this program
    driver      the client process    clients  what it got, checked against a reference
    catalogue   all faults
    files       mutated files of every kind (`--cases 10000`); file_kinds, file_worker, mutate
    registry    faults and outcomes   namespaces  of network, mounts and time, without names
    link        a network link that can be slow, lossy or cut    keys  for encrypted ones
    clock.c     a time of day that jumps
    clients_fail, restart, network, readers, sessions, hostile, strangers, impostors, planted,
    fuzz, disk, clocks

Servers are ``sim-stream serve`` with the pocket model where the model matters (KV caches,
resuming), else ``tests.wire.toy_server``: the same wire around numpy images.
"""
