"""A session on a server far away, for programs that wait and programs that await.

blocking_client, session   ``StreamClient`` and ``RemoteSession``: what a user starts from
async_client               the same two for asyncio

stream       one session's state and rules, as operations that do not wait themselves
operations   run blocking or awaited          link       what a session asks of its connection
arguments    what a client is given, checked  frame      what it gets
resume       a session's way back to a restarted server

blocking_connection, async_connection    the socket and its timeouts
pending_replies  request ids and the replies that came
patience, owner, handshakes   how long it waits; whose it is; why it does not get through
"""
