"""A session on a server far away, for programs that wait and programs that await.

blocking_client      ``StreamClient``: what a user starts from   session  ``RemoteSession``
async_client         the same two for asyncio

stream       one session's state and rules, as operations that do not wait themselves
operations   run blocking or awaited      start      what a session starts from
resume     its way back to a restarted server      step_log  what the recording may lack
link         what a session asks of its connection   checks    of arguments
frame        ``RemoteFrame``              seen       what observers are shown

blocking_connection, async_connection    the socket and its timeouts
pending_replies  request ids and the replies that came
handshakes   why a client does not get through
"""
