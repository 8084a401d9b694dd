"""Recording sessions and replaying them to equal frames.

    lines        what is written of a session, line by line, as typed structures
    append_file  a file that is readable wherever its writing ended
    pixels       videos: FFV1 (lossless) or MP4
    arrays       requests' arrays, packed, and back by what their lines say
    video_files  lines as a JSONL sidecar with video and arrays beside it
    mcap_files, mcap_reader, mcap_schemas   all of it as one MCAP file, for Foxglove
    formats      the formats behind one interface
    session      one session's recording
    recorder     ``Recorder``: watches a server or a client, writes in a thread of its own
    run          from an open or reset to the next: what went in, checked, and what came
    load         a recording back from its files, up to where it was cut off
    archive      which sessions can be resumed after a restart
    replay       ``sim-stream replay``: the same session again, compared frame by frame

docs/recording.md says what the files hold. A fork's recording names its parent's, which must stay
beside it. Nothing is imported here.
"""
