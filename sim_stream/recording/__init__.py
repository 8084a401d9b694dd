"""Recording sessions and replaying them to equal frames.

    sidecar   the JSONL file: every line as a typed structure, written line by line, read to the cut
    pixels    the video beside it: FFV1 (lossless) or MP4, readable wherever its writing ended
    session   one session's files
    recorder  ``Recorder``: watches a server or a client, writes in a thread of its own
    load      a recording back from its files, up to where it was cut off
    archive   which sessions can be resumed after a restart
    replay    ``sim-stream replay``: the same session again, compared frame by frame

A recording is NAME.jsonl (enough to replay), NAME.mkv or NAME.mp4 (the frames that left) and
NAME.prompt-0.mkv, ... (the frames that went in, always lossless). A fork's recording names its
parent's, which must stay beside it. Nothing is imported here.
"""
